//! The disk of a simulated node: all its files, and the map beneath its index, under one power supply. A power cut keeps any part of
//! the data that was not synced, of all of them at one instant. It comes in any call that changes something.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use super::node_disk::NodeDisk;
use crate::{DiskError, index::Note};

/// The folders of a node, each the beginning of the names of its files.
pub(super) const JOURNAL: &str = "journal/";
pub(super) const RUNS: &str = "runs/";
pub(super) const AUDIO: &str = "audio/";

/// Unit in which a power cut keeps writes to files, in bytes.
const SECTOR: usize = 512;

/// Longest wait for a process to close the disk.
const LONGEST: Duration = Duration::from_secs(60);

/// A promise that the disk breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// None.
    #[default]
    None,
    /// Syncs of the journal do nothing.
    JournalLies,
    /// Syncs of the packs do nothing.
    AudioLies,
    /// Syncs of the runs do nothing.
    RunsLie,
    /// Flushes of the index do nothing.
    IndexLies,
    /// A record of each transaction is durable in the index before the journal has the transaction.
    IndexAhead,
    /// At a start, each batch that an earlier segment left in a recycled file has the nonce and the number of the present one, as
    /// if the start compared neither.
    StaleBatches,
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// The process is killed: files keep all that it wrote.
    Killed,
    /// The power fails: files keep what was synced, and any part of the rest.
    PowerCut,
}

/// Work of the thread that takes committed rows to the index. A simulated node does it when it is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// Takes committed rows from memory to the index and to the runs.
    Apply,
    /// The same; then makes them durable, and releases the journal up to there.
    Checkpoint,
    /// Prepares the next segment of the journal.
    Prepare,
}

thread_local! {
    static NODES: RefCell<BTreeMap<PathBuf, NodePlatter>> = const { RefCell::new(BTreeMap::new()) };
}

/// The disk of the node with this folder, if it is mounted on this thread.
pub(super) fn mounted(folder: &Path) -> Option<NodePlatter> {
    let dir = folder.parent()?;
    NODES.with_borrow(|nodes| nodes.get(dir).cloned())
}

/// The disk of a simulated node. Clones are one disk. One process after the other has it open.
#[derive(Clone)]
pub struct NodePlatter(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    closed: Condvar,
}

pub(super) type Map = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) struct State {
    pub(super) random: Random,
    pub(super) fault: Fault,
    /// Number of the present process. Calls of earlier ones fail.
    process: u64,
    dead: bool,
    /// Calls of the present process until its end, and the kind of that.
    ends: Option<(u64, ProcessEnd)>,
    /// Number of all calls that changed something, and a checksum of their order.
    calls: u64,
    trace: u64,
    pub(super) files: Vec<Content>,
    pub(super) names: BTreeMap<String, usize>,
    /// Names of interrupted creations.
    pub(super) undurable: BTreeSet<String>,
    /// Removed names that a power cut may bring back.
    pub(super) removed: BTreeMap<String, usize>,
    /// The entries of the index, and its last note.
    pub(super) index: Map,
    pub(super) note: Note,
    pub(super) durable_index: Map,
    durable_note: Note,
    /// Writes to the index since its last flush, in order: a first part of them stays.
    unflushed: Vec<Unflushed>,
    open: Weak<NodeDisk>,
    is_open: bool,
}

/// A write to the index.
pub(super) enum Unflushed {
    Entry(Vec<u8>, Option<Vec<u8>>),
    Note(Note),
}

/// A file.
pub(super) struct Content {
    /// The content that a process sees.
    pub(super) bytes: Vec<u8>,
    /// End of the bytes that were ever written.
    pub(super) written: usize,
    /// Content on the disk of the sectors that were written and not synced.
    pub(super) unsynced: BTreeMap<usize, Vec<u8>>,
}

/// Random numbers from a seed (splitmix64).
pub(super) struct Random(u64);

impl Random {
    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// True with this probability, in quarters.
    pub(super) fn has_luck(&mut self, quarters: u64) -> bool {
        self.below(4) < quarters
    }
}

pub(super) fn power_failed() -> io::Error {
    io::Error::other("the process has ended")
}

pub(super) fn apply(map: &mut Map, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => map.insert(key.to_vec(), value.to_vec()),
        None => map.remove(key),
    };
}

impl Content {
    pub(super) fn write(&mut self, data: &[u8], offset: usize) {
        let Self { bytes, written, unsynced } = self;
        let end = offset + data.len();
        assert!(end <= bytes.len(), "a write stays within its file");
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let last = bytes.len().min((sector + 1) * SECTOR);
            unsynced.entry(sector).or_insert_with(|| bytes[sector * SECTOR..last].to_vec());
        }
        bytes[offset..end].copy_from_slice(data);
        *written = end.max(*written);
    }
}

impl State {
    /// An error for a process that has ended.
    pub(super) fn check(&self, process: u64) -> io::Result<()> {
        if self.dead || process != self.process { Err(power_failed()) } else { Ok(()) }
    }

    /// A call begins that changes something: an error for a process that has ended, true when it ends in this call.
    pub(super) fn begin(&mut self, process: u64, call: &str, name: &str, place: [usize; 2]) -> io::Result<bool> {
        self.check(process)?;
        self.calls += 1;
        let numbers = place.into_iter().flat_map(usize::to_le_bytes);
        for byte in call.bytes().chain(name.bytes()).chain(numbers) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        match &mut self.ends {
            Some((0, _)) => return Ok(true),
            Some((left, _)) => *left -= 1,
            None => {}
        }
        Ok(false)
    }

    /// The process ends in a call; the error of that.
    pub(super) fn die(&mut self) -> io::Error {
        let end = self.ends.map_or(ProcessEnd::Killed, |(_, end)| end);
        self.end(end);
        power_failed()
    }

    fn end(&mut self, end: ProcessEnd) {
        (self.dead, self.ends) = (true, None);
        let kept = self.random.below(self.unflushed.len() as u64 + 1) as usize;
        for write in mem::take(&mut self.unflushed).into_iter().take(kept) {
            self.write_durably(write);
        }
        (self.index, self.note) = (self.durable_index.clone(), self.durable_note);
        if end == ProcessEnd::PowerCut {
            self.lose_unsynced();
        }
    }

    fn lose_unsynced(&mut self) {
        let Self { random, files, names, undurable, removed, .. } = self;
        let (of_sectors, of_names) = (random.below(5), random.below(5));
        for Content { bytes, unsynced, .. } in files {
            for (sector, old) in mem::take(unsynced) {
                if !random.has_luck(of_sectors) {
                    bytes[sector * SECTOR..][..old.len()].copy_from_slice(&old);
                }
            }
        }
        for name in mem::take(undurable) {
            if !random.has_luck(of_names) {
                names.remove(&name);
            }
        }
        for (name, file) in mem::take(removed) {
            if !random.has_luck(of_names) {
                names.insert(name, file);
            }
        }
    }

    /// Notes that a folder was synced.
    pub(super) fn folder_synced(&mut self, folder: &str) {
        self.undurable.retain(|name| !name.starts_with(folder));
        self.removed.retain(|name, _| !name.starts_with(folder));
    }

    /// Writes to the index as its process sees it.
    pub(super) fn write_index(&mut self, write: Unflushed) {
        match &write {
            Unflushed::Entry(key, value) => apply(&mut self.index, key, value.as_deref()),
            Unflushed::Note(note) => self.note = joined(self.note, *note),
        }
        self.unflushed.push(write);
    }

    /// Makes all writes to the index durable.
    pub(super) fn flush_index(&mut self) {
        for write in mem::take(&mut self.unflushed) {
            self.write_durably(write);
        }
    }

    fn write_durably(&mut self, write: Unflushed) {
        match write {
            Unflushed::Entry(key, value) => apply(&mut self.durable_index, &key, value.as_deref()),
            Unflushed::Note(note) => self.durable_note = joined(self.durable_note, note),
        }
    }
}

/// A note after another one: a part that it does not have stays.
fn joined(before: Note, note: Note) -> Note {
    Note { held: note.held.or(before.held), runs: note.runs.or(before.runs) }
}

impl NodePlatter {
    /// An empty disk, which no process has open.
    pub fn new(seed: u64) -> Self {
        let none = Note { held: None, runs: None };
        let state = State {
            random: Random(seed),
            fault: Fault::None,
            process: 0,
            dead: false,
            ends: None,
            calls: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            files: Vec::new(),
            names: BTreeMap::new(),
            undurable: BTreeSet::new(),
            removed: BTreeMap::new(),
            index: Map::new(),
            note: none,
            durable_index: Map::new(),
            durable_note: none,
            unflushed: Vec::new(),
            open: Weak::new(),
            is_open: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), closed: Condvar::new() }))
    }

    /// Mounts the disk for a store whose folders are in `dir` and that is opened on this thread.
    pub fn mount(&self, dir: &Path) {
        NODES.with_borrow_mut(|nodes| nodes.insert(dir.to_owned(), self.clone()));
    }

    /// Sets the promise that the disk breaks from now on.
    pub fn set_fault(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// Another process begins. It ends in the call after this many ones that change something, or goes on.
    pub fn start(&self, ends: Option<(u64, ProcessEnd)>) {
        let mut state = self.state();
        state.process += 1;
        (state.dead, state.ends) = (false, ends);
    }

    /// Ends the process, if it still runs.
    pub fn end(&self, end: ProcessEnd) {
        let mut state = self.state();
        if !state.dead {
            state.end(end);
        }
    }

    /// True when the process has ended.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Waits until the process has closed the disk: threads of a store may do so a moment after it was dropped. False if it does
    /// not.
    #[must_use]
    pub fn wait_closed(&self) -> bool {
        let waited = self.0.closed.wait_timeout_while(self.state(), LONGEST, |state| state.is_open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Does work of the store that is open; nothing without one.
    pub fn tend(&self, upkeep: Upkeep) -> Result<(), DiskError> {
        let open = self.state().open.upgrade();
        open.map_or(Ok(()), |disk| disk.tend(upkeep))
    }

    /// The number of calls that changed something, and a checksum of their order: the same in each run of a history.
    pub fn trace(&self) -> (u64, u64) {
        let state = self.state();
        (state.calls, state.trace)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the present process.
    pub(super) fn process(&self) -> u64 {
        self.state().process
    }

    pub(super) fn opened(&self, disk: &Arc<NodeDisk>) {
        let mut state = self.state();
        (state.open, state.is_open) = (Arc::downgrade(disk), true);
    }

    pub(super) fn closed(&self) {
        self.state().is_open = false;
        self.0.closed.notify_all();
    }
}
