//! Three nodes of which two cannot reach each other: everything flows through the third (rule D11).

use std::{fs::File, os::unix::fs::FileExt, time::Duration};

use crate::kit::{Cluster, audio, converge, find_in_packs, key, name, on_two, until};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::TcpListener;
use twinbox_ids::{Origin, RecordingId, Stamp};
use twinbox_replication_core::{Field, Part, PartPlace, Record, Unknown, Value, state_fill::LogPolicy};

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

/// A later release wrote parts that this one does not know: they pass through a node, its log and its rows.
#[tokio::test]
async fn parts_of_a_later_release_are_relayed_and_filled_in() {
    let later = |number: u8| {
        let part = Part { number: 15, bytes: vec![0x78, number] };
        let mut unknown = Unknown::new();
        unknown.insert(PartPlace::Record, part.clone());
        unknown.insert(PartPlace::Field(1), part);
        let origin = Origin(u128::from(number));
        let register =
            Field::Register { stamp: Stamp { wall: 1, counter: 0, origin }, value: Value::Bytes(vec![number]) };
        Record::from_parts([(1, register)], None).with_unknown(unknown)
    };
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let a = cluster.node_via("a", &[("b", nowhere)]).await;
    let b = cluster.node_via("b", &[("a", nowhere)]).await;
    let c = cluster.node("c").await;
    let adopt = async |number: u8| {
        let (key, record) = (key(&format!("row{number}")), later(number));
        a.store.commit(move |draft| draft.adopt(key, record)).await.unwrap();
    };
    adopt(1).await;
    [&a, &b, &c].iter().for_each(|node| node.start());
    a.counts("c").await;
    b.counts("c").await;
    adopt(2).await;
    converge(&[&a, &b, &c]).await;
    for node in [&a, &b, &c] {
        assert_eq!(node.records().into_iter().map(|(_, record)| record).collect::<Vec<_>>(), [later(1), later(2)]);
    }

    // A node that lost its disk gets them by the rows of a scan.
    drop(c.stop().await);
    for node in [&a, &b] {
        node.store.set_state_fillers(["a", "b", "c"].map(name).into()).await.unwrap();
        assert!(node.peers.cut_log(&LogPolicy::new(Duration::ZERO, 0)).await.unwrap() > 0);
    }
    let c = cluster.node_that_fills("c", TempDir::new().unwrap(), &[]).await;
    c.start();
    until("the rows are here", || c.store.filled().has_records()).await;
    assert_eq!(c.records(), a.records());
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
