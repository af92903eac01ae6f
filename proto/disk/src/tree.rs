//! A folder of sled's, opened safely: the blocks of an index, and its notes.

use std::{
    borrow::Cow,
    fs::File,
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use twinbox_journal::Position;

use crate::{
    DiskError,
    block::Malformed,
    block_cache::BlockCache,
    blocks::{Bounds, Entries, Entry, Found},
    file,
    index::{IndexCoverage, Note},
    leftovers,
    live::RowBytes,
    runs::Extent,
    stored_block::{block_in, stored},
    verify::damaged,
};

/// Segment size of the index. A page over a quarter of it would not be synced: see [`crate::MAX_VALUE`].
pub(crate) const SEGMENT: usize = 4 * 1024 * 1024;

/// Maximum attempts, every 10 ms, to take a lock that threads of this process still hold.
const LOCK_TRIES: u32 = 500;

/// The tree of sled that has the notes, apart from that of the blocks, and their keys: the position held, the extent of the runs, the
/// bytes of the rows, and that the rows are in blocks.
const NOTES: &str = "notes";
const HELD: &[u8] = b"held";
const RUNS: &[u8] = b"runs";
const ROWS: &[u8] = b"rows";
const BLOCKS: &[u8] = b"blocks";

/// An open folder of sled's.
pub(crate) struct Tree {
    pub(crate) blocks: Blocks,
    notes: sled::Tree,
    db: sled::Db,
}

/// The blocks: an entry each.
#[derive(Clone)]
pub(crate) struct Blocks {
    dir: Arc<Path>,
    tree: sled::Tree,
    cache: Arc<BlockCache<sled::IVec>>,
}

impl Tree {
    /// Opens `folder`, of the index of the store in `dir`, with a cache of `cache` bytes for sled's pages, and a quarter of that for
    /// blocks in addition.
    pub(crate) fn open(dir: &Arc<Path>, folder: &Path, cache: u64) -> Result<Self, DiskError> {
        let config = sled::Config::new()
            .path(folder)
            .segment_size(SEGMENT)
            .cache_capacity(cache)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        let mut tries = 0;
        let db = loop {
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
            match opened {
                Ok(Ok(db)) => break db,
                Ok(Err(sled::Error::Io(e))) if tries < LOCK_TRIES && is_locked(&e) => {
                    tries += 1;
                    thread::sleep(Duration::from_millis(10));
                }
                Ok(Err(error)) => return Err(index_error(dir, &error)),
                Err(_) => return Err(panicked(dir)),
            }
        };
        leftovers::keep(folder)?;
        let notes = guarded(dir, || db.open_tree(NOTES))?;
        let in_memory = Arc::new(BlockCache::new((cache / 4) as usize));
        let blocks = Blocks { dir: Arc::clone(dir), tree: sled::Tree::clone(&db), cache: in_memory };
        let tree = Self { blocks, notes, db };
        if guarded(dir, || tree.db.iter().next().transpose())?.is_none() {
            tree.put_note(BLOCKS, &[])?;
        }
        Ok(tree)
    }

    /// False for an index of an earlier release, whose entries are rows.
    pub(crate) fn is_in_blocks(&self) -> Result<bool, DiskError> {
        Ok(self.get_note(BLOCKS)?.is_some())
    }

    /// The rows of an earlier release.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Found<sled::IVec>> + use<> {
        self.blocks.entries((Bound::Unbounded, Bound::Unbounded))
    }

    pub(crate) fn flush(&self) -> Result<(), DiskError> {
        guarded(&self.blocks.dir, || self.db.flush()).map(drop)
    }

    fn get_note(&self, key: &[u8]) -> Result<Option<sled::IVec>, DiskError> {
        guarded(&self.blocks.dir, || self.notes.get(key))
    }

    fn put_note(&self, key: &[u8], note: &[u8]) -> Result<(), DiskError> {
        guarded(&self.blocks.dir, || self.notes.insert(key, note)).map(drop)
    }

    /// Writes the notes of a checkpoint.
    // The runs first: sled keeps its writes in order, so a position is there only with the runs that belong to it.
    pub(crate) fn note(&self, Note { held, runs }: &Note) -> Result<(), DiskError> {
        if let Some(extent) = runs {
            self.put_note(RUNS, &extent.to_bytes())?;
        }
        let Some(Position { segment, offset }) = held else { return Ok(()) };
        self.put_note(HELD, &[segment.to_be_bytes(), offset.to_be_bytes()].concat())
    }

    /// The extent of the runs in the last note.
    pub(crate) fn noted_runs(&self) -> Result<Option<Extent>, DiskError> {
        let Some(note) = self.get_note(RUNS)? else { return Ok(None) };
        Extent::from_bytes(&note).map(Some).ok_or_else(|| DiskError::Index {
            dir: self.blocks.dir.to_path_buf(),
            detail: "its note of the runs has no sense".to_owned(),
            damaged: true,
        })
    }

    /// The position in the last note.
    pub(crate) fn held(&self) -> Result<IndexCoverage, DiskError> {
        let Some(note) = self.get_note(HELD)? else {
            let first = self.entries().next().transpose()?;
            return Ok(if first.is_none() { IndexCoverage::Nothing } else { IndexCoverage::Unknown });
        };
        let number = |at: usize| note.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        match (number(0), number(8)) {
            (Some(segment), Some(offset)) => Ok(IndexCoverage::UpTo(Position { segment, offset })),
            _ => Ok(IndexCoverage::Unknown),
        }
    }

    /// Writes the bytes of the rows, if they are counted.
    pub(crate) fn note_rows(&self, rows: &RowBytes) -> Result<(), DiskError> {
        rows.all().map_or(Ok(()), |bytes| self.put_note(ROWS, &bytes.to_be_bytes()))
    }

    /// The bytes of the rows as they were noted.
    pub(crate) fn noted_rows(&self) -> Result<RowBytes, DiskError> {
        let counted = self.get_note(ROWS)?.and_then(|note| note.as_ref().try_into().ok());
        Ok(counted.map_or_else(RowBytes::none, |bytes| RowBytes::All(u64::from_be_bytes(bytes))))
    }

    /// Takes over all notes of another folder.
    pub(crate) fn copy_notes(&self, from: &Self) -> Result<(), DiskError> {
        for key in [RUNS, HELD, ROWS] {
            from.get_note(key)?.map_or(Ok(()), |note| self.put_note(key, &note))?;
        }
        Ok(())
    }
}

impl Blocks {
    /// The entries of sled in these bounds, ascending, as they are stored.
    pub(crate) fn entries(&self, bounds: Bounds<'_>) -> impl Iterator<Item = Found<sled::IVec>> + use<> {
        let (dir, mut iter) = (Arc::clone(&self.dir), Some(self.tree.range::<&[u8], _>(bounds)));
        std::iter::from_fn(move || {
            let found = guarded(&dir, || iter.as_mut().and_then(Iterator::next).transpose());
            if found.is_err() {
                iter = None;
            }
            found.transpose()
        })
    }

    /// The last entry of sled in these bounds, as it is stored.
    pub(crate) fn last_entry(&self, bounds: Bounds<'_>) -> Result<Option<Entry<sled::IVec>>, DiskError> {
        guarded(&self.dir, || self.tree.range::<&[u8], _>(bounds).next_back().transpose())
    }

    /// The entry with its block.
    fn block_of(&self, (key, value): Entry<sled::IVec>) -> Result<Entry<sled::IVec>, DiskError> {
        let block = match block_in(&value).map_err(|reason| self.damaged(reason))? {
            Cow::Borrowed(_) => None,
            Cow::Owned(block) => Some(block.into()),
        };
        Ok((key, block.unwrap_or(value)))
    }
}

impl Entries for Blocks {
    type Bytes = sled::IVec;

    fn cache(&self) -> &BlockCache<sled::IVec> {
        &self.cache
    }

    fn ascending(&self, bounds: Bounds<'_>) -> impl Iterator<Item = Found<sled::IVec>> + use<> {
        let blocks = self.clone();
        self.entries(bounds).map(move |entry| entry.and_then(|entry| blocks.block_of(entry)))
    }

    fn last(&self, bounds: Bounds<'_>) -> Result<Option<Entry<sled::IVec>>, DiskError> {
        self.last_entry(bounds)?.map(|entry| self.block_of(entry)).transpose()
    }

    // Not `apply_batch`: it takes sled's lock, one for the whole process, for writing, so that every reader of every
    // store waits for it, and it waits for a flush of any store. A single write takes the lock for reading.
    fn put(&self, key: &[u8], block: Option<&[u8]>) -> Result<(), DiskError> {
        let replaced = guarded(&self.dir, || match block {
            Some(block) => self.tree.insert(key, &*stored(block)),
            None => self.tree.remove(key),
        });
        replaced.map(drop)
    }

    fn damaged(&self, reason: Malformed) -> DiskError {
        match reason {
            Malformed::Version(_) => {
                DiskError::Index { dir: self.dir.to_path_buf(), detail: reason.to_string(), damaged: false }
            }
            Malformed::CutShort | Malformed::Order | Malformed::Compression => {
                damaged(&self.dir, reason.to_string())
            }
        }
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("acquire lock")
}

/// Makes sled read a file from the disk: after a failed sync of an earlier process the page cache may hold data
/// that is not on the disk (rule A4). Writes of a killed process are synced first.
pub(crate) fn read_from_disk(db: &Path) -> Result<(), DiskError> {
    let file = match File::options().read(true).write(true).open(db) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DiskError::io("open", db, &error)),
    };
    file::sync_data(&file, db)?;
    let dropped = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    dropped.map_err(|error| DiskError::io("drop the cached pages of", db, &error.into()))
}

/// Runs an operation of sled, which panics at some damage.
fn guarded<R>(dir: &Path, operation: impl FnOnce() -> sled::Result<R>) -> Result<R, DiskError> {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(result) => result.map_err(|error| index_error(dir, &error)),
        Err(_) => Err(panicked(dir)),
    }
}

fn panicked(dir: &Path) -> DiskError {
    damaged(dir, "reading it panicked, its content contradicts itself".to_owned())
}

/// False for a file that ends too early or is malformed. sled reports a failed write of another thread as a copy, which has the
/// error of the system as text only.
fn is_of_system(error: &io::Error) -> bool {
    error.raw_os_error().is_some() || error.to_string().contains("Os {")
}

fn index_error(dir: &Path, error: &sled::Error) -> DiskError {
    let is_damage = match error {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => true,
        sled::Error::Io(error) => !is_of_system(error) && !is_locked(error),
        _ => false,
    };
    match is_damage {
        true => damaged(dir, error.to_string()),
        false => DiskError::Index { dir: dir.to_owned(), detail: error.to_string(), damaged: false },
    }
}

#[cfg(test)]
#[path = "../tests/unit/tree.rs"]
mod tests;
