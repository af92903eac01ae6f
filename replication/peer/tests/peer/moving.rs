//! Members at another address: the running members connect to them there.

use bytes::Bytes;
use tempfile::TempDir;
use twinbox_replication_core::Value;
use twinbox_replication_peer::PeerAddress;

use crate::kit::{Cluster, Node, audio, name, on_two, until};

/// Changes and audio go both ways.
async fn exchange(a: &Node, b: &Node, round: usize) {
    a.counts("b").await;
    b.counts("a").await;
    for (number, (from, to, peer)) in [(a, b, "b"), (b, a, "a")].into_iter().enumerate() {
        let (row, value) = (format!("{round} to {peer}"), Value::Bytes(b"value".into()));
        assert_eq!(from.write_acknowledged(&row, value.clone()).await, on_two(peer));
        assert_eq!(to.value(&row), Some(value));
        // No change names it, so it comes by a request only.
        let spoken = Bytes::from(audio(40_000 + 2 * round + number));
        let blob = from.store.blobs().put(spoken).await.unwrap();
        assert!(to.peers.fetch(blob.hash).await, "round {round}: audio to {peer}");
    }
}

#[tokio::test]
async fn peer_at_another_address_gets_and_gives_changes_and_audio_with_its_disk_and_with_an_empty_one() {
    let mut cluster = Cluster::new(&["a", "b"]).await;
    let (a, mut b) = (cluster.node("a").await, cluster.node("b").await);
    a.start();
    b.start();
    exchange(&a, &b, 0).await;
    for (round, is_replaced) in [(1, false), (2, true)] {
        let disk = b.stop().await;
        until("b is disconnected", || !a.status("b").connected).await;
        cluster.move_node("b");
        let disk = if is_replaced { TempDir::new().unwrap() } else { disk };
        b = cluster.node_that_fills("b", disk, &[]).await;
        a.peers.add(PeerAddress { name: name("b"), address: cluster.address("b").to_string() });
        assert_eq!(a.peers.known(), 1);
        assert!(!a.peers.is_stable(&a.peers.mark()), "b is a member, and has not said what it has");
        b.start();
        exchange(&a, &b, round).await;
    }
}
