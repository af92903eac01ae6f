//! The index in sled, opened safely.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    thread,
    time::Duration,
};

use twinbox_journal::Position;

use crate::{
    DiskError, Pair, Reserve,
    copying::SomeRows,
    file,
    index::{Held, Index, Note},
    leftovers,
    live::RowBytes,
    range::KeyRange,
    replacement,
    runs::Extent,
    sync,
};

/// Segment size of the index. A page over a quarter of it would not be synced: see [`crate::MAX_VALUE`].
const SEGMENT: usize = 4 * 1024 * 1024;

/// Cache size of the index, in bytes, and of a copy that is being written: its rows come in the order of their keys.
const CACHE: u64 = 64 * 1024 * 1024;
const CACHE_OF_COPY: u64 = 8 * 1024 * 1024;

/// Maximum attempts, every 10 ms, to take a lock that threads of this process still hold.
const LOCK_TRIES: u32 = 500;

/// Written before the first flush, to check that it syncs. Removed immediately.
const SELF_TEST: &[u8] = b"\0self-test";

/// The tree of sled that has the notes, apart from that of the keys, and their keys: the position held, the extent of the runs, the
/// bytes of the rows.
const NOTES: &str = "notes";
const HELD: &[u8] = b"held";
const RUNS: &[u8] = b"runs";
const ROWS: &[u8] = b"rows";

/// sled.
pub(crate) struct SledIndex {
    dir: PathBuf,
    /// Replaced by its copy while others read.
    tree: RwLock<Tree>,
    /// The copy that is being made.
    copy: Mutex<Option<Tree>>,
    rows: Mutex<RowBytes>,
    /// [`crate::Options::left_free`]
    left_free: u64,
}

/// An open folder of sled's.
struct Tree {
    db: sled::Db,
    notes: sled::Tree,
}

impl Tree {
    /// Opens the folder `index` of the store in `dir`, with a cache of so many bytes.
    fn open(dir: &Path, index: &Path, cache: u64) -> Result<Self, DiskError> {
        let config = sled::Config::new()
            .path(index)
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
        leftovers::keep(index)?;
        let notes = guarded(dir, || db.open_tree(NOTES))?;
        Ok(Self { db, notes })
    }

    // Not `apply_batch`: it takes sled's lock, one for the whole process, for writing, so that every reader of every
    // store waits for it, and it for a flush of any store. A single write takes it for reading.
    fn write(&self, dir: &Path, key: &[u8], value: Option<&[u8]>) -> Result<Option<sled::IVec>, DiskError> {
        guarded(dir, || match value {
            Some(value) => self.db.insert(key, value),
            None => self.db.remove(key),
        })
    }

    // The runs first: sled keeps its writes in order, so a position is there only with the runs that belong to it.
    fn note(&self, dir: &Path, Note { held, runs }: &Note) -> Result<(), DiskError> {
        if let Some(extent) = runs {
            guarded(dir, || self.notes.insert(RUNS, &extent.to_bytes()))?;
        }
        let Some(Position { segment, offset }) = held else { return Ok(()) };
        let note = [segment.to_be_bytes(), offset.to_be_bytes()].concat();
        guarded(dir, || self.notes.insert(HELD, note)).map(drop)
    }

    fn note_rows(&self, dir: &Path, rows: &RowBytes) -> Result<(), DiskError> {
        let Some(bytes) = rows.all() else { return Ok(()) };
        guarded(dir, || self.notes.insert(ROWS, &bytes.to_be_bytes())).map(drop)
    }
}

impl SledIndex {
    /// Opens sled in the store's directory `dir`; its first flush checks that flushes reach the disk. The store's own
    /// lock is held, so a lock that sled finds is still held by its threads of an earlier opening in this process, and
    /// half-written files of a start are in use by no process.
    pub(crate) fn open(dir: &Path, left_free: u64) -> Result<Self, DiskError> {
        if !sync::is_linked() {
            return Err(DiskError::NotSynced { dir: dir.to_owned(), detail: "sync_file_range is the C library's" });
        }
        replacement::settle(dir)?;
        let index = replacement::index(dir);
        leftovers::remove(&index)?;
        if index.is_dir() {
            file::list(&index)?.iter().filter(|path| path.is_file()).try_for_each(|path| read_from_disk(path))?;
        }
        let tree = Tree::open(dir, &index, CACHE)?;
        let counted = guarded(dir, || tree.notes.get(ROWS))?.and_then(|note| note.as_ref().try_into().ok());
        let rows = counted.map_or_else(RowBytes::none, |bytes| RowBytes::All(u64::from_be_bytes(bytes)));
        let (tree, copy) = (RwLock::new(tree), Mutex::new(None));
        Ok(Self { dir: dir.to_owned(), tree, copy, rows: Mutex::new(rows), left_free })
    }

    /// Reads everything: each page has a checksum, which sled verifies.
    pub(crate) fn verify(&self) -> Result<(), DiskError> {
        self.range(&KeyRange::prefix(b"")).try_for_each(|entry| entry.map(drop))
    }

    fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy(&self) -> MutexGuard<'_, Option<Tree>> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows(&self) -> MutexGuard<'_, RowBytes> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the folder of the copy; the error is the reason against it.
    fn open_copy(&self) -> Result<Tree, String> {
        let rows = self.rows().all().unwrap_or(u64::MAX);
        let free = Reserve::new(&self.dir, 0).space().map_err(|error| error.to_string())?.free;
        let needed = rows.saturating_mul(4).saturating_add(self.left_free);
        if free < needed {
            return Err(format!("{free} bytes are free of {needed} that a copy needs"));
        }
        let next = replacement::next(&self.dir);
        replacement::remove(&next)
            .and_then(|()| Tree::open(&self.dir, &next, CACHE_OF_COPY))
            .map_err(|error| error.to_string())
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let tree = self.tree();
        let value = guarded(&self.dir, || tree.db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn range<'a>(&'a self, range: &KeyRange) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> + use<'a> {
        Pairs { dir: &self.dir, iter: Some(self.tree().db.range::<&[u8], _>(range.bounds())) }
    }

    fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        let before = self.tree().write(&self.dir, key, value)?;
        self.rows().replaced(key, before.map(|before| before.len()), value.map(<[u8]>::len));
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        let tree = self.tree();
        guarded(&self.dir, || tree.db.flush()).map(drop)
    }

    fn note(&self, note: &Note) -> Result<(), DiskError> {
        self.tree().note(&self.dir, note)
    }

    fn noted_runs(&self) -> Result<Option<Extent>, DiskError> {
        let note = {
            let tree = self.tree();
            guarded(&self.dir, || tree.notes.get(RUNS))?
        };
        let Some(note) = note else { return Ok(None) };
        Extent::from_bytes(&note).map(Some).ok_or_else(|| DiskError::Index {
            dir: self.dir.clone(),
            detail: "its note of the runs has no sense".to_owned(),
            damaged: true,
        })
    }

    fn held(&self) -> Result<Held, DiskError> {
        let note = {
            let tree = self.tree();
            guarded(&self.dir, || tree.notes.get(HELD))?
        };
        let Some(note) = note else {
            let first = self.range(&KeyRange::prefix(b"")).next().transpose()?;
            return Ok(if first.is_none() { Held::Nothing } else { Held::Unknown });
        };
        let number = |at: usize| note.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        match (number(0), number(8)) {
            (Some(segment), Some(offset)) => Ok(Held::UpTo(Position { segment, offset })),
            _ => Ok(Held::Unknown),
        }
    }

    fn space(&self) -> Option<(u64, Option<u64>)> {
        let file = fs::metadata(replacement::index(&self.dir).join("db")).ok()?.len();
        Some((file, self.rows().all()))
    }

    fn count(&self) -> Result<(), DiskError> {
        let RowBytes::Before { from, .. } = self.rows().clone() else { return Ok(()) };
        let SomeRows { bytes, next, .. } = SomeRows::of(self, &from)?;
        self.rows().counted(bytes, next);
        Ok(())
    }

    fn note_count(&self) -> Result<(), DiskError> {
        let tree = self.tree();
        tree.note_rows(&self.dir, &self.rows())
    }

    fn begin_copy(&self) -> Result<(), String> {
        *self.copy() = Some(self.open_copy()?);
        Ok(())
    }

    fn write_copy(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        match &*self.copy() {
            Some(copy) => copy.write(&self.dir, key, value).map(drop),
            None => Ok(()),
        }
    }

    // sled writes a snapshot when it opens, and a later opening reads what was written since.
    fn end_copy(&self) -> Result<(), String> {
        let mut copy = self.copy();
        let Some(written) = copy.take() else { return Ok(()) };
        let flushed = guarded(&self.dir, || written.db.flush());
        drop(written);
        let opened = flushed.and_then(|_| Tree::open(&self.dir, &replacement::next(&self.dir), CACHE));
        *copy = Some(opened.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn drop_copy(&self) {
        // Closed before its folder goes.
        drop(self.copy().take());
        if let Err(error) = replacement::remove(&replacement::next(&self.dir)) {
            tracing::warn!(%error, "the copy of the index cannot be removed; the next start removes it");
        }
    }

    fn replace(&self, note: &Note) -> Result<(), DiskError> {
        let Some(to) = self.copy().take() else { return Ok(()) };
        to.note(&self.dir, note)?;
        to.note_rows(&self.dir, &self.rows())?;
        guarded(&self.dir, || to.db.flush())?;
        file::fsync_dir(&replacement::next(&self.dir))?;
        replacement::put_in_place(&self.dir)?;
        // Its last reader closes it.
        let before = std::mem::replace(&mut *self.tree.write().unwrap_or_else(PoisonError::into_inner), to);
        drop(before);
        Ok(())
    }

    fn first_flush(&self) -> Result<(), DiskError> {
        let before = sync::count();
        self.write(SELF_TEST, Some(b"1"))?;
        self.write(SELF_TEST, None)?;
        self.flush()?;
        if sync::count() == before {
            let detail = "a write was flushed and no sync was seen";
            return Err(DiskError::NotSynced { dir: self.dir.clone(), detail });
        }
        file::fsync_dir(&replacement::index(&self.dir))?;
        file::fsync_dir(&self.dir)
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("acquire lock")
}

/// Makes sled read a file from the disk: after a failed sync of an earlier process the page cache may hold what the
/// disk does not (rule A4). What a killed process wrote is synced first.
fn read_from_disk(db: &Path) -> Result<(), DiskError> {
    let file = match File::options().read(true).write(true).open(db) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DiskError::io("open", db, &error)),
    };
    file::sync_data(&file, db)?;
    let dropped = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    dropped.map_err(|error| DiskError::io("drop the cached pages of", db, &error.into()))
}

/// The pairs of a range; an error is the last item.
struct Pairs<'a> {
    dir: &'a Path,
    iter: Option<sled::Iter>,
}

impl Pairs<'_> {
    fn step(
        &mut self,
        step: impl FnOnce(&mut sled::Iter) -> Option<sled::Result<(sled::IVec, sled::IVec)>>,
    ) -> Option<Result<Pair, DiskError>> {
        let iter = self.iter.as_mut()?;
        match guarded(self.dir, || step(iter).transpose()) {
            Ok(pair) => pair.map(|(key, value)| Ok((key.to_vec(), value.to_vec()))),
            Err(error) => {
                self.iter = None;
                Some(Err(error))
            }
        }
    }
}

impl Iterator for Pairs<'_> {
    type Item = Result<Pair, DiskError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Iterator::next)
    }
}

impl DoubleEndedIterator for Pairs<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(DoubleEndedIterator::next_back)
    }
}

/// Runs an operation of sled, which panics at some damage.
fn guarded<R>(dir: &Path, operation: impl FnOnce() -> sled::Result<R>) -> Result<R, DiskError> {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(result) => result.map_err(|error| index_error(dir, &error)),
        Err(_) => Err(panicked(dir)),
    }
}

fn panicked(dir: &Path) -> DiskError {
    let detail = "reading it panicked, its content contradicts itself".to_owned();
    DiskError::Index { dir: dir.to_owned(), detail, damaged: true }
}

fn index_error(dir: &Path, error: &sled::Error) -> DiskError {
    let damaged = match error {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => true,
        // Not from the system: a file that ends too early, or has no sense.
        sled::Error::Io(error) => error.raw_os_error().is_none() && !is_locked(error),
        _ => false,
    };
    DiskError::Index { dir: dir.to_owned(), detail: error.to_string(), damaged }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_leaves_the_space_free_that_it_must() {
        let dir = tempfile::tempdir().expect("a directory");
        let free = Reserve::new(dir.path(), 0).space().expect("the space").free;
        for (left_free, copies) in [(0, true), (free.saturating_mul(2), false), (u64::MAX, false)] {
            let store = dir.path().join(left_free.to_string());
            file::create_dir_durably(&store).expect("a folder");
            let index = SledIndex::open(&store, left_free).expect("an index");
            index.count().expect("a count");
            let begun = index.begin_copy();
            assert_eq!(begun.is_ok(), copies, "{left_free}: {begun:?}");
        }
    }
}
