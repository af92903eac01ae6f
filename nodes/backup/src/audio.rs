//! The audio that all backups of a folder share, by hash, and the list of that of one backup.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use twinbox_ids::BlobHash;

use crate::{
    BackupError,
    place::{BackupPlace, Lock, SharedPlace, UNFINISHED},
};

/// Folder of the audio.
const POOL: &str = "audio";
/// Name of the list in the folder of a backup.
const LIST: &str = "audio.list";
/// First bytes of a list.
const MAGIC: &[u8] = b"TWINBOX AUDIO 1\n";
/// Bytes of an entry: hash and length.
const ENTRY: usize = 40;
/// Maximum length of a piece of audio in bytes: nine hours.
const LARGEST: u64 = 256 << 20;
/// Maximum length of a list in bytes: 26 million pieces of audio.
const LARGEST_LIST: u64 = 1 << 30;
/// Files that are removed together.
const BATCH: usize = 1_000;

/// `audio/ab/<hash>`: the audio that all backups of a folder share.
#[derive(Debug, Clone)]
pub(crate) struct AudioPool {
    place: SharedPlace,
}

impl AudioPool {
    pub(crate) fn at(place: SharedPlace) -> Self {
        Self { place }
    }

    fn path(hash: &BlobHash) -> String {
        format!("{POOL}/{:02x}/{hash}", hash.0[0])
    }

    /// Visits all audio, with its length. The content counts as right: [`Self::read`] verifies it.
    pub(crate) fn visit(&self, mut visitor: impl FnMut(BlobHash, u64)) -> Result<(), BackupError> {
        self.place.visit(POOL, &mut |path, length| {
            if let Some((folder, Ok(hash))) = path.split_once('/').map(|(folder, name)| (folder, name.parse()))
                && is_folder(folder)
                && path == Self::path(&hash).trim_start_matches(POOL).trim_start_matches('/')
            {
                visitor(hash, length);
            }
            Ok(())
        })
    }

    /// Stores audio; in a directory its name is durable after [`Self::settle`].
    pub(crate) fn put(&self, hash: &BlobHash, bytes: Bytes) -> Result<(), BackupError> {
        self.place.put(&Self::path(hash), bytes)
    }

    /// Makes the names of all audio in a list durable: those of earlier backups too, which may have been interrupted.
    /// Fails if audio is not there any more, because another program removed it.
    pub(crate) fn settle(&self, list: &AudioList) -> Result<(), BackupError> {
        let folders: BTreeSet<u8> = list.0.keys().map(|hash| hash.0[0]).collect();
        folders.into_iter().try_for_each(|first| self.place.sync(&format!("{POOL}/{first:02x}")))?;
        self.place.sync(POOL)?;
        let mut wanted = list.0.clone();
        self.visit(|hash, length| {
            if wanted.get(&hash) == Some(&length) {
                wanted.remove(&hash);
            }
        })?;
        match wanted.pop_first() {
            None => Ok(()),
            Some((hash, _)) => Err(BackupError::Vanished(self.place.locate(&Self::path(&hash)))),
        }
    }

    /// Reads audio and verifies it.
    pub(crate) fn read(&self, hash: &BlobHash) -> Result<Bytes, BackupError> {
        let file = Self::path(hash);
        let path = self.place.locate(&file);
        let bytes = self.place.read(&file, LARGEST)?.ok_or_else(|| BackupError::absent(&path))?;
        match *blake3::hash(&bytes).as_bytes() == hash.0 {
            true => Ok(bytes.into()),
            false => Err(BackupError::damaged(
                &path,
                "its content has another hash; remove the file, and the next backup copies it again if a node has it",
            )),
        }
    }

    /// Removes these pieces of audio.
    pub(crate) fn remove<'a>(&self, audio: impl Iterator<Item = &'a BlobHash>) -> Result<(), BackupError> {
        self.place.remove(&audio.map(Self::path).collect::<Vec<_>>())
    }

    /// Removes the audio that is not among `kept`, and audio that was never finished, while the lock holds. Returns number
    /// and bytes. Files and folders of other names stay: they are not ours.
    pub(crate) fn retain(&self, kept: &BTreeSet<BlobHash>, lock: &dyn Lock) -> Result<(u64, u64), BackupError> {
        let (mut count, mut bytes, mut batch) = (0, 0, Vec::new());
        let remove = |batch: &[String]| {
            lock.check()?;
            self.place.remove(batch)
        };
        self.place.visit(POOL, &mut |path, length| {
            let Some((folder, name)) = path.split_once('/') else { return Ok(()) };
            if is_folder(folder) && is_useless(name, kept) {
                batch.push(format!("{POOL}/{path}"));
                count += 1;
                bytes += length;
            }
            if batch.len() >= BATCH {
                remove(&std::mem::take(&mut batch))?;
            }
            Ok(())
        })?;
        remove(&batch)?;
        Ok((count, bytes))
    }
}

/// True for the name of a folder of the pool: two hexadecimal digits.
fn is_folder(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// True for the name of audio that is not among `kept`, and of audio that was never finished.
fn is_useless(name: &str, kept: &BTreeSet<BlobHash>) -> bool {
    match name.split_once('.') {
        None => name.parse::<BlobHash>().is_ok_and(|hash| !kept.contains(&hash)),
        Some((hash, _)) => hash.parse::<BlobHash>().is_ok() && name.ends_with(UNFINISHED),
    }
}

/// The audio of one backup: hashes with lengths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AudioList(pub(crate) BTreeMap<BlobHash, u64>);

impl AudioList {
    /// Writes the list into a backup's folder. Returns its hash.
    pub(crate) fn write(&self, place: &dyn BackupPlace, dir: &str) -> Result<String, BackupError> {
        let mut bytes = Vec::with_capacity(MAGIC.len() + self.0.len() * ENTRY);
        bytes.extend_from_slice(MAGIC);
        for (hash, length) in &self.0 {
            bytes.extend_from_slice(&hash.0);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        let hash = blake3::hash(&bytes).to_string();
        place.put(&format!("{dir}/{LIST}"), bytes.into())?;
        Ok(hash)
    }

    /// Reads the list of a backup, whose hash the manifest has.
    pub(crate) fn read(place: &dyn BackupPlace, dir: &str, hash: &str) -> Result<Self, BackupError> {
        let file = format!("{dir}/{LIST}");
        let path = place.locate(&file);
        let bytes = place.read(&file, LARGEST_LIST)?.ok_or_else(|| BackupError::absent(&path))?;
        if blake3::hash(&bytes).to_string() != hash {
            return Err(BackupError::damaged(&path, "its content has another hash than the manifest says"));
        }
        let shape = || BackupError::damaged(&path, "it is not a list of audio");
        let (entries, rest) = bytes.strip_prefix(MAGIC).ok_or_else(shape)?.as_chunks::<ENTRY>();
        if !rest.is_empty() {
            return Err(shape());
        }
        let read = |entry: &[u8; ENTRY]| {
            let (hash, length) = entry.split_first_chunk::<32>()?;
            Some((BlobHash(*hash), u64::from_be_bytes(length.try_into().ok()?)))
        };
        Ok(Self(entries.iter().map(read).collect::<Option<_>>().ok_or_else(shape)?))
    }

    /// Bytes of all audio.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().sum()
    }
}
