//! A take in progress: the places of its audio in the packs, and its hash so far.

use std::{collections::BTreeMap, ops::Range};

use twinbox_ids::{BlobHash, RecordingId};
use twinbox_packs::{Extent, PackError};
use twinbox_replication_core::Ranges;

use crate::blobs::AudioPacks;

/// A take of a recording.
pub(super) type TakeKey = (RecordingId, u32);

/// The filler of a hole when an incomplete take is sealed: silence in µ-law, quiet in A-law.
pub(super) const HOLE: u8 = 0xff;

/// The largest accepted recording, in bytes: 18 hours of G.711. An offset beyond it is a mistake.
pub(super) const MAX_LENGTH: u64 = 512 * 1024 * 1024;

/// The places of a take's audio, by its offset in the take; no two overlap.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    covered: Ranges,
    by_offset: BTreeMap<u64, Extent>,
    /// Packs and the bytes in each: a take lies in a few, and compaction asks all takes about each pack.
    packs: Vec<(u32, u64)>,
}

impl Pieces {
    /// The bytes that are here.
    pub(super) fn covered(&self) -> &Ranges {
        &self.covered
    }

    /// Adds the bytes of an extent that are not here yet. `offset` is that of its first byte in the take.
    pub(super) fn add(&mut self, offset: u64, extent: Extent) {
        for gap in self.covered.gaps(offset..offset.saturating_add(extent.length.into())) {
            self.by_offset.insert(gap.start, extent.part(gap.start - offset, gap.end - gap.start));
            self.count_in(extent.pack, gap.end - gap.start);
            self.covered.insert(gap);
        }
    }

    /// The places of the bytes of `range` that are here, in order.
    pub(super) fn places(&self, range: Range<u64>) -> Vec<Extent> {
        let first = self.by_offset.range(..=range.start).next_back().map_or(range.start, |(offset, _)| *offset);
        let mut places = Vec::new();
        for (offset, extent) in self.by_offset.range(first..range.end.max(first)) {
            let (from, to) = (range.start.max(*offset), range.end.min(offset + u64::from(extent.length)));
            if from < to {
                places.push(extent.part(from - offset, to - from));
            }
        }
        places
    }

    /// The pieces, each with the offset of its first byte in the take.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Extent)> {
        self.by_offset.iter().map(|(offset, extent)| (*offset, *extent))
    }

    /// The places of all bytes that are here.
    pub(super) fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.by_offset.values()
    }

    /// The first pack with bytes of the take.
    pub(super) fn first_pack(&self) -> Option<u32> {
        self.packs.iter().map(|(pack, _)| *pack).min()
    }

    /// Bytes of the take in a pack.
    pub(super) fn bytes_in(&self, pack: u32) -> u64 {
        self.packs.iter().find(|(here, _)| *here == pack).map_or(0, |(_, bytes)| *bytes)
    }

    /// The bytes at `offset` have moved from `old` to `new`. False when they are not at `old`.
    pub(super) fn replace(&mut self, offset: u64, old: Extent, new: Extent) -> bool {
        match self.by_offset.get_mut(&offset) {
            Some(extent) if *extent == old && new.length == old.length => {
                *extent = new;
                self.count_in(new.pack, new.length.into());
                if let Some((_, bytes)) = self.packs.iter_mut().find(|(pack, _)| *pack == old.pack) {
                    *bytes -= u64::from(old.length);
                }
                self.packs.retain(|(_, bytes)| *bytes > 0);
                true
            }
            _ => false,
        }
    }

    fn count_in(&mut self, pack: u32, length: u64) {
        match self.packs.iter_mut().find(|(here, _)| *here == pack) {
            Some((_, bytes)) => *bytes += length,
            None => self.packs.push((pack, length)),
        }
    }
}

/// Bytes that are hashed at once: BLAKE3 hashes four of its chunks side by side in a third of the time.
const AT_ONCE: usize = 4 * 1024;

/// The hash of a take's audio from offset 0 on, without a gap.
#[derive(Clone, Default)]
pub(super) struct Hashed {
    hasher: blake3::Hasher,
    /// Bytes that follow the hashed ones, fewer than [`AT_ONCE`].
    pending: Vec<u8>,
    upto: u64,
}

impl Hashed {
    /// Number of bytes of which this is the hash.
    pub(super) fn upto(&self) -> u64 {
        self.upto
    }

    /// Takes bytes that are the next ones; the usual case, in which they need not be read again.
    pub(super) fn follow(&mut self, offset: u64, mut bytes: &[u8]) {
        if offset != self.upto {
            return;
        }
        self.upto += bytes.len() as u64;
        while let Some((next, later)) = bytes.split_at_checked(AT_ONCE - self.pending.len()) {
            self.pending.reserve_exact(next.len());
            self.pending.extend_from_slice(next);
            self.hasher.update(&self.pending);
            self.pending.clear();
            bytes = later;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Takes the bytes at these places, which are the next ones.
    pub(super) fn read(&mut self, packs: &AudioPacks, places: &[Extent]) -> Result<(), PackError> {
        for place in places {
            let bytes = packs.read(*place, 0..place.length)?;
            self.follow(self.upto, &bytes);
        }
        Ok(())
    }

    pub(super) fn hash(mut self) -> BlobHash {
        self.hasher.update(&self.pending);
        BlobHash(*self.hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
#[path = "../../tests/unit/take.rs"]
mod tests;
