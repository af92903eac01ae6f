//! Audio that is still in the packs when the index that named it is lost: pieces of one recording, or of other audio, that
//! are complete from offset 0 on, under the hash of the whole.
//!
//! Audio that is not found (audio that compaction has joined in several runs, takes with a hole) is fetched from another node, and
//! takes in progress are found by the store itself.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use twinbox_disk::{Disk, DiskError, Folder};
use twinbox_ids::{BlobHash, Timestamp};
use twinbox_packs::{Extent, Found, Kind, PackError, Packs};
use twinbox_replication_store::{
    StoreError,
    salvage::{PACKS, put_audio},
};

/// Maximum number of pieces of audio that is found: their places fit into one value of the index.
const PIECES: usize = 3_000;

/// Rows that are written together.
const TOGETHER: usize = 256;

/// The pieces of a recording's take, or of other audio, by offset.
#[derive(Default)]
struct Group {
    pieces: BTreeMap<u64, Extent>,
    /// The pack of the last piece.
    last: u32,
}

impl Group {
    /// The places of the whole audio; `None` if it has a hole, or its pieces overlap.
    fn places(&self) -> Option<Vec<Extent>> {
        let mut end = 0;
        for (offset, extent) in &self.pieces {
            if *offset != end {
                return None;
            }
            end += u64::from(extent.length);
        }
        (end > 0 && self.pieces.len() <= PIECES).then(|| self.pieces.values().copied().collect())
    }
}

/// A take of a recording, or an identifier of other audio.
type GroupKey = (bool, u128, u32);

struct Search<'a> {
    packs: Packs<Folder>,
    disk: &'a Disk,
    now: Timestamp,
    groups: HashMap<GroupKey, Group>,
    rows: Vec<(BlobHash, Vec<Extent>)>,
    count: u64,
}

/// Writes rows for the audio in the packs of the store in `dir`; returns the number of rows.
pub(crate) fn find(dir: &Path, disk: &Disk, now: Timestamp) -> Result<u64, StoreError> {
    let folder = Folder::open(&dir.join("audio"))?;
    let packs = Packs::open(folder, PACKS, 0).map_err(|error| failed(dir, &error))?;
    let mut search = Search { packs, disk, now, groups: HashMap::new(), rows: Vec::new(), count: 0 };
    for pack in search.packs.list() {
        match search.packs.scan(pack) {
            Ok(found) => search.take(pack, found)?,
            // Without its sync, what it finds could still be lost (rule A4).
            Err(error) if search.packs.broken().is_some() => return Err(failed(dir, &error)),
            Err(error) => tracing::error!(pack, %error, "audio of this pack is taken from the other nodes"),
        }
    }
    for (_, group) in std::mem::take(&mut search.groups) {
        search.end(&group)?;
    }
    search.write()?;
    Ok(search.count)
}

impl Search<'_> {
    fn take(&mut self, pack: u32, found: Vec<Found>) -> Result<(), StoreError> {
        for Found { kind, recording, take, offset, extent } in found {
            let key = (kind == Kind::Blob, recording, take);
            if kind == Kind::Ended {
                if let Some(group) = self.groups.remove(&key) {
                    self.end(&group)?;
                }
                continue;
            }
            let group = self.groups.entry(key).or_default();
            // The first copy of a piece counts: both have the same bytes.
            group.pieces.entry(offset).or_insert(extent);
            group.last = pack;
        }
        // Other audio is appended in one go: what this pack has nothing of has ended.
        let ended = |(key, group): (&GroupKey, &Group)| (key.0 && group.last < pack).then_some(*key);
        let ended: Vec<_> = self.groups.iter().filter_map(ended).collect();
        for key in ended {
            if let Some(group) = self.groups.remove(&key) {
                self.end(&group)?;
            }
        }
        Ok(())
    }

    /// Writes a row for a group to which no more pieces come, if it is whole audio.
    fn end(&mut self, group: &Group) -> Result<(), StoreError> {
        let Some(places) = group.places() else { return Ok(()) };
        let mut hasher = blake3::Hasher::new();
        for place in &places {
            match self.packs.read(*place, 0..place.length) {
                Ok(bytes) => hasher.update(&bytes),
                Err(_) => return Ok(()),
            };
        }
        self.rows.push((BlobHash(*hasher.finalize().as_bytes()), places));
        if self.rows.len() >= TOGETHER { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.count += self.rows.len() as u64;
        put_audio(self.disk, std::mem::take(&mut self.rows), self.now.0)
    }
}

fn failed(dir: &Path, error: &PackError) -> StoreError {
    let path = dir.join("audio");
    DiskError::Io { what: "use", path, kind: std::io::ErrorKind::Other, detail: error.to_string() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_with_a_hole_or_without_its_beginning_is_not_whole() {
        let extent = |length| Extent { pack: 1, offset: 4_096, length };
        for (pieces, whole) in [
            (vec![(0, 10), (10, 5)], true),
            (vec![(0, 10), (11, 5)], false),
            (vec![(0, 10), (9, 5)], false),
            (vec![(10, 5)], false),
            (vec![], false),
        ] {
            let by_offset = pieces.iter().map(|(offset, length)| (*offset, extent(*length)));
            let group = Group { pieces: by_offset.collect(), last: 1 };
            assert_eq!(group.places().is_some(), whole, "{pieces:?}");
        }
    }
}
