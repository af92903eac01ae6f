//! Bytes of packs and frames. The tables are in DESIGN.md; all numbers are little-endian.

use crate::{Extent, Found, Frame, Kind, sums::Sums};

/// Length of the header of a pack in bytes. The first frame begins behind it.
pub const BLOCK: u64 = 4096;

/// [`BLOCK`] as the length of a slice.
pub(crate) const BLOCK_LENGTH: usize = 4096;

/// Maximum length of a payload in bytes: 1 MiB.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// Minimum length of a pack in bytes: header, one frame with the longest payload, and some room.
pub const MIN_PACK: u64 = MAX_PAYLOAD as u64 + 2 * BLOCK;

/// Version of the format, of packs and of frames.
pub(crate) const VERSION: u32 = 1;

/// [`VERSION`] in a frame.
const FRAME_VERSION: u8 = 1;

/// Every frame begins at a multiple of this.
pub(crate) const ALIGNMENT: usize = 16;

/// Bytes of a frame before its payload.
pub(crate) const FRAME_HEADER: usize = 48;

/// Bytes of a pack's header that its checksum covers.
const HEADER_COVERED: usize = 32;

const PACK_MAGIC: [u8; 8] = *b"TwbPack\n";
const FRAME_MAGIC: [u8; 4] = *b"TwbA";

/// Zeros behind a frame.
static PADDING: [u8; BLOCK_LENGTH] = [0; BLOCK_LENGTH];

/// Header of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackHeader {
    /// Number of the pack.
    pub(crate) pack: u32,
    /// Random number, drawn when the pack was made. Every frame in it repeats it.
    pub(crate) nonce: u32,
    /// Length of the file in bytes.
    pub(crate) bytes: u64,
}

/// Content of a file's first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstBlock {
    /// A header of this format.
    Header(PackHeader),
    /// A header of another format.
    Foreign {
        /// The version of that format.
        version: u32,
    },
    /// No header.
    Invalid,
}

/// The pack in which a frame stands, as its checksum covers it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FramePlace {
    pub(crate) pack: u32,
    pub(crate) nonce: u32,
    /// Offset of the frame in the file.
    pub(crate) at: u64,
}

/// The field of `N` bytes at `at`. All callers pass constant places inside slices whose length they have checked; past
/// the end it is zeros.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

/// The inverse of [`field`].
fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<N>()) {
        *place = field;
    }
}

fn short(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

impl PackHeader {
    /// The first block of the pack.
    pub(crate) fn encode(&self) -> [u8; BLOCK_LENGTH] {
        let mut body = Vec::with_capacity(HEADER_COVERED + 4);
        body.extend(PACK_MAGIC);
        body.extend(VERSION.to_le_bytes());
        body.extend(self.pack.to_le_bytes());
        body.extend(self.nonce.to_le_bytes());
        body.extend([0; 4]);
        body.extend(self.bytes.to_le_bytes());
        body.extend(crc32fast::hash(&body).to_le_bytes());
        let mut block = [0; BLOCK_LENGTH];
        block.iter_mut().zip(body).for_each(|(to, from)| *to = from);
        block
    }
}

/// The meaning of a file's first bytes.
pub(crate) fn first_block(bytes: &[u8]) -> FirstBlock {
    let (Some(covered), true) = (bytes.get(..HEADER_COVERED), bytes.len() >= HEADER_COVERED + 4) else {
        return FirstBlock::Invalid;
    };
    if field::<8>(bytes, 0) != PACK_MAGIC {
        return FirstBlock::Invalid;
    }
    // Before the checksum, whose place and kind another version may have changed: its files must not pass for damaged ones.
    let version = short(bytes, 8);
    if version != VERSION {
        return FirstBlock::Foreign { version };
    }
    if short(bytes, HEADER_COVERED) != crc32fast::hash(covered) {
        return FirstBlock::Invalid;
    }
    FirstBlock::Header(PackHeader { pack: short(bytes, 12), nonce: short(bytes, 16), bytes: number(bytes, 24) })
}

/// Bytes that a frame with a payload of `length` bytes takes.
pub(crate) fn span(length: usize) -> usize {
    (FRAME_HEADER + length).next_multiple_of(ALIGNMENT)
}

/// Zeros behind a payload of `length` bytes.
pub(crate) fn padding(length: usize) -> &'static [u8] {
    PADDING.get(..span(length) - FRAME_HEADER - length).unwrap_or_default()
}

/// Zeros from `end` to the end of its block. A pack has whole blocks.
pub(crate) fn rest_of_page(end: u64) -> &'static [u8] {
    PADDING.get(..(end.next_multiple_of(BLOCK) - end) as usize).unwrap_or_default()
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Chunk => 1,
            Self::Blob => 2,
            Self::Ended => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Chunk),
            2 => Some(Self::Blob),
            3 => Some(Self::Ended),
            _ => None,
        }
    }
}

/// Checksum of a frame up to its payload, which follows. It covers the frame's place, so that a frame that was moved does not
/// pass.
fn checksum(place: FramePlace, covered: &[u8]) -> crc32fast::Hasher {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&place.pack.to_le_bytes());
    checksum.update(&place.at.to_le_bytes());
    checksum.update(covered);
    checksum
}

impl Frame<'_> {
    /// The bytes before the payload.
    pub(crate) fn header(&self, place: FramePlace) -> [u8; FRAME_HEADER] {
        let mut header = [0; FRAME_HEADER];
        put(&mut header, 0, FRAME_MAGIC);
        put(&mut header, 8, [FRAME_VERSION, self.kind.code(), 0, 0]);
        // The caller has compared the length with MAX_PAYLOAD.
        put(&mut header, 12, (self.payload.len() as u32).to_le_bytes());
        put(&mut header, 16, self.recording.to_le_bytes());
        put(&mut header, 32, self.take.to_le_bytes());
        put(&mut header, 36, place.nonce.to_le_bytes());
        put(&mut header, 40, self.offset.to_le_bytes());
        let mut checksum = checksum(place, header.get(8..).unwrap_or_default());
        checksum.update(self.payload);
        put(&mut header, 4, checksum.finalize().to_le_bytes());
        header
    }
}

/// A search for frames in the bytes of a pack.
struct Scan<'a> {
    file: &'a [u8],
    pack: u32,
    /// The nonce of all frames; `None`: the first frame gives it.
    nonce: Option<u32>,
    /// Made at the first wrong checksum: from then on no payload is read to verify a frame.
    sums: Option<Sums>,
}

impl Scan<'_> {
    /// The frame that begins at `at`, if one does.
    fn frame_at(&mut self, at: usize) -> Option<Found> {
        let (file, pack) = (self.file, self.pack);
        let (header, rest) = file.get(at..)?.split_first_chunk::<FRAME_HEADER>()?;
        if field::<4>(header, 0) != FRAME_MAGIC || header[8] != FRAME_VERSION {
            return None;
        }
        // Before the checksum, which may cover a whole MiB.
        let nonce = short(header, 36);
        if self.nonce.is_some_and(|expected| expected != nonce) {
            return None;
        }
        let length = short(header, 12);
        let payload = rest.get(..usize::try_from(length).ok()?).filter(|payload| payload.len() <= MAX_PAYLOAD)?;
        let mut checksum = checksum(FramePlace { pack, nonce, at: at as u64 }, header.get(8..)?);
        match &self.sums {
            None => checksum.update(payload),
            Some(sums) => checksum.combine(&sums.of(file, at + FRAME_HEADER, payload.len())),
        }
        if short(header, 4) != checksum.finalize() {
            self.sums.get_or_insert_with(|| Sums::new(file));
            return None;
        }
        let extent = Extent { pack, offset: u32::try_from(at + FRAME_HEADER).ok()?, length };
        let frame = Found {
            kind: Kind::of(header[9])?,
            recording: u128::from_le_bytes(field(header, 16)),
            take: short(header, 32),
            offset: number(header, 40),
            extent,
        };
        self.nonce = Some(nonce);
        Some(frame)
    }
}

/// The valid frames in the bytes of a pack, in order. `nonce` is that of the pack's header; if that is damaged, the
/// first frame gives it. Damage is left out: the search continues at the next place where a frame may begin. Its time
/// grows with the length of the file only, whatever the payloads hold.
pub(crate) fn frames(file: &[u8], pack: u32, nonce: Option<u32>) -> Vec<Found> {
    let mut scan = Scan { file, pack, nonce, sums: None };
    let (mut frames, mut at) = (Vec::new(), BLOCK_LENGTH);
    while at + FRAME_HEADER <= file.len() {
        match scan.frame_at(at) {
            Some(frame) => {
                at += span(frame.extent.length as usize);
                frames.push(frame);
            }
            None => at += ALIGNMENT,
        }
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: PackHeader = PackHeader { pack: 7, nonce: u32::MAX, bytes: MIN_PACK };
    const FRAME: Frame<'_> =
        Frame { kind: Kind::Chunk, recording: 1 << 100, take: 3, offset: 1 << 40, payload: b"hello" };

    /// A pack with this frame at this place.
    fn pack(place: FramePlace, frame: Frame<'_>) -> Vec<u8> {
        let mut file = vec![0; place.at as usize];
        file.extend(frame.header(place));
        file.extend(frame.payload);
        file.extend(padding(frame.payload.len()));
        file
    }

    #[test]
    fn pack_header_with_any_flipped_bit_is_not_taken_for_one() {
        let block = HEADER.encode();
        assert_eq!(first_block(&block), FirstBlock::Header(HEADER));
        for bit in 0..(HEADER_COVERED + 4) * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(first_block(&flipped), FirstBlock::Header(HEADER), "bit {bit}");
        }
        assert_eq!(first_block(&block[..HEADER_COVERED + 3]), FirstBlock::Invalid);
        assert_eq!(first_block(&[]), FirstBlock::Invalid);
    }

    #[test]
    fn pack_of_another_format_is_told_from_rubbish() {
        let mut block = HEADER.encode();
        block[8] = 2;
        assert_eq!(first_block(&block), FirstBlock::Foreign { version: 2 });
    }

    #[test]
    fn frame_with_any_flipped_bit_is_not_found() {
        let place = FramePlace { pack: 7, nonce: 5, at: BLOCK };
        let file = pack(place, FRAME);
        let found = frames(&file, 7, Some(5));
        let extent = Extent { pack: 7, offset: BLOCK as u32 + FRAME_HEADER as u32, length: 5 };
        let expected = Found { kind: Kind::Chunk, recording: 1 << 100, take: 3, offset: 1 << 40, extent };
        assert_eq!(found, [expected]);
        for bit in 0..(FRAME_HEADER + 5) * 8 {
            let mut flipped = file.clone();
            flipped[BLOCK_LENGTH + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(frames(&flipped, 7, Some(5)), [], "bit {bit}");
        }
        assert_eq!(frames(&file[..BLOCK_LENGTH + FRAME_HEADER + 4], 7, Some(5)), []);
    }

    // Mutant: a checksum that covers only the bytes of the frame finds it everywhere.
    #[test]
    fn frame_at_another_place_or_in_another_pack_is_not_found() {
        let place = FramePlace { pack: 7, nonce: 5, at: BLOCK };
        let file = pack(place, FRAME);
        assert_eq!(frames(&file, 7, None).len(), 1, "a damaged pack header does not hide frames");
        assert_eq!(frames(&file, 8, Some(5)), [], "another pack");
        assert_eq!(frames(&file, 7, Some(6)), [], "a pack made again under the same number");
        let mut moved = file.clone();
        moved.splice(BLOCK_LENGTH..BLOCK_LENGTH, [0; ALIGNMENT]);
        assert_eq!(frames(&moved, 7, Some(5)), [], "another offset");
    }

    #[test]
    fn frame_within_a_payload_is_not_found() {
        let inner = FramePlace { pack: 7, nonce: 5, at: BLOCK + FRAME_HEADER as u64 };
        let mut content = FRAME.header(inner).to_vec();
        content.extend(FRAME.payload);
        let outer = Frame { kind: Kind::Blob, payload: &content, ..FRAME };
        let place = FramePlace { pack: 7, nonce: 5, at: BLOCK };
        let found = frames(&pack(place, outer), 7, Some(5));
        assert_eq!(found.iter().map(|found| found.kind).collect::<Vec<_>>(), [Kind::Blob]);
        // A caller can speak a frame into a recording, at the right place; the nonce of the pack is not known outside.
        let mut damaged = pack(place, outer);
        damaged[BLOCK_LENGTH + 20] ^= 1;
        assert_eq!(frames(&damaged, 7, Some(5)).len(), 1, "with the nonce, which the caller does not have");
        let guessed = FRAME.header(FramePlace { nonce: 4, ..inner });
        damaged[BLOCK_LENGTH + FRAME_HEADER..][..FRAME_HEADER].copy_from_slice(&guessed);
        assert_eq!(frames(&damaged, 7, Some(5)), []);
    }

    #[test]
    fn payload_is_not_read_again_after_a_wrong_checksum() {
        let payload = vec![7; 100_000];
        let place = FramePlace { pack: 7, nonce: 5, at: BLOCK + 1_024 };
        let mut file = pack(place, Frame { payload: &payload, ..FRAME });
        // A header before it, as of a frame that the damage of its payload took.
        file[BLOCK_LENGTH..][..FRAME_HEADER].copy_from_slice(&FRAME.header(FramePlace { at: BLOCK, ..place }));
        let mut scan = Scan { file: &file, pack: 7, nonce: None, sums: None };
        assert_eq!(scan.frame_at(BLOCK_LENGTH), None);
        let sums = scan.sums.take();
        assert!(sums.is_some(), "the next headers may ask for the same bytes");
        let (frame, mut wiped) = (scan.frame_at(BLOCK_LENGTH + 1_024), file.clone());
        assert!(frame.is_some());
        wiped[BLOCK_LENGTH + 10_000..][..80_000].fill(0);
        let mut scan = Scan { file: &wiped, pack: 7, nonce: None, sums };
        assert_eq!(scan.frame_at(BLOCK_LENGTH + 1_024), frame, "by the sums alone");
    }

    #[test]
    fn frames_fill_whole_places() {
        for length in (0..100).chain([MAX_PAYLOAD]) {
            assert_eq!(FRAME_HEADER + length + padding(length).len(), span(length), "{length} bytes");
            assert_eq!(span(length) % ALIGNMENT, 0, "{length} bytes");
        }
        assert!(BLOCK + span(MAX_PAYLOAD) as u64 <= MIN_PACK);
    }
}
