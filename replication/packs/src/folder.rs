//! The folder of packs: names of files, new files, and the first failure, after which nothing is written.

use std::{
    io,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

use twinbox_journal::{Blocks, Medium, MediumFile};

use crate::{
    BLOCK, MIN_PACK, PackError,
    ahead::Spare,
    format::{BLOCK_LENGTH, FRAME_HEADER, PackHeader},
};

/// Ending of the names of packs.
const ENDING: &str = ".pack";

/// Maximum length of a pack in bytes: 2 GiB. Offsets in it fit an [`crate::Extent`].
const MAX_PACK: u64 = 1 << 31;

/// Settings of packs.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Length of a new pack's file in bytes: a multiple of [`BLOCK`], at least [`MIN_PACK`], at most 2 GiB.
    pub pack_bytes: u64,
    /// Length up to which new packs become longer while audio fills them within moments; the same bounds apply.
    pub longest_bytes: u64,
    /// Bytes of files of removed packs that are kept for a while to become new packs; 0 for none.
    pub spare_bytes: u64,
}

/// A pack without frames that can be appended to.
pub(crate) struct NewPack<F> {
    pub(crate) number: u32,
    pub(crate) nonce: u32,
    /// Length of its file.
    pub(crate) bytes: u64,
    pub(crate) file: Arc<F>,
}

/// The folder of packs.
pub(crate) struct PackFolder<M: Medium> {
    pub(crate) medium: M,
    pub(crate) config: Config,
    pub(crate) flow: Flow,
    /// The first failed write or sync.
    broken: OnceLock<String>,
}

/// Bytes and syncs that this process has written to packs.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

/// Name of a pack's file.
pub(crate) fn file_name(pack: u32) -> String {
    format!("{pack:08}{ENDING}")
}

/// Number in the name of a pack's file.
pub(crate) fn file_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(ENDING)?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

impl<M: Medium> PackFolder<M> {
    pub(crate) fn new(medium: M, config: Config) -> Result<Self, PackError> {
        let Config { pack_bytes, longest_bytes, spare_bytes: _ } = config;
        for (bytes, least) in [(pack_bytes, MIN_PACK), (longest_bytes, pack_bytes)] {
            if !(least..=MAX_PACK).contains(&bytes) || !bytes.is_multiple_of(BLOCK) {
                return Err(PackError::Config { pack_bytes: bytes, least });
            }
        }
        Ok(Self { medium, config, flow: Flow::default(), broken: OnceLock::new() })
    }

    /// Makes a pack of `bytes` bytes durably.
    pub(crate) fn make(&self, number: u32, bytes: u64, blocks: Blocks) -> Result<NewPack<M::File>, PackError> {
        self.check()?;
        let name = file_name(number);
        let file = match self.medium.create(&name, bytes, blocks) {
            Ok(file) => file,
            Err(error) if is_full(&error) => {
                // Best effort: a file that stays has no header, and the next start removes it.
                let _ = self.medium.remove(&name);
                return Err(PackError::Full { detail: error.to_string() });
            }
            Err(error) => return Err(self.fail("create", &name, &error)),
        };
        self.begin(number, bytes, Arc::new(file))
    }

    /// Makes a pack durably of the file of a removed one, whose frames are invalid under the new number. `None` when that file is
    /// missing, or could not be renamed for lack of room: then it is removed.
    pub(crate) fn reuse(&self, spare: &Spare<M::File>, number: u32) -> Result<Option<NewPack<M::File>>, PackError> {
        self.check()?;
        let (before, file) = (file_name(spare.pack), &spare.file);
        // A crash must not leave the header of one pack under the name of another: an administrator who renames a file may do that.
        let cleared = file.write_at(&[&[0; BLOCK_LENGTH]], 0).and_then(|()| file.sync());
        cleared.map_err(|error| self.fail("clear the header of", &before, &error))?;
        let name = file_name(number);
        match self.medium.rename(&before, &name) {
            Ok(()) => self.begin(number, spare.bytes, Arc::clone(file)).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if is_full(&error) => {
                tracing::debug!(file = before, %error, "file of a removed pack cannot be used again, and is removed");
                // Best effort: one that stays holds a removed pack, or has no header. It may have its new name already.
                for name in [before, name] {
                    let _ = self.medium.remove(&name);
                }
                Ok(None)
            }
            Err(error) => Err(self.fail("rename", &before, &error)),
        }
    }

    /// Writes the header, durably.
    fn begin(&self, number: u32, bytes: u64, file: Arc<M::File>) -> Result<NewPack<M::File>, PackError> {
        let header = PackHeader { pack: number, nonce: rand::random(), bytes };
        let written = file.write_at(&[&header.encode()], 0).and_then(|()| file.sync());
        written.map_err(|error| self.fail("write the header of", &file_name(number), &error))?;
        Ok(NewPack { number, nonce: header.nonce, bytes, file })
    }

    /// Opens a pack for reading.
    pub(crate) fn open(&self, pack: u32) -> Result<M::File, PackError> {
        let name = file_name(pack);
        self.medium.open(&name).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PackError::NoPack { pack },
            _ => PackError::io("open", &name, &error),
        })
    }

    /// The bytes of a pack from its beginning on, at most `limit`.
    pub(crate) fn bytes(&self, pack: u32, file: &M::File, limit: u64) -> Result<Vec<u8>, PackError> {
        let failed = |error: io::Error| PackError::io("read", &file_name(pack), &error);
        let length = file.length().map_err(failed)?.min(limit);
        file.read_new(usize::try_from(length).unwrap_or(usize::MAX), 0).map_err(failed)
    }

    /// The first failure.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// An error once a write or sync has failed.
    pub(crate) fn check(&self) -> Result<(), PackError> {
        match self.broken() {
            None => Ok(()),
            Some(detail) => Err(PackError::Broken { detail: detail.to_owned() }),
        }
    }

    /// Stops all writes: after a failed sync the pages of the file may be lost, and a later success proves nothing.
    pub(crate) fn fail(&self, what: &str, file: &str, error: &io::Error) -> PackError {
        // Before the line of the log, which takes longer: the appender, on another thread, must not write meanwhile.
        let detail = self.broken.get_or_init(|| format!("cannot {what} '{file}': {error}"));
        tracing::error!(file, %error, what, "packs of audio refuse further writes until the next start; check the disk");
        PackError::Broken { detail: detail.clone() }
    }
}

/// True when there is no room for a file, or there are too many open ones: no write has been lost.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Offset of the payload of a frame that begins at `at`. Packs are shorter than 4 GiB.
pub(crate) fn payload_offset(at: u64) -> u32 {
    u32::try_from(at + FRAME_HEADER as u64).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packs_keep_their_numbers_and_other_names_have_none() {
        for number in [1, 99_999_999, 100_000_000, u32::MAX] {
            assert_eq!(file_number(&file_name(number)), Some(number));
        }
        for name in ["1.pack", "00000001", "+0000001.pack", "00000001.pack.old", ".pack", "99999999999.pack"] {
            assert_eq!(file_number(name), None, "{name}");
        }
    }
}
