//! Two nodes: each gets the changes of the other, and writers get the true durability.

use std::time::Duration;

use crate::kit::{ACK_TIMEOUT, Cable, Cluster, Node, audio, converge, key, name, on_two, until};
use bytes::Bytes;
use twinbox_clock::BootInstant;
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_replication_core::{BlobRef, Edit, Value};
use twinbox_replication_peer::Acknowledgement;
use twinbox_replication_store::Draft;

async fn pair() -> (Cluster, Node, Node) {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    (cluster, a, b)
}

async fn connected() -> (Cluster, Node, Node) {
    let (cluster, a, b) = pair().await;
    a.start();
    b.start();
    a.counts("b").await;
    b.counts("a").await;
    (cluster, a, b)
}

fn bytes(text: &str) -> Value {
    Value::Bytes(text.into())
}

#[tokio::test]
async fn two_nodes_converge_both_ways() {
    let (_cluster, a, b) = pair().await;
    // Writes before they connect.
    a.write("one", bytes("a")).await;
    a.write_many("a", 600).await;
    b.write("two", bytes("b")).await;
    b.write("one", bytes("b, later")).await;
    a.start();
    b.start();
    converge(&[&a, &b]).await;
    assert_eq!(a.records().len(), 602);
    assert_eq!(a.value("one"), Some(bytes("b, later")));
    // Writes while they are connected.
    a.counts("b").await;
    b.counts("a").await;
    assert_eq!(a.write_acknowledged("three", bytes("a")).await, on_two("b"));
    assert_eq!(b.value("three"), Some(bytes("a")), "acknowledged on two means that it is there");
    assert_eq!(b.write_acknowledged("three", bytes("b")).await, on_two("a"));
    assert_eq!(a.value("three"), Some(bytes("b")));
    converge(&[&a, &b]).await;
    assert_eq!((a.status("b").lag_changes, b.status("a").lag_changes), (0, 0));
}

#[tokio::test]
async fn changes_are_not_sent_back_to_their_sender() {
    let (_cluster, a, b) = connected().await;
    let committed = a.write_many("row", 500).await;
    assert_eq!(a.peers.acknowledge(&committed).await, on_two("b"));
    assert!(a.status("b").sent_bytes >= 100_000);
    assert_eq!(b.write_acknowledged("other", bytes("y")).await, on_two("a"));
    assert!(b.status("a").sent_bytes < 50_000, "it went back: {} bytes", b.status("a").sent_bytes);
}

#[tokio::test]
async fn five_thousand_recordings_in_progress_are_all_followed() {
    const TAKES: usize = 5_000;
    let (_cluster, a, b) = connected().await;
    let spoken = audio(320);
    let ids: Vec<_> = (0..TAKES).map(|_| RecordingId::random()).collect();
    for id in &ids {
        a.store.recordings().begin(*id, 1).await.unwrap();
    }
    // Round by round, so that all of them are in progress when the first goes on.
    for part in [0..160, 160..320] {
        for id in &ids {
            let chunk = Bytes::copy_from_slice(&spoken[part.clone()]);
            a.store.recordings().append(*id, 1, part.start as u64, chunk).unwrap();
        }
    }
    let followed = || {
        let open = b.store.recordings().open();
        open.len() == TAKES && open.iter().all(|(_, _, length)| *length == 320)
    };
    until("the peer has the audio of all recordings, none of which is filed", followed).await;
    // The last one is none that the stream left out and the peer fetches.
    let blob = a.store.recordings().seal(ids[TAKES - 1], 1).await.unwrap().blob;
    assert_eq!(a.write_acknowledged("message", blob).await, on_two("b"));
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), spoken);
    let counters = b.peers.counters();
    assert_eq!((counters.blobs_from_chunks, counters.blobs_fetched), (1, 0));
    assert_eq!(b.store.recordings().open().len(), TAKES - 1);
}

#[tokio::test]
async fn deposit_arrives_by_live_chunks_only() {
    let (_cluster, a, b) = connected().await;
    let id = RecordingId::random();
    let spoken = audio(40_123);
    let blob = a.record(id, &spoken).await;
    assert_eq!(blob.recording, Some((id, 1)));
    assert_eq!(a.write_acknowledged("message", blob).await, on_two("b"));
    assert_eq!(b.value("message"), Some(blob.into()));
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), spoken);
    let counters = b.peers.counters();
    assert_eq!((counters.blobs_from_chunks, counters.blobs_fetched), (1, 0));
    assert_eq!(b.store.recordings().open(), []);
}

#[tokio::test]
async fn a_recording_that_began_before_the_peer_came_is_caught_up() {
    let (_cluster, a, b) = pair().await;
    let id = RecordingId::random();
    let spoken = audio(300_000);
    a.store.recordings().begin(id, 1).await.unwrap();
    a.append(id, 0, &spoken[..200_000]);
    until("the beginning is written", || a.store.recordings().open() == [(id, 1, 200_000)]).await;
    a.start();
    b.start();
    a.counts("b").await;
    until("the beginning is there", || b.store.recordings().open() == [(id, 1, 200_000)]).await;
    a.append(id, 200_000, &spoken[200_000..]);
    let blob = a.store.recordings().seal(id, 1).await.unwrap().blob;
    assert_eq!(a.write_acknowledged("message", blob).await, on_two("b"));
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), spoken);
    assert_eq!(b.peers.counters().blobs_fetched, 0);
}

#[tokio::test]
async fn discarded_take_is_removed_on_the_peer_too() {
    let (_cluster, a, b) = connected().await;
    let id = RecordingId::random();
    a.store.recordings().begin(id, 1).await.unwrap();
    a.append(id, 0, &audio(10_000));
    until("it is there", || b.store.recordings().open() == [(id, 1, 10_000)]).await;
    a.store.recordings().discard(id, 1).await.unwrap();
    until("it is removed", || b.store.recordings().open().is_empty()).await;
}

#[tokio::test]
async fn a_blob_that_was_not_recorded_live_is_fetched() {
    let (_cluster, a, b) = connected().await;
    let greeting = Bytes::from(audio(3_000_001));
    let blob = a.store.blobs().put(greeting.clone()).await.unwrap();
    a.write("greeting", blob).await;
    a.write("plain", bytes("x")).await;
    converge(&[&a, &b]).await;
    assert_eq!(b.value("greeting"), Some(blob.into()));
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), greeting);
    assert_eq!(b.peers.counters().blobs_fetched, 1);
}

#[tokio::test]
async fn change_with_a_missing_blob_does_not_stop_other_changes() {
    let (_cluster, a, b) = connected().await;
    let lost = BlobRef { hash: BlobHash([9; 32]), length: 5, recording: None };
    assert_eq!(a.write_acknowledged("lost", lost).await, Acknowledgement::Alone);
    let before = b.store.vector().get(a.store.origin());
    a.write_many("row", 1_000).await;
    until("the others are there", || b.value("row000999").is_some()).await;
    assert_eq!(b.value("lost"), None, "a message shows up only when its audio has");
    assert_eq!(b.store.vector().get(a.store.origin()), before, "the prefix stops before the gap");
    until("all others are acknowledged", || a.status("b").lag_changes == 1).await;
    // b answers no probe while a live change is not durable there.
    let start = BootInstant::now();
    while start.elapsed() < 2 * ACK_TIMEOUT {
        assert!(!a.status("b").counts, "it has not acknowledged everything live");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It answers again after a bounded time.
    a.counts("b").await;
    assert_eq!(a.write_acknowledged("later", bytes("x")).await, on_two("b"));
}

#[tokio::test]
async fn writes_are_acknowledged_alone_while_the_peer_is_stopped_and_on_two_afterwards() {
    let (cluster, a, b) = connected().await;
    assert_eq!(a.write_acknowledged("before", bytes("1")).await, on_two("b"));
    let dir = b.stop().await;
    until("the peer is disconnected", || !a.status("b").connected).await;
    let start = BootInstant::now();
    for n in 0..20 {
        assert_eq!(a.write_acknowledged("during", bytes(&n.to_string())).await, Acknowledgement::Alone);
    }
    assert!(start.elapsed() < ACK_TIMEOUT, "20 writers waited {:?} for nobody", start.elapsed());
    assert_eq!(a.status("b").lag_changes, 20);

    let b = cluster.node_in("b", dir, &[]).await;
    assert_eq!(b.value("before"), Some(bytes("1")));
    b.start();
    converge(&[&a, &b]).await;
    assert_eq!(b.value("during"), Some(bytes("19")));
    a.counts("b").await;
    assert_eq!(a.write_acknowledged("after", bytes("2")).await, on_two("b"));
    assert_eq!(a.peers.counters().alone, 20);
}

#[tokio::test]
async fn silent_link_loss_delays_only_one_writer_by_the_timeout() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let cable = Cable::to(cluster.address("a")).await;
    let a = cluster.node("a").await;
    let b = cluster.node_via("b", &[("a", cable.address)]).await;
    a.start();
    b.start();
    a.counts("b").await;
    assert_eq!(a.write_acknowledged("before", bytes("1")).await, on_two("b"));

    cable.cut();
    let start = BootInstant::now();
    assert_eq!(a.write_acknowledged("first", bytes("x")).await, Acknowledgement::Alone);
    let first = start.elapsed();
    assert!(first <= ACK_TIMEOUT + Duration::from_millis(250), "the first writer waited {first:?}");
    let start = BootInstant::now();
    assert_eq!(a.write_acknowledged("second", bytes("x")).await, Acknowledgement::Alone);
    assert!(start.elapsed() < ACK_TIMEOUT / 2, "the second writer waited {:?}", start.elapsed());

    cable.restore();
    a.counts("b").await;
    converge(&[&a, &b]).await;
    assert_eq!(a.write_acknowledged("after", bytes("2")).await, on_two("b"));
}

#[tokio::test]
async fn hung_peer_is_detected_without_a_write() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let cable = Cable::to(cluster.address("a")).await;
    let a = cluster.node("a").await;
    let b = cluster.node_via("b", &[("a", cable.address)]).await;
    a.start();
    b.start();
    a.counts("b").await;
    cable.cut();
    until("it counts no more", || a.peers.counting() == 0).await;
    let start = BootInstant::now();
    assert_eq!(a.write_acknowledged("row", bytes("x")).await, Acknowledgement::Alone);
    assert!(start.elapsed() < ACK_TIMEOUT / 2, "the writer waited {:?}", start.elapsed());
}

#[tokio::test]
async fn peer_counts_during_its_fill() {
    let (_cluster, a, b) = pair().await;
    for n in 0..5 {
        a.write_many(&format!("old{n}-"), 1_000).await;
    }
    a.start();
    b.start();
    a.counts("b").await;
    let mut while_filling = 0;
    for n in 0..10 {
        assert_eq!(a.write_acknowledged(&format!("new{n}"), bytes("x")).await, on_two("b"));
        assert!(b.value(&format!("new{n}")).is_some());
        while_filling += usize::from(b.records().len() < 5_000);
    }
    assert!(while_filling > 0, "the history was there before the first write: the test proves nothing");
    converge(&[&a, &b]).await;
    assert_eq!(b.records().len(), 5_010);
}

#[tokio::test]
async fn empty_write_does_not_wait() {
    let (_cluster, a, _b) = connected().await;
    let nothing = a.store.commit(|_: &mut Draft<'_>| Ok::<_, std::convert::Infallible>(())).await.unwrap().1;
    assert!(nothing.is_empty());
    assert_eq!(a.peers.acknowledge(&nothing).await, on_two("b"));
}

#[tokio::test]
async fn concurrent_writes_are_all_acknowledged_on_two() {
    let (_cluster, a, b) = connected().await;
    let writers = (0..200).map(|n| {
        let (store, peers) = (a.store.clone(), a.peers.clone());
        tokio::spawn(async move {
            let edit =
                move |draft: &mut Draft<'_>| draft.edit(key(&format!("w{n}")), vec![Edit::Set(1, bytes("x"))]);
            let committed = store.commit(edit).await.unwrap().1;
            peers.acknowledge(&committed).await
        })
    });
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        assert_eq!(writer.await.unwrap(), on_two("b"));
    }
    assert_eq!(b.records().len(), 200);
    assert_eq!(a.peers.counters().on_two, 200);
    assert_eq!(a.status("b").name, name("b"));
}

/// A peer filed its part of this node's recording. The longer take here is not cut off.
#[tokio::test]
async fn take_longer_than_the_filed_part_of_the_peer_is_kept() {
    let (_cluster, a, b) = pair().await;
    let id = RecordingId::random();
    let spoken = audio(20_000);
    for (node, length) in [(&a, 20_000), (&b, 15_000)] {
        node.store.recordings().begin(id, 1).await.unwrap();
        node.append(id, 0, &spoken[..length]);
    }
    let partial = b.store.recordings().seal(id, 1).await.unwrap().blob;
    b.write("message", partial).await;
    until("the chunks are written", || a.store.recordings().open() == [(id, 1, 20_000)]).await;
    a.start();
    b.start();
    converge(&[&a, &b]).await;
    assert_eq!(a.store.blobs().read(&partial.hash).await.unwrap(), spoken[..15_000]);
    assert_eq!(a.store.recordings().read(id, 1, 0..20_000).await.unwrap(), spoken);
}

#[tokio::test]
async fn rest_of_a_take_is_removed_when_its_blob_was_fetched() {
    let (_cluster, a, b) = pair().await;
    let id = RecordingId::random();
    let spoken = audio(20_000);
    let blob = a.record(id, &spoken).await;
    a.write("message", blob).await;
    // A hole: these chunks never make the blob.
    b.store.recordings().insert(id, 1, 4_000, Bytes::copy_from_slice(&spoken[4_000..9_000])).unwrap();
    until("the chunk is written", || b.store.recordings().coverage(id, 1).is_some()).await;
    a.start();
    b.start();
    converge(&[&a, &b]).await;
    assert_eq!(b.peers.counters().blobs_fetched, 1);
    assert_eq!(b.store.recordings().open(), []);
}

#[tokio::test]
async fn change_that_the_peer_sets_aside_is_not_on_two_until_it_is_applied() {
    let (cluster, a, b) = connected().await;
    let half = |tag| vec![Edit::Set(tag, Value::Bytes(vec![0; 30_000]))];
    let write = async |node: &Node, edits: Vec<Edit>| {
        let edit = move |draft: &mut Draft<'_>| draft.edit(key("row"), edits);
        node.store.commit(edit).await.unwrap().1
    };
    // Each fits; both together are too large for a record. The two do not know of each other's.
    a.peers.shutdown().await;
    write(&a, half(1)).await;
    let committed = write(&b, half(2)).await;
    let dir = a.stop().await;
    let a = cluster.node_in("a", dir, &[]).await;
    a.start();
    until("each has set the other's change aside", || {
        a.store.health().set_aside == 1 && b.store.health().set_aside == 1
    })
    .await;
    a.counts("b").await;
    b.counts("a").await;
    assert_eq!(b.peers.acknowledge(&committed).await, Acknowledgement::Alone);
    assert!(a.store.has(b.store.origin(), committed.first) && b.status("a").lag_changes > 0);
    // Others arrive, and are acknowledged.
    b.counts("a").await;
    assert_eq!(b.write_acknowledged("other", bytes("b")).await, on_two("a"));

    write(&a, vec![Edit::Set(1, bytes("small"))]).await;
    // The pauses between attempts grow with the time that the steps before took.
    let tried = async {
        while a.store.health().set_aside + b.store.health().set_aside > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), tried).await.unwrap();
    until("it is acknowledged", || b.status("a").lag_changes == 0).await;
    assert_eq!(b.peers.acknowledge(&committed).await, on_two("a"));
    converge(&[&a, &b]).await;
}

/// Several frames' worth of changes in one commit, live and from the log: a reader that sees one of them sees all.
#[tokio::test]
async fn commit_is_seen_as_a_whole_on_the_other_node() {
    let (_cluster, a, b) = pair().await;
    let (seen, parts) = (b.store.clone(), std::sync::Arc::new(std::sync::Mutex::new((0, 0))));
    let counted = parts.clone();
    b.store.observe(move |change| {
        let (prefix, _) = change.key.id.split_at(change.key.id.len() - 6);
        let row = |n: &str| seen.get(&key(&format!("{}{n}", String::from_utf8_lossy(prefix)))).unwrap();
        let mut counted = counted.lock().unwrap();
        counted.0 += 1;
        counted.1 += usize::from(row("000000").is_none() || row("000699").is_none());
    });
    a.write_many("history", 700).await;
    a.start();
    b.start();
    a.counts("b").await;
    let committed = a.write_many("live", 700).await;
    converge(&[&a, &b]).await;
    assert_eq!(a.peers.acknowledge(&committed).await, on_two("b"));
    assert_eq!(*parts.lock().unwrap(), (1_400, 0), "changes, and those of which others of the commit were missing");
}
