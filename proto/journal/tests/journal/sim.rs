//! A folder in memory. A power cut keeps a random part of the sectors and names that were not synced; a process can be
//! killed in any call.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use twinbox_journal::{BLOCK, Blocks, Medium, MediumFile};

use crate::stale_batches::adopt_stale_batches;

const SECTOR: usize = 512;

/// Share of what was not synced that survives a power cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub sectors: f64,
    pub names: f64,
}

/// Promises that the medium breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    None,
    /// A sync does nothing.
    Syncs,
    /// A sync right after a segment header was written does nothing.
    HeaderSyncs,
    /// A batch that an earlier segment left in a recycled file has the nonce and the number of the present one, as if a
    /// start compared neither.
    StaleBatches,
}

/// A call that fails with an input or output error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write,
    Sync,
}

#[derive(Clone)]
pub struct SimMedium(Arc<Mutex<State>>);

pub struct SimFile {
    state: Arc<Mutex<State>>,
    index: usize,
}

struct State {
    random: StdRng,
    lie: Lie,
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
    /// Maximum number of files.
    room: usize,
    refuses_opens: bool,
    writes: u64,
    creations: u64,
}

#[derive(Default)]
struct Content {
    /// The content that a process sees.
    bytes: Vec<u8>,
    /// Content on the disk of the sectors that were written and not synced.
    unsynced: BTreeMap<usize, Vec<u8>>,
    header_written_last: bool,
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

fn input_output() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl SimMedium {
    pub fn new(seed: u64, lie: Lie) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: StdRng::seed_from_u64(seed),
            lie,
            files: Vec::new(),
            names: BTreeMap::new(),
            undurable: BTreeSet::new(),
            removed: BTreeMap::new(),
            calls: 0,
            dies_at: None,
            dead: false,
            fails: None,
            room: usize::MAX,
            refuses_opens: false,
            writes: 0,
            creations: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("the state")
    }

    /// Kills the process in the given call from now on, 1 for the next.
    pub fn kill_in(&self, calls: u64) {
        let mut state = self.state();
        state.dies_at = Some(state.calls + calls);
    }

    /// True when the process has been killed.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Ends the process, if it still runs, and lets another one begin.
    pub fn restart(&self) {
        let mut state = self.state();
        state.dead = false;
        state.dies_at = None;
    }

    /// Cuts the power, and lets another process begin.
    pub fn power_cut(&self, cut: Cut) {
        self.restart();
        let mut guard = self.state();
        let State { random, files, names, undurable, removed, .. } = &mut *guard;
        for Content { bytes, unsynced, .. } in files {
            for (sector, old) in std::mem::take(unsynced) {
                if !random.random_bool(cut.sectors) {
                    bytes[sector * SECTOR..][..old.len()].copy_from_slice(&old);
                }
            }
        }
        for name in std::mem::take(undurable) {
            if !random.random_bool(cut.names) {
                names.remove(&name);
            }
        }
        for (name, index) in std::mem::take(removed) {
            if !random.random_bool(cut.names) {
                names.insert(name, index);
            }
        }
    }

    /// Lets the next call of this kind fail.
    pub fn fail_next(&self, call: Call) {
        self.state().fails = Some(call);
    }

    /// Limits the number of files.
    pub fn set_room(&self, room: usize) {
        self.state().room = room;
    }

    /// Opens no file, as in a process with too many open ones.
    pub fn refuse_opens(&self, refused: bool) {
        self.state().refuses_opens = refused;
    }

    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Number of writes until now.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Number of files that were created until now.
    pub fn creations(&self) -> u64 {
        self.state().creations
    }

    /// The content of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].bytes.clone()
    }

    /// Flips a bit on the disk.
    pub fn flip(&self, name: &str, offset: u64) {
        self.change(name, offset, |byte| byte ^ 4);
    }

    /// Changes a byte on the disk.
    pub fn change(&self, name: &str, offset: u64, change: impl FnOnce(u8) -> u8) {
        let mut state = self.state();
        let index = state.names[name];
        let byte = &mut state.files[index].bytes[offset as usize];
        *byte = change(*byte);
    }

    /// Cuts the end of a file off.
    pub fn shorten(&self, name: &str, length: u64) {
        let mut state = self.state();
        let index = state.names[name];
        state.files[index].bytes.truncate(length as usize);
    }

    /// Puts a file into the folder.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let index = state.files.len();
        state.files.push(Content { bytes: bytes.to_vec(), ..Content::default() });
        state.names.insert(name.to_owned(), index);
    }

    /// Copies a file.
    pub fn copy(&self, from: &str, to: &str) {
        let bytes = self.bytes(from);
        self.put(to, &bytes);
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
        let file = &mut self.files[index];
        if file.bytes.len() < offset + data.len() {
            file.bytes.resize(offset + data.len(), 0);
        }
        for (n, sector) in data.chunks(SECTOR).enumerate() {
            let number = offset / SECTOR + n;
            let place = &mut file.bytes[number * SECTOR..][..sector.len()];
            file.unsynced.entry(number).or_insert_with(|| place.to_vec());
            place.copy_from_slice(sector);
        }
        file.header_written_last = offset == 0;
    }

    fn sync(&mut self, index: usize) {
        let file = &mut self.files[index];
        let lies = match self.lie {
            Lie::None | Lie::StaleBatches => false,
            Lie::Syncs => true,
            Lie::HeaderSyncs => file.header_written_last,
        };
        if !lies {
            file.unsynced.clear();
        }
    }
}

impl Medium for SimMedium {
    type File = SimFile;

    // The first call of a start.
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        if state.begin()? {
            return Err(killed());
        }
        if state.lie == Lie::StaleBatches {
            state.files.iter_mut().for_each(|file| adopt_stale_batches(&mut file.bytes));
        }
        drop(state);
        Ok(self.names())
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        if state.begin()? {
            return Err(killed());
        }
        if state.refuses_opens {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let index = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile { state: Arc::clone(&self.0), index })
    }

    fn create(&self, name: &str, length: u64, _: Blocks) -> io::Result<SimFile> {
        let mut state = self.state();
        let dies = state.begin()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.names.len() >= state.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let index = state.files.len();
        let length = if dies { state.random.random_range(0..=length) } else { length };
        state.files.push(Content { bytes: vec![0; length as usize], ..Content::default() });
        state.names.insert(name.to_owned(), index);
        // The name that a power cut would bring back is in use again.
        state.removed.remove(name);
        if dies {
            state.undurable.insert(name.to_owned());
            return Err(killed());
        }
        state.creations += 1;
        Ok(SimFile { state: Arc::clone(&self.0), index })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let dies = state.begin()?;
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
        self.state.lock().expect("the state")
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
        assert_eq!((offset % BLOCK, data.len() as u64 % BLOCK), (0, 0), "a write is of whole blocks");
        state.writes += 1;
        let fails = state.fails(Call::Write);
        if dies || fails {
            let sectors = data.len() / SECTOR;
            data.truncate(state.random.random_range(0..=sectors) * SECTOR);
        }
        state.write(self.index, &data, offset as usize);
        match (dies, fails) {
            (true, _) => Err(killed()),
            (false, true) => Err(input_output()),
            (false, false) => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        let dies = state.begin()?;
        if state.fails(Call::Sync) {
            return Err(input_output());
        }
        if !dies || state.random.random_bool(0.5) {
            state.sync(self.index);
        }
        if dies { Err(killed()) } else { Ok(()) }
    }
}
