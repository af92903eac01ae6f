//! Dependencies between crates: the graph is a committed golden file (`graph.txt`), and its rules are in `layers.toml`.
//!
//! For an intended change of the graph run `TWINBOX_BLESS=1 cargo test -p twinbox-layering`, and read the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use twinbox_layering::{Member, judge, members, root, string, strings, table, tables};

const OURS: &str = "twinbox";

fn ours(names: &BTreeSet<String>) -> Vec<&str> {
    names.iter().map(String::as_str).filter(|n| n.starts_with(OURS)).collect()
}

/// Tier of every crate by name.
fn tiers() -> BTreeMap<String, i64> {
    let mut tiers = BTreeMap::new();
    for layer in tables(&table("layers.toml"), "layer") {
        let tier = layer["tier"].as_integer().expect("tier = number");
        for name in strings(layer, "crates") {
            assert!(tiers.insert(name.clone(), tier).is_none(), "layers.toml names {name} twice");
        }
    }
    tiers
}

#[test]
fn the_graph_is_the_committed_one() {
    let tiers = tiers();
    let mut lines: Vec<(i64, String)> = members()
        .iter()
        .map(|m| {
            let tier = tiers.get(&m.name).copied().unwrap_or(-1);
            let mut line = format!("{tier:>2} {}", m.name);
            for (arrow, names) in [(" -> ", ours(&m.names)), (" | tests -> ", ours(&m.names_for_tests))] {
                if !names.is_empty() {
                    line += arrow;
                    line += &names.join(" ");
                }
            }
            (tier, line)
        })
        .collect();
    lines.sort();
    let graph: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();

    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("graph.txt");
    if std::env::var_os("TWINBOX_BLESS").is_some() {
        fs::write(&golden, &graph).expect("graph.txt is writable");
    }
    let committed = fs::read_to_string(&golden).unwrap_or_default();
    let is: BTreeSet<&str> = graph.lines().collect();
    let was: BTreeSet<&str> = committed.lines().collect();
    let complaints: Vec<String> = (was.difference(&is).map(|l| format!("- {l}")))
        .chain(is.difference(&was).map(|l| format!("+ {l}")))
        .collect();
    judge("graph.txt differs; if that is wanted, run again with TWINBOX_BLESS=1", &complaints);
}

#[test]
fn every_crate_has_a_tier_and_names_lower_ones_only() {
    let (tiers, members) = (tiers(), members());
    let for_tests = strings(&table("layers.toml"), "for_tests");
    let mut complaints = Vec::new();
    let mut names = |from: &Member, to: &str, tests: bool| match (tiers.get(&from.name), tiers.get(to)) {
        (None, _) => complaints.push(format!("{} has no tier in layers.toml", from.name)),
        (_, None) => complaints.push(format!("{} names {to}, which has no tier in layers.toml", from.name)),
        (Some(_), Some(_)) if tests && for_tests.iter().any(|n| n == to) => {}
        (Some(a), Some(b)) if b < a => {}
        (Some(a), Some(b)) => {
            complaints.push(format!("{} (tier {a}) names {to} (tier {b}): only lower tiers", from.name));
        }
    };
    for member in &members {
        names(member, "twinbox-ids", true);
        ours(&member.names).into_iter().for_each(|to| names(member, to, false));
        ours(&member.names_for_tests).into_iter().for_each(|to| names(member, to, true));
    }
    complaints.retain(|c| !c.starts_with("twinbox-ids (tier 0) names twinbox-ids"));
    for name in tiers.keys().filter(|name| !members.iter().any(|m| m.name == **name)) {
        complaints.push(format!("layers.toml names {name}, which is no crate of the workspace"));
    }
    judge("tiers", &complaints);
}

/// All crates of the workspace below `member`, through any number of steps.
fn below<'a>(member: &'a Member, all: &'a [Member]) -> BTreeSet<&'a str> {
    let (mut found, mut todo) = (BTreeSet::new(), vec![member]);
    while let Some(m) = todo.pop() {
        for name in m.names.iter().filter(|n| n.starts_with(OURS)) {
            if found.insert(name.as_str()) {
                todo.extend(all.iter().find(|m| m.name == *name));
            }
        }
    }
    found
}

#[test]
fn separated_crates_never_depend_on_each_other() {
    let (law, members) = (table("layers.toml"), members());
    let mut complaints = Vec::new();
    for apart in tables(&law, "apart") {
        let (one, other) = (strings(apart, "one"), strings(apart, "other"));
        for (group, strangers) in [(&one, &other), (&other, &one)] {
            for member in members.iter().filter(|m| group.contains(&m.name)) {
                let mut reached = below(member, &members);
                reached.extend(member.names_for_tests.iter().map(String::as_str));
                for stranger in strangers.iter().filter(|s| reached.contains(s.as_str())) {
                    complaints.push(format!("{} reaches {stranger}: {}", member.name, string(apart, "reason")));
                }
            }
        }
    }
    judge("crates that know nothing of each other", &complaints);
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    let (law, members) = (table("layers.toml"), members());
    let mut complaints = Vec::new();
    for only in tables(&law, "only") {
        let (foreign, allowed) = (strings(only, "foreign"), strings(only, "crates"));
        for member in members.iter().filter(|m| !allowed.contains(&m.name)) {
            for name in foreign.iter().filter(|f| member.names.contains(*f) || member.names_for_tests.contains(*f))
            {
                complaints.push(format!("{} names {name}: {}", member.name, string(only, "reason")));
            }
        }
    }
    for never in tables(&law, "never") {
        let (crates, foreign) = (strings(never, "crates"), strings(never, "foreign"));
        for member in members.iter().filter(|m| crates.contains(&m.name)) {
            for name in foreign.iter().filter(|f| member.names.contains(*f)) {
                complaints.push(format!("{} names {name}: {}", member.name, string(never, "reason")));
            }
        }
    }
    judge("foreign crates", &complaints);
}

/// An unused dependency makes the graph wrong.
#[test]
fn every_dependency_is_used() {
    let mut complaints = Vec::new();
    for member in members() {
        let sources: String = twinbox_layering::files()
            .iter()
            .filter(|f| f.extension().is_some_and(|e| e == "rs"))
            .map(|f| twinbox_layering::root().join(f))
            .filter(|f| f.starts_with(&member.folder))
            .filter_map(|f| fs::read_to_string(f).ok())
            .collect();
        for name in member.names.union(&member.names_for_tests) {
            // Only generated code names these two, not the sources.
            if member.name == "twinbox-wire" && matches!(name.as_str(), "tonic-prost" | "prost") {
                continue;
            }
            if !sources.contains(&name.replace('-', "_")) {
                complaints.push(format!("{} names {name} in its Cargo.toml and nowhere else", member.name));
            }
        }
    }
    judge("unused dependencies", &complaints);
}

/// Simulated clocks, disks and networks are for tests/turmoil and tests/storage-cuts alone: no other crate may be built with
/// them, neither alone nor together with all others.
#[test]
fn nothing_is_built_with_simulated_machines() {
    for of in [["--package", "twinbox"].as_slice(), &["--workspace"]] {
        let tree = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--edges", "features,normal,build,dev"])
            .args(of)
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
        assert!(tree.contains("twinbox-clock v"), "a tree without our crates:\n{tree}");
        let simulated: Vec<String> =
            tree.lines().filter(|l| l.contains("\"simulation\"")).map(|l| format!("{of:?}: {l}")).collect();
        judge(
            "only two crates of tests, with their feature `simulated`, ask for the feature `simulation`",
            &simulated,
        );
    }
}
