use std::{
    future::Future,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll, Wake, Waker},
};

use proptest::prelude::*;
use twinbox_ids::Origin;
use twinbox_replication_core::{CommitPart, Key, Record, Table};

use super::*;

fn change(table: u16, seq: u64) -> Change {
    let key = Key::new(Table(table), b"x");
    Change { origin: Origin(1), seq, key, delta: Record::new(), part: CommitPart::default() }
}

fn numbers(reader: &mut LiveReader) -> Vec<u64> {
    std::iter::from_fn(|| reader.try_recv().expect("no gap")).map(|change| change.seq).collect()
}

/// Those of one table.
fn of(table: u16) -> impl Fn(&Change) -> bool {
    move |change| change.key.table == Table(table)
}

/// The outcome of one poll, of a future that is then dropped.
fn poll<F: Future>(future: F) -> Poll<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    pin!(future).poll(&mut context)
}

proptest! {
    /// Each reader gets the changes that it wants since it began, in their order.
    #[test]
    fn readers_get_the_changes_that_they_want(
        commits in prop::collection::vec(prop::collection::vec(0..4u16, 0..5), 0..20),
        tables in prop::collection::vec(0..4u16, 0..3), begins in 0..20usize,
    ) {
        let wants = |tables: Vec<u16>| move |change: &Change| tables.contains(&change.key.table.0);
        let live = LiveChanges::default();
        let (mut seq, mut reader, mut expected) = (0, None, Vec::new());
        for (at, commit) in commits.iter().enumerate() {
            if at == begins {
                reader = Some(live.reader(wants(tables.clone())));
            }
            let changes: Vec<_> = commit.iter().map(|table| { seq += 1; change(*table, seq) }).collect();
            let wanted = |change: &&Change| tables.contains(&change.key.table.0);
            expected.extend(changes.iter().filter(wanted).filter(|_| at >= begins).map(|change| change.seq));
            live.send(changes);
        }
        let mut reader = reader.unwrap_or_else(|| live.reader(wants(tables)));
        prop_assert_eq!(numbers(&mut reader), expected);
    }
}

#[test]
fn reader_that_is_far_behind_is_told_once_and_goes_on() {
    let live = LiveChanges::default();
    let (mut slow, mut other) = (live.reader(of(1)), live.reader(of(2)));
    live.send((1..=MOST as u64).map(|seq| change(1, seq)).collect());
    assert_eq!(numbers(&mut slow).len(), MOST, "as many as fit");
    (0..=MOST as u64).for_each(|seq| live.send(vec![change(1, seq)]));
    live.send(vec![change(1, 7), change(2, 8)]);
    assert_eq!(slow.try_recv(), Err(LiveError::Lagged));
    assert_eq!((numbers(&mut slow), numbers(&mut other)), (vec![7], vec![8]), "others lose nothing");
}

#[test]
fn reader_is_woken_by_its_changes_and_by_the_end() {
    let live = LiveChanges::default();
    let mut reader = live.reader(of(1));
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

/// Counts the wakings of a task.
#[derive(Default)]
struct Wakings(AtomicUsize);

impl Wake for Wakings {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn waiting_reader_wakes_up() {
    let (live, wakings) = (LiveChanges::default(), Arc::new(Wakings::default()));
    let waker = Waker::from(wakings.clone());
    let (mut context, count) = (Context::from_waker(&waker), || wakings.0.load(SeqCst));
    let mut reader = live.reader(of(1));
    {
        let mut waiting = pin!(reader.recv());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        live.send(vec![change(2, 1)]);
        assert_eq!(count(), 0, "by a change that it does not want");
        live.send(vec![change(2, 2), change(1, 3)]);
        assert_eq!(count(), 1, "by one that it wants");
        let Poll::Ready(Ok(change)) = waiting.poll(&mut context) else { panic!("no change") };
        assert_eq!(change.seq, 3);
    }
    let mut waiting = pin!(reader.recv());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    drop(live);
    assert_eq!(count(), 2, "by the end");
    let Poll::Ready(Err(LiveError::Closed)) = waiting.poll(&mut context) else { panic!("no end") };
}
