//! Members that are away, apart, or replaced while callers leave messages: every acknowledged message is on both nodes
//! afterwards, and what was deleted stays deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use twinbox_clock::BootInstant;
use twinbox_system_tests::{
    assert_all_kept, assert_kept,
    growing::{number, words},
    import_users, leave,
};
use twinbox_testkit::{Cluster, Deposit, Lab, NetPlace, Spec, need, parameter, try_leave_message, wait_until};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);
/// Users whose changes take more than a megabyte of the log, with names nearly as long as they may be.
const MANY: Range<u32> = 20_000..25_000;
/// A number that both sides of a split give to a user.
const TWICE: &str = "1103";

/// Mailboxes that are never full: a caller that hangs up on that prompt gets `200` as well.
fn roomy() -> Spec {
    Spec { voicemail: vec!["max_messages = 10000".to_owned()], ..Spec::default() }
}

/// Leaves messages on a node, one after the other, until it is over; those that were acknowledged. A refused call is tried again.
fn call_until(over: &AtomicBool, phones: &NetPlace, node: std::net::SocketAddr, mailbox: &str) -> Vec<Deposit> {
    let mut kept = Vec::new();
    while !over.load(Ordering::Relaxed) {
        match try_leave_message(phones, node, mailbox, 1.2) {
            Ok(deposit) => kept.extend(Some(deposit).filter(Deposit::acknowledged)),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
    kept
}

/// A number that `replication status` of a node has.
fn replication(cluster: &Cluster, node: &str, name: &str) -> u64 {
    cluster.cli(node).try_json(&["replication", "status"]).map_or(0, |status| number(&status[name]))
}

/// The UIDs of a mailbox's messages, by id.
fn uids(cluster: &Cluster, node: &str, mailbox: &str) -> BTreeMap<String, u64> {
    let list = cluster.cli(node).json(&["message", "list", mailbox]);
    let messages = list["messages"].as_array().expect("messages");
    messages.iter().map(|m| (m["id"].as_str().expect("an id").to_owned(), number(&m["uid"]))).collect()
}

/// Node a keeps as little of its log as a configuration allows, and looks at it each second (a test hook of debug builds).
#[test]
fn log_cuts_itself_and_a_node_that_it_no_longer_reaches_fills_by_state_and_hands_over_what_it_took_alone() {
    let node = vec!["log_keep_mb = 1".to_owned()];
    let env = vec![("a", "TWINBOX_TEST_LOG_CUT", "1".to_owned())];
    let mut cluster = Cluster::start(&Spec { node, env, ..Spec::default() });
    let user = Cluster::USERS[0].number;
    let both = leave(&cluster, "a", user);
    let deleted = leave(&cluster, "b", user);
    for node in ["a", "b"] {
        cluster.wait_for_messages(node, user, 2, SOON);
    }
    let (gone, ..) = cluster.find("a", user, &deleted.speech, deleted.spoken).expect("the message");
    cluster.stop("a");
    let alone = leave(&cluster, "b", user);
    let known = number(&cluster.cli("b").json(&["replication", "status"])["changes"]);
    cluster.stop("b");

    cluster.start_member("a");
    cluster.wait_for_status(&["a"], "in-service");
    let meanwhile = leave(&cluster, "a", user);
    cluster.cli("a").json(&["message", "delete", user, &gone.id]);
    cluster.wait_for_messages("a", user, 3, SOON);
    let status = cluster.cli("a").json(&["replication", "status"]);
    assert_eq!(number(&status["log_cut"]), 0, "its log is short, and b lacks a part of it: {status}");
    import_users(&cluster, "a", MANY, &"long name ".repeat(12));
    // Of some origin more is cut then than b has of it.
    wait_until("the log of a to be cut beyond what b has", SOON, || {
        replication(&cluster, "a", "log_cut") > 2 * known
    });
    let status = cluster.cli("a").json(&["replication", "status"]);
    println!("{known} changes on b; on a {} of the log are cut, {} left", status["log_cut"], status["log_changes"]);

    cluster.start_member("b");
    cluster.wait_in_service();
    wait_until("b to have filled by state, since no log reaches it", SOON, || {
        replication(&cluster, "b", "state_fills") > 0
    });
    for node in ["a", "b"] {
        for deposit in [&both, &alone, &meanwhile] {
            assert_kept(&cluster, node, user, deposit, 0.9, SOON);
        }
        // Deleted ones are listed until they are purged.
        let listed = cluster.wait_for_messages(node, user, 4, SOON);
        let deleted: Vec<_> = listed.iter().filter(|m| m.state == "deleted").map(|m| &m.id).collect();
        assert_eq!(deleted, [&gone.id], "{node}");
        let users = cluster.cli(node).json(&["user", "list"])["users"].as_array().map_or(0, Vec::len);
        assert_eq!(users, MANY.len() + Cluster::USERS.len(), "{node}");
    }
}

/// As long as `TWINBOX_SPLIT_SECONDS` says: calls, deletions and new users on both sides, two of them with one number.
#[test]
fn both_nodes_are_used_while_they_are_split_and_nothing_is_lost_or_comes_back() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let cluster = Cluster::start_in(&lab, &roomy());
    let (nodes, users) = (["a", "b"], Cluster::USERS);
    let deleted = nodes.map(|node| leave(&cluster, node, users[0].number));
    nodes.iter().for_each(|node| drop(cluster.wait_for_messages(node, users[0].number, 2, SOON)));

    // Node b is alone: no majority is on its side.
    lab.cut("a", "b");
    lab.cut("b", "w");
    let began = BootInstant::now();
    let split = Duration::from_secs(parameter("TWINBOX_SPLIT_SECONDS", 60));
    let over = AtomicBool::new(false);
    let (kept, claims) = thread::scope(|scope| {
        let (over, cluster) = (&over, &cluster);
        let calls: Vec<_> = nodes
            .into_iter()
            .flat_map(|node| users.map(|user| (node, user.number)))
            .map(|(node, user)| scope.spawn(move || call_until(over, cluster.phones(), cluster.sip(node), user)))
            .collect();
        for (node, deposit) in nodes.into_iter().zip(&deleted) {
            // Each deletes what it took itself, and makes a user of its own.
            let found = cluster.find(node, users[0].number, &deposit.speech, deposit.spoken);
            let (message, ..) = found.expect("the message");
            cluster.cli(node).json(&["message", "delete", users[0].number, &message.id]);
            let number = if node == "a" { "1101" } else { "1102" };
            cluster.cli(node).json(&["user", "add", number, "--name", node]);
        }
        let claims = nodes.map(|node| {
            let added = cluster.cli(node).json(&["user", "add", TWICE, "--name", node]);
            added["id"].as_str().expect("an id").to_owned()
        });
        while began.elapsed() < split {
            thread::sleep(Duration::from_millis(200));
        }
        over.store(true, Ordering::Relaxed);
        let kept: Vec<_> = calls.into_iter().map(|call| call.join().expect("a caller does not panic")).collect();
        (kept, claims)
    });
    println!("split for {:?}; acknowledged: {:?}", began.elapsed(), kept.iter().map(Vec::len).collect::<Vec<_>>());
    assert!(kept.iter().all(|kept| !kept.is_empty()), "each side takes calls for each mailbox");
    let apart = users.map(|user| nodes.map(|node| uids(&cluster, node, user.number)));
    lab.heal();
    cluster.wait_in_service();
    for (at, user) in users.iter().enumerate() {
        let kept: Vec<Deposit> = kept.iter().skip(at).step_by(users.len()).flatten().cloned().collect();
        for node in nodes {
            assert_all_kept(&cluster, node, user.number, &kept, 0.9, SOON);
        }
    }
    for (user, [on_a, on_b]) in users.iter().zip(&apart) {
        let seen =
            |uid: &u64, id: &String| [on_a, on_b].iter().any(|on| on.iter().any(|(i, u)| u == uid && i != id));
        assert!(on_a.iter().any(|(id, uid)| seen(uid, id)), "both sides gave the same UIDs: {apart:?}");
        wait_until("no UID to name two messages, nor one that it did not name on either side", SOON, || {
            let [a, b] = nodes.map(|node| uids(&cluster, node, user.number));
            let distinct: BTreeSet<&u64> = a.values().collect();
            a == b && distinct.len() == a.len() && a.iter().all(|(id, uid)| !seen(uid, id))
        });
    }
    for node in nodes {
        for deposit in &deleted {
            wait_until("the deletion of the other side", SOON, || {
                let found = cluster.find(node, users[0].number, &deposit.speech, deposit.spoken);
                found.is_some_and(|(message, ..)| message.state == "deleted")
            });
        }
    }
    for node in nodes {
        for number in ["1101", "1102"] {
            wait_until("the other side's user", SOON, || cluster.cli(node).try_messages(number).is_ok());
        }
        assert_conflict(&cluster, node, &claims);
    }
}

/// Checks that a node gives the number to the first of these mailboxes, and names both.
fn assert_conflict(cluster: &Cluster, node: &str, [holder, loser]: &[String; 2]) {
    let cli = cluster.cli(node);
    let conflict = json!({ "kind": "number", "name": TWICE, "holder": holder, "losers": [loser] });
    let mut found = Value::Null;
    wait_until("the conflict of the number", SOON, || {
        found = cli.json(&["replication", "conflicts"])["conflicts"].take();
        found != json!([])
    });
    assert_eq!(found, json!([conflict]), "{node}");
    let text = words(&cli.run(&["replication", "conflicts"]));
    let row = ["number", TWICE, holder.as_str(), loser.as_str()];
    assert!(text.lines().any(|line| line.split_whitespace().eq(row)), "{node}: {text}");
    assert_eq!(cli.json(&["user", "show", TWICE])["id"], holder.as_str(), "{node}");
}

#[test]
fn disk_that_is_replaced_under_load_is_filled_and_no_acknowledged_message_is_missing() {
    let mut cluster = Cluster::start(&roomy());
    let mailbox = Cluster::USERS[0].number;
    let (phones, [a, b]) = (cluster.phones().clone(), ["a", "b"].map(|node| cluster.sip(node)));
    let over = [(); 3].map(|()| AtomicBool::new(false));
    let count = |cluster: &Cluster, node| cluster.cli(node).try_messages(mailbox).map_or(0, |found| found.len());
    let kept: Vec<Deposit> = thread::scope(|scope| {
        let call = |over, node| {
            let phones = &phones;
            scope.spawn(move || call_until(over, phones, node, mailbox))
        };
        let [over_on_a, before, after] = &over;
        let load = [call(over_on_a, a), call(over_on_a, a)];
        let first = [call(before, b), call(before, b)];
        wait_until("messages of both nodes", SOON, || count(&cluster, "a") >= 6);
        before.store(true, Ordering::Relaxed);
        let mut kept: Vec<Deposit> = first.into_iter().flat_map(|call| call.join().expect("no panic")).collect();
        // Messages that b acknowledged alone, if a was slow, would be lost with its disk.
        assert_all_kept(&cluster, "a", mailbox, &kept, 0.9, SOON);
        cluster.kill("b");
        cluster.wipe("b");
        let known = count(&cluster, "a");
        wait_until("calls that only a takes", SOON, || count(&cluster, "a") > known + 1);
        cluster.start_member("b");
        cluster.wait_in_service();
        let second = [call(after, b), call(after, b)];
        let known = count(&cluster, "b");
        wait_until("calls on both", SOON, || count(&cluster, "b") > known + 3);
        over.iter().for_each(|over| over.store(true, Ordering::Relaxed));
        kept.extend(load.into_iter().chain(second).flat_map(|call| call.join().expect("no panic")));
        kept
    });
    println!("{} acknowledged", kept.len());
    for node in ["a", "b"] {
        assert_all_kept(&cluster, node, mailbox, &kept, 0.9, SOON);
    }
    let present = count(&cluster, "a");
    cluster.wait_for_messages("b", mailbox, present, SOON);
}
