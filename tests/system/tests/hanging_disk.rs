//! The disk of Raft's leader hangs: it goes on leading, the others commit without it, and no duty moves. A pair settles
//! its orders when the disk goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_system_tests::growing::words;
use twinbox_testkit::{Cli, Cluster, Spec, slow_disk, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// Far longer than the test: a sync ends when the disk goes on.
const SYNC: Duration = Duration::from_secs(600);
/// Several election timeouts.
const HANGS: Duration = Duration::from_secs(6);

/// A cluster whose members have such disks, the member that leads Raft in it, and a node's command line. Leadership leaves
/// the publisher for the member that answers soonest, and may change once more for that.
fn led(spec: Spec, folder: &Path) -> (Cluster, String, Cli) {
    let env = ["a", "b", "w"]
        .into_iter()
        .flat_map(|member| {
            let slow = slow_disk(folder, SYNC, Some(&switch(folder, member)));
            slow.into_iter().map(move |(name, value)| (member, name, value))
        })
        .collect();
    let cluster = Cluster::start(&Spec { env, ..spec });
    let publisher = cluster.publisher("a");
    let cli = cluster.cli(&publisher);
    let mut since: Option<(String, BootInstant)> = None;
    wait_until("another member to lead for five seconds", PATIENCE, || {
        let now = leader(&cli).filter(|now| *now != publisher);
        if now.as_ref() != since.as_ref().map(|(name, _)| name) {
            since = now.map(|name| (name, BootInstant::now()));
        }
        since.as_ref().is_some_and(|(_, since)| since.elapsed() > Duration::from_secs(5))
    });
    let led = leader(&cli).expect("a leader");
    (cluster, led, cli)
}

fn switch(folder: &Path, member: &str) -> PathBuf {
    folder.join(format!("hangs-{member}"))
}

fn leader(cli: &Cli) -> Option<String> {
    cli.status().and_then(|status| Some(status["leader"].as_str()?.to_owned()))
}

fn wait_in_force(cluster: &Cluster, missed: &str) {
    for node in ["a", "b"] {
        let settings = || cluster.cli(node).json(&["cluster", "settings"]);
        wait_until("the order to be in force", PATIENCE, || {
            let all = settings()["settings"].as_array().cloned().unwrap_or_default();
            all.iter().any(|setting| setting["name"] == "missed" && setting["value"] == *missed)
        });
    }
}

#[test]
fn pair_whose_raft_leader_has_a_hanging_disk_settles_each_order_when_the_disk_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cluster, led, cli) = led(Spec { witness: false, ..Spec::default() }, folder.path());
    let switch = switch(folder.path(), &led);
    fs::write(&switch, "").expect("the disk hangs");
    let hangs = BootInstant::now();
    // A pair has no majority without it. The order is in the log of both, and neither may give it up.
    let order = words(&cli.run(&["cluster", "set", "missed", "7"]));
    println!("{led} leads, its disk hangs; an order was answered after {:?}: {}", hangs.elapsed(), order.trim());
    assert!(order.contains("the outcome is unknown"), "{order}");
    let id = order.split_whitespace().find(|word| word.len() == 32).expect("an id").to_owned();
    while hangs.elapsed() < HANGS {
        assert_eq!(leader(&cli).as_deref(), Some(led.as_str()), "after {:?}", hangs.elapsed());
    }

    fs::remove_file(switch).expect("the disk goes on");
    wait_in_force(&cluster, "7");
    let outcome = cli.run(&["cluster", "outcome", &id]);
    assert!(outcome.status.success(), "{}", words(&outcome));
    let next = cli.run(&["cluster", "set", "missed", "8"]);
    assert!(next.status.success(), "{}", words(&next));
    wait_in_force(&cluster, "8");
    cluster.wait_in_service();
}

#[test]
fn raft_leader_whose_disk_hangs_goes_on_leading_and_the_others_commit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cluster, led, cli) = led(Spec::default(), folder.path());
    let switch = switch(folder.path(), &led);
    let moves = || cli.json(&["cluster", "moves"]).to_string();
    let before = moves();

    fs::write(&switch, "").expect("the disk hangs");
    let hangs = BootInstant::now();
    let order = cli.run(&["cluster", "set", "missed", "7"]);
    println!(
        "{led} leads, its disk hangs; an order was answered after {:?}: {}",
        hangs.elapsed(),
        words(&order).trim()
    );
    assert!(order.status.success(), "{}", words(&order));
    let mut rounds = 0;
    while hangs.elapsed() < HANGS {
        rounds += 1;
        assert_eq!(leader(&cli).as_deref(), Some(led.as_str()), "after {:?}", hangs.elapsed());
    }
    assert!(cli.run(&["cluster", "set", "missed", "8"]).status.success());
    println!("{rounds} looks");
    assert_eq!(moves(), before, "no duty moved");

    fs::remove_file(switch).expect("the disk goes on");
    let orders = cli.run(&["cluster", "set", "missed", "9"]);
    assert!(orders.status.success(), "{}", words(&orders));
    wait_in_force(&cluster, "9");
    cluster.wait_in_service();
    assert_eq!(moves(), before, "no duty moved");
}
