//! Call records: written in groups without holding up a call, once for a call of a dead node, removed when old.

use std::{future::ready, time::Duration};

use tempfile::TempDir;
use twinbox_call_records::{CallOutcome, CallRecord, Purpose, ReportRange, schema};
use twinbox_clock::wall;
use twinbox_ids::{CallId, NodeName, Timestamp};
use twinbox_mailstore::{Mailstore, RecordingMeta};
use twinbox_store_kit::{Node, audio, meta, name, speak};

const DAY: u64 = 86_400_000;
const KEEP: Duration = Duration::from_millis(DAY);

/// A call of a node that began this long ago.
fn call(number: u128, node: NodeName, ago_ms: u64) -> CallRecord {
    let began = Timestamp(wall().0 - ago_ms);
    CallRecord {
        call: CallId(number),
        began,
        ended: Timestamp(began.0 + 1_000),
        node,
        purpose: Purpose::Leave,
        mailbox: None,
        number: None,
        caller: None,
        outcome: CallOutcome::HungUp,
        message_ms: 0,
    }
}

/// All records, oldest first.
fn records(mailstore: &Mailstore) -> Vec<CallRecord> {
    let range = ReportRange::new(Timestamp(wall().0 - 300 * DAY), Timestamp(wall().0 + DAY)).expect("a range");
    mailstore.call_records(range, None).collect::<Result<_, _>>().expect("readable")
}

#[tokio::test]
async fn full_queue_leaves_records_out_counts_them_and_never_waits() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    for number in 0..5_000 {
        node.mailstore.note_call(call(number, name("a"), 0));
    }
    let left_out = node.mailstore.call_records_left_out();
    assert!((1..5_000).contains(&left_out), "{left_out}");
    assert!(records(&node.mailstore).is_empty(), "nothing is written before the task runs");
    let before = node.store.vector().get(node.store.origin());
    node.mailstore.write_call_records(ready(())).await;
    let written = records(&node.mailstore).len() as u64;
    assert_eq!(written + left_out, 5_000);
    // One change for each record, and no other.
    assert_eq!(node.store.vector().get(node.store.origin()), before + written);
}

#[tokio::test]
async fn range_and_cursor_select_calls_by_their_begin() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let calls: Vec<CallRecord> = (1..=6).map(|n| call(n, name("a"), (7 - n as u64) * 70_000)).collect();
    // Some in one millisecond: then the id decides.
    let twin = CallRecord { call: CallId(9), ..calls[2].clone() };
    calls.iter().rev().chain([&twin]).for_each(|call| node.mailstore.note_call(call.clone()));
    node.mailstore.write_call_records(ready(())).await;
    let read = |from, to, after| {
        let found = node.mailstore.call_records(ReportRange { from, to }, after);
        found.map(|record| record.expect("readable").call.0).collect::<Vec<_>>()
    };
    let (first, last) = (calls[0].began, calls[5].began);
    assert_eq!(read(first, last, None), [1, 2, 3, 9, 4, 5], "the end is not included");
    assert_eq!(read(calls[1].began, calls[3].began, None), [2, 3, 9]);
    assert_eq!(read(first, last, Some((calls[2].began, CallId(3)))), [9, 4, 5]);
    assert_eq!(read(calls[3].began, last, Some((first, CallId(1)))), [4, 5], "never before the range");
    assert!(read(last, first, None).is_empty());
}

#[tokio::test]
async fn call_of_a_lost_node_from_before_the_keep_time_gets_no_record_again() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    for (number, ago_ms) in [(1, 2 * DAY), (2, DAY / 2)] {
        let lost = CallRecord { outcome: CallOutcome::NodeDied, ..call(number, name("b"), ago_ms) };
        node.mailstore.note_call(lost);
    }
    tokio::select! {
        biased;
        () = node.mailstore.keep_call_records(|| KEEP) => {}
        () = node.mailstore.write_call_records(ready(())) => {}
    }
    assert_eq!(records(&node.mailstore).iter().map(|record| record.call.0).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn dropped_note_becomes_a_record_however_the_call_ends() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let before = wall();
    drop(node.mailstore.call_note(CallId(1), None));
    let mailstore = node.mailstore.clone();
    let panicked = tokio::spawn(async move {
        let _note = mailstore.call_note(CallId(2), None);
        panic!("as the test wants it");
    });
    assert!(panicked.await.is_err());
    node.mailstore.write_call_records(ready(())).await;
    let found = records(&node.mailstore);
    let mut ids: Vec<u128> = found.iter().map(|record| record.call.0).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    assert!(found.iter().all(|record| record.node == name("a") && record.began >= before));
}

#[tokio::test]
async fn orphan_recording_gives_its_call_a_record_that_the_living_node_replaces() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let mailbox = a.mailbox().await.id;
    let id = CallId::random();
    let note = a.mailstore.call_note(id, None);
    let live = a.mailstore.begin_recording(RecordingMeta { call: id, ..meta(mailbox) }).await.unwrap();
    let spoken = audio(3_000);
    speak(&live, 0, &spoken);
    live.audio().await.unwrap();
    a.hand_over(&b).await;
    let recording = twinbox_ids::RecordingId(live.message().0);
    b.store.recordings().insert(recording, 1, 0, spoken.into()).unwrap();
    b.store.recordings().written().await.unwrap();
    assert_eq!(b.mailstore.file_orphans_of(&name("a"), None).await.unwrap().len(), 1);
    b.mailstore.write_call_records(ready(())).await;
    let died = records(&b.mailstore);
    let [record] = died.as_slice() else { panic!("{died:?}") };
    assert_eq!((record.outcome, record.call, &record.node), (CallOutcome::NodeDied, id, &name("a")));
    assert_eq!((record.number.as_deref(), record.mailbox), (Some("1001"), Some(mailbox)));
    assert_eq!(record.message_ms, 3_000);

    // The node was only cut off, and its call ends.
    drop(note);
    a.mailstore.write_call_records(ready(())).await;
    let own = records(&a.mailstore);
    assert_eq!(own.iter().map(|record| record.call).collect::<Vec<_>>(), [id]);
    assert_ne!(own[0].outcome, CallOutcome::NodeDied);
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    assert_eq!(records(&a.mailstore), own);
    assert_eq!(records(&b.mailstore), own);
}

#[tokio::test]
async fn later_incarnation_records_a_call_that_its_process_left_once() {
    let dir = TempDir::new().unwrap();
    let id = CallId::random();
    {
        let node = Node::alone(dir.path(), "a");
        let mailbox = node.mailbox().await.id;
        // Nothing writes its record: the process is killed.
        let _note = node.mailstore.call_note(id, None);
        let live = node.mailstore.begin_recording(RecordingMeta { call: id, ..meta(mailbox) }).await.unwrap();
        speak(&live, 0, &audio(3_000));
        live.audio().await.unwrap();
    }
    for filed in [1, 0] {
        let node = Node::alone(dir.path(), "a");
        assert_eq!(node.mailstore.file_own_leftovers().await.unwrap().len(), filed);
        node.mailstore.write_call_records(ready(())).await;
        let found = records(&node.mailstore);
        let [record] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((record.call, record.outcome), (id, CallOutcome::NodeDied));
    }
}

#[tokio::test]
async fn old_records_are_removed_a_few_at_a_time_and_those_of_other_nodes_a_day_later() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let old = (0..300).map(|number| call(number, name("a"), 3 * DAY + number as u64));
    let others = [
        call(1_000, name("b"), 5 * DAY),
        call(1_001, name("b"), DAY + DAY / 2),
        call(1_002, name("a"), DAY + DAY / 3),
        call(1_003, name("a"), DAY / 2),
    ];
    old.chain(others).for_each(|record| node.mailstore.note_call(record));
    node.mailstore.write_call_records(ready(())).await;
    let mut from = schema::first_id(Timestamp(0));
    // This node's clock may be ahead: what is old, the clock of the purge says, which stands while clocks disagree.
    for purge in [None, Some(Timestamp(wall().0 - 5 * DAY))] {
        if let Some(purge) = purge {
            node.store.set_purge_clock(purge).await.unwrap();
        }
        assert!(!node.mailstore.remove_old_call_records(KEEP, &mut from).await.unwrap());
        assert_eq!(records(&node.mailstore).len(), 304, "{purge:?}");
    }
    node.store.set_purge_clock(wall()).await.unwrap();
    assert!(node.mailstore.remove_old_call_records(KEEP, &mut from).await.unwrap(), "more follow");
    let left = records(&node.mailstore).len();
    assert!((10..300).contains(&left), "a few at a time: {left}");
    while node.mailstore.remove_old_call_records(KEEP, &mut from).await.unwrap() {}
    let left: Vec<u128> = records(&node.mailstore).iter().map(|record| record.call.0).collect();
    assert_eq!(left, [1_001, 1_003]);
    // A pass without work writes nothing.
    let before = node.store.vector();
    while node.mailstore.remove_old_call_records(KEEP, &mut from).await.unwrap() {}
    assert_eq!(node.store.vector(), before);
}
