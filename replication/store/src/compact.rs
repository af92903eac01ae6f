//! Compaction: removed audio stays in its pack until the pack is removed. A pack without live audio is removed; from a pack
//! that is less than half full of live audio, the rest is moved first.
//!
//! A pack is removed only when no row, loose blob, take or append in progress has bytes in it, and each moved row is
//! durable, as its copy was before it (rules A4, D9).

use twinbox_clock::BootInstant;
use twinbox_disk::{Transaction, Urgency};
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_packs::{Extent, Frame, Kind, MAX_PAYLOAD, frame_bytes};

use crate::{
    Store, StoreError,
    blobs::{Blobs, blocking},
    keys,
    pieces::Row,
    store::IN_A_TRANSACTION,
};

/// The newest packs stay as they are: their audio is young, and much of it may still be removed.
const NEWEST: usize = 2;

/// A start reads the packs from the first with a take in progress on: takes behind this many packs are moved to the newest.
const SCANNED: usize = 16;

/// Blobs whose copies are synced together.
const AT_A_TIME: usize = 64;

/// The extent of a compaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactedPacks {
    /// Packs that were removed.
    pub removed: u64,
    /// Bytes of audio that were moved to other packs.
    pub moved_bytes: u64,
    /// Bytes of the packs that were removed.
    pub freed_bytes: u64,
}

/// Bytes of a pack that are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Live {
    /// Bytes of frames with parts of blobs.
    blobs: u64,
    /// Bytes of takes in progress.
    takes: u64,
}

/// Blobs with their places.
type Rows = Vec<(BlobHash, Row)>;

impl Live {
    const NONE: Self = Self { blobs: 0, takes: 0 };
}

impl Store {
    /// Frees space of removed audio: looks at `limit` packs from number `cursor` on, and advances `cursor`; after the last pack
    /// it begins again. Packs of which too little was removed since the last look are passed over, except one each minute. Callers
    /// take turns. After an error the next call continues behind the pack that caused it.
    pub async fn compact(&self, cursor: &mut u32, limit: usize) -> Result<CompactedPacks, StoreError> {
        let _turn = self.purge_counts().compacting.lock().await;
        let packs = self.blobs().packs().list();
        let far = packs.len().checked_sub(SCANNED).and_then(|place| packs.get(place)).copied().unwrap_or(0);
        for _ in 0..limit {
            let Some(first) = self.blobs().floor().filter(|first| *first < far) else { break };
            if !self.blobs().has_room() {
                break;
            }
            if let Err(error) = self.recordings().move_from(first).await {
                // A take that cannot be read keeps its own pack, and no other.
                tracing::warn!(pack = first, %error, "recordings in progress cannot be moved to a newer pack");
                break;
            }
        }
        let (store, from) = (self.clone(), *cursor);
        let (turn, packs) = blocking(move || {
            store.blobs().list_contents()?;
            let (mut packs, bounds) = (store.packs_from(from), store.blobs().live_bounds());
            let turn = bounds.next_turn(&store.packs_from(0), BootInstant::now());
            let used = |pack| store.blobs().packs().used(pack);
            packs.retain(|pack| turn != Some(*pack) && bounds.may_be_sparse(*pack, used(*pack)));
            Ok((turn, packs))
        })
        .await?;
        let mut compacted = CompactedPacks::default();
        for pack in turn.iter().chain(packs.iter().take(limit)) {
            *cursor = pack.saturating_add(1);
            let CompactedPacks { removed, moved_bytes, freed_bytes } = self.compact_pack(*pack).await?;
            compacted.removed += removed;
            compacted.moved_bytes += moved_bytes;
            compacted.freed_bytes += freed_bytes;
        }
        if packs.len() <= limit {
            *cursor = 0;
        }
        Ok(compacted)
    }

    /// The packs that [`Self::compact`] looks at from this number on.
    pub fn packs_from(&self, cursor: u32) -> Vec<u32> {
        let (mut packs, active) = (self.blobs().packs().list(), self.blobs().packs().active());
        packs.truncate(packs.len().saturating_sub(NEWEST));
        packs.retain(|pack| *pack >= cursor && Some(*pack) != active);
        packs
    }

    async fn compact_pack(&self, pack: u32) -> Result<CompactedPacks, StoreError> {
        let mut compacted = CompactedPacks::default();
        let store = self.clone();
        let Some((live, rows)) = blocking(move || store.count_live_in(pack)).await? else { return Ok(compacted) };
        if live != Live::NONE {
            let sparse = live.blobs.saturating_add(live.takes).saturating_mul(2) < self.blobs().packs().used(pack);
            if !sparse || !self.blobs().has_room() {
                return Ok(compacted);
            }
            let store = self.clone();
            compacted.moved_bytes = blocking(move || store.move_blobs(pack, &rows)).await?;
            if live.takes > 0 {
                self.recordings().move_from(pack).await?;
                compacted.moved_bytes += live.takes;
            }
        }
        let (store, used) = (self.clone(), self.blobs().packs().used(pack));
        if blocking(move || store.remove_pack(pack)).await? {
            (compacted.removed, compacted.freed_bytes) = (1, used);
        }
        Ok(compacted)
    }

    /// As [`Self::live_in`]; the pack is counted again when enough of them may have been removed.
    fn count_live_in(&self, pack: u32) -> Result<Option<(Live, Rows)>, StoreError> {
        let bounds = self.blobs().live_bounds();
        bounds.begin(pack);
        let live = self.live_in(pack);
        let known = live.as_ref().ok().and_then(Option::as_ref);
        bounds.end(pack, known.map(|(live, _)| live.blobs.saturating_add(live.takes)));
        live
    }

    /// The live bytes of a pack, and the blobs with bytes in it; `None` while some audio has no row yet, or may be unknown. Audio
    /// passes from an append to a take, to a loose blob, to a row, and enters each before it leaves the one before: in this order,
    /// none is missed.
    fn live_in(&self, pack: u32) -> Result<Option<(Live, Rows)>, StoreError> {
        let blobs = self.blobs();
        if blobs.is_appended_to(pack) {
            return Ok(None);
        }
        let Some(takes) = self.recordings().bytes_in(pack).filter(|_| !blobs.has_loose_in(pack)) else {
            return Ok(None);
        };
        let rows = blobs.in_pack(pack)?;
        let pieces = rows.iter().flat_map(|(_, row)| row.in_pack(pack));
        let live = Live { blobs: pieces.map(|piece| frame_bytes(piece.length)).sum(), takes };
        Ok(Some((live, rows)))
    }

    /// Moves the bytes of these blobs out of a pack. Returns the number of bytes.
    fn move_blobs(&self, pack: u32, rows: &[(BlobHash, Row)]) -> Result<u64, StoreError> {
        let (blobs, mut bytes) = (self.blobs(), 0);
        for part in rows.chunks(AT_A_TIME) {
            let _appending = blobs.appending(None);
            let mut moves = Vec::with_capacity(part.len());
            for (hash, from) in part {
                let to = self.copied(from, pack)?;
                bytes += from.in_pack(pack).map(|piece| u64::from(piece.length)).sum::<u64>();
                moves.push((*hash, from.clone(), to));
            }
            blobs.sync()?;
            for few in moves.chunks(IN_A_TRANSACTION).map(<[_]>::to_vec) {
                let audio = blobs.clone();
                let moved = move |transaction: &mut Transaction<'_>| replace(transaction, &audio, &few);
                self.disk().at(Urgency::Background).transact_blocking(moved)?;
            }
        }
        Ok(bytes)
    }

    /// Copies the pieces of a blob that are in this pack to the newest one. Returns the blob's places with the copies
    /// instead, which are not durable yet.
    fn copied(&self, row: &Row, pack: u32) -> Result<Row, StoreError> {
        let (mut pieces, mut run, mut offset) = (Vec::with_capacity(row.pieces.len()), Vec::new(), 0);
        for piece in &row.pieces {
            let full = run.len() + piece.length as usize > MAX_PAYLOAD;
            if full || piece.pack != pack {
                pieces.extend(self.append_run(&mut run, offset)?);
            }
            if piece.pack == pack {
                let read = self.blobs().packs().read(*piece, 0..piece.length);
                run.extend(read.map_err(|error| self.blobs().failed(error))?);
            } else {
                pieces.push(*piece);
            }
            offset += u64::from(piece.length);
        }
        pieces.extend(self.append_run(&mut run, offset)?);
        Ok(Row::new(pieces, row.written))
    }

    /// Appends the bytes of a run, which end at `end` of the blob, and empties it.
    fn append_run(&self, run: &mut Vec<u8>, end: u64) -> Result<Vec<Extent>, StoreError> {
        if run.is_empty() {
            return Ok(Vec::new());
        }
        let (recording, offset) = (RecordingId::random().0, end.saturating_sub(run.len() as u64));
        let frame = Frame { kind: Kind::Blob, recording, take: 0, offset, payload: run };
        let appended = self.blobs().packs().append(&[frame]).map_err(|error| self.blobs().failed(error));
        run.clear();
        appended
    }

    /// Removes a pack if none of its bytes is in use. True when it was removed.
    fn remove_pack(&self, pack: u32) -> Result<bool, StoreError> {
        if self.live_in(pack)?.is_none_or(|(live, _)| live != Live::NONE) {
            return Ok(false);
        }
        self.blobs().forget_pack(pack)?;
        self.blobs().packs().remove(pack).map_err(|error| self.blobs().failed(error))?;
        self.blobs().live_bounds().forget(pack);
        Ok(true)
    }
}

/// Gives blobs new places. A blob whose row has changed since it was read keeps the row.
fn replace(
    transaction: &mut Transaction<'_>,
    blobs: &Blobs,
    moves: &[(BlobHash, Row, Row)],
) -> Result<(), StoreError> {
    for (hash, from, to) in moves {
        let now = transaction.get(&keys::blob(hash))?;
        if now.is_some_and(|bytes| Row::decode(&bytes).is_ok_and(|now| now == *from)) {
            blobs.put_row(transaction, hash, to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "../tests/unit/compact.rs"]
mod tests;
