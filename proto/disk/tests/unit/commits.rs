//! Groups that are refused for want of room, and the files that many starts leave.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use super::{
    power_cuts::{LIMITS, OPTIONS, OpenParts},
    world::{Faults, World},
};
use crate::{
    DiskError, TransactError, Transaction,
    committer::{Job, Task},
    engine::Parts,
    flow::{Limits, Work},
    health::Health,
    index::Index,
    range::KeyRange,
    transaction::Stored,
};

type CommitResult = Result<(), TransactError<DiskError>>;

/// Events in order.
type Noted = Arc<Mutex<Vec<String>>>;

fn open(world: &World) -> OpenParts {
    open_with(world, LIMITS)
}

fn open_with(world: &World, limits: Limits) -> OpenParts {
    let health = Arc::new(Health::new(PathBuf::from("/simulated")));
    Parts::open(health, world.index().expect("an index"), world.files(), OPTIONS, limits).expect("a store")
}

fn note(noted: &Noted, event: impl Into<String>) {
    noted.lock().expect("the events").push(event.into());
}

fn taken(noted: &Noted) -> Vec<String> {
    std::mem::take(&mut *noted.lock().expect("the events"))
}

/// A transaction that writes one key, or refuses.
fn job(noted: &Noted, refuses: bool) -> Box<dyn Job> {
    let run = move |t: &mut Transaction<'_>| match refuses {
        true => Err(DiskError::Closed),
        false => t.put(*b"key", *b"value"),
    };
    let noted = Arc::clone(noted);
    let done = move |outcome: CommitResult| match outcome {
        Ok(()) => note(&noted, "written"),
        Err(TransactError::Refused(_)) => note(&noted, "refused"),
        Err(TransactError::Disk(DiskError::StoreFull { .. })) => note(&noted, "full"),
        Err(TransactError::Disk(error)) => note(&noted, error.to_string()),
    };
    Box::new(Task::new(run, done))
}

#[test]
fn a_refusal_that_has_seen_a_failed_write_fails_with_it() {
    let (world, noted) = (World::new(1, Faults::default()), Noted::default());
    let mut parts = open(&world);
    for (full, outcomes) in [(true, ["refused", "full", "full"]), (false, ["refused", "written", "refused"])] {
        world.set_full(full);
        let mut group = VecDeque::from([job(&noted, true), job(&noted, false), job(&noted, true)]);
        parts.committer.group(&mut group);
        assert_eq!(taken(&noted), outcomes);
    }
}

struct Given(Noted);

impl Drop for Given {
    fn drop(&mut self) {
        note(&self.0, "dropped");
    }
}

/// A caller whose later writes must not follow a failed one sees the failure in its result before they run.
#[test]
fn the_result_of_a_refused_group_is_dropped_before_its_caller_and_the_next_group_go_on() {
    let (world, noted) = (World::new(1, Faults::default()), Noted::default());
    let mut parts = open(&world);
    world.set_full(true);
    let (given, told) = (Arc::clone(&noted), Arc::clone(&noted));
    let run = move |t: &mut Transaction<'_>| t.put(*b"key", *b"value").map(|()| Given(given));
    let done = move |outcome: Result<Given, TransactError<DiskError>>| {
        note(&told, if outcome.is_ok() { "committed" } else { "failed" });
    };
    parts.committer.group(&mut VecDeque::from([Box::new(Task::new(run, done)) as Box<dyn Job>]));
    world.set_full(false);
    parts.committer.group(&mut VecDeque::from([job(&noted, false)]));
    assert_eq!(taken(&noted), ["dropped", "failed", "written"]);
}

#[test]
fn starts_that_write_a_little_use_the_same_files_again() {
    for closes in [true, false] {
        let (world, noted) = (World::new(1, Faults::default()), Noted::default());
        for start in 0..50 {
            let mut parts = open(&world);
            parts.committer.group(&mut VecDeque::from([job(&noted, false)]));
            if closes {
                parts.applier.apply().and_then(|()| parts.applier.checkpoint()).expect("a checkpoint");
            }
            drop(parts);
            world.kill();
            let files = world.journal_bytes() / 8192;
            assert!(files <= 7, "{files} files after {start} starts, closed in order: {closes}");
        }
        assert_eq!(taken(&noted), ["written"; 50]);
    }
}

/// Two files are enough: without room for a further one, each is used again once a checkpoint has released it.
#[test]
fn commits_go_on_in_two_files_on_a_full_disk() {
    let (world, noted) = (World::new(1, Faults::default()), Noted::default());
    for _ in 0..2 {
        let mut parts = open(&world);
        parts.committer.group(&mut VecDeque::from([job(&noted, false)]));
    }
    let mut parts = open(&world);
    world.set_full(true);
    for _ in 0..20 {
        parts.committer.group(&mut VecDeque::from([job(&noted, false)]));
        parts.applier.round(Work::Apply).expect("it goes on");
    }
    assert_eq!(taken(&noted), ["written"; 22]);
    assert_eq!(world.journal_bytes(), 2 * 8192);
}

/// The applier takes what waits with a checkpoint, so that the next start does not replay it, too.
#[test]
fn long_replay_is_readable_before_the_index_has_it() {
    let most = usize::MAX;
    for (opening, held, journal, full, waits) in [
        (most, most, u64::MAX, false, false),
        (0, most, u64::MAX, false, true),
        // A journal that is longer than it may become in one process.
        (0, 0, 0, false, false),
        (0, most, u64::MAX, true, false),
    ] {
        let (world, noted) = (World::new(1, Faults::default()), Noted::default());
        open(&world).committer.group(&mut VecDeque::from([job(&noted, false)]));
        world.kill();
        world.set_full(full);
        let mut parts = open_with(&world, Limits { opening, held, journal, ..LIMITS });
        let in_index = |parts: &OpenParts| parts.rows.index.ascending(&KeyRange::prefix(b"key")).count();
        assert_eq!(parts.rows.get(b"key"), Ok(Some(b"value".to_vec())));
        assert_eq!((in_index(&parts), parts.applier.flushed.is_some()), (usize::from(!waits), !waits));
        parts.applier.round(Work::Idle).expect("a round");
        assert_eq!((in_index(&parts), parts.applier.flushed.is_some()), (1, true));
        assert_eq!(parts.applier.flushed, Some(parts.applier.applied));
    }
}
