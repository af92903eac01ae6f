//! The blobs with bytes in each pack: compaction asks for them.
//!
//! They are in memory only. On disk they would be a row for each pack that a blob lies in, which were more than a third of all writes
//! while thousands recorded. The price is that the first compaction of a process reads the places of all blobs once.

use std::{collections::HashMap, sync::Mutex};

use twinbox_ids::BlobHash;
use twinbox_packs::frame_bytes;

use super::Blobs;
use crate::{StoreError, keys, pieces::Row, store::lock};

/// The first eight bytes of a hash: which blobs begin with them, and where these lie, say their rows.
type Start = [u8; 8];

#[derive(Default)]
pub(super) struct Contents {
    packs: Mutex<HashMap<u32, Vec<Start>>>,
    /// Held while the rows are read; true once all of them were.
    complete: Mutex<bool>,
}

impl Contents {
    /// A blob has bytes in these packs, or soon will: to be called before its row is visible.
    pub(super) fn add(&self, hash: &BlobHash, row: &Row) {
        let Some(start) = hash.0.first_chunk() else { return };
        let mut packs = lock(&self.packs);
        for pack in row.packs() {
            packs.entry(pack).or_default().push(*start);
        }
    }

    /// The pack is gone. No blob gets bytes in it again.
    pub(super) fn forget(&self, pack: u32) {
        lock(&self.packs).remove(&pack);
    }

    /// Those of a pack, each once, and some that have left it.
    fn of(&self, pack: u32) -> Vec<Start> {
        let mut packs = lock(&self.packs);
        let Some(starts) = packs.get_mut(&pack) else { return Vec::new() };
        starts.sort_unstable();
        starts.dedup();
        starts.clone()
    }
}

impl Blobs {
    /// The blobs with bytes in a pack, and their places. Waits for the disk.
    pub(crate) fn in_pack(&self, pack: u32) -> Result<Vec<(BlobHash, Row)>, StoreError> {
        self.list_contents()?;
        let mut blobs = Vec::new();
        for start in self.0.contents.of(pack) {
            for entry in self.0.disk.scan(&keys::blobs(&start)) {
                let (key, value) = entry?;
                let (Some(hash), row) = (keys::blob_hash(&key), Row::decode(&value)?) else { continue };
                if row.in_pack(pack).next().is_some() {
                    blobs.push((hash, row));
                }
            }
        }
        Ok(blobs)
    }

    /// Reads the places of all blobs, unless that was done. With them it knows the bytes that each pack has at most.
    pub(crate) fn list_contents(&self) -> Result<(), StoreError> {
        let mut complete = lock(&self.0.contents.complete);
        if *complete {
            return Ok(());
        }
        let packs = self.packs().list();
        packs.iter().for_each(|pack| self.0.live.begin(*pack));
        let listed = self.list_rows();
        for pack in packs {
            let live = listed.as_ref().ok().map(|live| live.get(&pack).copied().unwrap_or_default());
            self.0.live.end(pack, live);
        }
        *complete = listed.is_ok();
        listed.map(drop)
    }

    /// Notes each blob at its packs. Returns the bytes of blobs in each pack.
    fn list_rows(&self) -> Result<HashMap<u32, u64>, StoreError> {
        let mut live: HashMap<u32, u64> = HashMap::new();
        for entry in self.0.disk.scan(keys::BLOBS) {
            let (key, value) = entry?;
            // A row that cannot be read may lie in any pack: none goes until it was replaced.
            let (Some(hash), row) = (keys::blob_hash(&key), Row::decode(&value)?) else { continue };
            self.0.contents.add(&hash, &row);
            for piece in &row.pieces {
                *live.entry(piece.pack).or_default() += frame_bytes(piece.length);
            }
        }
        Ok(live)
    }
}
