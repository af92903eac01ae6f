//! The index in sled: its rows in blocks, and its copy.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use crate::{
    DiskError, Pair, Reserve,
    block::Write,
    blocks,
    copying::SomeRows,
    file,
    index::{Index, IndexCoverage, Note},
    leftovers,
    live::RowBytes,
    range::{KeyRange, ReadFrom},
    replacement,
    runs::Extent,
    sync,
    tree::{Blocks, Tree, read_from_disk},
};

/// Cache size of the index, in bytes on the disk, and of a copy that is being written: its rows come in the order of their keys. In memory
/// sled takes several times as much.
const CACHE: u64 = 32 * 1024 * 1024;
const CACHE_OF_COPY: u64 = 4 * 1024 * 1024;

/// Bytes of rows of an earlier release that are written together.
const CONVERTED: usize = 1024 * 1024;
/// Bytes that must be free for the conversion beside the length of the file.
const FOR_CONVERSION: u64 = 64 * 1024 * 1024;

/// Written before the first flush, to check that it syncs. Removed immediately.
const SELF_TEST: &[u8] = b"\0self-test";

/// An index in sled.
pub(crate) struct SledIndex {
    dir: Arc<Path>,
    /// Replaced by its copy while others read.
    tree: RwLock<Tree>,
    /// The copy that is being made.
    copy: Mutex<Option<Tree>>,
    rows: Mutex<RowBytes>,
    /// [`crate::Options::left_free`]
    left_free: u64,
    /// This opening has converted it from the format of an earlier release.
    is_converted: bool,
}

impl SledIndex {
    /// Opens sled in the store's directory `dir`; its first flush checks that flushes reach the disk. The store's own
    /// lock is held, so a lock that sled finds is still held by its threads of an earlier opening in this process, and
    /// half-written files of a start are in use by no process.
    pub(crate) fn open(dir: &Path, left_free: u64) -> Result<Self, DiskError> {
        let dir: Arc<Path> = dir.into();
        let mut tree = open_tree(&dir)?;
        let is_converted = !tree.is_in_blocks()?;
        if is_converted {
            tree = convert(&dir, tree)?;
        }
        let rows = Mutex::new(tree.noted_rows()?);
        Ok(Self { dir, tree: RwLock::new(tree), copy: Mutex::new(None), rows, left_free, is_converted })
    }

    /// Reads everything: each page has a checksum, which sled verifies.
    pub(crate) fn verify(&self) -> Result<(), DiskError> {
        self.ascending(&KeyRange::prefix(b"")).try_for_each(|entry| entry.map(drop))
    }

    fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blocks as they are now; they stay open for their reader.
    fn blocks(&self) -> Blocks {
        self.tree().blocks.clone()
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
        self.leaves_free(rows.saturating_mul(4))?;
        let next = replacement::next(&self.dir);
        replacement::remove(&next)
            .and_then(|()| Tree::open(&self.dir, &next, CACHE_OF_COPY))
            .map_err(|error| error.to_string())
    }

    /// Refuses if a copy that takes this many more bytes leaves too few free.
    fn leaves_free(&self, bytes: u64) -> Result<(), String> {
        let free = Reserve::new(&self.dir, 0).space().map_err(|error| error.to_string())?.free;
        let needed = bytes.saturating_add(self.left_free);
        if free < needed { Err(format!("{free} bytes are free of {needed} that a copy needs")) } else { Ok(()) }
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        blocks::get(&self.blocks(), key)
    }

    fn ascending(&self, range: &KeyRange) -> impl Iterator<Item = Result<Pair, DiskError>> + use<> {
        blocks::ascending(&self.blocks(), range)
    }

    fn descending(&self, range: &KeyRange) -> impl Iterator<Item = Result<Pair, DiskError>> + use<> {
        blocks::descending(&self.blocks(), range)
    }

    fn write(&self, rows: &[Write<'_>]) -> Result<(), DiskError> {
        let count = |key: &[u8], before, after| self.rows().replaced(key, before, after);
        blocks::write(&self.blocks(), rows, count)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.tree().flush()
    }

    fn note(&self, note: &Note) -> Result<(), DiskError> {
        self.tree().note(note)
    }

    fn noted_runs(&self) -> Result<Option<Extent>, DiskError> {
        self.tree().noted_runs()
    }

    fn held(&self) -> Result<IndexCoverage, DiskError> {
        self.tree().held()
    }

    fn is_converted(&self) -> bool {
        self.is_converted
    }

    fn space(&self) -> Option<(u64, Option<u64>)> {
        Some((length(&self.dir)?, self.rows().all()))
    }

    fn count(&self) -> Result<(), DiskError> {
        let RowBytes::Before { from, .. } = self.rows().clone() else { return Ok(()) };
        let SomeRows { bytes, next, .. } = SomeRows::of(self, &from)?;
        self.rows().counted(bytes, next);
        Ok(())
    }

    fn note_count(&self) -> Result<(), DiskError> {
        self.tree().note_rows(&self.rows())
    }

    fn begin_copy(&self) -> Result<(), String> {
        *self.copy() = Some(self.open_copy()?);
        Ok(())
    }

    fn write_copy(&self, rows: &[Write<'_>]) -> Result<(), DiskError> {
        let copy = self.copy();
        let Some(copy) = copy.as_ref().filter(|_| !rows.is_empty()) else { return Ok(()) };
        // Other files may have taken the room that was there when the copy began.
        let full = |reason: String| io::Error::new(io::ErrorKind::StorageFull, reason);
        self.leaves_free(0).map_err(|reason| DiskError::io("copy the index in", &*self.dir, &full(reason)))?;
        blocks::write(&copy.blocks, rows, |_, _, _| {})
    }

    // sled writes a snapshot when it opens, and a later opening reads what was written since.
    fn end_copy(&self) -> Result<(), String> {
        let mut copy = self.copy();
        let Some(written) = copy.take() else { return Ok(()) };
        let flushed = written.flush();
        drop(written);
        let opened = flushed.and_then(|()| Tree::open(&self.dir, &replacement::next(&self.dir), CACHE));
        *copy = Some(opened.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn drop_copy(&self) {
        // Closed before its folder is removed.
        drop(self.copy().take());
        if let Err(error) = replacement::remove(&replacement::next(&self.dir)) {
            tracing::warn!(%error, "the copy of the index cannot be removed; the next start removes it");
        }
    }

    fn replace(&self, note: &Note) -> Result<(), DiskError> {
        let Some(to) = self.copy().take() else { return Ok(()) };
        // A process that knows of no runs keeps the note of them.
        to.copy_notes(&self.tree())?;
        to.note(note)?;
        to.note_rows(&self.rows())?;
        to.flush()?;
        file::fsync_dir(&replacement::next(&self.dir))?;
        replacement::put_in_place(&self.dir)?;
        // Its last reader closes it.
        let before = std::mem::replace(&mut *self.tree.write().unwrap_or_else(PoisonError::into_inner), to);
        drop(before);
        Ok(())
    }

    fn first_flush(&self) -> Result<(), DiskError> {
        let before = sync::count();
        self.write(&[(SELF_TEST, Some(b"1"))])?;
        self.write(&[(SELF_TEST, None)])?;
        self.flush()?;
        if sync::count() == before {
            let detail = "a write was flushed and no sync was seen";
            return Err(DiskError::NotSynced { dir: self.dir.to_path_buf(), detail });
        }
        file::fsync_dir(&replacement::index(&self.dir))?;
        file::fsync_dir(&self.dir)
    }
}

/// Length of the file of the index.
fn length(dir: &Path) -> Option<u64> {
    fs::metadata(replacement::index(dir).join("db")).ok().map(|file| file.len())
}

fn open_tree(dir: &Arc<Path>) -> Result<Tree, DiskError> {
    if !sync::is_linked() {
        return Err(DiskError::NotSynced { dir: dir.to_path_buf(), detail: "sync_file_range is the C library's" });
    }
    replacement::settle(dir)?;
    let index = replacement::index(dir);
    if index.is_dir() {
        file::list(&index)?.iter().filter(|path| path.is_file()).try_for_each(|path| read_from_disk(path))?;
    }
    leftovers::remove(&index)?;
    Tree::open(dir, &index, CACHE)
}

/// The index of a store that was set aside, as it is: one of an earlier release is not converted.
pub(crate) struct AsItIs {
    blocks: Blocks,
    is_in_blocks: bool,
    _tree: Tree,
}

impl AsItIs {
    pub(crate) fn open(dir: &Path) -> Result<Self, DiskError> {
        let tree = open_tree(&dir.into())?;
        Ok(Self { blocks: tree.blocks.clone(), is_in_blocks: tree.is_in_blocks()?, _tree: tree })
    }

    pub(crate) fn ascending(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<Pair, DiskError>>> {
        match self.is_in_blocks {
            true => Box::new(blocks::ascending(&self.blocks, range)),
            false => Box::new(self.blocks.entries(range.bounds()).map(|entry| entry.map(to_pair))),
        }
    }

    pub(crate) fn descending(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<Pair, DiskError>>> {
        if self.is_in_blocks {
            return Box::new(blocks::descending(&self.blocks, range));
        }
        let (entries, mut rest) = (self.blocks.clone(), range.clone());
        Box::new(std::iter::from_fn(move || {
            let entry = entries.last_entry(rest.bounds()).transpose()?.map(to_pair);
            if let Ok((key, _)) = &entry {
                rest = rest.rest(ReadFrom::End, key);
            }
            Some(entry)
        }))
    }
}

fn to_pair((key, value): (sled::IVec, sled::IVec)) -> Pair {
    (key.to_vec(), value.to_vec())
}

/// Writes the rows of an index of an earlier release, which had an entry for each, into blocks. A start that is cut in the middle does it
/// again.
fn convert(dir: &Arc<Path>, from: Tree) -> Result<Tree, DiskError> {
    tracing::info!(dir = %dir.display(), "the index of an earlier release is rewritten");
    let needed = length(dir).unwrap_or(0).saturating_add(FOR_CONVERSION);
    let free = Reserve::new(dir, 0).space()?.free;
    if free < needed {
        let reason =
            format!("{free} bytes are free of {needed} that it needs: free space, or start the earlier release");
        let full = io::Error::new(io::ErrorKind::StorageFull, reason);
        return Err(DiskError::io("rewrite the index of an earlier release in", &**dir, &full));
    }
    let next: PathBuf = replacement::next(dir);
    // A failure in the copy is no damage of the index, which the next start finds as it is.
    let of_copy = |error| match error {
        DiskError::Index { dir, detail, .. } => DiskError::Index { dir, detail, damaged: false },
        other => other,
    };
    let to = Tree::open(dir, &next, CACHE_OF_COPY).map_err(of_copy)?;
    let mut entries = from.entries();
    loop {
        let (mut part, mut bytes) = (Vec::new(), 0);
        while bytes < CONVERTED
            && let Some(entry) = entries.next().transpose()?
        {
            bytes += entry.0.len() + entry.1.len();
            part.push(entry);
        }
        if part.is_empty() {
            break;
        }
        let rows: Vec<Write<'_>> = part.iter().map(|(key, value)| (&key[..], Some(&value[..]))).collect();
        blocks::write(&to.blocks, &rows, |_, _, _| {}).map_err(of_copy)?;
    }
    to.copy_notes(&from)?;
    to.flush().map_err(of_copy)?;
    drop((entries, from, to));
    file::fsync_dir(&next)?;
    replacement::put_in_place(dir)?;
    Tree::open(dir, &replacement::index(dir), CACHE)
}

#[cfg(test)]
#[path = "../tests/unit/sled_index.rs"]
mod tests;
