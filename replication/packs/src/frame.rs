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
