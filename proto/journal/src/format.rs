//! Bytes of segments and batches. The tables are in DESIGN.md; all numbers are little-endian.

/// Unit of a segment in bytes: its header is one block, and every batch begins on one.
pub const BLOCK: u64 = 4096;

/// [`BLOCK`] as the length of a slice.
pub(crate) const BLOCK_LENGTH: usize = 4096;

/// Version of the format.
pub(crate) const VERSION: u32 = 1;

/// Bytes of a segment header that have a meaning. One sector holds them, so a power cut leaves the old header or the
/// new one.
pub(crate) const SEGMENT_HEADER: usize = 56;

/// Bytes of a batch header.
pub(crate) const BATCH_HEADER: usize = 48;

const SEGMENT_MAGIC: [u8; 8] = *b"TwbJrnl\n";
const BATCH_MAGIC: [u8; 4] = *b"TwbB";

/// The unused end of a batch's last block.
static PADDING: [u8; BLOCK_LENGTH] = [0; BLOCK_LENGTH];

/// Place in a journal, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Offset in the segment's file, in bytes.
    pub offset: u64,
}

/// Header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Number of the segment, rising by one.
    pub(crate) id: u64,
    /// Random number, drawn when the segment was prepared. Every batch in it repeats it.
    pub(crate) nonce: u64,
    /// First segment that was still needed then.
    pub(crate) floor: u64,
    /// Length of the file in bytes.
    pub(crate) bytes: u64,
}

/// Content of a file's first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstBlock {
    /// A header of this format.
    Header(SegmentHeader),
    /// A header of another format.
    Foreign {
        /// The version of that format.
        version: u32,
    },
    /// No header.
    Invalid,
}

/// Header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// [`SegmentHeader::nonce`] of its segment.
    pub(crate) nonce: u64,
    /// Its place.
    pub(crate) position: Position,
    /// Number of the batch, rising by one over the whole journal.
    pub(crate) number: u64,
    /// Length of the batch itself in bytes.
    pub(crate) length: u64,
}

/// The field of `N` bytes at `at`. All callers pass constant places inside slices whose length they have checked; past
/// the end it is zeros.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn short(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

impl SegmentHeader {
    /// The first block of the segment.
    pub(crate) fn encode(&self) -> [u8; BLOCK_LENGTH] {
        let mut body = Vec::with_capacity(SEGMENT_HEADER);
        body.extend(SEGMENT_MAGIC);
        body.extend(VERSION.to_le_bytes());
        body.extend([0; 4]);
        for value in [self.id, self.nonce, self.floor, self.bytes] {
            body.extend(value.to_le_bytes());
        }
        body.extend(crc32fast::hash(&body).to_le_bytes());
        let mut block = [0; BLOCK_LENGTH];
        block.iter_mut().zip(body).for_each(|(to, from)| *to = from);
        block
    }
}

/// The meaning of a file's first bytes.
pub(crate) fn first_block(bytes: &[u8]) -> FirstBlock {
    let (Some(covered), true) = (bytes.get(..SEGMENT_HEADER - 8), bytes.len() >= SEGMENT_HEADER) else {
        return FirstBlock::Invalid;
    };
    if field::<8>(bytes, 0) != SEGMENT_MAGIC {
        return FirstBlock::Invalid;
    }
    // Before the checksum, whose place and kind another version may have changed: its files must not pass for rubbish.
    let version = short(bytes, 8);
    if version != VERSION {
        return FirstBlock::Foreign { version };
    }
    if short(bytes, SEGMENT_HEADER - 8) != crc32fast::hash(covered) {
        return FirstBlock::Invalid;
    }
    FirstBlock::Header(SegmentHeader {
        id: number(bytes, 16),
        nonce: number(bytes, 24),
        floor: number(bytes, 32),
        bytes: number(bytes, 40),
    })
}

/// Bytes that a batch of `length` takes in a segment: whole blocks. `None` when no number can hold them.
pub(crate) fn span(length: u64) -> Option<u64> {
    length.checked_add(BATCH_HEADER as u64)?.checked_next_multiple_of(BLOCK)
}

/// Zeros that fill the last block of a batch of `length` bytes.
pub(crate) fn padding(length: u64) -> &'static [u8] {
    let used = ((length % BLOCK) as usize + BATCH_HEADER) % BLOCK_LENGTH;
    let missing = (BLOCK_LENGTH - used) % BLOCK_LENGTH;
    PADDING.get(..missing).unwrap_or_default()
}

impl BatchHeader {
    /// The bytes before the batch, whose content is `parts`.
    pub(crate) fn encode(&self, parts: &[&[u8]]) -> [u8; BATCH_HEADER] {
        let covered = self.covered();
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&covered);
        parts.iter().for_each(|part| checksum.update(part));
        let checksum = checksum.finalize().to_le_bytes();
        let mut header = [0; BATCH_HEADER];
        let bytes = BATCH_MAGIC.into_iter().chain(checksum).chain(covered);
        header.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        header
    }

    fn covered(&self) -> Vec<u8> {
        [self.nonce, self.position.segment, self.position.offset, self.number, self.length]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect()
    }
}

/// The batch that begins at `offset` in the bytes of a file, if one does that `wanted` accepts and that matches its
/// checksum: its header and its content.
pub(crate) fn batch_at(
    file: &[u8],
    offset: u64,
    wanted: impl FnOnce(&BatchHeader) -> bool,
) -> Option<(BatchHeader, &[u8])> {
    let bytes = file.get(usize::try_from(offset).ok()?..)?;
    let (header, rest) = bytes.split_first_chunk::<BATCH_HEADER>()?;
    if field::<4>(header, 0) != BATCH_MAGIC {
        return None;
    }
    let read = BatchHeader {
        nonce: number(header, 8),
        position: Position { segment: number(header, 16), offset: number(header, 24) },
        number: number(header, 32),
        length: number(header, 40),
    };
    if read.position.offset != offset || !wanted(&read) {
        return None;
    }
    let content = rest.get(..usize::try_from(read.length).ok()?)?;
    (read.encode(&[content]) == *header).then_some((read, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader { id: 7, nonce: u64::MAX, floor: 3, bytes: 4 * BLOCK };

    #[test]
    fn segment_header_with_any_flipped_bit_is_not_taken_for_one() {
        let block = HEADER.encode();
        assert_eq!(first_block(&block), FirstBlock::Header(HEADER));
        // The four bytes behind the version are covered by the checksum, the last four of the header's room are unused.
        for bit in 0..(SEGMENT_HEADER - 4) * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(first_block(&flipped), FirstBlock::Header(HEADER), "bit {bit}");
        }
        assert_eq!(first_block(&block[..SEGMENT_HEADER - 1]), FirstBlock::Invalid);
        assert_eq!(first_block(&[]), FirstBlock::Invalid);
    }

    #[test]
    fn segment_of_another_format_is_told_from_rubbish() {
        let mut block = HEADER.encode();
        block[8] = 2;
        assert_eq!(first_block(&block), FirstBlock::Foreign { version: 2 });
    }

    #[test]
    fn batch_with_any_flipped_bit_is_not_taken_for_one() {
        let position = Position { segment: 7, offset: BLOCK };
        let header = BatchHeader { nonce: 5, position, number: 9, length: 11 };
        let mut file = vec![0; BLOCK_LENGTH];
        file.extend(header.encode(&[b"hello ", b"", b"world"]));
        file.extend(b"hello world");
        assert_eq!(batch_at(&file, BLOCK, |_| true), Some((header, &b"hello world"[..])));
        for bit in 0..(BATCH_HEADER + 11) * 8 {
            let mut flipped = file.clone();
            flipped[BLOCK_LENGTH + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(batch_at(&flipped, BLOCK, |_| true), None, "bit {bit}");
        }
        assert_eq!(batch_at(&file[..file.len() - 1], BLOCK, |_| true), None);
        assert_eq!(batch_at(&file, 2 * BLOCK, |_| true), None);
        assert_eq!(batch_at(&file, BLOCK, |header| header.nonce == 6), None);
    }

    #[test]
    fn header_batch_and_padding_fill_whole_blocks() {
        for length in (0..3 * BLOCK).chain([u64::from(u32::MAX)]) {
            let span = span(length).expect("a span");
            assert_eq!(BATCH_HEADER as u64 + length + padding(length).len() as u64, span, "{length} bytes");
            assert_eq!(span % BLOCK, 0, "{length} bytes");
        }
        assert_eq!(span(u64::MAX), None);
    }
}
