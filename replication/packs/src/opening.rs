//! The packs that an earlier process left.

use std::collections::BTreeSet;

use twinbox_journal::Medium;

use crate::{
    PackError,
    folder::{PackFolder, file_name, file_number},
    format::{FirstBlock, first_block, frames},
};

/// The packs in a folder.
pub(crate) struct Survey {
    pub(crate) packs: BTreeSet<u32>,
    /// Number of the next new pack.
    pub(crate) next: u64,
}

/// Lists the packs. Those above `least` at the end that hold nothing are removed: packs that were made ahead, and
/// interrupted creations, which are the newest file of their process. Only these files are read.
pub(crate) fn survey<M: Medium>(folder: &PackFolder<M>, least: u32) -> Result<Survey, PackError> {
    let names = folder.medium.list().map_err(|error| PackError::io("list the folder of", "packs", &error))?;
    let mut packs: BTreeSet<u32> = names.iter().filter_map(|name| file_number(name)).collect();
    let highest = packs.last().copied().unwrap_or_default().max(least);
    while let Some(newest) = packs.last().copied().filter(|newest| *newest > least) {
        let name = file_name(newest);
        match holds_nothing(folder, newest) {
            Ok(true) => {}
            Ok(false) => break,
            // A pack of a later release. All other packs are used as far as they can be read.
            Err(error @ PackError::Version { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(file = name, %error, "newest pack cannot be read as a whole; it stays");
                break;
            }
        }
        if let Err(error) = folder.medium.remove(&name) {
            tracing::warn!(file = name, %error, "unused pack was not removed; the next start tries again");
            break;
        }
        packs.remove(&newest);
    }
    Ok(Survey { packs, next: u64::from(highest) + 1 })
}

/// True when no frame of the pack was ever made durable in it. A file that was used again has those of a removed one.
fn holds_nothing<M: Medium>(folder: &PackFolder<M>, pack: u32) -> Result<bool, PackError> {
    let bytes = folder.bytes(pack, &folder.open(pack)?, u64::MAX)?;
    match header(pack, &bytes)? {
        Header::Valid { nonce } => Ok(frames(&bytes, pack, Some(nonce)).is_empty()),
        Header::OfAnotherPack => Ok(false),
        Header::Missing => Ok(frames(&bytes, pack, None).is_empty()),
    }
}

/// Header of a pack, compared with the name of its file.
pub(crate) enum Header {
    Valid {
        nonce: u32,
    },
    /// The file was renamed or copied: no frame in it is valid under this number.
    OfAnotherPack,
    /// The creation was interrupted, or the header is damaged.
    Missing,
}

/// The header in the bytes of a pack.
pub(crate) fn header(pack: u32, bytes: &[u8]) -> Result<Header, PackError> {
    match first_block(bytes) {
        FirstBlock::Header(header) if header.pack == pack => Ok(Header::Valid { nonce: header.nonce }),
        FirstBlock::Header(_) => Ok(Header::OfAnotherPack),
        FirstBlock::Foreign { version } => Err(PackError::Version { file: file_name(pack), version }),
        FirstBlock::Invalid => Ok(Header::Missing),
    }
}
