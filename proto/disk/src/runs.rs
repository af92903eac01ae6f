//! Rows that are written once, in about the order of their keys, and removed oldest first: a log that is kept as rows. They go
//! into append-only files beside the index, in sorted runs. In the index such a row costs about three times its bytes, and its
//! removal as much work as its writing.
//!
//! The applier writes them, as it writes the index, and a checkpoint makes both durable. Blocks behind the end that
//! the last checkpoint noted do not count: the journal has their rows.

mod block;
mod buckets;
mod opening;
mod reading;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use twinbox_journal::{Blocks, Medium, MediumFile};

use self::{
    block::Entry,
    buckets::{BlockPlace, Buckets},
};
use crate::{DiskError, verify};

pub(crate) use self::opening::salvage;

/// Sizes, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// The values of a block, apart from its last one, at most.
    pub(crate) block: usize,
    /// Bounds of the length of a file, which is an eighth of all files before it.
    pub(crate) shortest: u64,
    pub(crate) longest: u64,
    /// Dead bytes, in excess of the live bytes, at which rows are moved out of the oldest file.
    pub(crate) slack: u64,
    /// Rows that one checkpoint moves, about.
    pub(crate) moved: u64,
}

impl Sizes {
    /// The sizes of a store.
    pub(crate) const USUAL: Self =
        Self { block: 256 * 1024, shortest: MIB, longest: 16 * MIB, slack: 16 * MIB, moved: 16 * MIB };
}

const MIB: u64 = 1024 * 1024;

/// The rows that go into runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Their keys begin with this.
    pub prefix: &'static [u8],
    /// The length of each of these keys, longer than the prefix.
    pub key_length: usize,
}

/// The files of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The first file: those before it are not needed.
    pub(crate) first: u32,
    /// The last file, and the place in it where its blocks end.
    pub(crate) last: u32,
    pub(crate) end: u32,
    /// The number of the last block.
    pub(crate) block: u64,
}

impl Extent {
    /// Encoding in the note of a checkpoint.
    pub(crate) fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let parts = [self.first, self.last, self.end].into_iter().flat_map(u32::to_be_bytes);
        bytes.iter_mut().zip(parts.chain(self.block.to_be_bytes())).for_each(|(place, byte)| *place = byte);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, block) = bytes.split_last_chunk::<8>()?;
        let &[first, last, end] = numbers.as_chunks::<4>().0 else { return None };
        let [first, last, end] = [first, last, end].map(u32::from_be_bytes);
        Some(Self { first, last, end, block: u64::from_be_bytes(*block) })
    }
}

/// The runs of a store.
pub(crate) struct Runs<M: Medium> {
    dir: PathBuf,
    medium: M,
    prefix: &'static [u8],
    /// Length of the keys without their last byte.
    stem_length: usize,
    sizes: Sizes,
    state: RwLock<State<M::File>>,
    writer: Mutex<Writer>,
}

struct State<F> {
    buckets: Buckets,
    files: BTreeMap<u32, Arc<F>>,
}

/// The place of the next block, known to the one thread that writes.
struct Writer {
    /// The last file with blocks: its number, its length if this process began it, and the end of its blocks.
    file: u32,
    length: Option<u64>,
    end: u64,
    /// The number of the next file.
    next: u32,
    /// Files that were found and are not of the last checkpoint.
    unneeded: Vec<u32>,
    /// The number of the last block.
    block: u64,
    /// Files with unsynced blocks.
    unsynced: Vec<u32>,
    /// A block could not be read to be moved: this process moves no further ones.
    moves_nothing: bool,
}

fn file_name(number: u32) -> String {
    format!("{number:08}.run")
}

impl<M: Medium> Runs<M> {
    /// Writes rows, in the order of their keys, without waiting for the disk; `None` removes one. Readers see them afterwards.
    pub(crate) fn append(&self, rows: &[(&[u8], Option<&[u8]>)]) -> Result<(), DiskError> {
        let mut writer = self.writer();
        for rows in rows.chunk_by(|(left, _), (right, _)| stem(left) == stem(right)) {
            self.append_to_bucket(&mut writer, rows)?;
        }
        Ok(())
    }

    /// Writes those of the rows that are not there: a start replays what the last one replayed, too.
    pub(crate) fn append_new(&self, rows: &[(&[u8], Option<&[u8]>)]) -> Result<(), DiskError> {
        for rows in rows.chunk_by(|(left, _), (right, _)| stem(left) == stem(right)) {
            let Some(stem) = rows.first().and_then(|(key, _)| stem(key)) else { continue };
            // Rows that cannot be read are written again.
            let Ok(known) = self.read_rows(&self.blocks_of(stem), &(0..=u8::MAX)) else {
                self.append(rows)?;
                continue;
            };
            let is_new = |(key, value): &&(&[u8], Option<&[u8]>)| {
                let known = split(key).and_then(|(_, last)| known.get(&last));
                known.map(Vec::as_slice) != *value
            };
            let new: Vec<_> = rows.iter().filter(is_new).copied().collect();
            self.append(&new)?;
        }
        Ok(())
    }

    /// Writes rows of one bucket.
    fn append_to_bucket(&self, writer: &mut Writer, rows: &[(&[u8], Option<&[u8]>)]) -> Result<(), DiskError> {
        let Some((bucket, _)) = rows.first().and_then(|(key, _)| split(key)) else { return Ok(()) };
        let block: Vec<_> = {
            let state = self.state();
            let known = state.buckets.get(bucket);
            let needed = rows.iter().filter_map(|(key, value)| Some((split(key)?.1, *value)));
            // A row that is not there need not be removed.
            needed.filter(|(last, value)| value.is_some() || known.is_some_and(|rows| rows.has(*last))).collect()
        };
        for rows in parts(&block, self.sizes.block) {
            let (entries, place) = self.write_block(writer, bucket, rows)?;
            self.state_mut().buckets.add_block(bucket, &entries, place);
        }
        Ok(())
    }

    /// Writes a block that readers do not see yet.
    fn write_block(
        &self,
        writer: &mut Writer,
        stem: &[u8],
        rows: &[(u8, Option<&[u8]>)],
    ) -> Result<(Vec<Entry>, BlockPlace), DiskError> {
        let mut bytes = Vec::new();
        block::encode(&mut bytes, writer.block + 1, stem, rows);
        let length = bytes.len() as u64;
        if writer.length.is_none_or(|file| writer.end + length > file) {
            self.begin_file(writer, length)?;
        }
        let Some(file) = self.file(writer.file) else { return Err(self.damaged("its last file is gone")) };
        file.write_at(&[&bytes], writer.end).map_err(|error| self.failed("write", writer.file, &error))?;
        let entries: Vec<Entry> = rows.iter().map(|(last, value)| (*last, value.map(<[u8]>::len))).collect();
        let place = BlockPlace::new(writer.file, writer.end as u32, length as u32, &entries);
        (writer.end, writer.block) = (writer.end + length, writer.block + 1);
        if writer.unsynced.last() != Some(&writer.file) {
            writer.unsynced.push(writer.file);
        }
        Ok((entries, place))
    }

    /// Begins a file with room for a block of this length; a short one if the disk has no room for another.
    fn begin_file(&self, writer: &mut Writer, block: u64) -> Result<(), DiskError> {
        let number = writer.next;
        let usual = (self.state().buckets.space().length / 8)
            .next_power_of_two()
            .clamp(self.sizes.shortest, self.sizes.longest);
        let created = [usual, self.sizes.shortest].into_iter().map(|length| {
            let length = length.max(block.next_multiple_of(4096));
            (self.medium.create(&file_name(number), length, Blocks::Reserved), length)
        });
        let mut error = None;
        for (file, length) in created {
            match file {
                Ok(file) => {
                    let mut state = self.state_mut();
                    state.buckets.add_file(number, length);
                    state.files.insert(number, Arc::new(file));
                    (writer.file, writer.length, writer.end) = (number, Some(length), 0);
                    writer.next = number + 1;
                    return Ok(());
                }
                Err(failure) => {
                    let is_full = is_full(failure.kind());
                    // The name may be taken by now.
                    let _ = self.medium.remove(&file_name(number));
                    error = Some(self.failed("create", number, &failure));
                    if !is_full {
                        break;
                    }
                }
            }
        }
        Err(error.unwrap_or_else(|| self.damaged("no file was begun")))
    }

    /// Moves live rows out of the oldest file when more than half of all bytes are dead: only the oldest files can be removed,
    /// since a removal counts as long as an older file has the row.
    pub(crate) fn tidy(&self) -> Result<(), DiskError> {
        let mut writer = self.writer();
        let mut moved = 0;
        while moved < self.sizes.moved && !writer.moves_nothing {
            let space = self.state().buckets.space();
            let Some(oldest) = self.state().buckets.first_needed() else { return Ok(()) };
            if oldest == writer.file || space.length - space.live <= space.live + self.sizes.slack {
                return Ok(());
            }
            let stems = self.state().buckets.stems_in(oldest);
            if stems.is_empty() {
                return Ok(());
            }
            for stem in stems {
                match self.move_bucket(&mut writer, &stem) {
                    Ok(bytes) => moved += bytes,
                    // It stays as it is: neither a failed read nor a full disk breaks a store.
                    Err(DiskError::Io { kind, .. }) if is_full(kind) => return Ok(()),
                    Err(error) if !matches!(error, DiskError::Io { what: "write", .. }) => {
                        tracing::warn!(dir = %self.dir.display(), %error, "rows cannot be moved to a newer file");
                        writer.moves_nothing = true;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Writes the live rows of a bucket to the newest file; their bytes. Readers find them in the old place or in the new one.
    fn move_bucket(&self, writer: &mut Writer, stem: &[u8]) -> Result<u64, DiskError> {
        let rows = self.read_rows(&self.blocks_of(stem), &(0..=u8::MAX))?;
        let rows: Vec<_> = rows.iter().map(|(last, value)| (*last, Some(value.as_slice()))).collect();
        let written = parts(&rows, self.sizes.block).map(|rows| self.write_block(writer, stem, rows));
        let written: Vec<_> = written.collect::<Result<_, _>>()?;
        let mut state = self.state_mut();
        state.buckets.drop_blocks(stem);
        for (entries, place) in written {
            state.buckets.add_block(stem, &entries, place);
        }
        Ok(rows.iter().map(|(_, value)| value.map_or(0, <[u8]>::len) as u64).sum())
    }

    /// Makes everything durable that was written. The files before the first one of the extent can be removed once the extent
    /// itself is durable; `None` when no row was ever written.
    pub(crate) fn sync(&self) -> Result<Option<Extent>, DiskError> {
        let mut writer = self.writer();
        for number in std::mem::take(&mut writer.unsynced) {
            let Some(file) = self.file(number) else { continue };
            file.sync().map_err(|error| DiskError::sync(self.path(number), &error))?;
        }
        let Some(first) = self.state().buckets.first_needed() else { return Ok(None) };
        Ok(Some(Extent { first, last: writer.file, end: writer.end as u32, block: writer.block }))
    }

    /// Removes the files that are not of this durable extent. One that cannot be removed is left to the next start.
    pub(crate) fn release(&self, extent: &Extent) {
        let gone = {
            let mut state = self.state_mut();
            let kept = state.files.split_off(&extent.first);
            state.buckets.forget_before(extent.first);
            std::mem::replace(&mut state.files, kept)
        };
        // The oldest first: what is left after a kill is a whole end of the log.
        let unneeded = std::mem::take(&mut self.writer().unneeded);
        for number in gone.into_keys().chain(unneeded) {
            if let Err(error) = self.medium.remove(&file_name(number)) {
                tracing::warn!(file = %self.path(number).display(), %error, "file that is not needed stays");
            }
        }
    }

    /// Length of all files.
    pub(crate) fn length(&self) -> u64 {
        self.state().buckets.space().length
    }

    /// Whether a key is one of these rows'.
    pub(crate) fn takes(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix)
    }

    /// The beginning of their keys.
    pub(crate) fn prefix(&self) -> &'static [u8] {
        self.prefix
    }

    fn file(&self, number: u32) -> Option<Arc<M::File>> {
        self.state().files.get(&number).cloned()
    }

    fn path(&self, number: u32) -> PathBuf {
        folder(&self.dir).join(file_name(number))
    }

    fn failed(&self, what: &'static str, number: u32, error: &io::Error) -> DiskError {
        DiskError::io(what, self.path(number), error)
    }

    fn damaged(&self, detail: &str) -> DiskError {
        damaged(&self.dir, detail)
    }

    fn state(&self) -> RwLockReadGuard<'_, State<M::File>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State<M::File>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows in parts of about this many bytes.
fn parts<'a, 'b>(
    mut rows: &'a [(u8, Option<&'b [u8]>)],
    most: usize,
) -> impl Iterator<Item = &'a [(u8, Option<&'b [u8]>)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let reaches = |(_, value): &(u8, Option<&[u8]>)| {
            bytes += value.map_or(0, <[u8]>::len);
            bytes >= most
        };
        let length = rows.iter().position(reaches).map_or(rows.len(), |last| last + 1);
        let (part, rest) = rows.split_at(length);
        rows = rest;
        (!part.is_empty()).then_some(part)
    })
}

/// No room on the disk, or none for this user.
fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The folder of the files in a store's directory.
pub(crate) fn folder(dir: &Path) -> PathBuf {
    dir.join("runs")
}

fn damaged(dir: &Path, detail: &str) -> DiskError {
    verify::damaged(dir, format!("its runs: {detail}"))
}

/// Bucket and last byte of a key.
fn split(key: &[u8]) -> Option<(&[u8], u8)> {
    key.split_last().map(|(last, stem)| (stem, *last))
}

fn stem(key: &[u8]) -> Option<&[u8]> {
    split(key).map(|(stem, _)| stem)
}
