//! Random runs of commits, applying, checkpoints, kills and power cuts. After each start the store holds exactly what
//! was acknowledged; the group that was being committed is there as a whole, or not at all. Runs repeat by their seed.

use std::{
    collections::{BTreeMap, VecDeque},
    env,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::world::{Faults, Random, SimulatedFolder, SimulatedIndex, World};
use crate::{
    DiskError, Options, Pair, TransactError, Transaction,
    committer::{Job, Task},
    copying::Copying,
    engine::Parts,
    flow::Limits,
    health::Health,
    index::Index,
    range::KeyRange,
    transaction::Stored,
};

/// A number from the environment.
fn setting(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |value| value.parse().expect("a number"))
}

/// Number of runs, each with its own seed: `TWINBOX_DISK_SEEDS`, or 200.
pub(super) fn runs() -> u64 {
    setting("TWINBOX_DISK_SEEDS", 200)
}

/// Starts of the store in one run.
const LIVES: u64 = 8;

/// Actions of a life that no power cut ends.
const ACTIONS: u64 = 40;

/// Two blocks: large groups go into several batches, and segments are used repeatedly.
pub(super) const OPTIONS: Options = Options { journal_segment_bytes: 8192, left_free: 0, appended: None };

/// Never reached: the run itself applies and flushes.
pub(super) const LIMITS: Limits = Limits {
    group: usize::MAX,
    apply_at: usize::MAX,
    apply_after: Duration::ZERO,
    held: usize::MAX,
    journal: u64::MAX,
    opening: usize::MAX,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;
type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Events of a run, to see that it tries what it is meant to try.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    commits: u64,
    cuts: u64,
    kept: u64,
    lost: u64,
    full: u64,
    replaced: u64,
    /// Files of runs that were begun.
    run_files: u64,
}

struct Run {
    world: World,
    random: Random,
    known: Model,
    /// The content if the group is durable whose commit was cut.
    doubtful: Option<Model>,
    counts: Counts,
}

pub(super) type OpenParts = Parts<SimulatedIndex, SimulatedFolder>;

fn content(parts: &OpenParts) -> Result<Model, DiskError> {
    parts.rows.scan(KeyRange::prefix(b"")).collect()
}

impl Run {
    fn new(seed: u64, faults: Faults) -> Self {
        let (world, random) = (World::new(seed, faults), Random(seed ^ 0x5eed));
        Self { world, random, known: Model::new(), doubtful: None, counts: Counts::default() }
    }

    /// A whole run; the violation that it found, if any.
    fn whole(seed: u64, faults: Faults) -> Result<Counts, String> {
        let mut run = Self::new(seed, faults);
        for _ in 0..LIVES {
            run.life()?;
        }
        run.world.power_on(None);
        run.world.set_full(false);
        run.start()?.ok_or("the power failed without a cut")?;
        run.counts.replaced = run.world.replaced();
        run.counts.run_files = run.world.run_files();
        Ok(run.counts)
    }

    /// Opens the store and looks at what it holds; `None` when a power cut came first.
    fn start(&mut self) -> Result<Option<OpenParts>, String> {
        let health = Arc::new(Health::new(PathBuf::from("/simulated")));
        // Either the opening applies what it replays, or the applier does later.
        let limits = Limits { opening: if self.random.coin() { 0 } else { usize::MAX }, ..LIMITS };
        let opened =
            self.world.index().and_then(|index| Parts::open(health, index, self.world.files(), OPTIONS, limits));
        let parts = match opened {
            Ok(parts) => parts,
            Err(_) if self.world.is_dead() => return Ok(None),
            Err(error) => return Err(format!("it does not open: {error}")),
        };
        let found = match content(&parts) {
            Ok(found) => found,
            Err(_) if self.world.is_dead() => return Ok(None),
            Err(error) => return Err(format!("it cannot be read: {error}")),
        };
        let doubtful = self.doubtful.take();
        if doubtful.as_ref().is_some_and(|doubtful| *doubtful == found) {
            self.counts.kept += 1;
            self.known = found;
        } else if self.known == found {
            self.counts.lost += u64::from(doubtful.is_some());
        } else {
            let missing = self.known.iter().filter(|(key, value)| found.get(*key) != Some(value)).count();
            return Err(format!("after a start {missing} acknowledged values are missing or others are there"));
        }
        Ok(Some(parts))
    }

    fn life(&mut self) -> Result<(), String> {
        let cut = self.random.below(4) > 0;
        let operations = cut.then(|| 1 + self.random.below(120));
        self.world.power_on(operations);
        let Some(mut parts) = self.start()? else {
            self.counts.cuts += 1;
            return Ok(());
        };
        parts.applier.copying = Copying::in_steps_of(2);
        for _ in 0..ACTIONS {
            let done = match self.random.below(12) {
                0 => parts.applier.apply(),
                1 => parts.applier.checkpoint(),
                2 => parts.applier.apply().and_then(|()| parts.applier.checkpoint()),
                3 => {
                    // Without room it is tried again.
                    let _ = parts.applier.journal.prepare();
                    Ok(())
                }
                4 => {
                    let full = self.random.below(4) == 0;
                    self.world.set_full(full);
                    Ok(())
                }
                5 | 6 => parts.applier.copy_rows().map(drop),
                _ => {
                    self.commit(&mut parts)?;
                    Ok(())
                }
            };
            if self.world.is_dead() {
                self.counts.cuts += 1;
                return Ok(());
            }
            done.map_err(|error| format!("it fails without a fault: {error}"))?;
            match content(&parts) {
                Ok(found) if found == self.known => {}
                Err(_) if self.world.is_dead() => {
                    self.counts.cuts += 1;
                    return Ok(());
                }
                found => return Err(format!("a reader sees {found:?} instead of {:?}", self.known)),
            }
        }
        drop(parts);
        self.world.kill();
        Ok(())
    }

    /// Some writes over the keys of the run.
    fn writes(&mut self) -> Writes {
        let mut writes = Writes::new();
        for _ in 0..=self.random.below(3) {
            let key = match self.random.coin() {
                true => format!("key {}", self.random.below(12)),
                false => format!("log {:02}", self.random.below(24)),
            };
            let key = key.into_bytes();
            let largest = if self.random.below(4) == 0 { 3000 } else { 100 };
            let value = self.random.value(largest);
            writes.push((key, (self.random.below(4) > 0).then_some(value)));
        }
        writes
    }

    /// Commits a group of transactions, some of which refuse.
    fn commit(&mut self, parts: &mut OpenParts) -> Result<(), String> {
        let mut jobs: VecDeque<Box<dyn Job>> = VecDeque::new();
        let mut expected = self.known.clone();
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..=self.random.below(3) {
            let (writes, refuses) = (self.writes(), self.random.below(5) == 0);
            let before: Vec<Pair> = expected.clone().into_iter().collect();
            if !refuses {
                if let Some((key, value)) = writes.first() {
                    self.world.about_to_commit(key, value.as_deref());
                }
                for (key, value) in writes.clone() {
                    match value {
                        Some(value) => expected.insert(key, value),
                        None => expected.remove(&key),
                    };
                }
            }
            let run = move |transaction: &mut Transaction<'_>| -> Result<bool, DiskError> {
                let same = transaction.scan(b"")? == before;
                for (key, value) in writes {
                    match value {
                        Some(value) => transaction.put(key, value)?,
                        None => transaction.remove(key),
                    }
                }
                if refuses { Err(DiskError::Closed) } else { Ok(same) }
            };
            let noted = Arc::clone(&outcomes);
            let done = move |outcome: Result<bool, TransactError<DiskError>>| {
                noted.lock().expect("the outcomes").push((outcome, refuses));
            };
            jobs.push_back(Box::new(Task::new(run, done)));
        }
        let count = jobs.len();
        parts.committer.group(&mut jobs);
        let outcomes = std::mem::take(&mut *outcomes.lock().expect("the outcomes"));
        if outcomes.len() != count {
            return Err(format!("{count} transactions have {} outcomes", outcomes.len()));
        }
        let (mut committed, mut failed) = (0, None);
        for (outcome, refuses) in outcomes {
            match outcome {
                Ok(true) if !refuses => committed += 1,
                Err(TransactError::Refused(DiskError::Closed)) if refuses => {}
                Err(TransactError::Disk(error)) => failed = Some(error),
                other => return Err(format!("a transaction ended with {other:?}, it refuses: {refuses}")),
            }
        }
        match failed {
            None => {
                self.counts.commits += committed;
                self.known = expected;
            }
            Some(_) if committed > 0 => return Err("a part of a group is committed".to_owned()),
            Some(DiskError::StoreFull { .. }) => self.counts.full += 1,
            Some(_) if self.world.is_dead() => self.doubtful = Some(expected),
            Some(error) => return Err(format!("a commit fails without a fault: {error}")),
        }
        Ok(())
    }
}

/// Whether the run of a seed, from 0 on, finds a violation.
fn is_found(faults: Faults) -> bool {
    (0..runs()).any(|seed| Run::whole(seed, faults).is_err())
}

/// `TWINBOX_DISK_SEED` is the first seed.
#[test]
fn acknowledged_commits_survive_every_power_cut_and_refused_ones_never_appear() {
    let (mut all, runs, first) = (Counts::default(), runs(), setting("TWINBOX_DISK_SEED", 0));
    for seed in first..first + runs {
        let counts = Run::whole(seed, Faults::default())
            .unwrap_or_else(|found| panic!("{found}; again with TWINBOX_DISK_SEED={seed} TWINBOX_DISK_SEEDS=1"));
        all.commits += counts.commits;
        all.cuts += counts.cuts;
        all.kept += counts.kept;
        all.lost += counts.lost;
        all.full += counts.full;
        all.replaced += counts.replaced;
        all.run_files += counts.run_files;
    }
    assert!(all.commits > 10 * runs && all.cuts > runs, "{all:?}");
    assert!(all.kept > 0 && all.lost > 0 && all.full > 0 && all.replaced > runs, "{all:?}");
    assert!(all.run_files > 10 * runs, "{all:?}");
}

#[test]
fn checkpoints_let_the_journal_use_its_segments_again() {
    let mut run = Run::new(1, Faults::default());
    let mut parts = run.start().expect("a start").expect("power");
    for _ in 0..400 {
        run.commit(&mut parts).expect("a group");
        parts.applier.apply().expect("it is applied");
        parts.applier.checkpoint().expect("a checkpoint");
    }
    // The largest group takes 13 segments, those of two groups may be there, and some spare ones.
    let segments = run.world.journal_bytes() / 8192;
    assert!(segments <= 30, "{segments} segments after 400 checkpoints");
    // Twice what may be live, the slack, and files that are half full.
    let runs = run.world.run_bytes();
    assert!(runs <= 24 * 3000 * 4, "{runs} bytes of runs, {} files were begun", run.world.run_files());
    assert_eq!(content(&parts), Ok(run.known));
}

#[test]
fn runs_that_are_noted_before_they_are_durable_are_found() {
    assert!(is_found(Faults { runs_lie: true, ..Faults::default() }));
}

#[test]
fn files_of_runs_that_are_removed_before_the_note_are_found() {
    assert!(is_found(Faults { notes_nothing: true, ..Faults::default() }));
}

/// A store of an earlier release, which had all rows in the index.
#[test]
fn rows_move_out_of_the_index_whenever_the_power_fails() {
    for operations in 0..60 {
        let mut run = Run::new(operations, Faults::default());
        for number in 0..24 {
            let key = format!("log {number:02}").into_bytes();
            run.known.insert(key.clone(), vec![number; 400]);
            run.world.index().expect("an index").0.write(&[(&key, Some(&[number; 400]))]).expect("a write");
        }
        run.world.index().expect("an index").0.flush().expect("a flush");
        run.world.power_on(Some(operations));
        let _ = run.start().expect("what was there");
        run.world.power_on(None);
        let parts = run.start().expect("what was there").expect("power");
        let left = parts.rows.index.ascending(&KeyRange::prefix(b"log ")).count();
        assert_eq!(left, 0, "{operations}");
    }
}

#[test]
fn a_commit_that_is_acknowledged_before_its_sync_is_found() {
    assert!(is_found(Faults { journal_lies: true, ..Faults::default() }));
}

#[test]
fn a_journal_that_is_released_before_the_flush_of_the_index_is_found() {
    assert!(is_found(Faults { index_lies: true, ..Faults::default() }));
}

#[test]
fn a_checkpoint_that_holds_a_write_before_the_journal_has_its_group_is_found() {
    assert!(is_found(Faults { index_ahead: true, ..Faults::default() }));
}

#[test]
fn a_layer_that_is_dropped_before_the_index_has_it_is_found() {
    assert!(is_found(Faults { index_delays: true, ..Faults::default() }));
}

#[test]
fn a_copy_that_takes_the_place_of_the_index_before_it_is_durable_is_found() {
    assert!(is_found(Faults { copy_lies: true, ..Faults::default() }));
}
