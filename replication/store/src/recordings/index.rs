//! The takes that are neither filed nor discarded, as the writer and the callers share them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use twinbox_ids::BlobHash;
use twinbox_replication_core::Ranges;

use super::take::{Pieces, TakeKey};

/// Bytes that the note of a take's end has in its pack.
const ENDING: u64 = 48;

#[derive(Default)]
pub(super) struct Index {
    pub(super) takes: HashMap<TakeKey, TakeState>,
    /// The notes of ended takes that a start needs, by pack: without its note, a start would find the take again.
    pub(super) endings: BTreeMap<u32, Vec<TakeKey>>,
    /// Packs that could not be read at the start, and may have takes in progress.
    pub(super) unreadable: BTreeSet<u32>,
}

#[derive(Default)]
pub(super) struct TakeState {
    pub(super) pieces: Pieces,
    pub(super) stage: Stage,
    /// The first of the packs that a start must scan for this take. Only the writer changes it.
    pub(super) first: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// In progress.
    #[default]
    Open,
    /// Becoming a blob, which is named as soon as the audio is durable; for all others still in progress.
    Sealing(Option<BlobHash>),
    /// A blob that no durable change names yet.
    Sealed(BlobHash),
}

impl Index {
    /// The pieces of a take in progress.
    pub(super) fn open(&self, key: TakeKey) -> Option<&Pieces> {
        self.takes.get(&key).filter(|take| take.is_open()).map(|take| &take.pieces)
    }

    /// The takes in progress, each with the bytes that are here.
    pub(super) fn all_open(&self) -> impl Iterator<Item = (TakeKey, &Ranges)> {
        self.takes.iter().filter(|(_, take)| take.is_open()).map(|(key, take)| (*key, take.pieces.covered()))
    }

    /// The blobs that takes have become, or are about to, and that no durable change names yet.
    pub(super) fn unfiled(&self) -> impl Iterator<Item = BlobHash> {
        self.takes.values().filter_map(|take| match take.stage {
            Stage::Open => None,
            Stage::Sealing(blob) => blob,
            Stage::Sealed(blob) => Some(blob),
        })
    }

    /// Bytes in a pack that the next start needs. `floor` is the first pack that it scans.
    pub(super) fn bytes_in(&self, pack: u32, floor: u32) -> u64 {
        let pieces: u64 = self.takes.values().map(|take| take.pieces.bytes_in(pack)).sum();
        pieces + self.endings_in(pack, floor).len() as u64 * ENDING
    }

    /// The ended takes with a note in a pack that the next start needs.
    pub(super) fn endings_in(&self, pack: u32, floor: u32) -> &[TakeKey] {
        match self.endings.get(&pack) {
            Some(endings) if pack >= floor => endings,
            _ => &[],
        }
    }
}

impl TakeState {
    fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Sealed(_))
    }
}
