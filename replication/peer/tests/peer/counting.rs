//! Counts of the rows before a comparison.

use crate::kit::{Cluster, name};
use twinbox_replication_peer::AudioCheck;

#[tokio::test]
async fn comparison_that_waits_for_a_count_does_not_begin_another() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    // Several steps, with pauses.
    a.write_many("row", 9_000).await;
    a.start();
    // The count begins.
    tokio::task::yield_now().await;
    let b = name("b");
    let has_begun_again = async {
        while a.store.group_sums().is_none() {
            tokio::task::yield_now().await;
        }
        while a.store.group_sums().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        // The other node does not run.
        report = a.peers.compare(&b, AudioCheck::Presence) => assert!(report.unwrap().problem.is_some()),
        () = has_begun_again => panic!("the rows are counted twice"),
    }
    // The next one counts, since the disk may have lost rows since.
    let counts = async {
        while a.store.group_sums().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = counts => {}
        _ = a.peers.compare(&b, AudioCheck::Presence) => panic!("the rows are not counted"),
    }
}
