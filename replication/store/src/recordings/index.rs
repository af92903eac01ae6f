//! The takes that are neither filed nor discarded, as the writer and the callers share them.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::BlobHash;
use twinbox_packs::Pieces;
use twinbox_replication_core::Slots;

use super::take::{Stage, TakeKey, TakeState};

/// Bytes that the note of a take's end has in its pack.
const ENDING: u64 = 48;

#[derive(Default)]
pub(super) struct Index {
    pub(super) takes: Slots<TakeKey, TakeState>,
    /// The notes of ended takes that a start needs, by pack: without its note, a start would find the take again.
    pub(super) endings: BTreeMap<u32, Vec<TakeKey>>,
    /// Packs that could not be read at the start, and may have takes in progress.
    pub(super) unreadable: BTreeSet<u32>,
}

impl Index {
    /// The pieces of a take in progress.
    pub(super) fn open(&self, key: TakeKey) -> Option<&Pieces> {
        self.takes.get(&key).filter(|take| take.is_open()).map(|take| &take.pieces)
    }

    /// The takes in progress.
    pub(super) fn all_open(&self) -> impl Iterator<Item = (TakeKey, &Pieces)> {
        self.takes.iter().filter(|(_, take)| take.is_open()).map(|(key, take)| (*key, &take.pieces))
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
