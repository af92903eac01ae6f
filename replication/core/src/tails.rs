//! Positions up to which a follower has been sent each recording in progress. Pure.
//!
//! Chunks go out as they are recorded. Where some were missed (before the follower connected, or because it is slow)
//! the rest is read from the file in pieces, in parallel with the live chunks, so that memory use stays bounded.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use twinbox_ids::RecordingId;

/// A recording and its take.
pub type Take = (RecordingId, u32);

/// Maximum recordings followed concurrently; nothing is sent of those above it, and their blobs are fetched at filing.
const MAX_TAKES: usize = 4_096;

/// Bytes sent and bytes available, from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    sent: u64,
    known: u64,
}

/// The positions of one follower.
#[derive(Debug, Default)]
pub struct Tails(HashMap<Take, Tail>);

impl Tails {
    /// The follower has `sent` bytes of a recording of which there are `known`.
    pub fn open(&mut self, take: Take, sent: u64, known: u64) {
        if self.0.len() < MAX_TAKES || self.0.contains_key(&take) {
            let tail = self.0.entry(take).or_insert(Tail { sent, known });
            tail.sent = tail.sent.max(sent);
            tail.known = tail.known.max(known);
        }
    }

    /// A live chunk of `length` bytes at `offset`. Returns the number of its first bytes to leave out, or `None` when
    /// it is not to be sent now, because the follower lacks bytes before it or was sent all of it.
    pub fn chunk(&mut self, take: Take, offset: u64, length: u64) -> Option<u64> {
        // A recording whose beginning was not seen here is behind by the bytes before the chunk.
        self.open(take, 0, 0);
        let tail = self.0.get_mut(&take)?;
        let end = offset.saturating_add(length);
        tail.known = tail.known.max(end);
        if offset > tail.sent || end <= tail.sent {
            return None;
        }
        let skip = tail.sent - offset;
        tail.sent = end;
        Some(skip)
    }

    /// A piece of at most `limit` bytes of a recording that is behind.
    pub fn behind(&self, limit: u64) -> Option<(Take, Range<u64>)> {
        let (take, tail) = self.0.iter().find(|(_, tail)| tail.sent < tail.known)?;
        Some((*take, tail.sent..tail.known.min(tail.sent.saturating_add(limit))))
    }

    /// The piece was sent up to `end`. If that is its start, the piece is not in the file yet: the next chunk makes the
    /// recording behind again.
    pub fn caught_up(&mut self, take: Take, end: u64) {
        if let Some(tail) = self.0.get_mut(&take) {
            if end <= tail.sent {
                tail.known = tail.sent;
            } else {
                tail.sent = end;
            }
        }
    }

    /// The recording is filed or discarded.
    pub fn close(&mut self, take: Take) {
        self.0.remove(&take);
    }

    /// True when a new recording would not be followed.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_TAKES
    }

    /// Forgets all recordings except those still open.
    pub fn retain(&mut self, open: &HashSet<Take>) {
        self.0.retain(|take, _| open.contains(take));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKE: Take = (RecordingId(7), 1);

    #[test]
    fn live_chunks_are_sent_once_and_in_order() {
        let mut tails = Tails::default();
        for (offset, length, expected) in
            [(0, 100, Some(0)), (100, 100, Some(0)), (100, 100, None), (150, 100, Some(50)), (250, 0, None)]
        {
            assert_eq!(tails.chunk(TAKE, offset, length), expected, "{offset}+{length}");
        }
        assert_eq!(tails.behind(1_000), None);
    }

    #[test]
    fn missed_audio_is_read_in_pieces_before_live_chunks() {
        let mut tails = Tails::default();
        tails.open(TAKE, 100, 250);
        assert_eq!(tails.chunk(TAKE, 250, 50), None, "150 bytes before it are missing");
        assert_eq!(tails.behind(120), Some((TAKE, 100..220)));
        tails.caught_up(TAKE, 220);
        assert_eq!(tails.behind(120), Some((TAKE, 220..300)));
        tails.caught_up(TAKE, 300);
        assert_eq!(tails.behind(120), None);
        assert_eq!(tails.chunk(TAKE, 300, 50), Some(0));
    }

    #[test]
    fn recording_that_is_joined_late_is_behind() {
        let mut tails = Tails::default();
        assert_eq!(tails.chunk(TAKE, 500, 10), None);
        assert_eq!(tails.behind(1_000), Some((TAKE, 0..510)));
        // It is not written yet; then it is written.
        tails.caught_up(TAKE, 0);
        assert_eq!(tails.behind(1_000), None);
        assert_eq!(tails.chunk(TAKE, 510, 10), None);
        assert_eq!(tails.behind(1_000), Some((TAKE, 0..520)));
    }

    #[test]
    fn the_number_of_recordings_is_bounded() {
        let mut tails = Tails::default();
        for n in 0..2 * MAX_TAKES as u128 {
            tails.chunk((RecordingId(n), 0), 0, 10);
        }
        assert!(tails.is_full());
        let new = (RecordingId(u128::MAX), 0);
        assert_eq!(tails.chunk(new, 0, 10), None);
        let open = (RecordingId(7), 0);
        tails.retain(&HashSet::from([open]));
        assert_eq!(tails.0.keys().collect::<Vec<_>>(), [&open]);
        assert_eq!(tails.chunk(new, 0, 10), Some(0));
    }
}
