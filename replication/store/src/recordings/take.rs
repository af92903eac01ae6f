//! A take in progress: the places of its audio in the packs.

use std::ops::Range;

use twinbox_ids::RecordingId;
use twinbox_packs::Extent;
use twinbox_replication_core::Ranges;

/// A take of a recording.
pub(super) type TakeKey = (RecordingId, u32);

/// The filler of a hole when an incomplete take is sealed: silence in µ-law, quiet in A-law.
pub(super) const HOLE: u8 = 0xff;

/// The largest accepted recording, in bytes: 18 hours of G.711. An offset beyond it is a mistake.
pub(super) const MAX_LENGTH: u64 = 512 * 1024 * 1024;

/// The places of a take's audio; no two overlap.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    covered: Ranges,
    /// Each with the offset of its first byte in the take, in that order: most come at the end.
    by_offset: Vec<(u64, Extent)>,
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
        let range = offset..offset.saturating_add(extent.length.into());
        if range.is_empty() {
            return;
        }
        if offset >= self.covered.end() {
            self.put(range, extent);
            return;
        }
        for gap in self.covered.gaps(range) {
            let part = extent.part(gap.start - offset, gap.end - gap.start);
            self.put(gap, part);
        }
    }

    /// Adds bytes of which none is here.
    fn put(&mut self, range: Range<u64>, extent: Extent) {
        self.by_offset.insert(self.at_or_after(range.start), (range.start, extent));
        self.count_in(extent.pack, extent.length.into());
        self.covered.insert(range);
    }

    /// The number of pieces that begin before this offset.
    fn at_or_after(&self, offset: u64) -> usize {
        match self.by_offset.last() {
            Some((last, _)) if offset <= *last => self.by_offset.partition_point(|(other, _)| *other < offset),
            _ => self.by_offset.len(),
        }
    }

    /// The places of the bytes of `range` that are here, in order.
    pub(super) fn places(&self, range: Range<u64>) -> Vec<Extent> {
        // The one before may reach into it.
        let first = self.at_or_after(range.start).saturating_sub(1);
        let pieces = self.by_offset.iter().skip(first).take_while(|(offset, _)| *offset < range.end);
        let mut places = Vec::new();
        for (offset, extent) in pieces {
            let (from, to) = (range.start.max(*offset), range.end.min(offset + u64::from(extent.length)));
            if from < to {
                places.push(extent.part(from - offset, to - from));
            }
        }
        places
    }

    /// The pieces, each with the offset of its first byte in the take.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Extent)> {
        self.by_offset.iter().copied()
    }

    /// The places of all bytes that are here.
    pub(super) fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.by_offset.iter().map(|(_, extent)| extent)
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
        let place = self.at_or_after(offset);
        match self.by_offset.get_mut(place) {
            Some((here, extent)) if *here == offset && *extent == old && new.length == old.length => {
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

#[cfg(test)]
#[path = "../../tests/unit/take.rs"]
mod tests;
