//! The index: sled, opened safely. It holds what the journal has given it; its own flush makes that durable.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

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

    /// The flush at the end of the opening. An index may check more than in [`Self::flush`].
    fn first_flush(&self) -> Result<(), DiskError> {
        self.flush()
    }
}

/// sled.
pub(crate) struct SledIndex {
    dir: PathBuf,
    db: sled::Db,
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
        read_from_disk(&index.join("db"))?;
        let config = sled::Config::new()
            .path(&index)
            .segment_size(SEGMENT)
            .cache_capacity(CACHE)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        let mut tries = 0;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                Err(sled::Error::Io(e)) if tries < LOCK_TRIES && e.to_string().contains("acquire lock") => {
                    tries += 1;
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(index_error(dir, &error)),
            }
        };
        leftovers::keep(&index)?;
        Ok(Self { dir: dir.to_owned(), db })
    }
}

/// Makes sled read its file from the disk: after a failed sync of an earlier process the page cache may hold what the
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
        let value = self.db.get(key).map_err(|error| index_error(&self.dir, &error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn range(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> {
        self.db.range::<&[u8], _>(range.bounds()).map(move |entry| match entry {
            Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
            Err(error) => Err(index_error(&self.dir, &error)),
        })
    }

    // Not `apply_batch`: it takes sled's lock, one for the whole process, for writing, so that every reader of every
    // store waits for it, and it for a flush of any store. A single write takes it for reading.
    fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        let written = match value {
            Some(value) => self.db.insert(key, value),
            None => self.db.remove(key),
        };
        written.map(|_| ()).map_err(|error| index_error(&self.dir, &error))
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.db.flush().map(|_| ()).map_err(|error| index_error(&self.dir, &error))
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

fn index_error(dir: &Path, error: &sled::Error) -> DiskError {
    DiskError::Index { dir: dir.to_owned(), detail: error.to_string() }
}
