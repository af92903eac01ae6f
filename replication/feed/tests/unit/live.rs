use std::{future::Future, task::Poll};

use proptest::prelude::*;
use twinbox_ids::Origin;
use twinbox_replication_core::{CommitPart, Key, Record};

use super::*;

fn change(table: u16, seq: u64) -> Change {
    let key = Key::new(Table(table), b"x");
    Change { origin: Origin(1), seq, key, delta: Record::new(), part: CommitPart::default() }
}

fn numbers(reader: &mut LiveReader) -> Vec<u64> {
    std::iter::from_fn(|| reader.try_recv().expect("no gap")).map(|change| change.seq).collect()
}

/// The outcome of one poll, of a future that is then dropped.
fn poll<F: Future>(future: F) -> Poll<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).poll(&mut context)
}

proptest! {
    /// Each reader gets the changes of its tables since it began, in their order.
    #[test]
    fn readers_get_the_changes_of_their_tables(
        commits in prop::collection::vec(prop::collection::vec(0..4u16, 0..5), 0..20),
        tables in prop::collection::vec(0..4u16, 0..3), begins in 0..20usize,
    ) {
        let (live, named) = (LiveChanges::default(), tables.iter().copied().map(Table).collect::<Vec<_>>());
        let (mut seq, mut reader, mut expected) = (0, None, Vec::new());
        for (at, commit) in commits.iter().enumerate() {
            if at == begins {
                reader = Some(live.reader(&named));
            }
            let changes: Vec<_> = commit.iter().map(|table| { seq += 1; change(*table, seq) }).collect();
            let wanted = |change: &&Change| tables.is_empty() || tables.contains(&change.key.table.0);
            expected.extend(changes.iter().filter(wanted).filter(|_| at >= begins).map(|change| change.seq));
            live.send(changes);
        }
        let mut reader = reader.unwrap_or_else(|| live.reader(&named));
        prop_assert_eq!(numbers(&mut reader), expected);
    }
}

#[test]
fn reader_that_is_far_behind_is_told_once_and_goes_on() {
    let live = LiveChanges::default();
    let (mut slow, mut other) = (live.reader(&[Table(1)]), live.reader(&[Table(2)]));
    live.send((1..=MOST as u64).map(|seq| change(1, seq)).collect());
    assert_eq!(numbers(&mut slow).len(), MOST, "as many as fit");
    (0..=MOST as u64).for_each(|seq| live.send(vec![change(1, seq)]));
    live.send(vec![change(1, 7), change(2, 8)]);
    assert_eq!(slow.try_recv(), Err(LiveError::Lagged));
    assert_eq!((numbers(&mut slow), numbers(&mut other)), (vec![7], vec![8]), "others lose nothing");
}

#[test]
fn reader_is_woken_by_its_tables_and_by_the_end() {
    let live = LiveChanges::default();
    let mut reader = live.reader(&[Table(1)]);
    assert!(poll(reader.recv()).is_pending());
    live.send(vec![change(2, 1)]);
    assert!(poll(reader.recv()).is_pending());
    // Arrived while no one waited, and again while a wait was given up.
    live.send(vec![change(1, 2)]);
    assert!(matches!(poll(reader.recv()), Poll::Ready(Ok(change)) if change.seq == 2));
    assert!(poll(reader.recv()).is_pending());
    live.send(vec![change(1, 3)]);
    drop(live);
    assert!(matches!(poll(reader.recv()), Poll::Ready(Ok(change)) if change.seq == 3), "what had come comes first");
    assert_eq!(poll(reader.recv()), Poll::Ready(Err(LiveError::Closed)));
}

#[tokio::test]
async fn waiting_reader_wakes_up() {
    let live = Arc::new(LiveChanges::default());
    let mut reader = live.reader(&[Table(1)]);
    let waiting = tokio::spawn(async move { (reader.recv().await, reader.recv().await) });
    tokio::task::yield_now().await;
    live.send(vec![change(2, 1), change(1, 2)]);
    tokio::task::yield_now().await;
    drop(live);
    let (first, second) = waiting.await.expect("no panic");
    assert_eq!((first.expect("a change").seq, second), (2, Err(LiveError::Closed)));
}
