//! The takes in progress that earlier processes left in the packs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use twinbox_disk::Disk;
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_packs::{Hashed, Kind, Pieces};

use super::take::{MAX_LENGTH, TakeKey};
use crate::{Blobs, StoreError, draft::decode_record, keys};

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

pub(super) fn load(disk: &Disk, blobs: &Blobs) -> Result<Loaded, StoreError> {
    let (packs, floor) = (blobs.packs(), blobs.stored_floor()?);
    let mut loaded = Loaded::default();
    let mut ended: HashSet<TakeKey> = HashSet::new();
    for pack in packs.list().into_iter().filter(|pack| *pack >= floor) {
        let found = match packs.scan(pack) {
            Ok(found) => found,
            // Without the sync that a scan does, the frames that it finds could still be lost (rule A4).
            Err(error) if packs.broken().is_some() => return Err(blobs.failed(error)),
            Err(error) => {
                tracing::error!(pack, %error, "recordings in progress cannot be read; the next start tries again");
                loaded.unreadable.insert(pack);
                continue;
            }
        };
        for frame in found {
            let key = (RecordingId(frame.recording), frame.take);
            match frame.kind {
                Kind::Ended => {
                    // A chunk may come after its take has ended: the order does not matter.
                    loaded.takes.remove(&key);
                    ended.insert(key);
                    loaded.endings.entry(pack).or_default().push(key);
                }
                Kind::Chunk if ended.contains(&key) => {}
                Kind::Chunk if frame.offset.saturating_add(frame.extent.length.into()) <= MAX_LENGTH => {
                    loaded.takes.entry(key).or_default().add(frame.offset, frame.extent);
                }
                Kind::Chunk | Kind::Blob => {}
            }
        }
    }
    // A process that dies between the commit of a filing and the note of its end leaves the take.
    let mut filed = Vec::new();
    for (key, pieces) in &loaded.takes {
        if is_filed(disk, blobs, *key, pieces)? {
            filed.push(*key);
        }
    }
    filed.iter().for_each(|key| drop(loaded.takes.remove(key)));
    loaded.filed = filed;
    Ok(loaded)
}

/// True when all bytes of the take here are a blob that is here, and a record names that blob as the take's. Both conditions are
/// needed. Another take may have the same audio while this one is not filed. A record may name the take for a shorter blob, which
/// another node made of a part of it: the rest must not be lost (rule C2).
fn is_filed(disk: &Disk, blobs: &Blobs, take: TakeKey, pieces: &Pieces) -> Result<bool, StoreError> {
    let whole = 0..pieces.end();
    if !pieces.covers(whole.clone()) {
        return Ok(false);
    }
    let mut hashed = Hashed::default();
    if let Err(error) = hashed.read(blobs.packs(), &pieces.places(whole)) {
        // The take stays in progress; the check for orphan recordings ends it if it was filed.
        tracing::warn!(recording = %take.0, take = take.1, %error, "audio of a recording cannot be read");
        return Ok(false);
    }
    let hash = BlobHash(hashed.hash());
    Ok(blobs.has(&hash) && is_named(disk, &hash, take, usize::MAX)?)
}

/// True when a record names the blob as that of this take, among the first `most` records that name the blob.
pub(super) fn is_named(disk: &Disk, hash: &BlobHash, take: TakeKey, most: usize) -> Result<bool, StoreError> {
    for reference in disk.scan(&keys::references(hash)).take(most) {
        let Some(key) = keys::referring(&reference?.0) else { continue };
        let Some(bytes) = disk.get(&keys::record(&key))? else { continue };
        // An unreadable record names no take: the take stays.
        let Ok(record) = decode_record(&bytes) else { continue };
        if record.blobs().any(|blob| blob.hash == *hash && blob.recording == Some(take)) {
            return Ok(true);
        }
    }
    Ok(false)
}
