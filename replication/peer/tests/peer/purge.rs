//! Stability, and purging by it: a deleted record is removed only when no member can still bring a change that did not
//! see its deletion (rules D2, D3).

use std::{fs, path::Path, time::Duration};

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Key, Record, Value};
use twinbox_replication_peer::StabilityMark;
use twinbox_replication_store::{DeletedRow, Draft, Removal};
use twinbox_wire::replication::{ProbeAnswer, follower_frame, source_frame};

use crate::kit::{
    Cable, Cluster, Node, TABLE, audio, converge, key, name,
    raw::{Raw, hello},
    until,
};

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}

async fn edit(node: &Node, row: &str, edits: Vec<Edit>) {
    let key = key(row);
    node.store.commit(move |draft: &mut Draft<'_>| draft.edit(key, edits)).await.unwrap();
}

async fn delete(node: &Node, row: &str) {
    edit(node, row, vec![Edit::Delete]).await;
}

fn is_deleted(node: &Node, row: &str) -> bool {
    node.store.get(&key(row)).unwrap().is_some_and(|record| record.is_deleted())
}

/// The first phase: what may go, and the changes that must be stable before.
fn found(node: &Node) -> (Vec<(DeletedRow, Removal)>, StabilityMark) {
    let rows = node.store.deleted_rows(TABLE, None, 100).unwrap();
    let rows = rows.into_iter().filter(|row| row.record.is_deleted()).map(|row| (row, Removal::Whole));
    (rows.collect(), node.peers.mark())
}

/// Removes audio that nothing names, once earlier recordings are done with it; returns the number of files.
async fn free_audio(node: &Node) -> u64 {
    node.store.recordings().written().await.unwrap();
    node.store.remove_unreferenced(&mut None, Duration::ZERO, wall(), 100).await.unwrap().blobs
}

/// Both phases; returns the number of removed records.
async fn purge(node: &Node) -> u64 {
    let (rows, mark) = found(node);
    until("the deletion is stable", || node.peers.is_stable(&mark)).await;
    node.store.purge(rows).await.unwrap().whole
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn node_without_others_has_all_stable_immediately() {
    let cluster = Cluster::new(&["a"]).await;
    let a = cluster.node("a").await;
    a.write("row", text("x")).await;
    delete(&a, "row").await;
    let (rows, mark) = found(&a);
    assert!(a.peers.is_stable(&mark));
    assert_eq!(a.store.purge(rows).await.unwrap().whole, 1);
    assert_eq!(a.records(), []);
}

#[tokio::test]
async fn changes_are_stable_when_every_member_has_them_and_none_before() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.start();
    b.start();
    a.write("row", text("x")).await;
    let early = a.peers.mark();
    converge(&[&a, &b]).await;
    until("the streams are up", || a.status("b").connected).await;
    assert!(!a.peers.is_stable(&early), "c was never heard");
    let c = cluster.node("c").await;
    c.start();
    until("all three have it", || a.peers.is_stable(&early)).await;

    let dir = c.stop().await;
    until("c is away", || !a.status("c").connected).await;
    assert!(!a.peers.is_stable(&early), "its disk may be another one by now");
    a.write("later", text("y")).await;
    let late = a.peers.mark();
    converge(&[&a, &b]).await;
    assert!(!a.peers.is_stable(&late), "c is away");
    let c = cluster.node_in("c", dir, &[]).await;
    c.start();
    until("c is back", || a.peers.is_stable(&late)).await;

    c.stop().await;
    until("c is away", || !a.status("c").connected).await;
    a.write("last", text("z")).await;
    let last = a.peers.mark();
    converge(&[&a, &b]).await;
    assert!(!a.peers.is_stable(&last));
    // Given up for good.
    a.peers.remove(&name("c"));
    until("the remaining ones have it", || a.peers.is_stable(&last)).await;
}

/// A record of two fields is deleted on one side of a split; the other side writes one of them. Returns the records of
/// both after the heal, with the deleting side's purge before (the mutant) or after stability.
async fn split_and_purged(wait_for_stability: bool) -> [Vec<(Key, Record)>; 2] {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (to_a, to_b) = (Cable::to(cluster.address("a")).await, Cable::to(cluster.address("b")).await);
    let a = cluster.node_via("a", &[("b", to_b.address)]).await;
    let b = cluster.node_via("b", &[("a", to_a.address)]).await;
    a.start();
    b.start();
    edit(&a, "row", vec![Edit::Set(1, text("first")), Edit::Set(2, text("second"))]).await;
    delete(&b, "other").await;
    converge(&[&a, &b]).await;
    let before = a.peers.mark();
    until("both are heard", || a.peers.is_stable(&before) && b.peers.is_stable(&before)).await;

    to_a.cut();
    to_b.cut();
    delete(&a, "row").await;
    b.write("row", text("saved")).await;
    let (rows, mark) = found(&a);
    assert_eq!(rows.len(), 2, "the row, and the other that both deleted");
    assert!(!a.peers.is_stable(&mark));
    if wait_for_stability {
        to_a.restore();
        to_b.restore();
        until("the deletion is stable", || a.peers.is_stable(&mark)).await;
        assert_eq!(a.value("row"), Some(text("saved")), "what b wrote without knowing of the delete came before");
        assert!(!is_deleted(&a, "row"));
        assert_eq!(a.store.purge(rows).await.unwrap().whole, 1, "only the other");
    } else {
        assert_eq!(a.store.purge(rows).await.unwrap().whole, 2);
        to_a.restore();
        to_b.restore();
    }
    until("both have the same changes", || a.store.vector() == b.store.vector()).await;
    let others = |node: &Node| node.records().into_iter().filter(|(found, _)| *found == key("row")).collect();
    [others(&a), others(&b)]
}

#[tokio::test]
async fn change_that_did_not_see_the_delete_never_meets_a_purged_record() {
    let [a, b] = split_and_purged(true).await;
    assert_eq!(a, b);
    assert_eq!(a[0].1.bytes(2), Some(&b"second"[..]));
}

/// The test above finds a purge that does not wait: here is what it would find.
#[tokio::test]
async fn purge_before_stability_leaves_a_part_of_a_record() {
    let [a, b] = split_and_purged(false).await;
    assert_ne!(a, b);
    assert_eq!((a[0].1.bytes(2), b[0].1.bytes(2)), (None, Some(&b"second"[..])));
}

#[tokio::test]
async fn node_with_an_older_disk_gets_the_delete_and_purges_itself() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.start();
    b.start();
    a.write("row", text("x")).await;
    a.write("kept", text("y")).await;
    converge(&[&a, &b]).await;
    let dir = b.stop().await;
    let older = TempDir::new().unwrap();
    copy(dir.path(), older.path());

    let b = cluster.node_in("b", dir, &[]).await;
    b.start();
    delete(&a, "row").await;
    assert_eq!(purge(&a).await, 1);
    b.stop().await;
    // A mark from before: b's report of then says nothing about the disk of now.
    until("b is away", || !a.status("b").connected).await;
    let mark = a.peers.mark();
    let b = cluster.node_in("b", older, &[]).await;
    assert!(!is_deleted(&b, "row"), "the disk is from before");
    b.start();
    until("b has the delete from the log", || is_deleted(&b, "row")).await;
    until("the report is a new one", || a.peers.is_stable(&mark)).await;
    assert_eq!(a.value("row"), None);
    assert_eq!(purge(&b).await, 1);
    converge(&[&a, &b]).await;
    assert_eq!(a.records().len(), 1);
}

/// The history of a node that was away since before a message names audio that exists nowhere any more.
#[tokio::test]
async fn history_that_names_given_up_audio_does_not_wait_for_it() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.start();
    b.start();
    a.write("early", text("x")).await;
    converge(&[&a, &b]).await;
    let dir = b.stop().await;
    let older = TempDir::new().unwrap();
    copy(dir.path(), older.path());

    let b = cluster.node_in("b", dir, &[]).await;
    b.start();
    let blob = a.record(RecordingId::random(), &audio(20_000)).await;
    a.write("message", blob).await;
    let kept = a.record(RecordingId::random(), &audio(21_000)).await;
    a.write("kept", kept).await;
    delete(&a, "message").await;
    converge(&[&a, &b]).await;
    assert_eq!(purge(&a).await, 1);
    assert_eq!(free_audio(&a).await, 1);
    b.stop().await;

    let b = cluster.node_in("b", older, &[]).await;
    b.start();
    until("all changes are there", || a.store.vector() == b.store.vector()).await;
    assert!(is_deleted(&b, "message") && !b.store.blobs().has(&blob.hash));
    assert_eq!(b.store.blobs().read(&kept.hash).await.unwrap(), audio(21_000), "other audio came");
    assert_eq!(purge(&b).await, 1);
    converge(&[&a, &b]).await;
}

#[tokio::test]
async fn wiped_node_fills_without_the_audio_of_purged_messages() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.start();
    b.start();
    for (row, length) in [("gone", 20_000), ("undeletable", 21_000), ("kept", 22_000)] {
        let blob = a.record(RecordingId::random(), &audio(length)).await;
        a.write(row, blob).await;
    }
    delete(&a, "gone").await;
    converge(&[&a, &b]).await;
    assert_eq!(purge(&a).await, 1);
    assert_eq!(free_audio(&a).await, 1);
    delete(&a, "undeletable").await;
    b.stop().await;

    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await;
    b.start();
    until("everything is there", || b.store.filled() == twinbox_replication_store::Filled::Complete).await;
    for (row, here) in [("gone", false), ("undeletable", true), ("kept", true)] {
        let record = b.store.get(&key(row)).unwrap().unwrap();
        let blob = *record.blobs().next().unwrap();
        assert_eq!(b.store.blobs().has(&blob.hash), here, "{row}");
    }
    assert_eq!(purge(&b).await, 2);
}

/// Answers one probe of node a, with this wall clock in milliseconds.
async fn answer_at(b: &mut Raw, now_ms: u64) {
    let number = loop {
        if let source_frame::Frame::Probe(probe) = b.next().await.unwrap() {
            break probe.number;
        }
    };
    b.send(follower_frame::Frame::ProbeAnswer(ProbeAnswer { number, now_ms, ..ProbeAnswer::default() })).await;
}

#[tokio::test]
async fn clocks_agree_while_that_of_each_other_node_was_heard_and_none_is_an_hour_off() {
    const WITHIN: Duration = Duration::from_secs(60);
    const HOUR_MS: u64 = 3_600_000;
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, c) = (cluster.node("a").await, cluster.node("c").await);
    // The interval of probes.
    a.peers.set_ack_timeout(Duration::from_millis(50));
    c.start();
    let mut b =
        Raw::follow(&cluster.identity("b"), &cluster, hello(cluster.authority.cluster(), "b")).await.unwrap();
    assert!(!a.peers.clocks_agree(WITHIN), "b has not said its own");
    answer_at(&mut b, wall().0).await;
    until("both clocks are right", || a.peers.clocks_agree(WITHIN)).await;
    for wrong in [wall().0 + HOUR_MS, wall().0 - HOUR_MS] {
        answer_at(&mut b, wrong).await;
        until("the clock of b is wrong", || !a.peers.clocks_agree(WITHIN)).await;
        assert!(a.peers.clocks_agree(Duration::from_millis(2 * HOUR_MS)), "by an hour");
        answer_at(&mut b, wall().0).await;
        until("it is right again", || a.peers.clocks_agree(WITHIN)).await;
    }
}
