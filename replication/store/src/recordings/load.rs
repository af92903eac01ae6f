//! The takes in progress that earlier processes left in the packs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use twinbox_disk::Disk;
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_packs::Kind;
use twinbox_replication_core::{Key, Table};

use super::take::{MAX_LENGTH, Pieces, TakeKey};
use crate::{Blobs, StoreError, draft::decode_record, keys, pieces::Row};

/// The state of the recordings at the start.
#[derive(Default)]
pub(super) struct Loaded {
    /// The takes in progress.
    pub(super) takes: BTreeMap<TakeKey, Pieces>,
    /// Takes that a record names and that have no note of their end yet.
    pub(super) filed: Vec<TakeKey>,
    /// Takes with a note of their end, by the pack of the note.
    pub(super) endings: BTreeMap<u32, Vec<TakeKey>>,
    /// Packs that cannot be read now, and may hold takes in progress.
    pub(super) unreadable: BTreeSet<u32>,
}

/// Places of pieces that blobs own, as pack and offset in it.
type Places = HashSet<(u32, u32)>;

pub(super) fn load(disk: &Disk, blobs: &Blobs) -> Result<Loaded, StoreError> {
    let (packs, floor) = (blobs.packs(), blobs.stored_floor()?);
    let mut loaded = Loaded::default();
    let (mut in_blobs, mut ended): (BTreeMap<TakeKey, Places>, HashSet<TakeKey>) = Default::default();
    for pack in packs.list().into_iter().filter(|pack| *pack >= floor) {
        let found = match packs.scan(pack) {
            Ok(found) => found,
            // Without the sync that a scan does, what it finds could still be lost (rule A4).
            Err(error) if packs.broken().is_some() => return Err(blobs.failed(error)),
            Err(error) => {
                tracing::error!(pack, %error, "recordings in progress cannot be read; the next start tries again");
                loaded.unreadable.insert(pack);
                continue;
            }
        };
        // Without them, filed takes may be found again; the check for orphan recordings ends them.
        let owned = blobs.owned(pack).unwrap_or_else(|error| {
            tracing::warn!(pack, %error, "places of blobs cannot be read");
            HashSet::new()
        });
        for frame in found {
            let key = (RecordingId(frame.recording), frame.take);
            match frame.kind {
                Kind::Ended => {
                    // A chunk may come after its take has ended: the order does not matter.
                    loaded.takes.remove(&key);
                    in_blobs.remove(&key);
                    ended.insert(key);
                    loaded.endings.entry(pack).or_default().push(key);
                }
                Kind::Chunk if ended.contains(&key) => {}
                Kind::Chunk if frame.offset.saturating_add(frame.extent.length.into()) <= MAX_LENGTH => {
                    loaded.takes.entry(key).or_default().add(frame.offset, frame.extent);
                    if owned.contains(&frame.extent.offset) {
                        in_blobs.entry(key).or_default().insert((pack, frame.extent.offset));
                    }
                }
                Kind::Chunk | Kind::Blob => {}
            }
        }
    }
    for (key, places) in in_blobs {
        if loaded.takes.contains_key(&key) && is_filed(disk, key, &places)? {
            loaded.takes.remove(&key);
            loaded.filed.push(key);
        }
    }
    Ok(loaded)
}

/// True when a record names the take as the recording of a blob that has these pieces of it. Each part is needed. A blob
/// with these pieces may be named for another take with the same audio, and this one is not filed. A record may name the
/// take for a shorter blob, which another node made of a part of it: the rest must not be lost (rule C2).
fn is_filed(disk: &Disk, take: TakeKey, places: &Places) -> Result<bool, StoreError> {
    let packs: BTreeSet<u32> = places.iter().map(|(pack, _)| *pack).collect();
    for pack in packs {
        for note in disk.scan(&keys::pieces(pack)) {
            let Some((_, hash)) = keys::piece_of(&note?.0) else { continue };
            let Some(bytes) = disk.get(&keys::blob(&hash))? else { continue };
            let Ok(row) = Row::decode(&bytes) else { continue };
            let has_pieces = row.in_pack(pack).any(|piece| places.contains(&(pack, piece.offset)));
            if has_pieces && is_named(disk, &hash, take, usize::MAX)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// True when a record names the blob as that of this take, among the first `most` records that name the blob.
pub(super) fn is_named(disk: &Disk, hash: &BlobHash, take: TakeKey, most: usize) -> Result<bool, StoreError> {
    let prefix = keys::references(hash);
    for reference in disk.scan(&prefix).take(most) {
        let (reference, _) = reference?;
        let Some((table, id)) = reference.get(prefix.len()..).and_then(|key| key.split_first_chunk::<2>()) else {
            continue;
        };
        let key = Key::new(Table(u16::from_be_bytes(*table)), id);
        let Some(bytes) = disk.get(&keys::record(&key))? else { continue };
        // An unreadable record names no take: the take stays.
        let Ok(record) = decode_record(&bytes) else { continue };
        if record.blobs().any(|blob| blob.hash == *hash && blob.recording == Some(take)) {
            return Ok(true);
        }
    }
    Ok(false)
}
