//! A take that is neither filed nor discarded.

use twinbox_ids::{BlobHash, RecordingId};
use twinbox_packs::Pieces;

/// A take of a recording.
pub(super) type TakeKey = (RecordingId, u32);

/// The filler of a hole when an incomplete take is sealed: silence in µ-law, quiet in A-law.
pub(super) const HOLE: u8 = 0xff;

/// The largest accepted recording, in bytes: 18 hours of G.711. An offset beyond it is an error of the caller.
pub(super) const MAX_LENGTH: u64 = 512 * 1024 * 1024;

/// A take that is neither filed nor discarded.
#[derive(Default)]
pub(super) struct TakeState {
    pub(super) pieces: Pieces,
    pub(super) stage: Stage,
    /// The first of the packs that a start must scan for this take. Only the writer changes it.
    pub(super) first: Option<u32>,
    /// Offset of the first hole that was filled with silence.
    pub(super) holed: Option<u64>,
    /// Offset behind the last byte that is here or in the append that the writer prepares. Only the writer uses it.
    pub(super) coming: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// In progress.
    #[default]
    Open,
    /// Becoming a blob, which is named as soon as the audio is durable. Still in progress for all other purposes.
    Sealing(Option<BlobHash>),
    /// A blob that no durable change names yet.
    Sealed(BlobHash),
}

impl TakeState {
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Sealed(_))
    }

    /// Offset of the first hole, filled or not, or the length of the take if it has none.
    pub(super) fn whole(&self) -> u64 {
        self.pieces.run_end(0).min(self.holed.unwrap_or(u64::MAX))
    }
}

/// Number of a take among those that are neither filed nor discarded: the writer looks a take up once for each chunk.
pub(super) type Slot = usize;
