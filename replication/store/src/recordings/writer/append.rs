//! Appending the audio of takes.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::atomic::Ordering,
};

use bytes::Bytes;
use twinbox_disk::Need;
use twinbox_ids::RecordingId;
use twinbox_packs::{Extent, Frame, Kind, MAX_PAYLOAD, Pieces};
use twinbox_replication_core::Ranges;
use twinbox_replication_feed::FeedEntry;

use super::{CHUNK_BYTES, MOST_OPEN, State, Writer};
use crate::{
    StoreError,
    recordings::take::{HOLE, Slot, TakeKey},
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

/// Number of frames of silence in one append.
const HOLES_AT_ONCE: usize = 16;

/// Frames to append, and for each the slot of its take.
struct Frames<'a> {
    frames: Vec<Frame<'a>>,
    slots: Vec<Slot>,
}

impl Writer {
    /// Writes chunks with one append, and announces those that were recorded here.
    pub(super) fn write(&mut self, mut chunks: Vec<Chunk>) {
        let bytes: u64 = chunks.iter().map(|chunk| chunk.bytes.len() as u64 + CHUNK_BYTES).sum();
        self.shared.waiting.fetch_sub(bytes, Ordering::Relaxed);
        let (mut slots, mut begun) = (Vec::with_capacity(chunks.len()), Vec::new());
        chunks.retain(|chunk| {
            let slot = self.slot_of(chunk, &mut begun);
            slots.extend(slot);
            slot.is_some()
        });
        if chunks.is_empty() {
            return;
        }
        let appended = self.append(&chunks, &slots);
        if appended.is_err() {
            begun.into_iter().for_each(|key| self.close(key));
        }
        match appended {
            // A failed disk has none of the chunks (rule A4): the coverage of the take lacks them, and the peers get them.
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

    /// The slot of the take of a chunk; the only look at a map that a chunk costs. A chunk of a peer may begin the take. `None` for a
    /// chunk of a take that has ended, or was never begun here and cannot be.
    fn slot_of(&mut self, chunk: &Chunk, begun: &mut Vec<TakeKey>) -> Option<Slot> {
        match self.takes.get(&chunk.key) {
            Some(&State::Open(slot)) => Some(slot),
            Some(State::Sealed(_) | State::Ended) => None,
            None if chunk.own => {
                let (id, take) = chunk.key;
                let error = StoreError::NoRecording { id, take };
                tracing::error!(recording = %id, take, %error, "chunk of a recording cannot be stored");
                None
            }
            // The blob of a take that is not begun is fetched when a record names it.
            None if self.takes.len().saturating_sub(self.ended.len()) >= MOST_OPEN => None,
            None => {
                begun.push(chunk.key);
                Some(self.open(chunk.key, Pieces::default()))
            }
        }
    }

    /// Appends the bytes that are not here yet.
    fn append(&mut self, chunks: &[Chunk], slots: &[Slot]) -> Result<(), StoreError> {
        self.shared.writable()?;
        let appended = self.append_missing(chunks, slots);
        // The next chunk is refused to its caller as long as the disk takes none.
        if appended.is_err() {
            self.shared.full.store(true, Ordering::Relaxed);
        }
        appended
    }

    fn append_missing(&mut self, chunks: &[Chunk], slots: &[Slot]) -> Result<(), StoreError> {
        self.shared.reserve.check(Need::Data(chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum()))?;
        let missing = self.missing(chunks, slots);
        for (slot, key) in self.append_frames(&missing)? {
            self.catch_up(slot, key);
        }
        Ok(())
    }

    /// Frames of the parts of chunks that are not here yet.
    fn missing<'a>(&self, chunks: &'a [Chunk], slots: &[Slot]) -> Frames<'a> {
        let (mut index, count) = (self.shared.index(), chunks.len());
        let mut missing = Frames { frames: Vec::with_capacity(count), slots: Vec::with_capacity(count) };
        for slot in slots {
            if let Some(take) = index.takes.at_mut(*slot) {
                take.coming = take.pieces.end();
            }
        }
        // Of a take with a chunk that is not at its end: its bytes in the first chunks, and the number of these.
        let mut earlier = HashMap::<Slot, (Ranges, usize)>::new();
        for (n, (chunk, slot)) in chunks.iter().zip(slots).enumerate() {
            let (range, Some(take)) = (chunk.range(), index.takes.at_mut(*slot)) else { continue };
            let mut add = |gap: Range<u64>| {
                for start in (gap.start..gap.end).step_by(MAX_PAYLOAD) {
                    missing.frames.push(chunk.frame(&(start..gap.end.min(start + MAX_PAYLOAD as u64))));
                    missing.slots.push(*slot);
                }
            };
            if range.start >= take.coming {
                add(range.clone());
            } else {
                let (earlier, first) = earlier.entry(*slot).or_default();
                let others = (*first..n).filter(|at| slots.get(*at) == Some(slot));
                others.filter_map(|at| chunks.get(at)).for_each(|chunk| earlier.insert(chunk.range()));
                *first = n;
                let gaps = take.pieces.gaps(range.clone());
                gaps.into_iter().flat_map(|gap| earlier.gaps(gap)).for_each(&mut add);
            }
            take.coming = take.coming.max(range.end);
        }
        missing
    }

    /// Appends audio of takes in progress, and notes its places. Returns the takes of which some bytes are not hashed.
    fn append_frames(
        &mut self,
        Frames { frames, slots }: &Frames<'_>,
    ) -> Result<BTreeSet<(Slot, TakeKey)>, StoreError> {
        // Compaction must not take a pack for unused before the index has the places in it.
        let appending = self.shared.blobs.appending(None);
        let extents = self.shared.blobs.packs().append(frames);
        let extents = extents.map_err(|error| self.shared.blobs.failed(error))?;
        let ends = self.note_places(frames, slots, &extents);
        drop(appending);
        let mut behind = BTreeSet::new();
        for ((frame, slot), end) in frames.iter().zip(slots).zip(ends) {
            let Some(Some(hashed)) = self.hashed.get_mut(*slot) else { continue };
            hashed.follow(frame.offset, frame.payload);
            if hashed.upto() < end {
                behind.insert((*slot, (RecordingId(frame.recording), frame.take)));
            }
        }
        Ok(behind)
    }

    /// Notes the places of frames under one lock. Returns for each the end of its take then.
    fn note_places(&mut self, frames: &[Frame<'_>], slots: &[Slot], extents: &[Extent]) -> Vec<u64> {
        let (mut index, mut ends) = (self.shared.index(), Vec::with_capacity(frames.len()));
        for ((frame, slot), extent) in frames.iter().zip(slots).zip(extents) {
            let Some(take) = index.takes.at_mut(*slot) else {
                ends.push(0);
                continue;
            };
            take.pieces.add(frame.offset, *extent);
            ends.push(take.pieces.end());
            if take.first.is_none() {
                take.first = Some(extent.pack);
                *self.firsts.entry(extent.pack).or_default() += 1;
            }
        }
        ends
    }

    /// Hashes some of the bytes that have become contiguous. The rest follows when the take is sealed.
    fn catch_up(&mut self, slot: Slot, key: TakeKey) {
        let Some(Some(hashed)) = self.hashed.get_mut(slot) else { return };
        let upto = hashed.upto();
        let places = self.shared.index().open(key).map(|pieces| {
            let end = pieces.run_end(upto);
            pieces.places(upto..end.min(upto + CATCH_UP))
        });
        // Bytes that cannot be read now are read again for the seal, which fails if they still cannot be read.
        if let Err(error) = hashed.read(self.shared.blobs.packs(), &places.unwrap_or_default()) {
            tracing::warn!(recording = %key.0, take = key.1, %error, "audio of a recording cannot be read");
        }
    }

    /// Fills the holes up to the last byte that is here. Returns the length.
    pub(super) fn fill_holes(&mut self, key: TakeKey, slot: Slot) -> Result<u64, StoreError> {
        let (gaps, end) = match self.shared.index().open(key) {
            Some(pieces) => (pieces.gaps(0..pieces.end()), pieces.end()),
            None => (Vec::new(), 0),
        };
        let Some(longest) = gaps.iter().map(|gap| gap.end - gap.start).max() else { return Ok(end) };
        let first = gaps.first().map(|gap| gap.start);
        self.shared.change(key, |take| take.holed = take.holed.into_iter().chain(first).min());
        self.shared.reserve.check(Need::Data(gaps.iter().map(|gap| gap.end - gap.start).sum()))?;
        let silence = vec![HOLE; longest.min(MAX_PAYLOAD as u64) as usize];
        let mut frames = Vec::with_capacity(gaps.len());
        for gap in gaps {
            tracing::warn!(recording = %key.0, take = key.1, from = gap.start, to = gap.end, "gap in a recording filled with silence");
            for start in gap.clone().step_by(MAX_PAYLOAD) {
                let length = (gap.end - start).min(MAX_PAYLOAD as u64) as usize;
                frames.push(frame(key, start, silence.get(..length).unwrap_or_default()));
            }
        }
        // The seal hashes the bytes behind the holes. A large hole does not hold the packs' lock until all of it is written.
        for frames in frames.chunks(HOLES_AT_ONCE) {
            self.append_frames(&Frames { frames: frames.to_vec(), slots: vec![slot; frames.len()] })?;
        }
        Ok(end)
    }
}
