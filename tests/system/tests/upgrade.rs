//! An upgrade without an outage: one member after the other is drained, replaced by the next release and activated
//! again, under calls; the interoperation of the two releases, and the refused downgrade.
//!
//! The next release is the program under test with a hook that exists only in debug builds
//! (`TWINBOX_TEST_RELEASE=next`): it announces one more feature level, and writes records and fields that this release
//! does not know. With `TWINBOX_EARLIER=FILE` the earlier release is that program, instead of the one under test
//! without the hook.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::Value;
use twinbox_replication_core::{Field, Record, Table, Tag};
use twinbox_replication_store::{Store, StoreConfig};
use twinbox_system_tests::{
    assert_kept,
    growing::{number, words},
    wait_for_no_calls,
};
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Spec, Transport, begin_to_speak, binary, g711::Law, hang_up, leave_message,
    need, sipp::Sipp, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Mailboxes, and the field of the owner's name.
const MAILBOX: Table = Table(1);
const NAME: Tag = 3;
/// Data that only the next release knows: one field of each kind of merge, and a table.
const LATER_FIELDS: [Tag; 4] = [60_001, 60_002, 60_003, 60_004];
const LATER_TABLE: Table = Table(60_000);

#[derive(Clone, Copy, PartialEq)]
enum Release {
    This,
    Next,
}

fn earlier() -> Option<PathBuf> {
    std::env::var_os("TWINBOX_EARLIER").map(PathBuf::from)
}

/// Replaces the release of a member that does not run, and starts it.
fn start(cluster: &mut Cluster, name: &str, release: Release) {
    let member = cluster.member_mut(name);
    (member.program, member.env) = match release {
        Release::This => (earlier(), Vec::new()),
        Release::Next => (None, vec![("TWINBOX_TEST_RELEASE", "next".to_owned())]),
    };
    cluster.start_member(name);
}

/// As docs/roles.md describes: deactivate, wait until no call is left, stop.
fn drain(cluster: &mut Cluster, name: &str, asked: &str) {
    if name != "w" {
        cluster.cli(asked).order(&["cluster", "deactivate", name]);
        cluster.wait_for_status(&[name], "deactivated");
        wait_for_no_calls(cluster, name, PATIENCE);
    }
    cluster.stop(name);
}

fn activate(cluster: &Cluster, name: &str, asked: &str) {
    if name != "w" {
        cluster.cli(asked).order(&["cluster", "activate", name]);
    }
    cluster.wait_in_service();
}

/// Runs `act` under two calls per second to a node, each of which must succeed.
fn under_calls<T>(cluster: &mut Cluster, node: &str, act: impl FnOnce(&mut Cluster) -> T) -> T {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let hold = Duration::from_millis(700);
    let sipp = Sipp::new("call-early", cluster.sip(node), Cluster::USERS[1].number, endpoint.address(), hold);
    let running = sipp.times(600, 2).start(cluster.phones(), cluster.dir());
    let result = act(cluster);
    // And one of our own, so that there are calls before and after, however short `act` was.
    let own = leave_message(cluster.phones(), cluster.sip(node), Cluster::USERS[1].number, 1.2);
    assert!(own.acknowledged(), "{:?}", own.bye);
    let finished = running.stop();
    println!("{} calls to {node} meanwhile, the longest set-up {:?}", finished.calls, finished.longest_setup);
    assert!(finished.calls > 0);
    result
}

/// The feature level of the next release: one more than this one knows.
const NEXT_LEVEL: u64 = 10;

fn level(cluster: &Cluster, asked: &str) -> u64 {
    cluster.cli(asked).status().map_or(0, |status| number(&status["feature_level"]))
}

fn member(cluster: &Cluster, asked: &str, name: &str) -> Value {
    let status = cluster.cli(asked).status().unwrap_or_default();
    status["members"].as_array().into_iter().flatten().find(|m| m["name"] == name).cloned().unwrap_or_default()
}

fn named(cluster: &Cluster, node: &str, name: &str) -> bool {
    let shown = cluster.cli(node).try_json(&["user", "show", Cluster::USERS[0].number]);
    shown.is_ok_and(|user| user.to_string().contains(name))
}

/// The data on the disk of a node that does not run: mailboxes, and the records that only the next release knows.
fn on_disk(cluster: &Cluster, node: &str) -> Vec<Record> {
    let dir = cluster.member(node).data_dir.join("store");
    let store = Store::open(StoreConfig { dir, node: node.parse().expect("a name"), reserve_bytes: 0 });
    let store = store.expect("its store is free");
    assert_eq!(store.health().set_aside, 0, "{node} has set changes aside");
    let all = [MAILBOX, LATER_TABLE].map(|table| store.scan(table, b"").expect("records that can be read"));
    all.into_iter().flatten().map(|(_, record)| record).collect()
}

/// The fields that only the next release knows, with kind and stamps, record by record.
fn later(records: &[Record]) -> Vec<Vec<Field>> {
    let of = |record: &Record| LATER_FIELDS.iter().filter_map(|tag| record.field(*tag).cloned()).collect();
    records.iter().map(of).collect()
}

#[test]
fn one_member_after_the_other_gets_the_next_release_and_the_way_back_is_refused() {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let mut cluster = Cluster::start(&Spec { program: earlier(), ..Spec::default() });
    let mailbox = Cluster::USERS[0].number;
    let (last, first) = cluster.publisher_and_other();
    if earlier().is_none() {
        wait_until("the level of this release", PATIENCE, || level(&cluster, &last) == NEXT_LEVEL - 1);
    }
    let old = level(&cluster, &last);

    // The first of the pair. A call on it during the drain ends on its own, and its message is stored.
    under_calls(&mut cluster, &last, |cluster| {
        let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
        let invite = Invite::new(mailbox, "2001", endpoint.address());
        let call = Call::place(cluster.phones(), cluster.sip(&first), Transport::Udp, &invite).expect("answered");
        let speech = begin_to_speak(&endpoint, &call);
        cluster.cli(&last).order(&["cluster", "deactivate", &first]);
        cluster.wait_for_status(&[&first], "draining");
        endpoint.wait_spoken(2.5);
        let deposit = hang_up(call, &endpoint, speech);
        assert!(deposit.acknowledged(), "{:?}", deposit.bye);
        drain(cluster, &first, &last);
        start(cluster, &first, Release::Next);
        activate(cluster, &first, &last);
        assert_kept(cluster, &last, mailbox, &deposit, 1.2, PATIENCE);
    });

    // A mixed pair: in both directions, and with fields that one of them does not know in a record that both change.
    assert_eq!((level(&cluster, &first), level(&cluster, &last)), (old, old), "not all have it");
    let written = "records of the next release are written";
    wait_until("it to be written", PATIENCE, || cluster.member(&first).log().contains(written));
    for (there, elsewhere) in [(&first, &last), (&last, &first)] {
        let deposit = leave_message(cluster.phones(), cluster.sip(there), mailbox, 1.2);
        assert!(deposit.acknowledged(), "{:?}", deposit.bye);
        assert_kept(&cluster, elsewhere, mailbox, &deposit, 1.0, PATIENCE);
    }
    cluster.cli(&last).json(&["user", "set", mailbox, "--name", "Renamed"]);
    wait_until("both to know the new name", PATIENCE, || named(&cluster, &first, "Renamed"));

    // The node of this release replicates it: to a node whose disk is lost, which runs this release again in between,
    // as is permitted until the level has moved.
    under_calls(&mut cluster, &last, |cluster| {
        drain(cluster, &first, &last);
        cluster.wipe(&first);
        start(cluster, &first, Release::This);
        activate(cluster, &first, &last);
        cluster.wait_for_messages(&first, mailbox, 3, PATIENCE);
        wait_until("it to lack nothing", PATIENCE, || {
            named(cluster, &first, "Renamed") && number(&member(cluster, &last, &last)["info"]["lag"]) == 0
        });
        drain(cluster, &first, &last);
    });
    let refilled = on_disk(&cluster, &first);
    under_calls(&mut cluster, &last, |cluster| {
        start(cluster, &first, Release::Next);
        activate(cluster, &first, &last);
    });

    // The others. The level follows automatically when all have it, and not before.
    let moved = under_calls(&mut cluster, &first, |cluster| {
        drain(cluster, "w", &first);
        start(cluster, "w", Release::Next);
        activate(cluster, "w", &first);
        assert_eq!((level(cluster, &first), level(cluster, &last)), (old, old), "{last} has not got it");
        drain(cluster, &last, &first);
        let moved = on_disk(cluster, &last);
        start(cluster, &last, Release::Next);
        activate(cluster, &last, &first);
        moved
    });
    let risen = |node: &str| level(&cluster, node) == NEXT_LEVEL;
    wait_until("the level to rise", PATIENCE, || risen(&first) && risen(&last));
    for (whose, records) in [(&last, &moved), (&first, &refilled)] {
        let name_stamp = |record: &Record| record.register(NAME).map(|(_, stamp)| stamp);
        let later_stamp = |record: &Record| record.register(LATER_FIELDS[0]).map(|(_, stamp)| stamp);
        assert_eq!(records.len(), 3, "{whose}: two mailboxes, and a row of the unknown table");
        assert!(later(records).iter().all(|fields| fields.len() == 4), "{whose}: {:#?}", later(records));
        let merged = |r: &Record| name_stamp(r).is_some() && later_stamp(r) < name_stamp(r);
        assert!(records.iter().any(merged), "{whose}: renamed after the unknown fields had come");
    }
    assert_eq!(later(&moved), later(&refilled), "as they were written, stamps and all");

    // The downgrade: refused with a text, and only this node goes out of service; calls continue, there too.
    let before = cluster.cli(&last).json(&["cluster", "moves"]);
    let publisher = cluster.publisher(&last);
    let back = if publisher == first { last.clone() } else { first.clone() };
    under_calls(&mut cluster, &publisher, |cluster| {
        drain(cluster, &back, &publisher);
        start(cluster, &back, Release::This);
        cluster.cli(&publisher).order(&["cluster", "activate", &back]);
        wait_until("it to be told", PATIENCE, || {
            let status = cluster.cli(&back).status().unwrap_or_default();
            let why = format!("1 to {old}, and the cluster is at {NEXT_LEVEL}; install");
            status["reason"].as_str().is_some_and(|reason| reason.contains(&why))
        });
        wait_until("the others to say why", PATIENCE, || {
            let seen = member(cluster, &publisher, &back);
            let why = seen["reason"].as_str().unwrap_or_default();
            seen["status"] == "not-functioning"
                && why.contains(&format!("supports the feature levels 1 to {old}: install"))
        });
        wait_until("it to know that it is activated", PATIENCE, || {
            let own = member(cluster, &back, &back);
            ["in-service", "not-functioning"].iter().any(|status| own["status"] == *status)
        });
        wait_until("its SIP server to take calls", PATIENCE, || {
            let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
            let invite = Invite::new(mailbox, "2001", endpoint.address());
            Call::place(cluster.phones(), cluster.sip(&back), Transport::Udp, &invite).map(Call::bye).is_ok()
        });
        let deposit = leave_message(cluster.phones(), cluster.sip(&back), mailbox, 1.2);
        assert!(deposit.acknowledged(), "{:?}", deposit.bye);
        assert_kept(cluster, &publisher, mailbox, &deposit, 1.0, PATIENCE);
        a_newcomer_of_this_release_is_refused(cluster, &publisher, old);
        assert_eq!(level(cluster, &publisher), NEXT_LEVEL);
        assert_eq!(cluster.cli(&publisher).json(&["cluster", "moves"]), before);
    });
    // And the remedy.
    under_calls(&mut cluster, &publisher, |cluster| {
        cluster.stop(&back);
        start(cluster, &back, Release::Next);
        cluster.wait_in_service();
    });
}

fn a_newcomer_of_this_release_is_refused(cluster: &Cluster, asked: &str, old: u64) {
    let made = cluster.cli(asked).json(&["cluster", "token"]);
    let token = made["token"].as_str().expect("a token");
    let place = cluster.dir().join("newcomer");
    let joined = Command::new(earlier().unwrap_or_else(binary))
        .args(["cluster", "join", token, "--name", "c", "--address", "127.0.0.1:7079", "--dir"])
        .arg(&place)
        .output()
        .expect("the program runs");
    assert_eq!(joined.status.code(), Some(1), "{}", words(&joined));
    let why = format!("levels 1 to {old}, and the cluster is at {NEXT_LEVEL}; install one");
    assert!(words(&joined).contains(&why), "{}", words(&joined));
    assert!(!place.join("c").exists(), "nothing is left behind");
    assert_eq!(member(cluster, asked, "c"), Value::Null);
}
