//! A node that took calls alone is pulled out: what only it has reaches the others, whatever becomes of its data (rule D2).

use std::{fs, process::Output, time::Duration};

use serde_json::Value;
use twinbox_system_tests::{
    assert_kept,
    growing::{number, twinbox, words},
};
use twinbox_testkit::{Cluster, Deposit, Spec, leave_message, wait_until};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}: {}", output.status, words(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", words(output)))
}

/// A message that both nodes have, and one that node b took while node a was away. Node a is down then.
fn alone_on_b(cluster: &mut Cluster) -> [Deposit; 2] {
    let user = Cluster::USERS[0].number;
    let leave = |cluster: &Cluster, node| leave_message(cluster.phones(), cluster.sip(node), user, 1.2);
    let both = leave(cluster, "a");
    cluster.wait_for_messages("b", user, 1, SOON);
    cluster.stop("a");
    let alone = leave(cluster, "b");
    assert!(both.acknowledged() && alone.acknowledged());
    cluster.wait_for_messages("b", user, 2, SOON);
    [both, alone]
}

#[test]
fn overwritten_node_hands_over_what_it_took_alone_and_fills_from_the_other() {
    let mut cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0].number;
    let deposits = alone_on_b(&mut cluster);
    let config = cluster.member("b").config.to_str().expect("UTF-8").to_owned();
    let ask = |from: &str, more: &[&str]| {
        twinbox(&[&["--json", "store", "overwrite-data", "--from", from, "--config", &config], more].concat())
    };
    let overwrite = |from: &str| ask(from, &["--yes"]);
    let index = cluster.member("b").data_dir.join("store/db");
    let asides = || {
        let names = fs::read_dir(index.parent().expect("a folder")).expect("the store").flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with("db.")).count()
    };

    // Refused, without a change: no node to fill from, a node that runs.
    let nobody = overwrite("a");
    assert!(nobody.status.code() == Some(3) && words(&nobody).contains("does not answer"), "{}", words(&nobody));
    let itself = overwrite("b");
    assert!(
        itself.status.code() == Some(2)
            && words(&itself).contains("this node itself; the other nodes of this cluster are: a"),
        "{}",
        words(&itself)
    );
    for (from, part) in [("w", "a witness"), ("c", "no member of this cluster")] {
        let refused = overwrite(from);
        assert!(refused.status.code() == Some(2) && words(&refused).contains(part), "{}", words(&refused));
    }
    cluster.start_member("a");
    cluster.wait_in_service();
    cluster.cli("b").order(&["cluster", "deactivate", "a"]);
    cluster.wait_for_status(&["a"], "deactivated");
    let out = overwrite("a");
    let text = words(&out);
    assert!(out.status.code() == Some(1) && text.contains("a is deactivated, not in-service"), "{text}");
    cluster.cli("b").order(&["cluster", "activate", "a"]);
    cluster.wait_in_service();
    cluster.stop("b");
    cluster.start_member("b");
    cluster.wait_in_service();
    let running = overwrite("a");
    assert!(running.status.code() == Some(1) && words(&running).contains("in use"), "{}", words(&running));
    assert_eq!(asides(), 0);

    // Messages that b takes alone from here on have never been on a.
    cluster.stop("a");
    let later = leave_message(cluster.phones(), cluster.sip("b"), user, 1.2);
    assert!(later.acknowledged());
    cluster.stop("b");
    cluster.start_member("a");
    cluster.wait_for_status(&["a"], "in-service");
    cluster.wait_for_messages("a", user, 2, SOON);
    // It asks, and there is no terminal to answer.
    let unconfirmed = ask("a", &[]);
    assert!(
        unconfirmed.status.code() == Some(2)
            && words(&unconfirmed).contains("nothing changed: stdin is not a terminal"),
        "{}",
        words(&unconfirmed)
    );
    assert_eq!(asides(), 0);
    let overwritten = done(&overwrite("a"));
    assert!(overwritten["changes"].as_u64().is_some_and(|changes| changes > 0), "{overwritten}");
    assert!(overwritten["unreadable"].is_null(), "{overwritten}");
    assert_eq!(overwritten["left_log"], 0, "{overwritten}");
    assert_eq!(asides(), 1, "the old data is kept");

    cluster.start_member("b");
    cluster.wait_in_service();
    for node in ["a", "b"] {
        for deposit in deposits.iter().chain([&later]) {
            assert_kept(&cluster, node, user, deposit, 0.9, SOON);
        }
        cluster.wait_for_messages(node, user, 3, SOON);
    }
    let folder = overwritten["folder"].as_str().expect("its folder").to_owned();
    let alarms = || String::from_utf8_lossy(&cluster.cli("a").run(&["alarm", "list"]).stdout).into_owned();
    wait_until("the alarm that names the folder", SOON, || alarms().contains("store-rebuilt"));
    fs::remove_dir_all(folder).expect("removed by the administrator");
    wait_until("the alarm to end", SOON, || !alarms().contains("store-rebuilt"));
}

#[test]
fn disk_of_a_node_that_was_removed_as_lost_gives_back_what_it_took_alone() {
    let mut cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0].number;
    let [both, alone] = alone_on_b(&mut cluster);
    cluster.kill("b");
    cluster.start_member("a");
    cluster.wait_for_status(&["a"], "in-service");
    wait_until("a to know that b is lost", SOON, || {
        cluster.cli("a").status_of("b").as_deref() == Some("not-functioning")
    });
    let removed = cluster.cli("a").run(&["cluster", "remove", "b", "--lost"]);
    let text = words(&removed);
    assert!(removed.status.success(), "{text}");
    for part in [
        "b was removed from the cluster: b has had no contact with this node since this node started",
        "what it took alone is lost with its disk; everything that was acknowledged on two is on another node",
    ] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    cluster.wait_for_messages("a", user, 1, SOON);

    let folder = tempfile::TempDir::new().expect("a folder");
    let dir = folder.path().join("salvaged").to_str().expect("UTF-8").to_owned();
    let back_up = |node: &str| {
        let config = cluster.member(node).config.to_str().expect("UTF-8");
        twinbox(&["--json", "backup", "create", &dir, "--config", config])
    };
    let running = back_up("a");
    assert!(running.status.code() == Some(1) && words(&running).contains("in use"), "{}", words(&running));
    let made = done(&back_up("b"));
    assert!(number(&made["messages"]) == 2 && made["node"] == "b", "{made}");
    assert!(made["missing"].as_array().is_none_or(Vec::is_empty), "{made}");

    let restored = cluster.cli("a").json(&["backup", "restore", &dir, "--mailbox", user]);
    assert_eq!(restored["messages"].as_array().map(Vec::len), Some(1), "{restored}");
    for deposit in [&both, &alone] {
        assert_kept(&cluster, "a", user, deposit, 0.9, SOON);
    }
    cluster.wait_for_messages("a", user, 2, SOON);
}
