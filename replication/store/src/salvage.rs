//! Data that a rebuilt store takes from one that cannot be opened; crate `twinbox-rebuild` does it.
//!
//! Changes stand on their own: they are applied as changes of any origin are, and a prefix rises only over changes that are
//! here (rule D1). Of the old index nothing else is used, except the first pack with takes in progress.

use twinbox_disk::{Disk, Pair, Transaction};
use twinbox_ids::BlobHash;
use twinbox_packs::Extent;
use twinbox_replication_core::Change;

use crate::{StoreError, audio, codec, keys, pieces::Row, store::versioned};

/// Prefixes of the keys that are taken.
pub const PREFIXES: [&[u8]; 2] = [keys::LOG, keys::TAKES];

pub use crate::audio::PACKS;

/// A value of the old index, or of its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Salvage {
    /// A change.
    Change(Box<Change>),
    /// The first pack that has bytes of a take in progress.
    Floor(u32),
}

/// Reads a pair; `None` if it is not as a store writes it.
pub fn read((key, value): &Pair) -> Option<Salvage> {
    if key == keys::TAKES {
        return audio::decode_floor(value).ok().map(Salvage::Floor);
    }
    let change = codec::decode_change(value).ok()?;
    (keys::change(change.origin, change.seq) == *key).then(|| Salvage::Change(Box::new(change)))
}

/// Sets the first pack that the first opening scans for takes in progress, unless it is set.
pub fn put_floor(disk: &Disk, floor: u32) -> Result<(), StoreError> {
    Ok(disk.transact_blocking(move |transaction| match transaction.get(keys::TAKES)? {
        Some(_) => Ok::<_, StoreError>(()),
        None => Ok(transaction.put(keys::TAKES, versioned(&floor.to_be_bytes()))?),
    })?)
}

/// Writes the places of audio that was found in the packs, unless the index has places of it. Audio that no record names is
/// removed after the grace, as any other.
pub fn put_audio(disk: &Disk, found: Vec<(BlobHash, Vec<Extent>)>, now_ms: u64) -> Result<(), StoreError> {
    let write = move |transaction: &mut Transaction<'_>| {
        for (hash, places) in found {
            if transaction.get(&keys::blob(&hash))?.is_none() {
                let row = Row::new(places, now_ms);
                transaction.put(keys::blob(&hash), row.encode())?;
                for pack in row.packs() {
                    transaction.put(keys::pack(pack), vec![codec::FORMAT])?;
                }
            }
        }
        Ok::<_, StoreError>(())
    };
    Ok(disk.transact_blocking(write)?)
}
