//! A node that is being removed leaves when another one has all its data (rule D2).

use tempfile::TempDir;
use twinbox_clock::BootInstant;
use twinbox_reconciler::HandOver;
use twinbox_replication_store::Filled;
use twinbox_store_kit::{Node, eventually, pair};

fn at(ms: u64) -> BootInstant {
    BootInstant::from_nanos(ms * 1_000_000)
}

#[tokio::test]
async fn removed_node_stays_as_long_as_it_alone_has_data() {
    let dir = TempDir::new().expect("a folder");
    // Of two nodes; the other one is never reached.
    let cut_off = Node::with(&dir.path().join("c"), "c", 2, 0, |_| {});
    cut_off.mailbox().await;
    let mut hand_over = HandOver::default();
    for minutes in 0..10 {
        let may_leave = hand_over.look(true, 0, || cut_off.peers.uncovered(), at(minutes * 60_000));
        assert!(!may_leave, "after {minutes} minutes");
    }

    let (a, b) = pair(dir.path()).await;
    a.mailbox().await;
    b.store.set_filled(Filled::Complete).await.expect("stored");
    eventually("b has all data of a", async || a.peers.uncovered() == 0).await;
    let mut may_leave = |ms| hand_over.look(true, 0, || a.peers.uncovered(), at(ms));
    assert_eq!([600_000, 600_499, 600_500].map(&mut may_leave), [false, false, true]);
    b.peers.shutdown().await;
    eventually("b is disconnected", async || a.peers.uncovered() > 0).await;
    assert!(!may_leave(601_000), "the data of a disconnected node may be lost with it");
}

#[test]
fn removed_node_leaves_shortly_after_its_last_call_and_another_node_never() {
    let mut hand_over = HandOver::default();
    let cases = [
        (true, 1, 0, false),
        (true, 0, 1_000, false),
        (true, 0, 1_400, false),
        // A call that had been accepted before.
        (true, 1, 1_450, false),
        (true, 0, 1_500, false),
        (true, 0, 1_999, false),
        (true, 0, 2_000, true),
        (false, 0, 9_000, false),
        (true, 0, 9_100, false),
    ];
    for (leaving, calls, ms, expected) in cases {
        assert_eq!(hand_over.look(leaving, calls, || 0, at(ms)), expected, "{calls} calls, at {ms} ms");
    }
}
