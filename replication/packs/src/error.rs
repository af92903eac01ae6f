//! Errors of packs. Each names the file or the pack, and the remedy.

use std::io;

use crate::format::VERSION;

/// An operation on the packs failed. Cloneable: one failed sync fails every caller that waited for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The length of packs is unusable.
    #[error("packs of {pack_bytes} bytes: use a multiple of {} from {least} bytes to 2 GiB", crate::BLOCK)]
    Config {
        /// The length that was asked for.
        pack_bytes: u64,
        /// Minimum length.
        least: u64,
    },
    /// An operation on a file failed. Other packs may work.
    #[error("cannot {what} '{file}': {detail}; check the disk")]
    Io {
        /// The failed operation.
        what: &'static str,
        /// Name of the file; empty for the folder.
        file: String,
        /// Error text of the system.
        detail: String,
    },
    /// A write or sync failed, now or before: this process appends no more frames (rule A4). The frames of an append
    /// or sync that failed may be on the disk or not.
    #[error("the packs of audio refuse writes because one failed ({detail}): check the disk, then restart")]
    Broken {
        /// The first failure.
        detail: String,
    },
    /// There is no room for a new pack. Nothing was appended; a later append may succeed.
    #[error("no room for a new pack of audio ({detail}): free space on the disk")]
    Full {
        /// Error text of the system.
        detail: String,
    },
    /// There is no pack of this number, or its file is missing.
    #[error("there is no pack {pack}: the audio in it is taken from a peer, or is lost")]
    NoPack {
        /// Number of the pack.
        pack: u32,
    },
    /// A payload exceeds [`crate::MAX_PAYLOAD`]. Nothing was appended.
    #[error("a payload of {length} bytes exceeds the limit of {largest}: split it")]
    TooLarge {
        /// Length of the payload in bytes.
        length: usize,
        /// The limit in bytes.
        largest: usize,
    },
    /// The range exceeds the extent.
    #[error("bytes {start} to {end} of a piece of {length} bytes")]
    Range {
        /// First byte that was asked for.
        start: u32,
        /// Byte after the last one that was asked for.
        end: u32,
        /// Length of the extent in bytes.
        length: u32,
    },
    /// The file of a pack ends before the end of the extent: it was cut off.
    #[error("pack {pack} ends before byte {end}: the audio there is taken from a peer, or is lost")]
    Short {
        /// Number of the pack.
        pack: u32,
        /// Offset in the file after the last byte that was asked for.
        end: u64,
    },
    /// The pack is the one that is appended to, so it is not removed.
    #[error("pack {pack} is in use for new audio")]
    Active {
        /// Number of the pack.
        pack: u32,
    },
    /// Another release wrote the file.
    #[error("the pack '{file}' has format {version}, not {}: start the release that wrote it", VERSION)]
    Version {
        /// Name of the file.
        file: String,
        /// Its format.
        version: u32,
    },
    /// All numbers of packs are used up.
    #[error(
        "all numbers of packs are used up: move the folder aside and let the node take its audio from its peers"
    )]
    Exhausted,
}

impl PackError {
    pub(crate) fn io(what: &'static str, file: &str, error: &io::Error) -> Self {
        Self::Io { what, file: file.to_owned(), detail: error.to_string() }
    }
}
