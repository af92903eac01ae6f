//! A log that is cut, and nodes that fill by state because no log reaches them (rules D1, D2, D3).

use std::time::Duration;

use tempfile::TempDir;
use tonic::Code;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Key, Table, Value, Vector};
use twinbox_replication_peer::LogPolicy;
use twinbox_replication_store::{Draft, Filled, Removal};
use twinbox_wire::replication::source_frame::Frame;

use crate::kit::{
    Cable, Cluster, Node, TABLE, audio, converge, key, name, nowhere,
    raw::{Raw, hello},
    until,
};

const DAY: Duration = Duration::from_secs(86_400);

/// Cuts what every member has.
const STABLE: LogPolicy = LogPolicy { stable_for: Duration::ZERO, keep_for: DAY, keep_bytes: u64::MAX };
/// Cuts everything.
const NOTHING: LogPolicy = LogPolicy { stable_for: DAY, keep_for: DAY, keep_bytes: 0 };

/// Number of changes in the log, as counted on the disk.
fn in_log(node: &Node) -> u64 {
    node.store.stats().unwrap().log.0
}

/// Waits until each node has counted this many fills: it counts one after its rows are there.
async fn filled(nodes: [(&Node, u64); 2]) {
    until("the fills are counted", || {
        nodes.iter().all(|(node, fills)| node.peers.counters().state_fills >= *fills)
    })
    .await;
    for (node, fills) in nodes {
        assert_eq!(node.peers.counters().state_fills, fills);
    }
}

/// Cuts the whole log, once the members have said that they fill by state.
async fn cut_all(node: &Node) {
    let mut waited = 0;
    while in_log(node) > 0 {
        node.peers.cut_log(&NOTHING).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        waited += 1;
        assert!(waited < 2_000, "the log is never cut");
    }
}

async fn delete(node: &Node, row: &str) {
    let key = key(row);
    node.store.commit(move |draft: &mut Draft<'_>| draft.edit(key, vec![Edit::Delete])).await.unwrap();
}

/// Removes deleted records as if the deletion were stable.
async fn purge(node: &Node) {
    let mut rows = node.store.deleted_rows(TABLE, None, 10_000).unwrap();
    rows.extend(node.store.deleted_rows(other_table().table, None, 10_000).unwrap());
    node.store.purge(rows.into_iter().map(|row| (row, Removal::Whole)).collect()).await.unwrap();
}

/// A record of a table that is not purged as a whole.
fn other_table() -> Key {
    Key::new(Table(8), "row")
}

/// Two nodes with the same rows; the second one has stopped. Returns its directory.
async fn pair_and_one_away(cluster: &Cluster) -> (Node, TempDir) {
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.start();
    b.start();
    a.write_many("old", 300).await;
    b.write("of b", Value::Bytes(b"first".to_vec())).await;
    a.store.commit(|draft: &mut Draft<'_>| draft.edit(other_table(), vec![Edit::Count(1, 1)])).await.unwrap();
    converge(&[&a, &b]).await;
    until("a knows that b fills by state", || a.store.state_fillers().unwrap().contains(&name("b"))).await;
    until("b knows that a fills by state", || b.store.state_fillers().unwrap().contains(&name("a"))).await;
    (a, b.stop().await)
}

#[tokio::test]
async fn log_is_cut_where_every_member_has_it_and_its_keys_are_gone() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.write_many("alone", 100).await;
    assert_eq!(a.peers.cut_log(&STABLE).await.unwrap(), 0, "b was never heard");
    a.start();
    b.start();
    converge(&[&a, &b]).await;
    // An acknowledgement may still be on its way.
    let mut waited = 0;
    while in_log(&a) > 0 {
        a.peers.cut_log(&STABLE).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        waited += 1;
        assert!(waited < 2_000, "the log is never cut");
    }
    assert_eq!((a.store.log_changes(), a.store.log_begins()), (0, a.store.vector()));
    assert_eq!(a.peers.log_status().unwrap().cut, a.store.vector().total());

    // Changes that b lacks stay.
    let dir = b.stop().await;
    let before = a.store.vector();
    a.write_many("b is away", 50).await;
    a.peers.cut_log(&STABLE).await.unwrap();
    assert_eq!(in_log(&a), 50);
    assert_eq!(a.store.log_begins(), before);

    // After a restart as well; and b goes on from the log.
    let a = cluster.node_in("a", a.stop().await, &[]).await;
    assert_eq!((a.store.log_begins(), in_log(&a)), (before, 50));
    let b = cluster.node_that_fills("b", dir, &[]).await;
    a.start();
    b.start();
    converge(&[&a, &b]).await;
    assert_eq!(b.peers.counters().state_fills, 0);
    assert_eq!(b.store.filled(), Filled::Complete);
}

#[tokio::test]
async fn empty_node_takes_rows_where_the_log_is_long_and_history_where_it_is_short() {
    for (changes, fills) in [(15_000, 0), (21_000, 1)] {
        let cluster = Cluster::new(&["a", "b"]).await;
        let a = cluster.node("a").await;
        for part in 0..changes / 3_000 {
            a.write_many(&format!("part {part} "), 3_000).await;
        }
        let blob = a.record(RecordingId::random(), &audio(30_000)).await;
        a.write("message", Value::Blob(blob)).await;
        delete(&a, "part 1 000001").await;
        let b = cluster.node_that_fills("b", tempfile::tempdir().unwrap(), &[]).await;
        a.start();
        b.start();
        a.write("meanwhile", Value::Bytes(b"live".to_vec())).await;
        converge(&[&a, &b]).await;
        until("all is there", || b.store.filled() == Filled::Complete).await;
        assert_eq!(b.peers.counters().state_fills, fills, "{changes} changes");
        assert_eq!(in_log(&b) < 100, fills == 1, "{} of {changes} changes in the log", in_log(&b));
        assert_eq!(b.peers.fill_progress().scan, None);
    }
}

#[tokio::test]
async fn node_that_was_away_longer_than_the_log_fills_by_state() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, dir) = pair_and_one_away(&cluster).await;
    a.write_many("new", 700).await;
    let blob = a.record(RecordingId::random(), &audio(30_000)).await;
    a.write("message", Value::Blob(blob)).await;
    delete(&a, "old000001").await;
    // As if b's disk were older than the purge: b has these rows, and a has no trace of them.
    delete(&a, "old000002").await;
    a.store.commit(|draft: &mut Draft<'_>| draft.edit(other_table(), vec![Edit::Delete])).await.unwrap();
    purge(&a).await;
    delete(&a, "old000003").await;
    cut_all(&a).await;

    // b is used while it is away.
    let b = cluster.node_that_fills("b", dir, &[]).await;
    assert_eq!(b.store.filled(), Filled::Complete);
    b.write("of b", Value::Bytes(b"second".to_vec())).await;
    b.write("only on b", Value::Bytes(b"kept".to_vec())).await;
    let mut mark = b.store.watch_filled();
    a.start();
    b.start();
    mark.wait_for(|filled| !filled.has_records()).await.unwrap();
    until("all is there", || b.store.filled() == Filled::Complete).await;
    converge(&[&a, &b]).await;
    filled([(&a, 0), (&b, 1)]).await;
    assert_eq!(a.value("only on b"), Some(Value::Bytes(b"kept".to_vec())), "handed over");
    assert_eq!(b.value("only on b"), a.value("only on b"), "not taken for deleted");
    assert_eq!(b.value("of b"), Some(Value::Bytes(b"second".to_vec())));
    assert!(b.store.get(&key("old000002")).unwrap().is_none(), "purged");
    assert!(b.store.get(&other_table()).unwrap().is_some(), "such rows are not purged: it was lost by damage");
    assert!(b.store.get(&key("old000003")).unwrap().unwrap().is_deleted());
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), audio(30_000));
    // Live changes go on.
    a.counts("b").await;
    b.counts("a").await;
    a.write("afterwards", Value::Bytes(vec![1])).await;
    b.write("afterwards on b", Value::Bytes(vec![2])).await;
    converge(&[&a, &b]).await;
    // The new beginning is durable.
    let vector = b.store.vector();
    let b = cluster.node_that_fills("b", b.stop().await, &[]).await;
    assert_eq!(b.store.vector(), vector);
    b.start();
    converge(&[&a, &b]).await;
    assert_eq!(b.peers.counters().state_fills, 0);
}

#[tokio::test]
async fn new_node_fills_from_a_node_with_a_cut_log() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, _) = pair_and_one_away(&cluster).await;
    cut_all(&a).await;
    a.write("after the cut", Value::Bytes(vec![7])).await;
    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await;
    b.start();
    until("all is there", || b.store.filled() == Filled::Complete).await;
    converge(&[&a, &b]).await;
    assert_eq!(a.records().len(), 302);
}

#[tokio::test]
async fn changes_during_a_scan_are_here_after_it() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, dir) = pair_and_one_away(&cluster).await;
    a.write_many("many", 6_000).await;
    cut_all(&a).await;
    let b = cluster.node_that_fills("b", dir, &[]).await;
    b.start();
    let mut n = 0;
    let mut ended = false;
    while !ended {
        ended = b.peers.counters().state_fills > 0;
        a.write(&format!("many{:06}", (n * 37) % 6_000), Value::Bytes(vec![n as u8])).await;
        // Before the cursor of the scan, and behind it.
        a.write(&format!("{}{n}", if n % 2 == 0 { "a" } else { "z" }), Value::Bytes(vec![n as u8])).await;
        if n % 3 == 0 {
            delete(&a, &format!("many{:06}", (n * 41) % 6_000)).await;
        }
        a.peers.cut_log(&NOTHING).await.unwrap();
        b.write(&format!("b{n}"), Value::Bytes(vec![n as u8])).await;
        n += 1;
        assert!(n < 100_000, "the scan never ends");
    }
    until("all is there", || b.store.filled() == Filled::Complete).await;
    converge(&[&a, &b]).await;
}

#[tokio::test]
async fn scan_begins_again_with_another_node() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b, c) = (cluster.node("a").await, cluster.node("b").await, cluster.node("c").await);
    for node in [&a, &b, &c] {
        node.start();
    }
    a.write_many("old", 50).await;
    converge(&[&a, &b, &c]).await;
    for (node, others) in [(&a, ["b", "c"]), (&c, ["a", "b"])] {
        until("the others fill by state", || {
            let fillers = node.store.state_fillers().unwrap();
            others.iter().all(|other| fillers.contains(&name(other)))
        })
        .await;
    }
    let dir = b.stop().await;
    a.write_many("many", 10_000).await;
    delete(&c, "old000007").await;
    converge(&[&a, &c]).await;
    purge(&a).await;
    purge(&c).await;
    tokio::join!(cut_all(&a), cut_all(&c));

    // c cannot be reached at first, and the way to a ends in the middle of the scan.
    let (cable, to_c) = (Cable::to(cluster.address("a")).await, Cable::to(cluster.address("c")).await);
    to_c.cut();
    cable.cut_after(1_000_000);
    let b = cluster.node_that_fills("b", dir, &[("a", cable.address), ("c", to_c.address)]).await;
    b.start();
    until("the scan is cut", || cable.is_cut()).await;
    until("some rows are there", || b.records().len() > 500).await;
    assert!(!b.store.filled().has_records());
    // The rest of its connections ends at once, as if the process had ended: a stop waits for them.
    let restored = async {
        cable.restore();
        to_c.restore();
    };
    tokio::join!(a.stop(), restored);
    until("all is there", || b.store.filled() == Filled::Complete).await;
    assert_eq!(b.store.vector(), c.store.vector());
    assert_eq!(b.records(), c.records());
    assert!(b.store.get(&key("old000007")).unwrap().is_none(), "purged");
}

/// A purged row that another node's stream brings behind the page that lacked it goes at the end of the scan: the vector covers the
/// deletion then, which never comes.
#[tokio::test]
async fn row_that_a_stream_brings_behind_its_page_is_judged_again() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, elsewhere) = (cluster.node("a").await, cluster.node("c").await);
    elsewhere.write("purged", Value::Bytes(b"v".to_vec())).await;
    let created = elsewhere.store.changes_after(&Vector::new(), 10).unwrap();
    delete(&elsewhere, "purged").await;
    a.store.apply(elsewhere.store.changes_after(&Vector::new(), 10).unwrap()).await.unwrap();
    elsewhere.stop().await;
    a.store.set_state_fillers(["b", "c"].map(name).into()).await.unwrap();
    purge(&a).await;
    a.write_many("row", 10_000).await;
    cut_all(&a).await;
    a.start();

    let cable = Cable::to(cluster.address("a")).await;
    cable.cut_after(1_000_000);
    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[("a", cable.address)]).await;
    b.start();
    until("the scan is cut", || cable.is_cut()).await;
    until("the first pages are there", || b.records().len() > 2_500).await;
    b.store.apply(created).await.unwrap();
    assert!(b.value("purged").is_some());
    assert!(!b.store.filled().has_records());
    cable.restore();
    until("all is there", || b.store.filled() == Filled::Complete).await;
    assert_eq!((b.value("purged"), b.store.vector()), (None, a.store.vector()));
    converge(&[&a, &b]).await;
}

#[tokio::test]
async fn nodes_whose_logs_do_not_reach_each_other_take_rows_both_ways_and_stay_in_service() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, dir) = pair_and_one_away(&cluster).await;
    a.write_many("of a", 200).await;
    let blob = nowhere(&audio(20_000)).await;
    a.write("message", blob).await;
    cut_all(&a).await;
    let a = a.stop().await;
    let b = cluster.node_that_fills("b", dir, &[]).await;
    b.write_many("of b", 100).await;
    cut_all(&b).await;
    let a = cluster.node_in("a", a, &[]).await;
    let marks = [a.store.watch_filled(), b.store.watch_filled()];
    a.start();
    b.start();
    converge(&[&a, &b]).await;
    assert_eq!(a.records().len(), 301 + 301);
    assert_eq!(b.store.lost_blobs().unwrap(), [blob], "noted before the changes of its row count as here");
    assert!(marks.iter().all(|mark| !mark.has_changed().unwrap()), "both served callers all the time");
    filled([(&a, 1), (&b, 1)]).await;
    a.store.blobs().put(audio(20_000).into()).await.unwrap();
    until("the audio", || b.store.blobs().has(&blob.hash) && b.store.lost_blobs().unwrap().is_empty()).await;
}

#[tokio::test]
async fn follower_of_an_earlier_release_is_told_why_it_gets_no_history() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, _) = pair_and_one_away(&cluster).await;
    cut_all(&a).await;
    let old = twinbox_wire::replication::Hello { fills_by_state: false, ..hello(cluster.authority.cluster(), "b") };
    let mut raw = Raw::follow(&cluster.identity("b"), &cluster, old).await.unwrap();
    let status = loop {
        match raw.next().await {
            Ok(Frame::Welcome(welcome)) => assert!(!welcome.log_begins.unwrap().prefix.is_empty()),
            Ok(Frame::Probe(_)) => {}
            Ok(frame) => panic!("{frame:?}"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("upgrade it"), "{}", status.message());
}
