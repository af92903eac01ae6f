//! Takes over the audio of a release before the packs: the files `blobs/ab/<hash>`, and the takes in `recordings/`: the
//! audio `<id>.<take>`, its pieces in `.map`, and in `.sealed` the blob that the take has become, until it was filed.
//!
//! A file is removed once its content is durable in the packs and, for a blob, its row. Interrupted, this begins again at
//! the next start: what has its row already is not appended again, and chunks that come twice are one.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use twinbox_disk::{Disk, DiskError, Reserve, Transaction, file};
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_packs::{Frame, Kind, PackError};
use twinbox_replication_core::Ranges;

use crate::{
    StoreError,
    blobs::{AudioPacks, append, hash_of, pack_error},
    keys,
    pieces::{self, Row},
    store::versioned,
};

/// Blobs, and about the bytes, that become durable together.
const BATCH: (usize, usize) = (64, 16 * 1024 * 1024);

/// Maximum bytes of a take in one frame.
const PIECE: usize = 256 * 1024;

/// The first bytes of a map, and of a marker before its hash; the last one is the version.
const MAP: [u8; 8] = *b"tbxpart\x01";
const SEALED: [u8; 8] = *b"tbxseal\x01";

/// Offset, length and check of a piece in a map, each 8 bytes with the most significant first.
const ENTRY: usize = 24;

struct Conversion<'a> {
    disk: &'a Disk,
    packs: &'a AudioPacks,
}

/// Takes over the old files in the folder of a store, if there are any, before its blobs and recordings are opened.
pub(crate) fn convert(dir: &Path, disk: &Disk, packs: &AudioPacks) -> Result<(), StoreError> {
    let (blobs, recordings) = (dir.join("blobs"), dir.join("recordings"));
    if !blobs.is_dir() && !recordings.is_dir() {
        return Ok(());
    }
    tracing::info!(dir = %dir.display(), "audio of an earlier release is moved into packs");
    // Without a stored number, packs that are here are those of an interrupted conversion.
    let (conversion, is_first) = (Conversion { disk, packs }, disk.get(keys::TAKES)?.is_none());
    if blobs.is_dir() {
        conversion.blobs(&blobs)?;
    }
    if is_first {
        // A start need not scan the packs before for takes: they have blobs only.
        let next = || packs.list().last().map_or(0, |last| last.saturating_add(1));
        let floor = versioned(&packs.active().unwrap_or_else(next).to_be_bytes());
        disk.transact_blocking(move |transaction| Ok::<_, StoreError>(transaction.put(keys::TAKES, floor)?))?;
    }
    if recordings.is_dir() {
        conversion.takes(&recordings)?;
    }
    Ok(())
}

impl Conversion<'_> {
    fn blobs(&self, dir: &Path) -> Result<(), StoreError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let folders = file::list(dir)?;
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            file::remove_asides(folder)?;
            for path in file::list(folder)? {
                let hash = path.file_name().and_then(|name| name.to_str()?.parse::<BlobHash>().ok());
                let Some(hash) = hash.filter(|_| path.is_file()) else { continue };
                let content = fs::read(&path).map_err(|e| DiskError::io("read", &path, &e))?;
                let mut row = None;
                if self.content(&hash)?.is_none() {
                    if hash_of(&content) != hash {
                        tracing::warn!(path = %path.display(), "audio file is damaged; it stays until a peer sends the audio");
                        continue;
                    }
                    let pieces = append(self.packs, &content).map_err(|e| self.failed(e))?;
                    row = Some(Row::new(pieces, written(&path)?));
                }
                bytes += content.len();
                batch.push((hash, row, path));
                if batch.len() >= BATCH.0 || bytes >= BATCH.1 {
                    bytes = 0;
                    self.write(std::mem::take(&mut batch))?;
                }
            }
        }
        self.write(batch)?;
        // A folder with a file in it stays.
        folders.iter().map(PathBuf::as_path).chain([dir]).for_each(|folder| drop(fs::remove_dir(folder)));
        Ok(())
    }

    /// Makes the rows of a batch durable, and removes its files.
    fn write(&self, batch: Vec<(BlobHash, Option<Row>, PathBuf)>) -> Result<(), StoreError> {
        self.packs.sync().map_err(|e| self.failed(e))?;
        let paths: Vec<PathBuf> = batch.iter().map(|(_, _, path)| path.clone()).collect();
        let put = move |transaction: &mut Transaction<'_>| {
            for (hash, row, _) in &batch {
                row.as_ref().map_or(Ok(()), |row| pieces::put(transaction, hash, row))?;
            }
            Ok::<_, StoreError>(())
        };
        self.disk.transact_blocking(put)?;
        Ok(paths.iter().try_for_each(|path| remove(path))?)
    }

    /// The content of a blob that has a row and is not damaged.
    fn content(&self, hash: &BlobHash) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(bytes) = self.disk.get(&keys::blob(hash))? else { return Ok(None) };
        let row = Row::decode(&bytes)?;
        Ok(row.read(self.packs, &(0..row.length)).ok().filter(|bytes| hash_of(bytes) == *hash))
    }

    fn takes(&self, dir: &Path) -> Result<(), StoreError> {
        let mut takes = BTreeSet::new();
        for path in file::list(dir)? {
            let companion = path.extension().is_some_and(|extension| extension == "map" || extension == "sealed");
            takes.extend(take_of(&if companion { path.with_extension("") } else { path }));
        }
        for (id, take) in &takes {
            let path = dir.join(format!("{id}.{take}"));
            if path.is_file() {
                self.pieces(*id, *take, &path)?;
            } else if let Some(hash) = sealed_blob(&beside(&path, "sealed"))? {
                // It is filed once its incarnation is known to have ended.
                let content = self.content(&hash)?.unwrap_or_default();
                self.chunks(*id, *take, 0, &content)?;
            }
        }
        self.packs.sync().map_err(|e| self.failed(e))?;
        for (id, take) in takes {
            let path = dir.join(format!("{id}.{take}"));
            // The audio last: audio without a map is nothing.
            for path in [&beside(&path, "sealed"), &beside(&path, "map"), &path] {
                remove(path)?;
            }
        }
        file::fsync_dir(dir)?;
        let _ = fs::remove_dir(dir);
        Ok(())
    }

    /// Appends those pieces of a take that the map names, and whose bytes are as they were written.
    fn pieces(&self, id: RecordingId, take: u32, path: &Path) -> Result<(), StoreError> {
        let error = |e: io::Error| DiskError::io("read", path, &e);
        let audio = File::open(path).map_err(error)?;
        let length = audio.metadata().map_err(error)?.len();
        let map = read_if_there(&beside(path, "map"))?;
        let read = |range: &Range<u64>| -> Result<Vec<u8>, DiskError> {
            // No longer than the file, or a frame.
            let mut bytes = vec![0; (range.end - range.start) as usize];
            audio.read_exact_at(&mut bytes, range.start).map(|()| bytes).map_err(error)
        };
        let mut covered = Ranges::new();
        for (range, check) in map.strip_prefix(&MAP).unwrap_or_default().chunks_exact(ENTRY).filter_map(entry) {
            if range.end <= length && self::check(&read(&range)?) == check {
                covered.insert(range);
            }
        }
        for run in covered.iter() {
            for start in run.clone().step_by(PIECE) {
                let bytes = read(&(start..run.end.min(start + PIECE as u64)))?;
                self.chunks(id, take, start, &bytes)?;
            }
        }
        Ok(())
    }

    fn chunks(&self, id: RecordingId, take: u32, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        for (n, payload) in bytes.chunks(PIECE).enumerate() {
            let offset = offset + (n * PIECE) as u64;
            let frame = Frame { kind: Kind::Chunk, recording: id.0, take, offset, payload };
            self.packs.append(&[frame]).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn failed(&self, error: PackError) -> DiskError {
        let free = || Reserve::new(self.disk.dir(), 0).space().map_or(0, |space| space.free);
        pack_error(error, self.disk, free)
    }
}

/// `path` with one more extension.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// The take whose audio the file is, by its name in the one spelling that a store uses.
fn take_of(path: &Path) -> Option<(RecordingId, u32)> {
    let name = path.file_name()?.to_str()?;
    let (id, take) = name.split_once('.')?;
    let key: (RecordingId, u32) = (id.parse().ok()?, take.parse().ok()?);
    (format!("{}.{}", key.0, key.1) == name).then_some(key)
}

/// The blob that a marker names; `None` for one that is missing or half written.
fn sealed_blob(marker: &Path) -> Result<Option<BlobHash>, DiskError> {
    Ok(read_if_there(marker)?.strip_prefix(&SEALED).and_then(|hash| hash.try_into().ok().map(BlobHash)))
}

fn read_if_there(path: &Path) -> Result<Vec<u8>, DiskError> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|e| DiskError::io("read", path, &e)),
    }
}

fn check(piece: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(piece).as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn entry(entry: &[u8]) -> Option<(Range<u64>, u64)> {
    let mut numbers = entry.chunks_exact(8).filter_map(|n| n.try_into().ok()).map(u64::from_be_bytes);
    let (offset, length, check) = (numbers.next()?, numbers.next()?, numbers.next()?);
    Some((offset..offset.checked_add(length)?, check))
}

/// The time of the last write of a file, in milliseconds since 1970.
fn written(path: &Path) -> Result<u64, DiskError> {
    let time = fs::metadata(path).and_then(|meta| meta.modified()).map_err(|e| DiskError::io("read", path, &e))?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Removes a file. A missing file is no error.
fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DiskError::io("remove", path, &e)),
        _ => Ok(()),
    }
}
