//! A take in progress on disk: the audio at its offsets, and a separate map of the pieces.
//!
//! `<id>.<take>` is the audio, which becomes the blob by a rename. `<id>.<take>.map` has an entry for each written
//! piece: offset, length and the first bytes of its hash. After a power cut a piece counts only if the audio still has
//! that hash, regardless of the state of either file.
//!
//! `<id>.<take>.sealed` names the blob that the take has become, until a change that names it is durable. Without it, a
//! process that dies between sealing and filing would leave a blob that no record names. With it, the next incarnation
//! finds the take in progress again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use twinbox_disk::DiskError;
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_replication_core::Ranges;

use crate::Blobs;

/// A take of a recording.
pub(super) type TakeKey = (RecordingId, u32);

/// The filler of a hole when an incomplete take is sealed: silence in µ-law, quiet in A-law.
const HOLE: u8 = 0xff;

/// The largest accepted recording, in bytes: 18 hours of G.711. An offset beyond it is a mistake, and would make a file
/// that cannot be read.
pub(super) const MAX_LENGTH: u64 = 512 * 1024 * 1024;

/// The map's first bytes; the last one is the version.
const MAGIC: [u8; 8] = *b"tbxpart\x01";

/// The marker's first bytes, before the hash; the last one is the version.
const SEALED: [u8; 8] = *b"tbxseal\x01";

/// Offset, length and check of a piece, each 8 bytes with the most significant first.
const ENTRY: usize = 24;

pub(super) struct Part {
    path: PathBuf,
    /// Closed while no chunk comes: an orphan may stay here for days, and descriptors are scarce.
    files: Option<Files>,
    /// A chunk came since [`Self::close_idle`] was last called.
    busy: bool,
    pub(super) covered: Ranges,
    /// The length of the file.
    end: u64,
    /// Hash of the audio up to `hashed`, without a gap.
    hasher: blake3::Hasher,
    hashed: u64,
    /// The first write that failed: later chunks are not here, and the take cannot be sealed.
    pub(super) failed: Option<DiskError>,
}

struct Files {
    audio: File,
    /// Only appended to.
    map: File,
}

impl Part {
    pub(super) fn create(dir: &Path, key: TakeKey) -> Result<Self, DiskError> {
        let path = path(dir, key);
        let mut files = Files::open(&path, true)?;
        files.map.write_all(&MAGIC).map_err(|e| DiskError::io("write", map_path(&path), &e))?;
        Ok(Self::new(path, files))
    }

    fn new(path: PathBuf, files: Files) -> Self {
        let (covered, hasher) = (Ranges::new(), blake3::Hasher::new());
        Self { path, files: Some(files), busy: true, covered, end: 0, hasher, hashed: 0, failed: None }
    }

    /// A take that an earlier process left. Its files are closed until another chunk comes.
    pub(super) fn load(dir: &Path, key: TakeKey) -> Result<Self, DiskError> {
        let path = path(dir, key);
        let map_path = map_path(&path);
        let Files { audio, mut map } = Files::open(&path, false)?;
        let error = |e: io::Error| DiskError::io("read", &map_path, &e);
        let mut bytes = Vec::new();
        map.read_to_end(&mut bytes).map_err(error)?;
        let (entries, whole) = match bytes.strip_prefix(&MAGIC) {
            Some(entries) => (entries, MAGIC.len() + entries.len() / ENTRY * ENTRY),
            // The power failed before the first bytes were stored: the audio is unknown.
            None => (&[][..], 0),
        };
        // Later entries go behind the last complete one.
        map.set_len(whole as u64).map_err(error)?;
        if whole == 0 {
            map.write_all(&MAGIC).map_err(error)?;
        }
        let end = audio.metadata().map_err(|e| DiskError::io("read", &path, &e))?.len();
        let mut part = Self { end, ..Self::new(path, Files { audio, map }) };
        for (range, check) in entries.chunks_exact(ENTRY).filter_map(parse_entry) {
            // A piece that is missing or damaged is not here: a peer may still have it.
            if part.read(range.clone()).is_ok_and(|piece| self::check(&piece) == check) {
                part.covered.insert(range);
            }
        }
        part.catch_up()?;
        part.files = None;
        Ok(part)
    }

    /// Closes the files when no chunk came since the last call; the next chunk opens them again.
    pub(super) fn close_idle(&mut self) {
        if !std::mem::take(&mut self.busy) {
            self.files = None;
        }
    }

    fn files(&mut self) -> Result<&mut Files, DiskError> {
        self.busy = true;
        match &mut self.files {
            Some(files) => Ok(files),
            closed => Ok(closed.insert(Files::open(&self.path, false)?)),
        }
    }

    /// The audio, to become a blob.
    pub(super) fn take_audio(&mut self) -> Result<(PathBuf, File), DiskError> {
        let files = match self.files.take() {
            Some(files) => files,
            None => Files::open(&self.path, false)?,
        };
        Ok((self.path.clone(), files.audio))
    }

    /// Adds a chunk. Bytes that are here already are not written again.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        // A failure to open the files again damages nothing: this chunk is missing, later ones may succeed.
        self.files()?;
        let written = self.write_gaps(offset, bytes);
        if let Err(error) = &written {
            self.failed = Some(error.clone());
        }
        written
    }

    fn write_gaps(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        for gap in self.covered.gaps(offset..offset.saturating_add(bytes.len() as u64)) {
            let slice = (gap.start - offset) as usize..(gap.end - offset) as usize;
            let Some(piece) = bytes.get(slice) else { continue };
            let written = self.files()?.audio.write_all_at(piece, gap.start);
            written.map_err(|e| DiskError::io("write", &self.path, &e))?;
            self.end = self.end.max(gap.end);
            let written = self.files()?.map.write_all(&entry(&gap, piece));
            written.map_err(|e| DiskError::io("write", map_path(&self.path), &e))?;
            // In order, the usual case: the bytes need not be read again.
            if gap.start == self.hashed {
                self.hasher.update(piece);
                self.hashed = gap.end;
            }
            self.covered.insert(gap);
        }
        self.catch_up()
    }

    /// Hashes the bytes that have become contiguous.
    fn catch_up(&mut self) -> Result<(), DiskError> {
        const STEP: u64 = 64 * 1024;
        let end = self.covered.run_end(0);
        while self.hashed < end {
            let next = end.min(self.hashed + STEP);
            let piece = self.read(self.hashed..next)?;
            self.hasher.update(&piece);
            self.hashed = next;
        }
        Ok(())
    }

    fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, DiskError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.files()?.audio.read_exact_at(&mut bytes, range.start);
        read.map(|()| bytes).map_err(|e| DiskError::io("read", &self.path, &e))
    }

    /// Joins the pieces up to the last byte that is here, and fills the holes. Returns the hash and the length.
    pub(super) fn join(&mut self) -> Result<(BlobHash, u64), DiskError> {
        let length = self.covered.end();
        for gap in self.covered.gaps(0..length) {
            tracing::warn!(path = %self.path.display(), from = gap.start, to = gap.end, "gap in a recording filled with silence");
            let silence = vec![HOLE; (gap.end - gap.start) as usize];
            self.write(gap.start, &silence)?;
        }
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.cut(length)?;
        Ok((BlobHash(*self.hasher.finalize().as_bytes()), length))
    }

    /// Makes the file exactly the first `length` bytes, if all are here and have the hash `expected`; else leaves it as
    /// it is.
    pub(super) fn assemble(&mut self, length: u64, expected: &BlobHash) -> Result<bool, DiskError> {
        if self.failed.is_some() || !self.covered.covers(0..length) {
            return Ok(false);
        }
        let hash =
            if length == self.hashed { self.hasher.finalize() } else { blake3::hash(&self.read(0..length)?) };
        let same = hash.as_bytes() == &expected.0;
        if same {
            self.cut(length)?;
        }
        Ok(same)
    }

    /// Cuts off the bytes beyond `length`: pieces that were not filed, or whose write was torn.
    fn cut(&mut self, length: u64) -> Result<(), DiskError> {
        if self.end > length {
            self.files()?.audio.set_len(length).map_err(|e| DiskError::io("cut", &self.path, &e))?;
            self.end = length;
        }
        Ok(())
    }
}

pub(super) fn path(dir: &Path, (id, take): TakeKey) -> PathBuf {
    dir.join(format!("{id}.{take}"))
}

pub(super) fn map_path(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".map");
    path.into()
}

pub(super) fn marker_path(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".sealed");
    path.into()
}

/// The take whose audio the file is, by its name.
pub(super) fn take_of(path: &Path) -> Option<TakeKey> {
    let (id, take) = path.file_name()?.to_str()?.split_once('.')?;
    let key = (id.parse().ok()?, take.parse().ok()?);
    // Only the canonical spelling: not 007 for 7.
    (self::path(Path::new(""), key).to_str() == Some(&format!("{id}.{take}"))).then_some(key)
}

/// Records the blob that a take is about to become.
pub(super) fn mark_sealed(path: &Path, hash: &BlobHash) -> Result<(), DiskError> {
    let marker = marker_path(path);
    let content = [&SEALED[..], &hash.0].concat();
    fs::write(&marker, content).map_err(|e| DiskError::io("write", marker, &e))
}

/// Restores a take that was sealed and not filed. False when there is nothing to restore.
pub(super) fn unseal(path: &Path, blobs: &Blobs) -> Result<bool, DiskError> {
    let Some(hash) = sealed_blob(&marker_path(path))?.filter(|hash| blobs.has(hash) && !path.exists()) else {
        return Ok(false);
    };
    // A copy, never a link: chunks may still come, and must not change the blob.
    fs::copy(blobs.path(&hash), path).map(|_| true).map_err(|e| {
        let _ = fs::remove_file(path);
        DiskError::io("bring back", path, &e)
    })
}

/// The blob that a marker names; `None` for one that was half written, or removed meanwhile.
pub(super) fn sealed_blob(marker: &Path) -> Result<Option<BlobHash>, DiskError> {
    match fs::read(marker) {
        Ok(content) => Ok(content.strip_prefix(&SEALED).and_then(|hash| hash.try_into().ok().map(BlobHash))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(DiskError::io("read", marker, &e)),
    }
}

/// Removes a take's files. A missing file is no error.
pub(super) fn remove(path: &Path) -> Result<(), DiskError> {
    // The audio last: audio without a map is found and removed at the next start.
    for path in [&marker_path(path), &map_path(path), path] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(DiskError::io("remove", path, &e)),
            _ => {}
        }
    }
    Ok(())
}

impl Files {
    fn open(audio: &Path, new: bool) -> Result<Self, DiskError> {
        let open = |options: &mut OpenOptions, path: &Path| {
            let opened = options.read(true).create_new(new).open(path);
            opened.map_err(|e| DiskError::io(if new { "create" } else { "open" }, path, &e))
        };
        Ok(Self {
            audio: open(File::options().write(true), audio)?,
            map: open(File::options().append(true), &map_path(audio))?,
        })
    }
}

fn check(piece: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(piece).as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn entry(range: &Range<u64>, piece: &[u8]) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    let numbers = [range.start, range.end - range.start, check(piece)];
    for (bytes, number) in entry.chunks_exact_mut(8).zip(numbers) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
    entry
}

fn parse_entry(entry: &[u8]) -> Option<(Range<u64>, u64)> {
    let mut numbers = entry.chunks_exact(8).filter_map(|n| n.try_into().ok()).map(u64::from_be_bytes);
    let (offset, length, check) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let end = offset.checked_add(length).filter(|end| *end <= MAX_LENGTH)?;
    Some((offset..end, check))
}
