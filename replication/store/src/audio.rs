//! The folder of packs, which has all audio of a store, and the search for missing audio.

use std::path::Path;

use twinbox_disk::{Disk, Folder, Reserve};
use twinbox_packs::{Config, Packs};
use twinbox_replication_core::{BlobRef, Key};

use crate::{
    Store, StoreError,
    blobs::{AudioPacks, pack_error},
    codec::DecodeError,
    draft::decode_record,
    keys,
    state::behind,
    store::unversioned,
};

/// Lengths of packs: the shortest are two minutes of sixteen calls; the longest, when a thousand and more are recorded, are bounded
/// by what a start reads (see `SCANNED` in `compact.rs`). Making one costs three syncs, one behind the other.
pub const PACKS: Config =
    Config { pack_bytes: 16 * 1024 * 1024, longest_bytes: 64 * 1024 * 1024, spare_bytes: 128 * 1024 * 1024 };

/// A part ends with the record that brings it to this many named blobs, here or not, of 64 bytes each. They are looked up, fetched and
/// stored in the order of the index: the more of them, the more have a neighbour in the same block.
const PART: usize = 262_144;

/// Audio that a part of the records name and that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingAudio {
    /// The blobs, each once in a part, ascending by hash.
    pub blobs: Vec<BlobRef>,
    /// The last record of the part; `None` when no part follows.
    pub upto: Option<Key>,
    /// Deleted records of the part name audio; present ones, in a list of deleted ones.
    pub others: bool,
}

impl Store {
    /// The next part of the audio that present records name and that is not here: behind the record `after`, or from the first
    /// record on. With `deleted`, that of deleted records instead, which may be lost for good. May read all records: not for a
    /// thread that serves calls.
    pub fn missing_audio(&self, deleted: bool, after: Option<&Key>) -> Result<MissingAudio, StoreError> {
        let (mut blobs, mut upto, mut others) = (Vec::new(), None, false);
        for row in self.disk().scan_range(&behind(after), keys::RECORDS_END) {
            let (row, value) = row?;
            // An unreadable record is set aside when it comes (rule R11), and does not hold up the others.
            let Ok(record) = decode_record(&value) else { continue };
            if record.is_deleted() != deleted {
                others |= record.blobs().next().is_some();
                continue;
            }
            blobs.extend(record.blobs().copied());
            upto = keys::record_key(&row).filter(|_| blobs.len() >= PART);
            if upto.is_some() {
                break;
            }
        }
        blobs.sort_unstable_by_key(|blob| blob.hash);
        blobs.dedup_by_key(|blob| blob.hash);
        self.blobs().retain_missing(&mut blobs);
        Ok(MissingAudio { blobs, upto, others })
    }
}

/// Opens the packs of the store in `dir`.
pub(crate) fn open_packs(dir: &Path, disk: &Disk, reserve: &Reserve) -> Result<AudioPacks, StoreError> {
    let folder = Folder::open(&dir.join("audio"))?;
    let packs = Packs::open(folder, PACKS, highest_pack(disk)?);
    packs.map_err(|error| pack_error(error, disk, || reserve.space().map_or(0, |space| space.free)).into())
}

/// The highest pack that the index names, whether it is still there or not: new audio must not get the number of lost
/// audio, nor one that a start does not scan for takes in progress.
fn highest_pack(disk: &Disk) -> Result<u32, StoreError> {
    let last = disk.scan_range(keys::PACKS, keys::PACKS_END).next_back().transpose()?;
    let named = last.and_then(|(key, _)| keys::pack_of(&key)).unwrap_or(0);
    Ok(named.max(stored_floor(disk)?))
}

/// The first pack that a start must scan for takes in progress, as last stored.
pub(crate) fn stored_floor(disk: &Disk) -> Result<u32, StoreError> {
    disk.get(keys::TAKES)?.map_or(Ok(0), |bytes| decode_floor(&bytes))
}

pub(crate) fn decode_floor(bytes: &[u8]) -> Result<u32, StoreError> {
    let what = "the first pack with takes in progress";
    let invalid = |_| StoreError::Format { what, source: DecodeError::Invalid("length") };
    Ok(u32::from_be_bytes(unversioned(bytes, what)?.try_into().map_err(invalid)?))
}
