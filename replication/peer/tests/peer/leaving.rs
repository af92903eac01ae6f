//! Removed nodes: the data that they alone hold is known before, and no node connects to them after.

use crate::kit::{Cluster, audio, converge, name, until};
use bytes::Bytes;
use twinbox_replication_core::Value;
use twinbox_replication_peer::{Acknowledgement, PeerAddress};

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}

#[tokio::test]
async fn changes_on_one_disk_only_are_counted_until_another_has_them() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.write_many("early", 20).await;
    assert_eq!(a.peers.uncovered(), 20, "no node is connected");
    a.start();
    b.start();
    // c never answers; this holds nothing back.
    until("b has it all", || a.peers.uncovered() == 0).await;
    b.peers.shutdown().await;
    until("b is disconnected", || !a.status("b").connected).await;
    // The data of a disconnected node may be lost with it.
    assert_eq!(a.peers.uncovered(), 20);
}

/// Audio that the other node lacks for good keeps no node from leaving: `fill_ends_without_audio_that_is_damaged_at_its_source`.
#[tokio::test]
async fn audio_that_another_has_applied_changes_without_is_counted_until_it_has_it() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let blob = a.store.blobs().put(Bytes::from(audio(20_000))).await.unwrap();
    a.write("message", blob).await;
    let changes = a.store.changes_after(&b.store.vector(), 10).unwrap();
    b.store.apply_without(changes, vec![blob]).await.unwrap();
    assert_eq!((b.store.vector(), b.store.lost_blobs().unwrap()), (a.store.vector(), vec![blob]));
    a.start();
    b.start();
    until("a may leave", || a.peers.uncovered() == 0).await;
    assert!(b.store.blobs().has(&blob.hash) && b.store.lost_blobs().unwrap().is_empty());
}

#[tokio::test]
async fn removed_node_is_not_replicated_and_may_return_later() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.start();
    b.start();
    a.counts("b").await;
    a.peers.remove(&name("b"));
    until("the streams end", || !b.status("a").connected && !b.status("a").following).await;
    assert!(a.peers.status().is_empty());
    let committed = a.write("later", text("not for b")).await;
    assert_eq!(a.peers.acknowledge(&committed).await, Acknowledgement::Alone, "a removed node is not waited for");
    until("b is refused", || a.peers.counters().refused > 0).await;
    assert_eq!(b.value("later"), None);

    a.peers.add(PeerAddress { name: name("b"), address: cluster.address("b").to_string() });
    converge(&[&a, &b]).await;
    assert_eq!(b.value("later"), Some(text("not for b")));
}
