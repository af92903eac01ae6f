//! Three nodes of which two cannot reach each other: everything flows through the third (rule D11).

use std::{fs::File, os::unix::fs::FileExt};

use crate::kit::{Cluster, audio, converge, find_in_packs, on_two, until};
use bytes::Bytes;
use tokio::net::TcpListener;
use twinbox_ids::RecordingId;
use twinbox_replication_core::Value;

#[tokio::test]
async fn changes_and_blobs_are_relayed_by_the_third_node() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    // No listener there any more.
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let a = cluster.node_via("a", &[("b", nowhere)]).await;
    let b = cluster.node_via("b", &[("a", nowhere)]).await;
    let c = cluster.node("c").await;
    a.write("early", Value::Bytes(b"a".into())).await;
    for node in [&a, &b, &c] {
        node.start();
    }
    a.counts("c").await;
    b.counts("c").await;

    let spoken = audio(30_000);
    let message = a.record(RecordingId::random(), &spoken).await;
    assert_eq!(a.write_acknowledged("message", message).await, on_two("c"));
    let greeting = b.store.blobs().put(Bytes::from(audio(70_000))).await.unwrap();
    assert_eq!(b.write_acknowledged("greeting", greeting).await, on_two("c"));
    converge(&[&a, &b, &c]).await;

    assert_eq!(b.store.blobs().read(&message.hash).await.unwrap(), spoken);
    assert_eq!(a.store.blobs().read(&greeting.hash).await.unwrap(), audio(70_000));
    assert_eq!(a.records().len(), 3);
    assert!(!a.status("b").connected && !b.status("a").connected);
}

#[tokio::test]
async fn full_mesh_converges() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b, c) = (cluster.node("a").await, cluster.node("b").await, cluster.node("c").await);
    let nodes = [&a, &b, &c];
    for node in nodes {
        node.write_many(node.tls.name.as_str(), 300).await;
        node.start();
    }
    for node in nodes {
        node.write_many(&format!("{}-live", node.tls.name), 300).await;
    }
    converge(&nodes).await;
    assert_eq!(a.records().len(), 1_800);
    // Each node learns that the others have all changes, also those that came by another way.
    for node in nodes {
        until("nobody lags", || node.peers.status().iter().all(|peer| peer.lag_changes == 0)).await;
    }
}

#[tokio::test]
async fn damaged_blob_is_refused_and_fetched_from_another_node() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b, c) = (cluster.node("a").await, cluster.node("b").await, cluster.node("c").await);
    let greeting = a.store.blobs().put(Bytes::from(audio(300_000))).await.unwrap();
    a.write("greeting", greeting).await;
    a.start();
    c.start();
    converge(&[&a, &c]).await;
    let whole = audio(300_000);
    let (pack, at) = find_in_packs(&a, &whole[..200_000]);
    let damaged = [whole[199_999] ^ 1];
    File::options().write(true).open(pack).unwrap().write_all_at(&damaged, at + 199_999).unwrap();
    b.start();
    converge(&[&a, &b, &c]).await;
    assert_eq!(b.store.blobs().read(&greeting.hash).await.unwrap(), whole);
}

/// One node sends the beginning and is cut off; the next continues where it ended.
#[tokio::test]
async fn interrupted_blob_is_completed_from_another_node() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b, c) = (cluster.node("a").await, cluster.node("b").await, cluster.node("c").await);
    let whole = audio(300_000);
    let greeting = a.store.blobs().put(Bytes::from(whole.clone())).await.unwrap();
    a.write("greeting", greeting).await;
    a.start();
    c.start();
    converge(&[&a, &c]).await;
    let (pack, at) = find_in_packs(&a, &whole[..200_000]);
    File::options().write(true).open(pack).unwrap().set_len(at + 100_000).unwrap();
    b.start();
    converge(&[&a, &b, &c]).await;
    assert_eq!(b.store.blobs().read(&greeting.hash).await.unwrap(), whole);
}
