//! An order interrupted by the loss of the majority: its outcome is unknown, and can be queried afterwards.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_system_tests::growing::words;
use twinbox_testkit::{Cli, Cluster, Lab, Spec, need, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// `missed`, as a node shows it.
fn missed(cli: &Cli) -> String {
    let settings = cli.json(&["cluster", "settings"]);
    let all = settings["settings"].as_array().cloned().unwrap_or_default();
    let one = all.iter().find(|s| s["name"] == "missed").expect("a setting");
    one["value"].as_str().expect("a value").to_owned()
}

/// The cluster with `wan` timing, whose time windows are wide enough for a command line; a node that does not lead; the
/// leader; and all members except that node.
fn formed(lab: &Lab) -> (Cluster, String, String, Vec<String>) {
    let cluster = Cluster::start_in(lab, &Spec { timing: "wan", ..Spec::default() });
    let leader =
        || cluster.cli("a").status().and_then(|s| Some(s["leader"].as_str()?.to_owned())).unwrap_or_default();
    wait_until("somebody leads", PATIENCE, || !leader().is_empty());
    let leader = leader();
    let node = if leader == "a" { "b" } else { "a" }.to_owned();
    let others = ["a", "b", "w"].into_iter().filter(|m| *m != node).map(str::to_owned).collect();
    (cluster, node, leader, others)
}

/// Gives an order, and returns its id; the answer must be that its outcome is unknown.
fn caught(cluster: &Cluster, node: &str) -> String {
    let begun = BootInstant::now();
    let order = cluster.cli(node).run(&["cluster", "set", "missed", "7"]);
    println!("answered after {:?}: {}", begun.elapsed(), words(&order).trim());
    assert_eq!(order.status.code(), Some(1), "{}", words(&order));
    assert!(words(&order).contains("the outcome is unknown"), "{}", words(&order));
    let said = words(&order);
    let id = said.split_whitespace().find(|word| word.len() == 32 && word.chars().all(|c| c.is_ascii_hexdigit()));
    let id = id.unwrap_or_else(|| panic!("no id in: {said}")).to_owned();
    assert!(said.contains(&format!("'twinbox cluster outcome {id}'")), "{said}");
    id
}

fn wait_healed(cluster: &Cluster, node: &str) {
    let cli = cluster.cli(node);
    wait_until("a majority is back", PATIENCE, || cli.status().is_some_and(|s| s["quorum"] == true));
}

/// The order reaches the leader, and its answer is lost on the way back: it was carried out, and the query reports
/// that.
#[test]
fn one_whose_answer_was_lost_was_carried_out() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let (cluster, node, leader, others) = formed(&lab);
    others.iter().for_each(|other| lab.cut_one_way(other, &node));
    let id = caught(&cluster, &node);
    // Without a majority the outcome cannot be determined; the query reports that, too.
    let early = cluster.cli(&node).run(&["cluster", "outcome", &id]);
    assert_eq!(early.status.code(), Some(1), "{}", words(&early));
    lab.heal();
    wait_healed(&cluster, &node);
    let told = cluster.cli(&node).run(&["cluster", "outcome", &id]);
    assert!(told.status.success(), "led by {leader}: {}", words(&told));
    assert!(words(&told).contains(&format!("order {id} was executed")), "{}", words(&told));
    for at in ["a", "b"] {
        wait_until("it is in force", PATIENCE, || missed(&cluster.cli(at)) == "7");
    }
}

/// The order reaches no leader, or only after the cut: it was carried out or never will be, and the query reports it
/// correctly.
#[test]
fn order_that_reached_no_member_is_carried_out_or_never_will_be() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let (cluster, node, _, others) = formed(&lab);
    others.iter().for_each(|other| lab.cut(other, &node));
    let id = caught(&cluster, &node);
    lab.heal();
    wait_healed(&cluster, &node);
    let told = cluster.cli(&node).run(&["cluster", "outcome", &id]);
    let done = told.status.success();
    println!("carried out: {done}");
    if !done {
        assert_eq!(told.status.code(), Some(1), "{}", words(&told));
        assert!(words(&told).contains("will not be; give it again"), "{}", words(&told));
    }
    let again = cluster.cli(&node).run(&["cluster", "outcome", &id]);
    assert_eq!(again.status.code(), told.status.code(), "asked again: {}", words(&again));
    // Another order has been carried out since; so would this one have been, if it were still under way.
    let later = cluster.cli(&node).run(&["cluster", "set", "alarm-rule", "none"]);
    assert!(later.status.success(), "{}", words(&later));
    for at in ["a", "b"] {
        let cli = cluster.cli(at);
        wait_until("what was told is so", PATIENCE, || (missed(&cli) == "7") == done);
    }
}
