//! The places of audio that grows, mostly at its end.

use std::ops::Range;

use crate::Extent;

/// The places of the bytes of a take; no two pieces overlap. A piece takes eight bytes, with at most a quarter more for the next ones:
/// pack and offset of those that follow each other in the take and lie in one pack stand once.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    /// In the order of the take; no two of them could be one.
    runs: Vec<Run>,
    /// Offset in its pack, and length, of each piece, in the order of the take.
    places: Vec<(u32, u32)>,
}

/// Pieces that follow each other in the take without a gap and lie in one pack, wherever in it.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Offset of its first byte in the take.
    start: u64,
    /// Offset behind its last byte.
    end: u64,
    pack: u32,
    /// Number of its first piece.
    first: u32,
}

impl Pieces {
    /// Offset behind the last byte that is here; 0 if there is none.
    pub fn end(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.end)
    }

    /// The bytes that are here, as ranges that do not touch, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let joined = self.runs.chunk_by(|run, next| run.end == next.start);
        joined.filter_map(|runs| Some(runs.first()?.start..runs.last()?.end))
    }

    /// The parts of `range` that are not here, ascending.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut gaps, mut at) = (Vec::new(), range.start);
        for run in self.runs_from(range.start).take_while(|run| run.start < range.end) {
            if at < run.start {
                gaps.push(at..run.start);
            }
            at = run.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// True when every byte of `range` is here; always true for an empty range.
    pub fn covers(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.run_end(range.start) >= range.end
    }

    /// The first offset at or after `from` whose byte is not here.
    pub fn run_end(&self, from: u64) -> u64 {
        let mut end = from;
        for run in self.runs_from(from) {
            if run.start > end {
                break;
            }
            end = run.end;
        }
        end
    }

    /// Adds the bytes of an extent that are not here yet. `offset` is that of its first byte in the take.
    pub fn add(&mut self, offset: u64, extent: Extent) {
        let range = offset..offset.saturating_add(extent.length.into());
        if range.is_empty() {
            return;
        }
        if offset >= self.end() {
            self.put(range, extent);
            return;
        }
        for gap in self.gaps(range) {
            let part = extent.part(gap.start - offset, gap.end - gap.start);
            self.put(gap, part);
        }
    }

    /// The places of the bytes of `range` that are here, in order.
    pub fn places(&self, range: Range<u64>) -> Vec<Extent> {
        let first = self.runs.partition_point(|run| run.end <= range.start);
        let pieces = self.runs.iter().enumerate().skip(first).flat_map(move |(at, run)| self.in_run(at, *run));
        let mut places = Vec::new();
        for (offset, extent) in pieces.take_while(|(offset, _)| *offset < range.end) {
            let (from, to) = (range.start.max(offset), range.end.min(offset + u64::from(extent.length)));
            if from < to {
                places.push(extent.part(from - offset, to - from));
            }
        }
        places
    }

    /// The pieces in order, each with the offset of its first byte in the take.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Extent)> {
        self.runs.iter().enumerate().flat_map(move |(at, run)| self.in_run(at, *run))
    }

    /// The first pack with bytes of the take.
    pub fn first_pack(&self) -> Option<u32> {
        self.runs.iter().map(|run| run.pack).min()
    }

    /// Bytes of the take in a pack.
    pub fn bytes_in(&self, pack: u32) -> u64 {
        self.runs.iter().filter(|run| run.pack == pack).map(|run| run.end - run.start).sum()
    }

    /// Notes that the piece at `offset` has moved from `old` to `new`. False when it is not at `old`.
    pub fn replace(&mut self, offset: u64, old: Extent, new: Extent) -> bool {
        let Some(at) = self.runs.partition_point(|run| run.start <= offset).checked_sub(1) else { return false };
        let Some(run) = self.runs.get(at).copied().filter(|_| new.length == old.length) else { return false };
        let Some(before) = self.in_run(at, run).position(|piece| piece == (offset, old)) else { return false };
        let (piece, end) = (run.first + before as u32, offset + u64::from(old.length));
        if let Some(place) = self.places.get_mut(piece as usize) {
            *place = (new.offset, new.length);
        }
        let moved = Run { start: offset, end, pack: new.pack, first: piece };
        let parts = [Run { end: offset, ..run }, moved, Run { start: end, first: piece + 1, ..run }];
        drop(self.runs.splice(at..=at, parts.into_iter().filter(|part| part.start < part.end)));
        (at..=at + parts.len()).rev().for_each(|run| self.join(run));
        true
    }

    /// The runs with a byte at or after this offset.
    fn runs_from(&self, offset: u64) -> impl Iterator<Item = &Run> {
        // Most callers ask for the end of the take.
        let first = match self.runs.last() {
            Some(last) if offset < last.start => self.runs.partition_point(|run| run.end <= offset),
            Some(last) if offset < last.end => self.runs.len() - 1,
            Some(_) | None => self.runs.len(),
        };
        self.runs.iter().skip(first)
    }

    /// The pieces of the run with this number.
    fn in_run(&self, at: usize, run: Run) -> impl Iterator<Item = (u64, Extent)> {
        let places = self.places.get(run.first as usize..self.first_of(at + 1)).unwrap_or_default();
        places.iter().scan(run.start, move |next, (offset, length)| {
            let piece = (*next, Extent { pack: run.pack, offset: *offset, length: *length });
            *next += u64::from(*length);
            Some(piece)
        })
    }

    /// Number of the first piece of a run; of all pieces, if there is no such run.
    fn first_of(&self, run: usize) -> usize {
        self.runs.get(run).map_or(self.places.len(), |run| run.first as usize)
    }

    /// Adds bytes of which none is here.
    fn put(&mut self, Range { start, end }: Range<u64>, extent: Extent) {
        let at = match self.runs.last() {
            Some(last) if start < last.start => self.runs.partition_point(|run| run.start < start),
            Some(_) | None => self.runs.len(),
        };
        let piece = self.first_of(at);
        if self.places.len() == self.places.capacity() {
            // Twice as many would be the memory of two indexes.
            self.places.reserve_exact(self.places.len() / 4 + 8);
        }
        self.places.insert(piece, (extent.offset, extent.length));
        self.runs.iter_mut().skip(at).for_each(|run| run.first += 1);
        // A piece has a byte at least, and a take is shorter than 4 GiB.
        self.runs.insert(at, Run { start, end, pack: extent.pack, first: piece as u32 });
        self.join(at + 1);
        self.join(at);
    }

    /// Makes a run and the one before it one, if they can be.
    fn join(&mut self, at: usize) {
        let Some(run) = self.runs.get(at).copied() else { return };
        let Some(before) = at.checked_sub(1).and_then(|before| self.runs.get_mut(before)) else { return };
        if before.end == run.start && before.pack == run.pack {
            before.end = run.end;
            self.runs.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory that a recording needs is its index.
    #[test]
    fn chunk_of_a_recording_takes_ten_bytes_at_most() {
        let mut pieces = Pieces::default();
        // An hour, a chunk every quarter of a second, among those of other recordings.
        for n in 0..14_400_u32 {
            let extent = Extent { pack: n / 1_000, offset: n % 1_000 * 1_000_000, length: 2_000 };
            pieces.add(u64::from(n) * 2_000, extent);
        }
        assert_eq!((pieces.places.len(), pieces.runs.len()), (14_400, 15));
        assert!(pieces.places.capacity() * size_of::<(u32, u32)>() <= 14_400 * 10 + 64);
        // All of a pack moved to another one.
        let moved: Vec<_> = pieces.iter().filter(|(_, extent)| extent.pack == 3).collect();
        for (n, (offset, old)) in moved.into_iter().enumerate() {
            assert!(pieces.replace(offset, old, Extent { pack: 99, offset: n as u32 * 2_048, length: 2_000 }));
        }
        assert_eq!((pieces.places.len(), pieces.runs.len(), pieces.bytes_in(99)), (14_400, 15, 2_000_000));
    }
}
