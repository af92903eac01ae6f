//! Removed nodes: the data that they alone hold is known before, and no node connects to them after.

use crate::kit::{Cluster, converge, name, until};
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
