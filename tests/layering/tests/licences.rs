//! Licences and bans, checked from Cargo.lock without a network; the lists and their reasons: `licences.toml`.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_layering::{array, judge, metadata, root, string, table, tables, text};

/// Whether an SPDX expression is satisfied by the allowed licences. `/` is the old way to write `OR`.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut tokens: Vec<&str> = spaced.split_whitespace().rev().collect();
    let verdict = either(&mut tokens, allowed);
    verdict && tokens.is_empty()
}

/// `a OR b`; consumes its tokens in any case.
fn either(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut verdict = both(tokens, allowed);
    while tokens.last() == Some(&"OR") {
        tokens.pop();
        verdict |= both(tokens, allowed);
    }
    verdict
}

/// `a AND b`, which binds closer.
fn both(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut verdict = one(tokens, allowed);
    while tokens.last() == Some(&"AND") {
        tokens.pop();
        verdict &= one(tokens, allowed);
    }
    verdict
}

/// A licence, one with an exception, or an expression in brackets.
fn one(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    match tokens.pop() {
        Some("(") => {
            let verdict = either(tokens, allowed);
            verdict && tokens.pop() == Some(")")
        }
        Some(licence) if tokens.last() == Some(&"WITH") => {
            tokens.pop();
            let exception = tokens.pop().unwrap_or_default();
            allowed.contains(&format!("{licence} WITH {exception}"))
        }
        Some(licence) => allowed.contains(licence),
        None => false,
    }
}

#[test]
fn spdx_expressions_are_judged_as_written() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(String::from));
    for (expression, verdict) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("MIT OR GPL-3.0-only", true),
        ("GPL-3.0-only/MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR GPL-3.0-only) AND ISC", true),
        ("GPL-3.0-only OR MIT AND ISC", true),
        ("(GPL-3.0-only OR MIT) AND Zlib", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("", false),
        ("MIT MIT", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), verdict, "{expression}");
    }
}

#[test]
fn every_licence_is_allowed() {
    let law = table("licences.toml");
    let allowed: BTreeSet<String> = law["allow"].as_table().expect("[allow]").keys().cloned().collect();
    let mut complaints = Vec::new();
    for package in array(&metadata(&["--locked"])["packages"]) {
        let licence = text(&package["license"]);
        if !satisfied(&licence, &allowed) {
            complaints.push(format!("{} {}: '{licence}'", text(&package["name"]), text(&package["version"])));
        }
    }
    judge("licences that licences.toml does not allow", &complaints);
}

/// Versions by crate, from Cargo.lock: all crates that could be linked, for any platform.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    let lock: toml::Table = lock.parse().expect("Cargo.lock is TOML");
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for package in tables(&lock, "package") {
        versions.entry(string(package, "name")).or_default().insert(string(package, "version"));
    }
    versions
}

#[test]
fn nothing_banned_is_linked_and_nothing_twice_that_must_be_once() {
    let (law, locked) = (table("licences.toml"), locked());
    let mut complaints = Vec::new();
    for ban in tables(&law, "ban") {
        let name = string(ban, "crate");
        if locked.contains_key(&name) {
            complaints.push(format!("{name} is in Cargo.lock: {}", string(ban, "reason")));
        }
    }
    for single in tables(&law, "single") {
        let name = string(single, "crate");
        match locked.get(&name).map_or(0, BTreeSet::len) {
            1 => {}
            0 => complaints.push(format!("{name} is not in Cargo.lock: take it out of licences.toml")),
            _ => complaints.push(format!("{name}: {:?} at once: {}", locked[&name], string(single, "reason"))),
        }
    }
    judge("bans", &complaints);
}

#[test]
fn pinned_crates_are_pinned_exactly() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = manifest.parse().expect("Cargo.toml is TOML");
    let dependencies = manifest["workspace"]["dependencies"].as_table().expect("[workspace.dependencies]");
    let mut complaints = Vec::new();
    for pinned in tables(&table("licences.toml"), "pinned") {
        let name = string(pinned, "crate");
        let entry = dependencies.get(&name).unwrap_or_else(|| panic!("{name} is no workspace dependency"));
        let version = entry.as_str().or_else(|| entry.get("version").and_then(toml::Value::as_str)).unwrap_or("");
        if !version.starts_with('=') {
            complaints.push(format!("{name} = \"{version}\" is no exact version: {}", string(pinned, "reason")));
        }
    }
    judge("pins", &complaints);
}
