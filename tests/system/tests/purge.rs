//! Deleted messages and their audio leave the disks of both nodes after the grace, and only when both have the deletion.

use std::{thread::sleep, time::Duration};

use twinbox_replication_core::Table;
use twinbox_replication_store::{Store, StoreConfig};
use twinbox_testkit::{Cluster, Deposit, Spec, StoredMessage, http_get, leave_message, metric, wait_until};

/// Table of messages (`nodes/mailbox/src/schema.rs`).
const MESSAGES: Table = Table(2);
/// Ten times what two graces and the looks between take.
const PURGED_WITHIN: Duration = Duration::from_secs(120);

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
