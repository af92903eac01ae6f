//! The first fill of a node that joins or whose disk was lost (rule D13).

use std::time::Duration;

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::{Origin, RecordingId, Stamp};
use twinbox_replication_core::{Change, CommitPart, Field, Record, Value};
use twinbox_replication_store::{Filled, codec};
use twinbox_wire::replication::{History, source_frame::Frame};

use crate::kit::{Cable, Cluster, audio, converge, key, liar::Liar, name, until};

fn empty() -> TempDir {
    TempDir::new().unwrap()
}

#[tokio::test]
async fn fill_copies_records_first_and_audio_later_or_on_request() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    a.write_many("row", 500).await;
    // The audio of two messages is away.
    let mut blobs = Vec::new();
    for n in 0..2 {
        blobs.push(a.store.blobs().put(audio(20_000 + n).into()).await.unwrap());
    }
    assert_eq!(a.store.remove_orphan_blobs(&mut None, Duration::ZERO, wall(), 100).await.unwrap().blobs, 2);
    blobs.push(a.record(RecordingId::random(), &audio(20_002)).await);
    for (n, blob) in blobs.iter().enumerate() {
        a.write(&format!("message {n}"), Value::Blob(*blob)).await;
    }

    let b = cluster.node_that_fills("b", empty(), &[]).await;
    assert_eq!(b.store.filled(), Filled::Partly);
    a.start();
    b.start();
    until("all records are there", || b.store.filled().has_records()).await;
    assert_eq!(a.records(), b.records());
    assert!(!b.peers.fill_had_no_source());
    until("the audio that can be had is there", || b.store.blobs().has(&blobs[2].hash)).await;
    assert_eq!(b.store.filled(), Filled::Records);
    assert!(!b.peers.fetch(blobs[0].hash).await, "nobody has it");
    // Live changes wait for their audio as usual, and are acknowledged on two; but b covers nothing for others yet.
    a.counts("b").await;
    assert!(a.peers.uncovered() > 0, "if a's disk were lost now, audio would be");

    a.store.blobs().put(audio(20_000).into()).await.unwrap();
    assert!(b.peers.fetch(blobs[0].hash).await, "fetched on request");
    assert_eq!(b.store.blobs().read(&blobs[0].hash).await.unwrap(), audio(20_000));
    a.store.blobs().put(audio(20_001).into()).await.unwrap();
    until("everything is there", || b.store.filled() == Filled::Complete).await;
    assert_eq!(b.store.blobs().read(&blobs[1].hash).await.unwrap(), audio(20_001));
    until("b covers what a has", || a.peers.uncovered() == 0).await;

    // The mark is b's own: restarted alone, it is complete immediately.
    let dir = b.stop().await;
    a.stop().await;
    let b = cluster.node_that_fills("b", dir, &[]).await;
    assert_eq!(b.store.filled(), Filled::Complete);
}

#[tokio::test]
async fn interrupted_fill_continues_after_a_restart() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    a.write_many("row", 5_000).await;
    a.start();
    let cable = Cable::to(cluster.address("a")).await;
    let b = cluster.node_that_fills("b", empty(), &[("a", cable.address)]).await;
    b.start();
    until("some is there", || b.store.vector().total() > 0).await;
    cable.cut();
    let had = b.store.vector().total();
    let b = cluster.node_that_fills("b", b.stop().await, &[("a", cable.address)]).await;
    assert!(b.store.vector().total() >= had);
    b.start();
    cable.restore();
    until("the rest has come", || b.store.filled() == Filled::Complete).await;
    assert_eq!(a.records(), b.records());
}

#[tokio::test]
async fn nodes_that_all_fill_do_not_wait_for_each_other() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) =
        (cluster.node_that_fills("a", empty(), &[]).await, cluster.node_that_fills("b", empty(), &[]).await);
    a.write_many("of a", 300).await;
    b.write_many("of b", 200).await;
    a.start();
    b.start();
    for node in [&a, &b] {
        until("it has what both have", || node.store.filled() == Filled::Complete).await;
    }
    converge(&[&a, &b]).await;
    assert_eq!(a.records().len(), 500);
    assert!(a.peers.fill_had_no_source() || b.peers.fill_had_no_source(), "one node reports it");
}

#[tokio::test]
async fn fill_waits_for_an_absent_source_until_it_is_given_up() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (b, c) =
        (cluster.node_that_fills("b", empty(), &[]).await, cluster.node_that_fills("c", empty(), &[]).await);
    b.write_many("of b", 10).await;
    b.start();
    c.start();
    converge(&[&b, &c]).await;
    // It is possible that a has all data.
    assert!(!b.store.filled().has_records() && !c.store.filled().has_records());
    b.peers.remove(&name("a"));
    until("b goes on with what is there", || b.store.filled() == Filled::Complete).await;
    assert!(b.peers.fill_had_no_source());
    // For c, b is a source now, although c still knows a.
    until("c has what b has", || c.store.filled() == Filled::Complete).await;
    assert!(!c.peers.fill_had_no_source());

    let d = Cluster::new(&["d"]).await;
    let d = d.node_that_fills("d", empty(), &[]).await;
    d.start();
    assert!(!d.store.filled().has_records(), "the members decide whether it is alone");
    d.peers.end_fill_without_source().await.unwrap();
    assert!(d.store.filled().has_records() && d.peers.fill_had_no_source());
}

/// The history lane brings such a change when a slow follower was overtaken; a writer at the source waits for it all the same.
#[tokio::test]
async fn change_made_after_the_stream_opened_waits_for_its_audio_in_a_first_fill_too() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let c = cluster.node("c").await;
    let blob = c.record(RecordingId::random(), &audio(20_000)).await;
    c.stop().await;
    let origin = Origin::random();
    let change = |seq, value| {
        let field = Field::Register { stamp: Stamp { wall: 1, counter: 0, origin }, value };
        let (delta, part) = (Record::from_parts([(1, field)], None), CommitPart { before: 0, after: 0 });
        codec::change_to_bytes(&Change { origin, seq, key: key(&format!("row {seq}")), delta, part }).into()
    };
    let with_audio = |seq| change(seq, Value::Blob(blob));
    let changes = vec![with_audio(1), with_audio(2), change(3, Value::Bytes(b"x".into()))];
    let history = Frame::History(History { batch: 1, change: changes, all: false });
    let b = cluster.node_that_fills("b", empty(), &[]).await;
    Liar::start_new(&cluster, "a", origin, vec![history]).await;
    b.start();
    until("the change without audio", || b.store.has(origin, 3)).await;
    assert!(b.store.has(origin, 1), "a record of before the stream comes first, and its audio later");
    assert!(!b.store.has(origin, 2), "a later one waits for its audio");
}
