//! A simulated machine: the files of a journal and an index. A power cut keeps any part of what was not made durable.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    Appended, DiskError,
    index::Index,
    runs::{Extent, Runs, Sizes},
};

/// The rows that go into runs, and sizes at which files are begun, emptied and removed all the time.
pub(super) const RUNS: (Appended, Sizes) = (
    Appended { prefix: b"log ", key_length: 6 },
    Sizes { block: 2000, shortest: 4096, longest: 8192, slack: 2000, moved: 2000 },
);

/// The beginning of the names of their files.
const RUN_FILES: &str = "runs/";

mod files;
mod index;

pub(super) use {files::SimulatedFolder, index::SimulatedIndex};

/// Unit in which a power cut keeps writes to files, in bytes.
const SECTOR: usize = 512;

/// Random numbers from a seed (splitmix64).
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    pub(super) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// A value below a length, of one repeated byte or of any bytes: the former can be compressed, the latter cannot.
    pub(super) fn value(&mut self, below: usize) -> Vec<u8> {
        let (length, most) = (self.index(below), if self.below(4) == 0 { 1 } else { 256 });
        let first = self.below(256);
        (0..length).map(|_| (first + self.below(most)) as u8).collect()
    }
}

/// Faults of a machine.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// Syncs of the journal do nothing: a commit is acknowledged before it is durable.
    pub(super) journal_lies: bool,
    /// Flushes of the index do nothing: the journal is released before its flush.
    pub(super) index_lies: bool,
    /// A checkpoint flushes a write before the journal has its group.
    pub(super) index_ahead: bool,
    /// Readers see a write to the index at its next flush: the layer over it is dropped too early.
    pub(super) index_delays: bool,
    /// Writes to the journal panic.
    pub(super) journal_panics: bool,
    /// Flushes of the index fail.
    pub(super) index_fails: bool,
    /// A copy takes the place of the index before it is durable.
    pub(super) copy_lies: bool,
    /// Syncs of the runs do nothing.
    pub(super) runs_lie: bool,
    /// A checkpoint notes nothing of the runs: their files are removed before that.
    pub(super) notes_nothing: bool,
}

/// A place that a test can close.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: bool,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_closed(&self, closed: bool) {
        self.state().closed = closed;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state();
        state.waiting = true;
        self.0.1.notify_all();
        state = self.0.1.wait_while(state, |state| state.closed).unwrap_or_else(PoisonError::into_inner);
        state.waiting = false;
    }

    /// Returns when a thread stands before the closed gate.
    pub(super) fn wait_until_reached(&self) {
        let waited = self.0.1.wait_timeout_while(self.state(), Duration::from_secs(20), |state| !state.waiting);
        assert!(!waited.expect("the gate").1.timed_out(), "no thread came to the gate");
    }
}

/// The machine. Clones are one machine.
#[derive(Clone)]
pub(super) struct World {
    state: Arc<Mutex<State>>,
    pub(super) syncs: Gate,
    pub(super) flushes: Gate,
}

struct State {
    random: Random,
    faults: Faults,
    /// Operations until the power cut.
    left: Option<u64>,
    dead: bool,
    full: bool,
    files: BTreeMap<String, Content>,
    removed: Vec<(String, Content)>,
    /// The content of each removed file, for those who have it open.
    unlinked: BTreeMap<String, Vec<u8>>,
    /// The blocks of the index.
    index: Map,
    durable_index: Map,
    /// The note of the runs.
    note: Option<Extent>,
    durable_note: Option<Extent>,
    /// Writes to the index since its last flush, in order.
    unflushed: Vec<Unflushed>,
    /// A copy of the index that is being made. No start finds it.
    copy: Option<Map>,
    /// Copies that took the place of the index.
    replaced: u64,
}

enum Unflushed {
    Block(Vec<u8>, Option<Vec<u8>>),
    Note(Extent),
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default, Clone)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

fn apply(map: &mut Map, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => map.insert(key.to_vec(), value.to_vec()),
        None => map.remove(key),
    };
}

impl Content {
    fn cut(&mut self, random: &mut Random) {
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            let mut at = 0;
            while at < bytes.len() {
                let length = (SECTOR - (offset + at) % SECTOR).min(bytes.len() - at);
                if random.coin() {
                    self.durable[offset + at..offset + at + length].copy_from_slice(&bytes[at..at + length]);
                }
                at += length;
            }
        }
        self.live = self.durable.clone();
    }
}

impl State {
    fn power_failed() -> io::Error {
        io::Error::other("the power is off")
    }

    /// One operation that changes something; an error at the power cut and after it.
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            _ if self.dead => return Err(Self::power_failed()),
            None => return Ok(()),
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return Ok(());
            }
        }
        self.dead = true;
        for (name, content) in std::mem::take(&mut self.removed) {
            if self.random.coin() {
                self.files.insert(name, content);
            }
        }
        for content in self.files.values_mut() {
            content.cut(&mut self.random);
        }
        self.lose_index();
        Err(Self::power_failed())
    }

    /// The index keeps a first part of the writes since its last flush.
    fn lose_index(&mut self) {
        let kept = self.random.index(self.unflushed.len() + 1);
        for write in std::mem::take(&mut self.unflushed).into_iter().take(kept) {
            match write {
                Unflushed::Block(key, value) => apply(&mut self.durable_index, &key, value.as_deref()),
                Unflushed::Note(note) => self.durable_note = Some(note),
            }
        }
        self.index = self.durable_index.clone();
        self.note = self.durable_note;
        self.copy = None;
    }

    fn file(&mut self, name: &str) -> io::Result<&mut Content> {
        if self.dead {
            return Err(Self::power_failed());
        }
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let state = State {
            random: Random(seed),
            faults,
            left: None,
            dead: false,
            full: false,
            files: BTreeMap::new(),
            removed: Vec::new(),
            unlinked: BTreeMap::new(),
            index: Map::new(),
            durable_index: Map::new(),
            note: None,
            durable_note: None,
            unflushed: Vec::new(),
            copy: None,
            replaced: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), syncs: Gate::default(), flushes: Gate::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power is on, for this many operations.
    pub(super) fn power_on(&self, operations: Option<u64>) {
        let mut state = self.state();
        (state.left, state.dead) = (operations, false);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The process was killed: files keep what was written, the index what had left the process.
    pub(super) fn kill(&self) {
        self.state().lose_index();
    }

    /// Whether there is room for new files.
    pub(super) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// A group that is about to be committed has this write.
    pub(super) fn about_to_commit(&self, key: &[u8], value: Option<&[u8]>) {
        let ahead = {
            let state = self.state();
            state.faults.index_ahead && !state.dead
        };
        if ahead {
            index::write_durably(self, key, value);
        }
    }

    /// Total bytes of the journal's files.
    pub(super) fn journal_bytes(&self) -> usize {
        self.bytes_of(|name| !name.starts_with(RUN_FILES))
    }

    /// Total bytes of the files of runs.
    pub(super) fn run_bytes(&self) -> usize {
        self.bytes_of(|name| name.starts_with(RUN_FILES))
    }

    /// Number of their files that were begun, removed ones included.
    pub(super) fn run_files(&self) -> u64 {
        self.state().note.map_or(0, |note| note.last.into())
    }

    fn bytes_of(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let state = self.state();
        state.files.iter().filter(|(name, _)| wanted(name)).map(|(_, content)| content.live.len()).sum()
    }

    /// Number of copies that took the place of the index.
    pub(super) fn replaced(&self) -> u64 {
        self.state().replaced
    }

    pub(super) fn files(&self) -> SimulatedFolder {
        SimulatedFolder::new(self, "")
    }

    /// The index without its runs.
    pub(super) fn index_alone(&self) -> SimulatedIndex {
        SimulatedIndex::new(self)
    }

    /// The index of a store that is being opened, and its runs.
    pub(super) fn index(&self) -> Result<(SimulatedIndex, Option<Runs<SimulatedFolder>>), DiskError> {
        let index = self.index_alone();
        let folder = SimulatedFolder::new(self, RUN_FILES);
        let runs = Runs::open(Path::new("/simulated"), folder, RUNS, index.noted_runs()?)?;
        Ok((index, Some(runs)))
    }
}
