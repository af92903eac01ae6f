//! Traffic of a comparison of equal stores: that of its sums, however many rows the stores hold.

use twinbox_replication_peer::AudioCheck;

use crate::kit::{Cable, Cluster, Node, converge, name};

/// Bytes of both directions that one comparison takes, with TLS and HTTP/2. Of several: probes pass beside them.
async fn compared(a: &Node, cable: &Cable) -> u64 {
    let mut least = u64::MAX;
    let mut equal = 0;
    while equal < 10 {
        let before = cable.carried();
        let report = a.peers.compare(&name("b"), AudioCheck::None).await.unwrap();
        // A peer that counts its rows after its start is asked again.
        if report.problem.as_ref().is_some_and(|problem| problem.contains("being counted")) {
            tokio::task::yield_now().await;
            continue;
        }
        assert!(report.is_equal(), "{report:?}");
        least = least.min(cable.carried() - before);
        equal += 1;
    }
    least
}

#[tokio::test]
async fn equal_stores_compare_within_ten_kilobytes() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let cable = Cable::to(cluster.address("b")).await;
    let (a, b) = (cluster.node_via("a", &[("b", cable.address)]).await, cluster.node("b").await);
    a.start();
    b.start();
    a.write_many("few", 10).await;
    converge(&[&a, &b]).await;
    let few = compared(&a, &cable).await;
    for batch in 0..5 {
        a.write_many(&format!("many{batch}-"), 1_000).await;
    }
    converge(&[&a, &b]).await;
    let many = compared(&a, &cable).await;
    println!("a comparison of equal stores takes {few} bytes with 10 rows, {many} with 5,010");
    // 256 sums of 16 bytes are the most of it.
    assert!((4_096..10_000).contains(&few) && (4_096..10_000).contains(&many), "{few}, {many}");
}
