//! Positions up to which a follower has been sent each recording in progress. Pure.
//!
//! Chunks go out as they are recorded. Where some were missed (before the follower connected, or because it is slow)
//! the rest is read from the file in pieces, in parallel with the live chunks, so that memory use stays bounded.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
};

use twinbox_ids::RecordingId;

/// A recording and its take.
pub type Take = (RecordingId, u32);

/// Positions of recordings that may have ended and are kept nevertheless, beyond twice the number of open ones.
const ENDED: usize = 1_024;

/// Bytes sent and bytes available, from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    sent: u64,
    known: u64,
}

/// The positions of one follower: one for each recording in progress, however many there are.
#[derive(Debug, Default)]
pub struct Tails {
    tails: HashMap<Take, Tail>,
    /// Those of which the follower lacks bytes.
    behind: BTreeSet<Take>,
    /// Number of positions that the last [`Self::retain`] left.
    retained: usize,
}

impl Tails {
    /// The follower has `sent` bytes of a recording of which there are `known`.
    pub fn open(&mut self, take: Take, sent: u64, known: u64) {
        self.update(take, |tail| {
            tail.sent = tail.sent.max(sent);
            tail.known = tail.known.max(known);
        });
    }

    /// A live chunk of `length` bytes at `offset`. Returns the number of its first bytes to leave out, or `None` when
    /// it is not to be sent now, because the follower lacks bytes before it or was sent all of it.
    pub fn chunk(&mut self, take: Take, offset: u64, length: u64) -> Option<u64> {
        let end = offset.saturating_add(length);
        // A recording whose beginning was not seen here is behind by the bytes before the chunk.
        self.update(take, |tail| {
            tail.known = tail.known.max(end);
            if offset > tail.sent || end <= tail.sent {
                return None;
            }
            let skip = tail.sent - offset;
            tail.sent = end;
            Some(skip)
        })
    }

    /// True when the follower lacks bytes of some recording.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// A piece of at most `limit` bytes of a recording that is behind.
    pub fn behind(&self, limit: u64) -> Option<(Take, Range<u64>)> {
        let take = self.behind.first()?;
        let tail = self.tails.get(take)?;
        Some((*take, tail.sent..tail.known.min(tail.sent.saturating_add(limit))))
    }

    /// The piece was sent up to `end`. If that is its start, the piece is not in the file yet: the next chunk makes the
    /// recording behind again.
    pub fn caught_up(&mut self, take: Take, end: u64) {
        if self.tails.contains_key(&take) {
            self.update(take, |tail| {
                if end <= tail.sent {
                    tail.known = tail.sent;
                } else {
                    tail.sent = end;
                }
            });
        }
    }

    /// The recording is filed or discarded.
    pub fn close(&mut self, take: Take) {
        self.tails.remove(&take);
        self.behind.remove(&take);
    }

    /// True when many of the recordings may have ended without a [`Self::close`]: [`Self::retain`] is due. Its cost is
    /// spread over at least as many new recordings as it looks at.
    pub fn is_crowded(&self) -> bool {
        self.tails.len() > 2 * self.retained + ENDED
    }

    /// Forgets all recordings except those still open.
    pub fn retain(&mut self, open: &HashSet<Take>) {
        self.tails.retain(|take, _| open.contains(take));
        self.behind.retain(|take| open.contains(take));
        self.retained = self.tails.len();
    }

    /// Changes the position of a recording, which is a new one if there is none.
    fn update<R>(&mut self, take: Take, change: impl FnOnce(&mut Tail) -> R) -> R {
        let tail = self.tails.entry(take).or_insert(Tail { sent: 0, known: 0 });
        let result = change(tail);
        if tail.sent < tail.known {
            self.behind.insert(take);
        } else {
            self.behind.remove(&take);
        }
        result
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
    fn none_of_ten_thousand_recordings_is_left_out() {
        let mut tails = Tails::default();
        let takes: Vec<Take> = (0..10_000).map(|n| (RecordingId(n), 0)).collect();
        let open: HashSet<Take> = takes.iter().copied().collect();
        for offset in [0, 160] {
            for take in &takes {
                assert_eq!(tails.chunk(*take, offset, 160), Some(0), "{take:?}");
                if tails.is_crowded() {
                    tails.retain(&open);
                }
            }
        }
        assert!(!tails.is_behind());
        for take in &takes {
            tails.close(*take);
        }
        assert!(tails.tails.is_empty());
    }

    #[test]
    fn only_recordings_that_are_behind_are_looked_at() {
        let mut tails = Tails::default();
        for n in 0..10_000 {
            tails.chunk((RecordingId(n), 0), 0, 160);
        }
        for n in [7, 4_000, 9_999] {
            assert_eq!(tails.chunk((RecordingId(n), 0), 320, 160), None, "160 bytes before it are missing");
        }
        assert_eq!(tails.behind.len(), 3);
        tails.close((RecordingId(4_000), 0));
        let mut caught_up = Vec::new();
        while let Some((take, range)) = tails.behind(1_000) {
            assert_eq!(range, 160..480);
            tails.caught_up(take, range.end);
            caught_up.push(take.0.0);
        }
        assert_eq!(caught_up, [7, 9_999]);
        assert!(!tails.is_behind());
    }

    #[test]
    fn recordings_that_ended_unheard_are_forgotten() {
        let mut tails = Tails::default();
        let open = (RecordingId(7), 0);
        let mut most = 0;
        for n in 0..100_000 {
            // All of them are behind, and none is closed.
            tails.chunk((RecordingId(n), 0), 10, 10);
            if tails.is_crowded() {
                tails.retain(&HashSet::from([open]));
            }
            most = most.max(tails.tails.len()).max(tails.behind.len());
        }
        assert!(most <= ENDED + 3, "{most} positions for one open recording");
        assert!(tails.tails.contains_key(&open));
    }
}
