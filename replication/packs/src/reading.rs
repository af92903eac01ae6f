//! Reading of payloads by their places.

use std::ops::Range;

use twinbox_journal::{Medium, MediumFile};

use crate::{Extent, PackError, Packs, folder::file_name};

/// Parts with fewer bytes between them are read together. No page without a part is read: a fault of the disk in such a page
/// must not fail the read.
const PAGE: u64 = 4 * 1024;

/// Maximum bytes of one read of several parts, with the bytes between them.
const AT_ONCE: u64 = 1024 * 1024;

/// Bytes of a pack, by their offsets in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    pack: u32,
    start: u64,
    end: u64,
}

impl Span {
    fn of((extent, part): &(Extent, Range<u32>)) -> Result<Self, PackError> {
        let &Range { start, end } = part;
        if start > end || end > extent.length {
            return Err(PackError::Range { start, end, length: extent.length });
        }
        let [start, end] = [start, end].map(|at| u64::from(extent.offset) + u64::from(at));
        Ok(Self { pack: extent.pack, start, end })
    }

    fn length(&self) -> usize {
        // Both are offsets within an extent, whose length has four bytes.
        (self.end - self.start) as usize
    }
}

/// Number of the first spans that one read takes.
fn run(spans: &[Span]) -> usize {
    let Some((first, later)) = spans.split_first() else { return 0 };
    let mut end = first.end;
    let joins = |next: &&Span| {
        let gap = next.start.checked_sub(end).filter(|_| next.pack == first.pack);
        end = next.end;
        gap.is_some_and(|gap| gap < PAGE) && next.end - first.start <= AT_ONCE
    };
    1 + later.iter().take_while(joins).count()
}

/// The parts of pieces that are the bytes `range` of the audio that they make, in order.
fn parts(pieces: &[Extent], range: &Range<u64>) -> Vec<(Extent, Range<u32>)> {
    let (mut parts, mut begin) = (Vec::new(), 0_u64);
    for piece in pieces {
        let end = begin.saturating_add(piece.length.into());
        let (from, to) = (range.start.max(begin), range.end.min(end));
        if from < to {
            // Both are offsets within a piece, which has a length of 4 bytes.
            parts.push((*piece, (from - begin) as u32..(to - begin) as u32));
        }
        begin = end;
    }
    parts
}

impl<M: Medium> Packs<M> {
    /// Payload bytes `range` of an extent, relative to its first byte. They are not verified: the caller has the hash
    /// of the whole. [`PackError::NoPack`] when the file is missing.
    pub fn read(&self, extent: Extent, range: Range<u32>) -> Result<Vec<u8>, PackError> {
        self.read_all(&[(extent, range)])
    }

    /// As [`Self::read`], for several parts, whose bytes follow each other in the result. One read takes those that lie
    /// close together in a pack, in this order.
    pub fn read_all(&self, parts: &[(Extent, Range<u32>)]) -> Result<Vec<u8>, PackError> {
        let spans = parts.iter().map(Span::of).collect::<Result<Vec<_>, _>>()?;
        let (mut bytes, mut rest) = (Vec::new(), &spans[..]);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(run(rest));
            let read = self.read_run(now)?;
            match bytes.is_empty() {
                true => bytes = read,
                false => bytes.extend(read),
            }
            rest = later;
        }
        Ok(bytes)
    }

    /// As [`Self::read_all`], the bytes `range` of audio of which these are the pieces in order.
    pub fn read_range(&self, pieces: &[Extent], range: &Range<u64>) -> Result<Vec<u8>, PackError> {
        self.read_all(&parts(pieces, range))
    }

    /// The bytes of spans that one read takes.
    fn read_run(&self, spans: &[Span]) -> Result<Vec<u8>, PackError> {
        let ([first, ..], [.., last]) = (spans, spans) else { return Ok(Vec::new()) };
        let all = Span { end: last.end, ..*first };
        let read = self.file(first.pack)?.read_new(all.length(), all.start);
        let mut bytes = read.map_err(|error| PackError::io("read", &file_name(all.pack), &error))?;
        let filled = all.start + bytes.len() as u64;
        if let Some(short) = spans.iter().find(|span| span.end > filled) {
            return Err(PackError::Short { pack: all.pack, end: short.end });
        }
        // Removes the bytes between them.
        let mut to = 0;
        for span in spans {
            let from = Span { end: span.start, ..all }.length();
            if from != to {
                bytes.copy_within(from..from + span.length(), to);
            }
            to += span.length();
        }
        bytes.truncate(to);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_is_cut_from_the_pieces_that_have_it() {
        let piece = |pack, offset, length| Extent { pack, offset, length };
        let pieces = [piece(3, 4_144, 10), piece(3, 9_000, 5), piece(u32::MAX, 4_144, 1)];
        let parts = |range: Range<u64>| {
            let parts = parts(&pieces, &range).into_iter().map(|(piece, part)| (piece.pack, piece.offset, part));
            parts.collect::<Vec<_>>()
        };
        assert_eq!(parts(0..16), [(3, 4_144, 0..10), (3, 9_000, 0..5), (u32::MAX, 4_144, 0..1)]);
        assert_eq!(parts(9..11), [(3, 4_144, 9..10), (3, 9_000, 0..1)]);
        assert_eq!(parts(10..15), [(3, 9_000, 0..5)]);
        assert_eq!(parts(5..5), []);
    }

    #[test]
    fn one_read_takes_what_lies_close_together_and_in_order() {
        let span = |pack, start, end| Span { pack, start, end };
        let behind = 10 + PAGE;
        for (what, spans, count) in [
            ("nothing", vec![], 0),
            ("one, however long", vec![span(1, 0, 2 * AT_ONCE)], 1),
            ("the next frame", vec![span(1, 0, 10), span(1, 58, 70), span(1, 70, 80)], 3),
            ("less than a page between", vec![span(1, 0, 10), span(1, behind - 1, behind)], 2),
            ("a page between", vec![span(1, 0, 10), span(1, behind, behind + 1)], 1),
            ("another pack", vec![span(1, 0, 10), span(2, 10, 20)], 1),
            ("one before it", vec![span(1, 50, 60), span(1, 0, 10)], 1),
            ("too much", vec![span(1, 0, 10), span(1, 10, AT_ONCE), span(1, AT_ONCE, AT_ONCE + 1)], 2),
        ] {
            assert_eq!(run(&spans), count, "{what}");
        }
    }
}
