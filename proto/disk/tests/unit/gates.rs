//! Readers and commits while the disk is slow, and checkpoints that fail.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use super::world::{Faults, SimulatedFolder, SimulatedIndex, World};
use crate::{
    DiskError, Options, TransactError, Transaction,
    committer::{Urgency, answered},
    disk::block_on,
    engine::Engine,
    flow::Limits,
    health::Health,
    range::KeyRange,
    rows::Scan,
    transaction::Stored,
};

/// Everything is applied immediately, and followed by a checkpoint.
const EAGER: Limits = Limits {
    group: usize::MAX,
    apply_at: 1,
    apply_after: Duration::ZERO,
    held: 1024 * 1024,
    journal: 1,
    opening: 0,
};

/// Nothing is applied before the store closes.
const LAZY: Limits = Limits { apply_at: usize::MAX, apply_after: Duration::from_secs(3600), ..EAGER };

/// As [`EAGER`], with few bytes that may wait in memory: more than one value of `LONG` letters, fewer than two.
const SMALL: Limits = Limits { held: 1000, ..EAGER };
const LONG: usize = 600;

/// Longest wait for something that takes a moment.
const LONGEST: Duration = Duration::from_secs(20);

/// Many times as long as a commit takes that does not wait.
const MOMENT: Duration = Duration::from_millis(300);

type Store = Arc<Engine<SimulatedIndex, SimulatedFolder>>;

/// The result of a commit that may still be under way.
type Committing = mpsc::Receiver<Result<(), TransactError<DiskError>>>;

fn open(world: &World, limits: Limits) -> Store {
    let health = Arc::new(Health::new(PathBuf::from("/simulated")));
    let options = Options { journal_segment_bytes: 8192, left_free: 0, appended: None };
    Arc::new(
        Engine::start(health, world.index().expect("an index"), world.files(), options, limits, None)
            .expect("a store"),
    )
}

/// The result of `f`, which blocks, on a thread.
fn begun<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(f());
    });
    receiver
}

fn put(store: &Store, key: &str, value: &str) -> Committing {
    let (store, key, value) = (Arc::clone(store), key.as_bytes().to_vec(), value.as_bytes().to_vec());
    begun(move || -> Result<(), TransactError<DiskError>> {
        let (job, answer) = answered(move |t: &mut Transaction<'_>| t.put(key, value), |()| ());
        block_on(store.enqueue(Urgency::Now, job)).map_err(TransactError::Disk)?;
        // Before the answer: the test may be about to close the store.
        drop(store);
        answer.blocking_recv().unwrap_or(Err(TransactError::Disk(DiskError::Panicked)))
    })
}

fn committed(store: &Store, key: &str, value: &str) {
    put(store, key, value).recv_timeout(LONGEST).expect("the commit ends").expect("a commit");
}

/// All values, read on a thread that may take a moment.
fn values(store: &Store) -> Vec<String> {
    let rows = Arc::clone(store.rows());
    let read = begun(move || {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let pairs = Scan::new(Arc::clone(&rows), KeyRange::prefix(b"")).collect::<Result<Vec<_>, _>>();
        let pairs = pairs.expect("a scan");
        for (key, value) in &pairs {
            assert_eq!(rows.get(key).expect("a read").as_ref(), Some(value));
        }
        pairs.into_iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect::<Vec<String>>()
    });
    read.recv_timeout(LONGEST).expect("the reads end")
}

#[test]
fn reads_and_commits_go_on_while_a_flush_of_the_index_is_blocked() {
    let world = World::new(1, Faults::default());
    let store = open(&world, EAGER);
    world.flushes.set_closed(true);
    committed(&store, "a", "1");
    world.flushes.wait_until_reached();
    committed(&store, "b", "1");
    committed(&store, "a", "2");
    assert_eq!(values(&store), ["a=2", "b=1"]);
    world.flushes.set_closed(false);
    assert_eq!(values(&store), ["a=2", "b=1"]);
    drop(store);
    assert_eq!(values(&open(&world, LAZY)), ["a=2", "b=1"]);
}

#[test]
fn reads_go_on_while_a_sync_of_the_journal_is_blocked_and_do_not_see_its_commit() {
    let world = World::new(1, Faults::default());
    let store = open(&world, LAZY);
    committed(&store, "a", "1");
    world.syncs.set_closed(true);
    let commit = put(&store, "a", "2");
    world.syncs.wait_until_reached();
    assert_eq!(values(&store), ["a=1"]);
    assert!(commit.try_recv().is_err(), "acknowledged before its sync");
    world.syncs.set_closed(false);
    commit.recv_timeout(LONGEST).expect("the commit ends").expect("a commit");
    assert_eq!(values(&store), ["a=2"]);
}

/// A store whose applier is in a blocked flush while as many bytes wait in memory as may; its pairs, and a commit that waits.
fn full(world: &World) -> (Store, Vec<String>, Committing) {
    let (store, value) = (open(world, SMALL), "x".repeat(LONG));
    world.flushes.set_closed(true);
    committed(&store, "a", "1");
    world.flushes.wait_until_reached();
    for key in ["b", "c"] {
        committed(&store, key, &value);
    }
    let waiting = put(&store, "d", &value);
    assert!(waiting.recv_timeout(MOMENT).is_err(), "more than {} bytes wait in memory", SMALL.held);
    (store, vec!["a=1".to_owned(), format!("b={value}"), format!("c={value}")], waiting)
}

#[test]
fn commit_waits_while_too_many_writes_wait_for_a_blocked_flush_and_reads_go_on() {
    let world = World::new(1, Faults::default());
    let (store, mut expected, waiting) = full(&world);
    // The commit behind it waits too.
    let last = put(&store, "e", "1");
    assert_eq!(values(&store), expected);
    assert!(waiting.try_recv().is_err() && last.try_recv().is_err());
    world.flushes.set_closed(false);
    for commit in [waiting, last] {
        commit.recv_timeout(LONGEST).expect("the commit ends").expect("a commit");
    }
    expected.extend([format!("d={}", "x".repeat(LONG)), "e=1".to_owned()]);
    assert_eq!(values(&store), expected);
    drop(store);
    assert_eq!(values(&open(&world, LAZY)), expected);
}

#[test]
fn commit_that_waits_for_a_flush_is_refused_when_the_flush_fails() {
    let world = World::new(1, Faults::default());
    let (store, expected, waiting) = full(&world);
    world.set_faults(Faults { index_fails: true, ..Faults::default() });
    world.flushes.set_closed(false);
    let error = waiting.recv_timeout(LONGEST).expect("the commit ends").expect_err("a refusal");
    assert!(matches!(error, TransactError::Disk(DiskError::Broken { .. })), "{error}");
    assert_eq!(values(&store), expected, "reads go on");
    drop(store);
    world.kill();
    world.set_faults(Faults::default());
    assert_eq!(values(&open(&world, LAZY)), expected);
}

#[test]
fn a_failed_checkpoint_refuses_further_commits_and_loses_none() {
    let world = World::new(1, Faults::default());
    // Opening flushes, too.
    let store = open(&world, EAGER);
    world.set_faults(Faults { index_fails: true, ..Faults::default() });
    committed(&store, "a", "1");
    let mut acknowledged = vec!["a=1".to_owned()];
    // The checkpoint comes when it comes; every commit before it counts.
    let error = loop {
        let key = format!("b{:09}", acknowledged.len());
        match put(&store, &key, "1").recv_timeout(LONGEST).expect("the commit ends") {
            Ok(()) => acknowledged.push(format!("{key}=1")),
            Err(error) => break error,
        }
    };
    let TransactError::Disk(DiskError::Broken { detail }) = error else { panic!("a commit ended with {error}") };
    assert!(detail.contains("cannot be flushed"), "{detail}");
    assert_eq!(values(&store), acknowledged, "reads go on");
    drop(store);
    world.kill();
    world.set_faults(Faults::default());
    let store = open(&world, EAGER);
    assert_eq!(values(&store), acknowledged);
    committed(&store, "a", "2");
}

/// The store of a broken committer says so, and closes.
#[test]
fn a_committer_that_panics_outside_of_a_transaction_leaves_a_broken_store() {
    let world = World::new(1, Faults { journal_panics: true, ..Faults::default() });
    let health = Arc::new(Health::new(PathBuf::from("/simulated")));
    let options = Options { journal_segment_bytes: 8192, left_free: 0, appended: None };
    let store =
        Engine::start(Arc::clone(&health), world.index().expect("an index"), world.files(), options, EAGER, None);
    let store = Arc::new(store.expect("a store"));
    let error = put(&store, "a", "1").recv_timeout(LONGEST).expect("the commit ends").expect_err("a refusal");
    assert!(matches!(error, TransactError::Disk(DiskError::Panicked)), "{error}");
    begun(move || drop(store)).recv_timeout(LONGEST).expect("the store closes");
    assert_eq!(health.failure(), Some("the committer panicked"));
}
