//! A fill that goes without a member: until that member has been heard, what this node says is no full answer.

use tempfile::TempDir;
use twinbox_replication_store::Filled;

use crate::kit::{Cluster, Node, converge, name, until};

/// The members that `node` counts as having given no full answer about what is here now.
fn unanswered(node: &Node, mark: &twinbox_replication_peer::StabilityMark) -> Vec<String> {
    node.peers.unanswered(mark).iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn member_whose_fill_missed_another_counts_as_unanswered_until_it_has_heard_that_one() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b, c) = (cluster.node("a").await, cluster.node("b").await, cluster.node("c").await);
    for node in [&a, &b, &c] {
        node.start();
    }
    a.counts("b").await;
    a.write("text", vec![1]).await;
    converge(&[&a, &b, &c]).await;

    // The disk of a is lost, and b is away while a fills from c.
    let disk_of_b = b.stop().await;
    drop(a.stop().await);
    let a = cluster.node_that_fills("a", TempDir::new().unwrap(), &[]).await;
    a.start();
    until("a has filled from c", || a.store.filled() == Filled::Complete).await;
    assert_eq!(a.store.fill_missed(), [name("b")].into());
    let mark = c.peers.mark();
    until("c has heard of a that it missed b", || {
        unanswered(&c, &mark) == ["a", "b"] && c.status("a").lag_changes == 0
    })
    .await;

    // A restart of a forgets nothing.
    let disk_of_a = a.stop().await;
    let a = cluster.node_that_fills("a", disk_of_a, &[]).await;
    assert_eq!(a.store.fill_missed(), [name("b")].into());
    a.start();
    let mark = c.peers.mark();
    until("a follows c again, and says the same", || c.status("a").connected).await;
    assert_eq!(unanswered(&c, &mark), ["a", "b"]);

    let b = cluster.node_in("b", disk_of_b, &[]).await;
    b.start();
    until("a has heard b", || a.store.fill_missed().is_empty()).await;
    let mark = c.peers.mark();
    until("both have answered in full", || unanswered(&c, &mark).is_empty()).await;
}

#[tokio::test]
async fn removed_member_is_not_waited_for() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let c = cluster.node("c").await;
    c.start();
    c.write("text", vec![1]).await;
    let a = cluster.node_that_fills("a", TempDir::new().unwrap(), &[]).await;
    a.start();
    until("a has filled from c", || a.store.filled() == Filled::Complete).await;
    assert_eq!(a.store.fill_missed(), [name("b")].into());
    // With b removed here, what a says about its fill is all that makes a wait.
    c.peers.remove(&name("b"));
    let mark = c.peers.mark();
    until("a has reported all", || c.peers.is_stable(&mark)).await;
    assert_eq!(unanswered(&c, &mark), ["a"]);
    a.peers.remove(&name("b"));
    until("b is given up", || a.store.fill_missed().is_empty()).await;
    until("a has answered in full", || unanswered(&c, &mark).is_empty()).await;
}
