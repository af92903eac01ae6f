//! Runs the benchmark `size` with the number of messages that CI has time for. The benchmark fails if a message is lost or if
//! the stores differ. The test also checks the sizes, which depend little on the machine.

use std::{env, fs, process::Command};

use serde_json::Value;
use twinbox_testkit::{need, parameter};

/// The highest figure of the rows that begin with these words.
fn figure(rows: &[Value], what: &str) -> f64 {
    let of = |row: &&Value| row["what"].as_str().is_some_and(|text| text.trim().starts_with(what));
    let found: Vec<f64> = rows.iter().filter(of).filter_map(|row| row["figure"].as_f64()).collect();
    assert!(!found.is_empty(), "no figure '{what}' in {rows:#?}");
    found.into_iter().fold(0.0, f64::max)
}

#[test]
fn tens_of_thousands_of_messages_are_kept_filled_compared_and_repaired_in_bounded_space() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let folder = tempfile::TempDir::new().expect("a folder");
    let json = folder.path().join("figures.json");
    let this = env::current_exe().expect("this test");
    let bench = this.ancestors().nth(2).expect("the build's folder").join("twinbox-bench");
    let count = |name, most| parameter(name, most).to_string();
    let ran = Command::new(&bench)
        .args(["size", "--mailboxes", &count("TWINBOX_SIZE_MAILBOXES", 10_000)])
        .args(["--messages", &count("TWINBOX_SIZE_MESSAGES", 100_000), "--json"])
        .arg(&json)
        .output()
        .unwrap_or_else(|error| panic!("{}, which `cargo build --workspace` makes: {error}", bench.display()));
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    println!("{said}");
    let report: Value = serde_json::from_slice(&fs::read(&json).expect("figures")).expect("JSON");
    let rows = report["figures"][0]["rows"].as_array().expect("rows");
    // Ceilings of twice the aims and more: a node may be rewriting its index, and the traffic at rest varies.
    for (what, most) in [
        ("a message on the disk beside its audio", 6.0),
        ("resident memory of node a", 1_000.0),
        ("resident memory of node b", 1_000.0),
        ("traffic of it at node b", 100.0),
    ] {
        let found = figure(rows, what);
        assert!(found <= most, "{what}: {found}, at most {most}");
    }
}
