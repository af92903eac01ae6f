//! Frames and their places, as callers see them.

/// Place of a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// Number of the pack.
    pub pack: u32,
    /// Offset of the first payload byte in the file.
    pub offset: u32,
    /// Length of the payload in bytes. An extent may also be a part of a frame's payload.
    pub length: u32,
}

impl Extent {
    /// Bytes of [`Self::to_bytes`].
    pub const BYTES: usize = 12;

    /// Pack, offset and length, each 4 bytes with the most significant first: for the caller's index.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [a, b, c] = [self.pack, self.offset, self.length].map(u32::to_be_bytes);
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]]
    }

    /// The inverse of [`Self::to_bytes`].
    pub fn from_bytes(&[a, b, c, d, e, f, g, h, i, j, k, l]: &[u8; Self::BYTES]) -> Self {
        let [pack, offset, length] = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_be_bytes);
        Self { pack, offset, length }
    }

    /// `length` bytes of it behind the first `skipped` ones; both are within it, hence below 4 GiB.
    pub fn part(self, skipped: u64, length: u64) -> Self {
        Self { pack: self.pack, offset: self.offset + skipped as u32, length: length as u32 }
    }
}

/// Meaning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A piece of a take.
    Chunk,
    /// A piece of audio that is no take.
    Blob,
    /// The take has ended; the payload is empty.
    Ended,
}

/// A frame to append.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its meaning.
    pub kind: Kind,
    /// Identifier of the recording, or of the audio.
    pub recording: u128,
    /// Number of the take.
    pub take: u32,
    /// Offset of the payload in the audio, in bytes.
    pub offset: u64,
    /// At most [`crate::MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

/// A frame that was found in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its meaning.
    pub kind: Kind,
    /// Identifier of the recording, or of the audio.
    pub recording: u128,
    /// Number of the take.
    pub take: u32,
    /// Offset of the payload in the audio, in bytes.
    pub offset: u64,
    /// Place of the payload.
    pub extent: Extent,
}
