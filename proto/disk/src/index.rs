//! The index: sled, opened safely. It holds what the journal has given it; its own flush makes that durable.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use twinbox_journal::Position;

use crate::{DiskError, Pair, file, leftovers, range::KeyRange, sync};

/// Segment size of the index. A page over a quarter of it would not be synced: see [`crate::MAX_VALUE`].
const SEGMENT: usize = 4 * 1024 * 1024;

/// Cache size of the index, in bytes.
const CACHE: u64 = 64 * 1024 * 1024;

/// Maximum attempts, every 10 ms, to take a lock that threads of this process still hold.
const LOCK_TRIES: u32 = 500;

/// Written before the first flush, to check that it syncs. Removed immediately.
const SELF_TEST: &[u8] = b"\0self-test";

/// An ordered map on disk whose writes become durable at a flush, or earlier. After a power cut each key has its value
/// of the last flush or a later one.
pub(crate) trait Index: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;

    /// The pairs of a range, ascending. Not a snapshot.
    fn range(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>>;

    /// Writes one key, without waiting for the disk; `None` removes it.
    fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError>;

    /// Makes all writes durable that have returned.
    fn flush(&self) -> Result<(), DiskError>;

    /// Writes, apart from the keys, that everything before this position of the journal is in the index now.
    fn note(&self, _position: Position) -> Result<(), DiskError> {
        Ok(())
    }

    /// The last note that the index has.
    fn held(&self) -> Result<Held, DiskError> {
        Ok(Held::Unknown)
    }

    /// The flush at the end of the opening. An index may check more than in [`Self::flush`].
    fn first_flush(&self) -> Result<(), DiskError> {
        self.flush()
    }
}

/// Part of the journal that the index, by its own note, holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// It was written before notes existed, or notes nothing.
    Unknown,
    /// It is empty.
    Nothing,
    /// Everything before this position of the journal.
    UpTo(Position),
}

impl Held {
    /// True when segments before `floor` are gone from the journal and not all of them are in the index: a note is
    /// flushed before the journal lets go. sled takes a damaged end of its log for one that was never written.
    pub(crate) fn lacks(self, floor: u64) -> bool {
        match self {
            Self::Unknown => false,
            Self::Nothing => floor > FIRST_SEGMENT,
            Self::UpTo(position) => position.segment < floor,
        }
    }
}

/// The number of a journal's first segment.
const FIRST_SEGMENT: u64 = 1;

/// The tree of sled that has the note, apart from that of the keys, and the key of the note.
const NOTES: &str = "notes";
const HELD: &[u8] = b"held";

/// sled.
pub(crate) struct SledIndex {
    dir: PathBuf,
    db: sled::Db,
    notes: sled::Tree,
}

impl SledIndex {
    /// Opens sled in the store's directory `dir`; its first flush checks that flushes reach the disk. The store's own
    /// lock is held, so a lock that sled finds is still held by its threads of an earlier opening in this process, and
    /// half-written files of a start are in use by no process.
    pub(crate) fn open(dir: &Path) -> Result<Self, DiskError> {
        let index = dir.join("index");
        if !sync::is_linked() {
            return Err(DiskError::NotSynced { dir: dir.to_owned(), detail: "sync_file_range is the C library's" });
        }
        leftovers::remove(&index)?;
        if index.is_dir() {
            file::list(&index)?.iter().filter(|path| path.is_file()).try_for_each(|path| read_from_disk(path))?;
        }
        let config = sled::Config::new()
            .path(&index)
            .segment_size(SEGMENT)
            .cache_capacity(CACHE)
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
        leftovers::keep(&index)?;
        let notes = guarded(dir, || db.open_tree(NOTES))?;
        Ok(Self { dir: dir.to_owned(), db, notes })
    }

    /// Reads everything: each page has a checksum, which sled verifies.
    pub(crate) fn verify(&self) -> Result<(), DiskError> {
        self.range(&KeyRange::prefix(b"")).try_for_each(|entry| entry.map(drop))
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

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let value = guarded(&self.dir, || self.db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn range(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> {
        Pairs { dir: &self.dir, iter: Some(self.db.range::<&[u8], _>(range.bounds())) }
    }

    // Not `apply_batch`: it takes sled's lock, one for the whole process, for writing, so that every reader of every
    // store waits for it, and it for a flush of any store. A single write takes it for reading.
    fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        let written = guarded(&self.dir, || match value {
            Some(value) => self.db.insert(key, value),
            None => self.db.remove(key),
        });
        written.map(drop)
    }

    fn flush(&self) -> Result<(), DiskError> {
        guarded(&self.dir, || self.db.flush()).map(drop)
    }

    fn note(&self, Position { segment, offset }: Position) -> Result<(), DiskError> {
        let note = [segment.to_be_bytes(), offset.to_be_bytes()].concat();
        guarded(&self.dir, || self.notes.insert(HELD, note)).map(drop)
    }

    fn held(&self) -> Result<Held, DiskError> {
        let Some(note) = guarded(&self.dir, || self.notes.get(HELD))? else {
            let first = self.range(&KeyRange::prefix(b"")).next().transpose()?;
            return Ok(if first.is_none() { Held::Nothing } else { Held::Unknown });
        };
        let number = |at: usize| note.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        match (number(0), number(8)) {
            (Some(segment), Some(offset)) => Ok(Held::UpTo(Position { segment, offset })),
            _ => Ok(Held::Unknown),
        }
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
        file::fsync_dir(&self.dir.join("index"))?;
        file::fsync_dir(&self.dir)
    }
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
    fn index_that_is_behind_the_floor_of_its_journal_lacks_writes() {
        let held = |segment| Held::UpTo(Position { segment, offset: 4_096 });
        for (held, floor, lacks) in [
            (held(5), 5, false),
            (held(6), 5, false),
            (held(4), 5, true),
            (Held::Nothing, 1, false),
            (Held::Nothing, 2, true),
            (Held::Unknown, 9, false),
        ] {
            assert_eq!(held.lacks(floor), lacks, "{held:?} at {floor}");
        }
    }
}
