//! A folder in memory. A power cut keeps a random part of the sectors and names that were not synced; a process can be
//! killed in any call; syncs can be held.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use twinbox_journal::{Blocks, Medium, MediumFile};

const SECTOR: usize = 512;

/// A call that fails with an input or output error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Create,
    Write,
    Sync,
    Remove,
    Rename,
}

#[derive(Clone)]
pub struct SimMedium(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub struct SimFile {
    shared: Arc<Shared>,
    index: usize,
}

struct State {
    random: StdRng,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    /// Names of interrupted creations.
    undurable: BTreeSet<String>,
    /// Removed names that a power cut may bring back.
    removed: BTreeMap<String, usize>,
    calls: u64,
    dies_at: Option<u64>,
    dead: bool,
    fails: Option<Call>,
    /// The next renaming finds too many open files.
    refuses_rename: bool,
    /// Maximum number of files.
    room: usize,
    /// Maximum length of a file.
    longest: u64,
    writes: u64,
    syncs: u64,
    opened: u64,
    /// True while syncs wait.
    held: bool,
    /// Number of syncs that wait.
    waiting: usize,
}

#[derive(Default)]
struct Content {
    /// The content that a process sees.
    bytes: Vec<u8>,
    /// Content on the disk of the sectors that were written and not synced.
    unsynced: BTreeMap<usize, Vec<u8>>,
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

fn input_output() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl SimMedium {
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            undurable: BTreeSet::new(),
            removed: BTreeMap::new(),
            calls: 0,
            dies_at: None,
            dead: false,
            fails: None,
            refuses_rename: false,
            room: usize::MAX,
            longest: u64::MAX,
            writes: 0,
            syncs: 0,
            opened: 0,
            held: false,
            waiting: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("the state")
    }

    /// Kills the process in the given call from now on, 1 for the next.
    pub fn kill_in(&self, calls: u64) {
        let mut state = self.state();
        state.dies_at = Some(state.calls + calls);
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Lets another process begin. The one before has been dropped.
    pub fn restart(&self) {
        let mut state = self.state();
        state.dead = false;
        state.dies_at = None;
    }

    /// Cuts the power, and lets another process begin. Each unsynced sector and name survives with this probability.
    pub fn power_cut(&self, survives: f64) {
        self.restart();
        let mut guard = self.state();
        let State { random, files, names, undurable, removed, .. } = &mut *guard;
        for Content { bytes, unsynced } in files {
            for (sector, old) in std::mem::take(unsynced) {
                if !random.random_bool(survives) {
                    bytes[sector * SECTOR..][..old.len()].copy_from_slice(&old);
                }
            }
        }
        for name in std::mem::take(undurable) {
            if !random.random_bool(survives) {
                names.remove(&name);
            }
        }
        for (name, index) in std::mem::take(removed) {
            if !random.random_bool(survives) {
                names.insert(name, index);
            }
        }
    }

    /// Lets the next call of this kind fail.
    pub fn fail_next(&self, call: Call) {
        self.state().fails = Some(call);
    }

    /// Lets the next renaming fail as in a process with too many open files.
    pub fn refuse_next_rename(&self) {
        self.state().refuses_rename = true;
    }

    /// True until a renaming was refused.
    pub fn is_to_refuse_rename(&self) -> bool {
        self.state().refuses_rename
    }

    /// Limits the number of files.
    pub fn set_room(&self, room: usize) {
        self.state().room = room;
    }

    /// Has no room for a longer file from now on.
    pub fn set_longest(&self, longest: u64) {
        self.state().longest = longest;
    }

    /// Lets syncs wait from now on, or go on.
    pub fn hold_syncs(&self, held: bool) {
        self.state().held = held;
        self.0.changed.notify_all();
    }

    /// Waits until a sync waits.
    pub fn wait_for_held_sync(&self) {
        let state = self.state();
        drop(self.0.changed.wait_while(state, |state| state.waiting == 0).expect("the state"));
    }

    /// Waits until there are this many files.
    pub fn wait_for_files(&self, count: usize) {
        let state = self.state();
        drop(self.0.changed.wait_while(state, |state| state.names.len() < count).expect("the state"));
    }

    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Number of writes until now.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Number of syncs that have ended until now, those of a creation as none.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Number of files that were created until now.
    pub fn created(&self) -> usize {
        self.state().files.len()
    }

    /// Number of times that an existing file was opened until now.
    pub fn opened(&self) -> u64 {
        self.state().opened
    }

    /// The content of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].bytes.clone()
    }

    /// Flips a bit on the disk.
    pub fn flip(&self, name: &str, offset: u64) {
        let mut state = self.state();
        let index = state.names[name];
        state.files[index].bytes[offset as usize] ^= 4;
    }

    /// Cuts the end of a file off.
    pub fn shorten(&self, name: &str, length: u64) {
        let mut state = self.state();
        let index = state.names[name];
        state.files[index].bytes.truncate(length as usize);
    }

    /// Puts a file into the folder.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let index = state.files.len();
        state.files.push(Content { bytes, ..Content::default() });
        state.names.insert(name.to_owned(), index);
    }

    /// Takes a file out of the folder, as an administrator might.
    pub fn lose(&self, name: &str) {
        self.state().names.remove(name).expect("a file of this name");
    }
}

impl State {
    /// A call begins: an error when the process is dead, true when it dies in this call.
    fn begin(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(killed());
        }
        self.calls += 1;
        self.dead = self.dies_at == Some(self.calls);
        Ok(self.dead)
    }

    fn fails(&mut self, call: Call) -> bool {
        let fails = self.fails == Some(call);
        if fails {
            self.fails = None;
        }
        fails
    }

    fn write(&mut self, index: usize, data: &[u8], offset: usize) {
        let Content { bytes, unsynced } = &mut self.files[index];
        let end = offset + data.len();
        assert!(end <= bytes.len(), "a write stays within its file");
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let last = bytes.len().min((sector + 1) * SECTOR);
            unsynced.entry(sector).or_insert_with(|| bytes[sector * SECTOR..last].to_vec());
        }
        bytes[offset..end].copy_from_slice(data);
    }
}

impl Medium for SimMedium {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        if self.state().begin()? { Err(killed()) } else { Ok(self.names()) }
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        if state.begin()? {
            return Err(killed());
        }
        state.opened += 1;
        let index = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile { shared: Arc::clone(&self.0), index })
    }

    fn create(&self, name: &str, length: u64, _: Blocks) -> io::Result<SimFile> {
        let mut state = self.state();
        let dies = state.begin()?;
        if state.fails(Call::Create) {
            return Err(input_output());
        }
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.names.len() >= state.room || length > state.longest {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let index = state.files.len();
        let length = if dies { state.random.random_range(0..=length) } else { length };
        state.files.push(Content { bytes: vec![0; length as usize], ..Content::default() });
        state.names.insert(name.to_owned(), index);
        // The name that a power cut would bring back is in use again.
        state.removed.remove(name);
        self.0.changed.notify_all();
        if dies {
            state.undurable.insert(name.to_owned());
            return Err(killed());
        }
        Ok(SimFile { shared: Arc::clone(&self.0), index })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let dies = state.begin()?;
        if state.fails(Call::Remove) {
            return Err(input_output());
        }
        if dies && state.random.random_bool(0.5) {
            return Err(killed());
        }
        let index = state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        if !state.undurable.remove(name) {
            state.removed.insert(name.to_owned(), index);
        }
        if dies { Err(killed()) } else { Ok(()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let dies = state.begin()?;
        if state.fails(Call::Rename) {
            return Err(input_output());
        }
        if std::mem::take(&mut state.refuses_rename) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if !dies || state.random.random_bool(0.5) {
            let index = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), index);
            // The name that a power cut would bring back is in use again.
            state.removed.remove(to);
        }
        if dies { Err(killed()) } else { Ok(()) }
    }
}

impl SimFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("the state")
    }
}

impl MediumFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let mut state = self.state();
        if state.begin()? { Err(killed()) } else { Ok(state.files[self.index].bytes.len() as u64) }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state();
        if state.begin()? {
            return Err(killed());
        }
        let rest = state.files[self.index].bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let dies = state.begin()?;
        let mut data = parts.concat();
        state.writes += 1;
        let fails = state.fails(Call::Write);
        if dies || fails {
            let length = state.random.random_range(0..=data.len());
            data.truncate(length);
        }
        state.write(self.index, &data, offset as usize);
        match (dies, fails) {
            (true, _) => Err(killed()),
            (false, true) => Err(input_output()),
            (false, false) => Ok(()),
        }
    }

    // Only the sectors that were written before the sync began become durable.
    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        let dies = state.begin()?;
        let taken = std::mem::take(&mut state.files[self.index].unsynced);
        if state.held {
            state.waiting += 1;
            self.shared.changed.notify_all();
            state = self.shared.changed.wait_while(state, |state| state.held).expect("the state");
            state.waiting -= 1;
        }
        let fails = state.fails(Call::Sync);
        let done = !fails && (!dies || state.random.random_bool(0.5));
        if !done {
            // The older content is that of the disk.
            state.files[self.index].unsynced.extend(taken);
        }
        state.syncs += 1;
        match (dies, fails) {
            (true, _) => Err(killed()),
            (false, true) => Err(input_output()),
            (false, false) => Ok(()),
        }
    }
}
