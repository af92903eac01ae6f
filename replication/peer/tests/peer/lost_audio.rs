//! Audio that no node has, or that a node which is away may have.

use std::time::Duration;

use crate::kit::{Cluster, Node, audio, converge, name, until};
use bytes::Bytes;
use tempfile::TempDir;
use twinbox_replication_core::{AudioPatience, BlobRef};
use twinbox_replication_store::{Store, StoreConfig};

const NEVER: Duration = Duration::from_secs(1_000_000);

/// The reference to audio that is nowhere.
async fn nowhere(spoken: &[u8]) -> BlobRef {
    let dir = TempDir::new().unwrap();
    let config = StoreConfig { dir: dir.path().to_owned(), node: name("nowhere"), reserve_bytes: 0 };
    Store::open(config).unwrap().blobs().put(Bytes::copy_from_slice(spoken)).await.unwrap()
}

/// The pauses between attempts grow with the time that the steps before took.
async fn until_found(node: &Node) {
    let found = async {
        while node.peers.counters().audio_lost > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), found).await.unwrap();
}

#[tokio::test]
async fn change_is_applied_without_audio_that_all_deny_and_the_audio_is_fetched_when_it_comes() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    b.peers.set_audio_patience(AudioPatience { denied: Duration::from_millis(300), held_up: NEVER });
    a.start();
    b.start();
    let spoken = audio(30_000);
    let blob = nowhere(&spoken).await;
    a.write("message", blob).await;
    converge(&[&a, &b]).await;
    assert_eq!(b.value("message"), Some(blob.into()));
    until("it is wanted", || b.peers.is_audio_lost(&blob.hash) && b.peers.counters().audio_lost == 1).await;
    assert_eq!(a.peers.counters().audio_lost, 0, "the node that wrote knows what it has");

    // The next start of the node looks for it, too.
    let dir: TempDir = b.stop().await;
    let b = cluster.node_in("b", dir, &[]).await;
    b.start();
    until("the note was read", || b.peers.counters().audio_lost == 1).await;
    a.store.blobs().put(Bytes::from(spoken.clone())).await.unwrap();
    until_found(&b).await;
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), spoken);
    assert!(!b.peers.is_audio_lost(&blob.hash) && b.store.lost_blobs().unwrap().is_empty());
}

#[tokio::test]
async fn node_that_is_away_holds_a_change_up_for_a_set_time_only() {
    // The third node does not run.
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    b.peers.set_audio_patience(AudioPatience { denied: Duration::ZERO, held_up: Duration::from_millis(300) });
    a.start();
    b.start();
    let blob = nowhere(&audio(20_000)).await;
    a.write("message", blob).await;
    converge(&[&a, &b]).await;
    until("it is wanted", || b.peers.is_audio_lost(&blob.hash)).await;

    // It is back, and has the audio.
    let c = cluster.node("c").await;
    c.store.blobs().put(Bytes::from(audio(20_000))).await.unwrap();
    c.start();
    until_found(&b).await;
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), audio(20_000));
}
