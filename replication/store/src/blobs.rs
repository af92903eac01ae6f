//! Blobs: immutable files named by their hash.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use twinbox_clock::BootInstant;
use twinbox_disk::{Disk, DiskError, Need, Reserve, file};
use twinbox_ids::BlobHash;
use twinbox_replication_core::BlobRef;

use crate::{StoreError, purge, store::lock};

/// A blob that was stored, sent, or found for a change is not removed for this time: the change that names it may be on
/// its way (rule D9). The grace of the purge is for all longer times.
const PINNED: Duration = Duration::from_secs(3_600);

/// Number of pins from which on expired ones are removed.
const MANY_PINS: usize = 1_024;

/// The blobs of this node. A blob that is here is complete and durable.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    disk: Disk,
    reserve: Reserve,
    /// Blobs whose name may be there before it is durable: being stored, or left half-way by a failed attempt.
    unsettled: Mutex<HashSet<BlobHash>>,
    uses: Mutex<Uses>,
    /// Notified when the removal of a file has ended.
    removed: Condvar,
}

/// Blobs that must not be removed now, and those that are being removed. A blob is in one of them at most.
#[derive(Default)]
struct Uses {
    pinned: HashMap<BlobHash, BootInstant>,
    /// Number of pins at which expired ones are removed next.
    prune_at: usize,
    removing: HashSet<BlobHash>,
}

/// The time of a pin. Only a build for tests accepts a grace of less than a day, and its pins end with the grace.
fn pin_time(grace: Duration) -> Duration {
    if cfg!(debug_assertions) { PINNED.min(grace) } else { PINNED }
}

impl Uses {
    fn pin(&mut self, hash: &BlobHash) {
        self.pinned.insert(*hash, BootInstant::now());
        if self.pinned.len() >= self.prune_at.max(MANY_PINS) {
            self.pinned.retain(|_, since| since.elapsed() < PINNED);
            self.prune_at = self.pinned.len().saturating_mul(2);
        }
    }

    fn is_pinned(&self, hash: &BlobHash, grace: Duration) -> bool {
        self.pinned.get(hash).is_some_and(|since| since.elapsed() < pin_time(grace))
    }
}

impl Blobs {
    /// Opens the directory: 256 folders by the first byte of the hash, all made now so that no blob waits for one.
    /// Makes existing names durable: a process that was killed may have left a name unsynced.
    pub(crate) fn open(dir: &Path, disk: Disk, reserve: Reserve) -> Result<Self, StoreError> {
        file::create_dir_durably(dir)?;
        let mut made = false;
        for byte in 0..=u8::MAX {
            let folder = dir.join(format!("{byte:02x}"));
            match fs::create_dir(&folder) {
                Ok(()) => made = true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    file::remove_asides(&folder)?;
                    if !file::list(&folder)?.is_empty() {
                        file::fsync_dir(&folder)?;
                    }
                }
                Err(e) => return Err(DiskError::io("create directory", folder, &e).into()),
            }
        }
        if made {
            file::fsync_dir(dir)?;
        }
        let (unsettled, uses, removed) = Default::default();
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), disk, reserve, unsettled, uses, removed })))
    }

    /// True when the blob is here, durably.
    pub fn has(&self, hash: &BlobHash) -> bool {
        // In this order: a name that came before the second check was noted as unsettled before it came.
        self.path(hash).is_file()
            && !lock(&self.0.unsettled).contains(hash)
            && !lock(&self.0.uses).removing.contains(hash)
    }

    /// As [`Self::has`], for a caller that relies on the answer: a blob that is here stays for an hour, even if no record
    /// names it.
    pub fn keep(&self, hash: &BlobHash) -> bool {
        let mut uses = lock(&self.0.uses);
        if uses.removing.contains(hash) {
            return false;
        }
        uses.pin(hash);
        drop(uses);
        self.has(hash)
    }

    /// Keeps a blob that is about to be stored; waits for the end of a removal of its file.
    fn keep_new(&self, hash: &BlobHash) {
        let mut uses = lock(&self.0.uses);
        while uses.removing.contains(hash) {
            uses = self.0.removed.wait(uses).unwrap_or_else(PoisonError::into_inner);
        }
        uses.pin(hash);
    }

    /// Removes the file of a blob unless it is in use, or `is_named` once no caller can take it in use. Returns its length;
    /// `None` if it stays. A reader that has the file open reads on.
    pub(crate) fn remove_unless(
        &self,
        hash: &BlobHash,
        grace: Duration,
        is_named: impl FnOnce() -> Result<bool, StoreError>,
    ) -> Result<Option<u64>, StoreError> {
        self.writable()?;
        {
            let mut uses = lock(&self.0.uses);
            if uses.is_pinned(hash, grace) || !uses.removing.insert(*hash) {
                return Ok(None);
            }
        }
        let removed = is_named().and_then(|named| match named {
            true => Ok(None),
            false => self.remove(hash).map(Some),
        });
        lock(&self.0.uses).removing.remove(hash);
        self.0.removed.notify_all();
        removed
    }

    fn remove(&self, hash: &BlobHash) -> Result<u64, StoreError> {
        let path = self.path(hash);
        let error = |e: io::Error| DiskError::io("remove", &path, &e);
        let length = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            found => found.map_err(error)?.len(),
        };
        // Not synced: if the name comes back after a power cut, it is found as an orphan.
        fs::remove_file(&path).map_err(error)?;
        Ok(length)
    }

    /// The time of the last write of a blob's file, in milliseconds since 1970.
    pub(crate) fn written(&self, hash: &BlobHash) -> Result<u64, StoreError> {
        Ok(purge::written(&self.path(hash))?)
    }

    /// The path of the blob, whether it is here or not: `blobs/ab/abcd…`.
    pub fn path(&self, hash: &BlobHash) -> PathBuf {
        self.folder(hash).join(hash.to_string())
    }

    pub(crate) fn folder(&self, hash: &BlobHash) -> PathBuf {
        self.0.dir.join(format!("{:02x}", hash.0[0]))
    }

    /// The length of a blob in bytes.
    pub fn length(&self, hash: &BlobHash) -> Result<u64, StoreError> {
        let path = self.path(hash);
        fs::metadata(&path).map(|meta| meta.len()).map_err(|e| read_error(hash, &path, &e))
    }

    /// A complete blob, whose hash is verified.
    pub async fn read(&self, hash: &BlobHash) -> Result<Bytes, StoreError> {
        let (path, hash) = (self.path(hash), *hash);
        blocking(move || {
            let mut bytes = Vec::new();
            let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
            read.map_err(|e| read_error(&hash, &path, &e))?;
            if hash_of(&bytes) == hash { Ok(bytes.into()) } else { Err(StoreError::Corrupt(hash)) }
        })
        .await
    }

    /// A part of a blob, not verified: the caller that joins the parts verifies the whole.
    pub async fn read_range(&self, hash: &BlobHash, range: Range<u64>) -> Result<Bytes, StoreError> {
        let (path, hash) = (self.path(hash), *hash);
        blocking(move || {
            let file = File::open(&path).map_err(|e| read_error(&hash, &path, &e))?;
            read_at(&file, &path, range)
        })
        .await
    }

    /// Stores bytes as a blob, durable when this resolves.
    pub async fn put(&self, bytes: Bytes) -> Result<BlobRef, StoreError> {
        let blobs = self.clone();
        blocking(move || {
            let hash = hash_of(&bytes);
            blobs.store(hash, &bytes)
        })
        .await
    }

    /// Stores bytes that a peer sent as the blob `expected`; refused if their hash differs. Replaces a damaged blob.
    pub async fn put_as(&self, expected: BlobHash, bytes: Bytes) -> Result<BlobRef, StoreError> {
        let blobs = self.clone();
        blocking(move || match hash_of(&bytes) {
            found if found == expected => blobs.store(found, &bytes),
            found => Err(StoreError::WrongBlob { expected, found }),
        })
        .await
    }

    fn store(&self, hash: BlobHash, bytes: &[u8]) -> Result<BlobRef, StoreError> {
        let blob = BlobRef { hash, length: bytes.len() as u64, recording: None };
        self.keep_new(&hash);
        // The name is there only once the content was durable; but the disk may have corrupted it since.
        let whole = fs::read(self.path(&hash)).is_ok_and(|found| found == bytes);
        if whole && self.has(&hash) {
            return Ok(blob);
        }
        self.writable()?;
        if whole {
            // The writer of the file may still be about to sync the directory.
            self.settle(&hash, || file::fsync_dir(&self.folder(&hash)))?;
        } else {
            self.0.reserve.check(Need::Data(blob.length))?;
            self.settle(&hash, || file::write_durably(&self.folder(&hash), &hash.to_string(), bytes))?;
        }
        Ok(blob)
    }

    /// Makes a file of the same file system, whose content has this hash, a blob.
    pub(crate) fn adopt(&self, from: &Path, content: &File, hash: &BlobHash) -> Result<(), StoreError> {
        self.writable()?;
        self.keep_new(hash);
        self.settle(hash, || {
            file::sync_data(content, from).and_then(|()| file::rename_durably(from, &self.path(hash)))
        })
    }

    /// Makes a blob's name durable by `work`; until that has succeeded the blob is not here ([`Self::has`]). The first
    /// of several concurrent calls that succeeds settles the blob: the rename of another replaces it by the same
    /// content.
    fn settle(&self, hash: &BlobHash, work: impl FnOnce() -> Result<(), DiskError>) -> Result<(), StoreError> {
        lock(&self.0.unsettled).insert(*hash);
        self.sync_failed_breaks(work())?;
        lock(&self.0.unsettled).remove(hash);
        Ok(())
    }

    fn writable(&self) -> Result<(), StoreError> {
        match self.0.disk.broken() {
            None => Ok(()),
            Some(detail) => Err(DiskError::Broken { detail: detail.to_owned() }.into()),
        }
    }

    /// A failed sync breaks the whole store (rule A4); a file that merely could not be created does not.
    fn sync_failed_breaks(&self, result: Result<(), DiskError>) -> Result<(), StoreError> {
        if let Err(error @ DiskError::Sync { .. }) = &result {
            self.0.disk.mark_broken(&error.to_string());
        }
        Ok(result?)
    }
}

pub(crate) fn hash_of(bytes: &[u8]) -> BlobHash {
    BlobHash(*blake3::hash(bytes).as_bytes())
}

/// Reads a range that must lie within the file.
pub(crate) fn read_at(file: &File, path: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
    let error = |e: io::Error| DiskError::io("read", path, &e);
    let length = file.metadata().map_err(error)?.len();
    if range.start > range.end || range.end > length {
        return Err(StoreError::NotThere { range });
    }
    // The range lies within a file, so it fits in memory if the caller asked for a sensible one. Never allocates more
    // than the length of the file.
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, range.start).map_err(error)?;
    Ok(bytes.into())
}

fn read_error(hash: &BlobHash, path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::NoBlob(*hash),
        _ => DiskError::io("read", path, error).into(),
    }
}

/// Runs work that waits for the disk off the async runtime.
pub(crate) async fn blocking<R: Send + 'static>(
    f: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    tokio::task::spawn_blocking(f).await.unwrap_or(Err(StoreError::Closed))
}
