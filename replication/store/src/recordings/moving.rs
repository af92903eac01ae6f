//! Moving takes in progress out of a pack that compaction is to remove.

use twinbox_packs::{Extent, Frame, Kind};

use super::{
    Shared,
    take::{Stage, TakeKey, TakeState},
};
use crate::{StoreError, blobs::Appending};

/// A piece of a take that was copied to another pack.
pub(super) struct MovedPiece {
    pub(super) key: TakeKey,
    /// Offset in the take.
    pub(super) offset: u64,
    pub(super) from: Extent,
    pub(super) to: Extent,
}

/// Durable copies of the pieces of takes in a pack.
pub(super) struct Moved {
    pub(super) pack: u32,
    pub(super) pieces: Vec<MovedPiece>,
    /// Ended takes whose note was written again, with its new pack.
    pub(super) endings: Vec<(TakeKey, u32)>,
    /// Held until the index names the copies.
    pub(super) appending: Appending,
}

impl Shared {
    /// Copies the pieces of takes in a pack, and the notes of ended takes, and makes the copies durable. Pieces that a
    /// blob has, or is about to have, stay.
    pub(super) fn copy_from(&self, pack: u32) -> Result<Moved, StoreError> {
        self.writable()?;
        let floor = self.blobs.stored_floor()?;
        let (found, ended) = {
            let index = self.index();
            let mut found = Vec::new();
            let is_there = |take: &TakeState| take.pieces.bytes_in(pack) > 0 && self.may_move(take);
            for (key, take) in index.takes.iter().filter(|(_, take)| is_there(take)) {
                let pieces = take.pieces.iter().filter(|(_, extent)| extent.pack == pack);
                found.extend(pieces.map(|(offset, extent)| (*key, offset, extent)));
            }
            (found, index.endings_in(pack, floor).to_vec())
        };
        let (packs, failed) = (self.blobs.packs(), |error| self.blobs.failed(error));
        let appending = self.blobs.appending(None);
        let mut pieces = Vec::with_capacity(found.len());
        for (key, offset, from) in found {
            let payload = packs.read(from, 0..from.length).map_err(failed)?;
            let (kind, recording, take) = (Kind::Chunk, key.0.0, key.1);
            let copy =
                packs.append(&[Frame { kind, recording, take, offset, payload: &payload }]).map_err(failed)?;
            pieces.extend(copy.into_iter().map(|to| MovedPiece { key, offset, from, to }));
        }
        let notes: Vec<_> = ended.iter().map(ending).collect();
        let notes = packs.append(&notes).map_err(failed)?;
        let endings = ended.into_iter().zip(notes).map(|(key, note)| (key, note.pack)).collect();
        self.blobs.sync()?;
        Ok(Moved { pack, pieces, endings, appending })
    }

    /// False while the places of a take's pieces are also those of a blob without a row.
    pub(super) fn may_move(&self, take: &TakeState) -> bool {
        match take.stage {
            Stage::Open => true,
            Stage::Sealing(_) => false,
            Stage::Sealed(hash) => !self.blobs.is_loose(&hash),
        }
    }
}

/// The note that a take has ended.
pub(super) fn ending(key: &TakeKey) -> Frame<'static> {
    Frame { kind: Kind::Ended, recording: key.0.0, take: key.1, offset: 0, payload: &[] }
}
