//! Deleted messages and their audio leave the disks of both nodes after the grace, and only when both have the deletion: few, and
//! hundreds while calls go on.

use std::{
    fs,
    thread::{self, sleep},
    time::Duration,
};

use twinbox_peer_kit::{Depositing, Depositors};
use twinbox_replication_core::Table;
use twinbox_replication_store::{Store, StoreConfig};
use twinbox_system_tests::{growing::number, import_users, wait_for_same_messages};
use twinbox_testkit::{
    Cluster, Deposit, Spec, Speech, StoredMessage,
    g711::{self, Law},
    http_get, leave_message, listen, metric, need, wait_for, wait_until,
};

/// Table of messages (`nodes/mailbox/src/schema.rs`).
const MESSAGES: Table = Table(2);
/// Ten times what two graces and the looks between take.
const PURGED_WITHIN: Duration = Duration::from_secs(120);
/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(30);
/// Both nodes.
const NODES: [&str; 2] = ["a", "b"];
/// Sounds that are sent as messages, and the length of each in samples: 61 MB, so that packs of 16 MiB fill and can go.
const SOUNDS: (usize, usize) = (48, 1_280_000);
/// Calls to each node, and of them in a second: first those whose messages are deleted, then those that go on meanwhile.
const CALLS: [(u32, u32); 2] = [(80, 4), (25, 1)];
/// Mailbox of the calls that go on.
const LATER: u32 = 3_000;

/// Number of blobs that a node has removed since its start.
fn removed(cluster: &Cluster, node: &str) -> f64 {
    let page = http_get(cluster.phones(), cluster.member(node).metrics(), "/metrics");
    page.and_then(|(_, text)| metric(&text, "twinbox_purged_total", "files")).unwrap_or_default()
}

/// The messages that can be heard; deleted ones are in the list until they are purged.
fn present(messages: Vec<StoredMessage>) -> Vec<StoredMessage> {
    messages.into_iter().filter(|message| message.state != "deleted").collect()
}

/// Number of records of messages on the disk of a node that does not run. It has their audio.
fn rows(cluster: &Cluster, node: &str) -> usize {
    let dir = cluster.member(node).data_dir.join("store");
    let config = StoreConfig { dir, node: node.parse().expect("a name"), reserve_bytes: 0 };
    let store = Store::open(config).expect("the store");
    assert_eq!(store.missing_audio(false, None).map(|part| part.blobs), Ok(vec![]), "{node}");
    store.scan(MESSAGES, b"").expect("a scan").len()
}

#[test]
fn deleted_messages_leave_both_disks_when_both_nodes_have_the_deletion() {
    let voicemail = vec!["deleted_grace_seconds = 3".to_owned()];
    let mut cluster = Cluster::start(&Spec { voicemail, ..Spec::default() });
    let user = Cluster::USERS[0].number;
    let deposits: Vec<Deposit> =
        (0..3).map(|_| leave_message(cluster.phones(), cluster.sip("a"), user, 1.2)).collect();
    assert!(deposits.iter().all(Deposit::acknowledged));
    let messages = cluster.wait_for_messages("b", user, 3, Duration::from_secs(10));
    let (kept, deleted) = messages.split_first().expect("three messages");

    // While b is away nothing is removed on a, however long ago the deletion is.
    cluster.kill("b");
    for message in deleted {
        assert!(cluster.cli("a").run(&["message", "delete", user, &message.id]).status.success());
    }
    wait_until("the messages to be purged", PURGED_WITHIN, || cluster.cli("a").messages(user).len() == 1);
    // No event tells that nothing happens: several looks and two graces pass.
    sleep(Duration::from_secs(8));
    assert_eq!(removed(&cluster, "a"), 0.0, "b may bring changes to them");

    cluster.start_member("b");
    cluster.wait_in_service();
    for node in ["a", "b"] {
        wait_until(&format!("the audio to leave the disk of {node}"), PURGED_WITHIN, || {
            removed(&cluster, node) == 2.0
        });
        assert_eq!(present(cluster.cli(node).messages(user)), std::slice::from_ref(kept), "{node}");
    }

    // Both start again with what is left, and a node whose disk was lost gets it.
    cluster.stop("b");
    assert_eq!(rows(&cluster, "b"), 1);
    cluster.start_member("b");
    cluster.wait_in_service();
    cluster.stop("a");
    assert_eq!(rows(&cluster, "a"), 1);
    cluster.wipe("a");
    cluster.start_member("a");
    cluster.wait_in_service();
    wait_until("a to have its audio", PURGED_WITHIN, || cluster.heard("a", user).len() == 1);
    assert_eq!(present(cluster.cli("a").messages(user)), std::slice::from_ref(kept));
    assert_eq!(present(cluster.cli("b").messages(user)), std::slice::from_ref(kept));
    // The deleted ones came with the log, and leave the new disk in their own time.
    cluster.stop("a");
    assert!((1..=3).contains(&rows(&cluster, "a")), "its audio is here");
}

/// SIPp's callers, who leave messages in a mailbox.
fn call(cluster: &Cluster, mailbox: &str, (times, rate): (u32, u32), first_port: u16) -> [Depositing; 2] {
    let calls = [(mailbox.to_owned(), "2001".to_owned())];
    [0_u16, 1].map(|n| {
        let node = cluster.sip(NODES[usize::from(n)]);
        let (stay, media_port) = (Duration::from_millis(1_900), first_port + n * 5_000);
        let folder = cluster.dir().join(format!("sipp-{mailbox}-{n}"));
        Depositors { node, calls: &calls, times, rate, stay, media_port }.start(cluster.phones(), &folder)
    })
}

/// Sends sounds as messages, on both nodes in turn. Each has a beginning of its own, so that none shares its audio.
fn send_sounds(cluster: &Cluster, from: &str, to: &str) {
    let wav = |samples| g711::to_wav(&Speech::unique().bytes(0, samples), Law::Mu);
    let (path, mut sound) = (cluster.dir().join("sound.wav"), wav(SOUNDS.1));
    let file = path.to_string_lossy().into_owned();
    for n in 0..SOUNDS.0 {
        // Behind the header of the file.
        let beginning = &wav(1_000)[44..];
        sound[44..44 + beginning.len()].copy_from_slice(beginning);
        fs::write(&path, &sound).expect("written");
        cluster.cli(NODES[n % 2]).json(&["message", "send", &file, "--from", from, "--to", to]);
    }
}

/// Names of a node's packs, the oldest first.
fn packs(cluster: &Cluster, node: &str) -> Vec<String> {
    let entries = fs::read_dir(cluster.member(node).data_dir.join("store/audio")).expect("a folder").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".pack"));
    names.sort();
    names
}

/// Rows of messages on a node that runs, deleted ones too, and the bytes of all files of its store.
fn stored(cluster: &Cluster, node: &str) -> (u64, u64) {
    let stats = cluster.cli(node).json(&["store", "stats"]);
    let tables = stats["tables"].as_array().into_iter().flatten();
    let messages = tables.filter(|table| table["table"] == "message");
    let rows = messages.map(|table| number(&table["present"]) + number(&table["deleted"])).sum();
    (rows, number(&stats["disk_bytes"]))
}

#[test]
fn audio_and_rows_of_hundreds_of_deleted_messages_leave_both_disks_while_calls_go_on() {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let voicemail = vec!["deleted_grace_seconds = 1".to_owned(), "max_messages = 1000".to_owned()];
    let mut cluster = Cluster::start(&Spec { voicemail, ..Spec::default() });
    let ([full, owner], later) = (Cluster::USERS, LATER.to_string());
    import_users(&cluster, "a", LATER..LATER + 1, "Later");
    wait_until("the mailbox on b", SOON, || cluster.cli("b").try_messages(&later).is_ok());
    // In the first pack; the second stays.
    let of_owner = NODES.map(|node| leave_message(cluster.phones(), cluster.sip(node), owner.number, 1.2));
    assert!(of_owner.iter().all(Deposit::acknowledged));
    let before = NODES.map(|node| stored(&cluster, node).1);

    let mut callers = call(&cluster, full.number, CALLS[0], 20_000);
    send_sounds(&cluster, owner.number, full.number);
    let left: u64 = callers.iter_mut().map(|callers| callers.finish().well).sum();
    let deleted = wait_for_same_messages(&cluster, full.number, SOUNDS.0 + left as usize, SOON);
    assert!(deleted.len() >= 100, "{left} of {} calls left a message", 2 * CALLS[0].0);
    let (most, all_packs) = (NODES.map(|node| stored(&cluster, node).1), NODES.map(|node| packs(&cluster, node)));

    let mut callers = call(&cluster, &later, CALLS[1], 22_000);
    let played = listen(cluster.phones(), cluster.sip("b"), owner, &of_owner[..1], 1.0, SOON);
    assert!(played[0].is_some(), "the first one is played");
    let heard = wait_for("it to be heard", SOON, || {
        cluster.cli("a").messages(owner.number).into_iter().find(|message| message.state != "new")
    });
    let clis = NODES.map(|node| cluster.cli(node));
    thread::scope(|scope| {
        for (cli, part) in clis.iter().zip(deleted.chunks(deleted.len().div_ceil(2))) {
            scope.spawn(move || {
                for StoredMessage { id, .. } in part {
                    assert!(cli.run(&["message", "delete", full.number, id]).status.success(), "{id}");
                }
            });
        }
    });
    assert!(clis[0].run(&["message", "delete", owner.number, &heard.id]).status.success());

    for (node, packs_before) in NODES.into_iter().zip(&all_packs) {
        // The two newest stay, and one is made ahead.
        let old = &packs_before[..packs_before.len().saturating_sub(3)];
        assert!(!old.is_empty(), "{node} has only {packs_before:?}");
        let took = wait_until(&format!("audio and messages to leave the disk of {node}"), PURGED_WITHIN, || {
            let now = packs(&cluster, node);
            removed(&cluster, node) >= SOUNDS.0 as f64
                && old.iter().all(|pack| !now.contains(pack))
                && cluster.cli(node).try_messages(full.number).is_ok_and(|listed| listed.is_empty())
        });
        println!("{node}: {old:?} of {packs_before:?} were removed after {took:?}");
    }

    let left: u64 = callers.iter_mut().map(|callers| callers.finish().well).sum();
    assert!(left > 0, "calls go on");
    // The row of an imported message stays: an import that is repeated must find that it was here.
    let stays = wait_for_same_messages(&cluster, &later, left as usize, SOON).len() + 1 + SOUNDS.0;
    for (n, node) in NODES.into_iter().enumerate() {
        wait_until(
            &format!("{node} to have no row of a deleted message that a caller left"),
            PURGED_WITHIN,
            || stored(&cluster, node).0 == stays as u64,
        );
        let megabytes = [before[n], most[n], stored(&cluster, node).1].map(|bytes| bytes / 1_000_000);
        println!(
            "{node}: {} messages deleted, {stays} rows stay; the store had {megabytes:?} MB",
            deleted.len() + 1
        );
        assert_eq!(cluster.heard(node, owner.number).len(), 1, "what shared a pack with deleted audio was moved");
    }
    for node in NODES {
        cluster.stop(node);
        assert_eq!(rows(&cluster, node), stays);
    }
}
