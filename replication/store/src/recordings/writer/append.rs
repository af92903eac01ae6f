//! Appending the audio of takes.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::atomic::Ordering,
};

use bytes::Bytes;
use twinbox_disk::Need;
use twinbox_packs::{Extent, Frame, Kind, MAX_PAYLOAD};
use twinbox_replication_core::Ranges;
use twinbox_replication_feed::FeedEntry;

use super::{CHUNK_BYTES, MOST_OPEN, State, Writer};
use crate::{
    StoreError,
    recordings::take::{HOLE, Pieces, TakeKey},
};

/// Bytes that are hashed with each chunk when a hole before them was filled.
const CATCH_UP: u64 = 64 * 1024;

/// A chunk of a take; `own` when it was recorded here.
pub(in crate::recordings) struct Chunk {
    pub(in crate::recordings) key: TakeKey,
    pub(in crate::recordings) offset: u64,
    pub(in crate::recordings) bytes: Bytes,
    pub(in crate::recordings) own: bool,
}

impl Chunk {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes.len() as u64)
    }

    /// The frame of a part of the chunk, given as a range of the take.
    fn frame(&self, part: &Range<u64>) -> Frame<'_> {
        let bytes = (part.start - self.offset) as usize..(part.end - self.offset) as usize;
        frame(self.key, part.start, self.bytes.get(bytes).unwrap_or_default())
    }
}

fn frame((id, take): TakeKey, offset: u64, payload: &[u8]) -> Frame<'_> {
    Frame { kind: Kind::Chunk, recording: id.0, take, offset, payload }
}

impl Writer {
    /// Writes chunks with one append, and announces those that were recorded here.
    pub(super) fn write(&mut self, mut chunks: Vec<Chunk>) {
        let bytes: u64 = chunks.iter().map(|chunk| chunk.bytes.len() as u64 + CHUNK_BYTES).sum();
        self.shared.waiting.fetch_sub(bytes, Ordering::Relaxed);
        chunks.retain(|chunk| self.accepts(chunk));
        if chunks.is_empty() {
            return;
        }
        match self.append(&chunks) {
            // A failed disk has none of them (rule A4): the coverage of the take lacks them, and the peers have them.
            Err(error) if !error.is_broken() => {
                for Chunk { key: (id, take), offset, .. } in chunks {
                    tracing::error!(recording = %id, take, offset, %error, "chunk of a recording cannot be stored");
                }
            }
            Ok(()) | Err(_) => {
                let own = chunks.into_iter().filter(|chunk| chunk.own);
                let entry = |Chunk { key: take, offset, bytes, .. }| FeedEntry::Chunk { take, offset, bytes };
                self.shared.feed.append(own.map(entry).collect());
            }
        }
    }

    /// False for a chunk of a take that has ended, or was never begun here and cannot be.
    fn accepts(&self, chunk: &Chunk) -> bool {
        match self.takes.get(&chunk.key) {
            Some(State::Open(_)) => true,
            Some(State::Sealed(_) | State::Ended) => false,
            None if chunk.own => {
                let (id, take) = chunk.key;
                let error = StoreError::NoRecording { id, take };
                tracing::error!(recording = %id, take, %error, "chunk of a recording cannot be stored");
                false
            }
            // The blob of a take that is not begun is fetched when a record names it.
            None => self.takes.len().saturating_sub(self.ended.len()) < MOST_OPEN,
        }
    }

    /// Appends the bytes that are not here yet.
    fn append(&mut self, chunks: &[Chunk]) -> Result<(), StoreError> {
        self.shared.writable()?;
        let appended = self.append_missing(chunks);
        // The next chunk is refused to its caller as long as the disk takes none.
        if appended.is_err() {
            self.shared.full.store(true, Ordering::Relaxed);
        }
        appended
    }

    fn append_missing(&mut self, chunks: &[Chunk]) -> Result<(), StoreError> {
        self.shared.reserve.check(Need::Data(chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum()))?;
        let parts = self.missing(chunks);
        let frames: Vec<_> = parts.iter().map(|(chunk, part)| chunk.frame(part)).collect();
        // Compaction must not take a pack for unused before the index has the places in it.
        let appending = self.shared.blobs.appending(None);
        let extents = self.shared.blobs.packs().append(&frames);
        let extents = extents.map_err(|error| self.shared.blobs.failed(error))?;
        for chunk in chunks.iter().filter(|chunk| !chunk.own) {
            if !self.takes.contains_key(&chunk.key) {
                self.open(chunk.key, Pieces::default());
            }
        }
        let mut behind = BTreeSet::new();
        for ((chunk, part), (frame, extent)) in parts.iter().zip(frames.iter().zip(extents)) {
            if !self.place(chunk.key, part.start, extent, frame.payload) {
                behind.insert(chunk.key);
            }
        }
        drop(appending);
        behind.into_iter().for_each(|key| self.catch_up(key));
        Ok(())
    }

    /// The parts of chunks that are not here yet, none longer than a frame may be.
    fn missing<'a>(&self, chunks: &'a [Chunk]) -> Vec<(&'a Chunk, Range<u64>)> {
        let (index, mut ends) = (self.shared.index(), HashMap::with_capacity(chunks.len()));
        let mut parts = Vec::with_capacity(chunks.len());
        for (n, chunk) in chunks.iter().enumerate() {
            let (range, here) = (chunk.range(), index.open(chunk.key).map(Pieces::covered));
            let end = ends.entry(chunk.key).or_insert_with(|| here.map_or(0, Ranges::end));
            let mut add = |gap: Range<u64>| {
                let starts = (gap.start..gap.end).step_by(MAX_PAYLOAD);
                parts.extend(starts.map(|start| (chunk, start..gap.end.min(start + MAX_PAYLOAD as u64))));
            };
            if range.start >= *end {
                add(range.clone());
            } else {
                let earlier = chunks.iter().take(n).filter(|earlier| earlier.key == chunk.key);
                let earlier: Ranges = earlier.map(Chunk::range).collect();
                let gaps = here.map_or_else(|| vec![range.clone()], |here| here.gaps(range.clone()));
                gaps.into_iter().flat_map(|gap| earlier.gaps(gap)).for_each(&mut add);
            }
            *end = range.end.max(*end);
        }
        parts
    }

    /// Audio of a take in progress was appended there. False while some bytes of the take are not hashed.
    fn place(&mut self, key: TakeKey, offset: u64, extent: Extent, bytes: &[u8]) -> bool {
        let mut end = 0;
        if let Some(take) = self.shared.index().takes.get_mut(&key) {
            take.pieces.add(offset, extent);
            end = take.pieces.covered().end();
            if take.first.is_none() {
                take.first = Some(extent.pack);
                *self.firsts.entry(extent.pack).or_default() += 1;
            }
        }
        let Some(State::Open(hashed)) = self.takes.get_mut(&key) else { return true };
        hashed.follow(offset, bytes);
        hashed.upto() >= end
    }

    /// Hashes some of the bytes that have become contiguous. The rest follows when the take is sealed.
    fn catch_up(&mut self, key: TakeKey) {
        let Some(State::Open(hashed)) = self.takes.get_mut(&key) else { return };
        let upto = hashed.upto();
        let places = self.shared.index().open(key).map(|pieces| {
            let end = pieces.covered().run_end(upto);
            pieces.places(upto..end.min(upto + CATCH_UP))
        });
        // What cannot be read now is read again for the seal, which fails if it must.
        if let Err(error) = hashed.read(self.shared.blobs.packs(), &places.unwrap_or_default()) {
            tracing::warn!(recording = %key.0, take = key.1, %error, "audio of a recording cannot be read");
        }
    }

    /// Fills the holes up to the last byte that is here. Returns the length.
    pub(super) fn fill_holes(&mut self, key: TakeKey) -> Result<u64, StoreError> {
        let covered = self.shared.index().open(key).map_or_else(Ranges::new, |pieces| pieces.covered().clone());
        let gaps = covered.gaps(0..covered.end());
        let Some(longest) = gaps.iter().map(|gap| gap.end - gap.start).max() else { return Ok(covered.end()) };
        self.shared.reserve.check(Need::Data(gaps.iter().map(|gap| gap.end - gap.start).sum()))?;
        let silence = vec![HOLE; longest.min(MAX_PAYLOAD as u64) as usize];
        let _appending = self.shared.blobs.appending(None);
        for gap in gaps {
            tracing::warn!(recording = %key.0, take = key.1, from = gap.start, to = gap.end, "gap in a recording filled with silence");
            for start in gap.clone().step_by(MAX_PAYLOAD) {
                let length = (gap.end - start).min(MAX_PAYLOAD as u64) as usize;
                let silence = silence.get(..length).unwrap_or_default();
                let filled = self.shared.blobs.packs().append(&[frame(key, start, silence)]);
                for extent in filled.map_err(|error| self.shared.blobs.failed(error))? {
                    self.place(key, start, extent, silence);
                }
            }
        }
        Ok(covered.end())
    }
}
