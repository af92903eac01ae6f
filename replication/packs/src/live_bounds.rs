//! Upper bounds of the live bytes of packs: compaction counts a pack again only when many of its bytes may be dead since.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::{Extent, format::span};

/// Minimum interval between two counts that no bound asks for.
const COUNTED_EVERY: Duration = Duration::from_secs(60);

/// Upper bounds of the live bytes of packs. A bound that sinks too far costs another count. One that is too high, since dead bytes
/// were not reported, is corrected when the turn of its pack comes ([`Self::next_turn`]).
///
/// Packs of this process need no count before: their bytes are known, and the bytes removed from them since they were made.
#[derive(Debug)]
pub struct LiveBounds {
    /// The last pack of earlier processes.
    last: Option<u32>,
    bounds: Mutex<HashMap<u32, Bound>>,
    /// Time of the last turn, and its pack.
    turn: Mutex<(BootInstant, u32)>,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    /// Bytes removed since the pack was made, or since its count began.
    Removed(u64),
    /// Maximum of live bytes.
    Live(u64),
}

impl LiveBounds {
    /// Bounds of these packs of earlier processes, and of the packs that this process makes from `now` on, with higher numbers.
    pub fn new(packs: &[u32], now: BootInstant) -> Self {
        Self { last: packs.iter().max().copied(), bounds: Mutex::default(), turn: Mutex::new((now, 0)) }
    }

    /// The pack that is to be counted now whatever its bound: one of these each minute, in turn. This also finds dead bytes that were
    /// never reported: audio whose row could not be written, or a copy whose blob was removed meanwhile.
    pub fn next_turn(&self, packs: &[u32], now: BootInstant) -> Option<u32> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(turn.0) < COUNTED_EVERY {
            return None;
        }
        let next = packs.iter().find(|pack| **pack > turn.1).or(packs.first()).copied()?;
        *turn = (now, next);
        Some(next)
    }

    /// True for a pack of an earlier process.
    pub fn is_to_be_counted(&self, pack: u32) -> bool {
        self.last.is_some_and(|last| pack <= last)
    }

    /// To be called before the live bytes of a pack are counted.
    pub fn begin(&self, pack: u32) {
        self.bounds().insert(pack, Bound::Removed(0));
    }

    /// Ends a count of live bytes, which may or may not include removals during the count. `None`: the count failed.
    pub fn end(&self, pack: u32, counted: Option<u64>) {
        let mut bounds = self.bounds();
        let removed = match bounds.get(&pack) {
            Some(Bound::Removed(removed)) => *removed,
            Some(Bound::Live(_)) | None => 0,
        };
        bounds.insert(pack, Bound::Live(counted.unwrap_or(0).saturating_sub(removed)));
    }

    /// Notes bytes that are dead, or will soon be: to be called once no count finds them.
    pub fn removed<'a>(&self, extents: impl IntoIterator<Item = &'a Extent>) {
        let mut bounds = self.bounds();
        for Extent { pack, length, .. } in extents {
            let bytes = frame_bytes(*length);
            match bounds.get_mut(pack) {
                Some(Bound::Removed(removed)) => *removed = removed.saturating_add(bytes),
                Some(Bound::Live(live)) => *live = live.saturating_sub(bytes),
                None if self.is_to_be_counted(*pack) => {}
                None => drop(bounds.insert(*pack, Bound::Removed(bytes))),
            }
        }
    }

    /// Whether less than half of a pack with `used` bytes may be live. True for a pack that needs a count and has none.
    pub fn may_be_sparse(&self, pack: u32, used: u64) -> bool {
        let live = match self.bounds().get(&pack) {
            Some(Bound::Removed(removed)) => used.saturating_sub(*removed),
            Some(Bound::Live(live)) => *live,
            None => return self.is_to_be_counted(pack),
        };
        live.saturating_mul(2) < used
    }

    /// Forgets a removed pack.
    pub fn forget(&self, pack: u32) {
        self.bounds().remove(&pack);
    }

    fn bounds(&self) -> MutexGuard<'_, HashMap<u32, Bound>> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that a frame with a payload of `length` bytes takes.
pub fn frame_bytes(length: u32) -> u64 {
    span(length as usize) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: u32 = 7;

    fn now() -> BootInstant {
        BootInstant::from_nanos(1_000_000_000_000)
    }

    fn piece(pack: u32, length: u32) -> Extent {
        Extent { pack, offset: 0, length }
    }

    #[test]
    fn pack_is_counted_again_when_half_of_it_may_have_gone() {
        let bounds = LiveBounds::new(&[PACK - 3, PACK + 1], now());
        let used = 10 * frame_bytes(2_000);
        assert!(bounds.may_be_sparse(PACK, used), "never counted");
        bounds.begin(PACK);
        bounds.end(PACK, Some(used));
        for n in 1..=10 {
            bounds.removed(&[piece(PACK, 2_000), piece(PACK + 1, 2_000)]);
            assert_eq!(bounds.may_be_sparse(PACK, used), n > 5, "{n} of 10 are removed");
        }
    }

    #[test]
    fn removal_during_a_count_lowers_the_bound() {
        let bounds = LiveBounds::new(&[PACK], now());
        let used = 10 * frame_bytes(2_000);
        bounds.begin(PACK);
        (0..6).for_each(|_| bounds.removed(&[piece(PACK, 2_000)]));
        bounds.end(PACK, Some(used));
        assert!(bounds.may_be_sparse(PACK, used));
        bounds.begin(PACK);
        bounds.end(PACK, None);
        assert!(bounds.may_be_sparse(PACK, used), "not known");
    }
    #[test]
    fn pack_of_this_process_is_counted_when_half_of_it_may_have_gone() {
        let bounds = LiveBounds::new(&[PACK - 1], now());
        let used = 10 * frame_bytes(2_000);
        for n in 0..=10 {
            assert_eq!(bounds.may_be_sparse(PACK, used), n > 5, "{n} of 10 are removed");
            bounds.removed(&[piece(PACK, 2_000)]);
        }
        bounds.begin(PACK);
        bounds.end(PACK, Some(used));
        assert!(!bounds.may_be_sparse(PACK, used));
        bounds.forget(PACK);
        assert!(!bounds.may_be_sparse(PACK, used), "nothing is known of it");
    }

    #[test]
    fn each_pack_has_its_turn_one_a_minute() {
        let bounds = LiveBounds::new(&[], now());
        let at = |seconds| now() + Duration::from_secs(seconds);
        assert_eq!(bounds.next_turn(&[3, 5, 9], at(59)), None, "not so soon");
        assert_eq!(bounds.next_turn(&[], at(60)), None);
        let turns = [
            (60, vec![3, 5, 9], Some(3)),
            (61, vec![3, 5, 9], None),
            (120, vec![3, 5, 9], Some(5)),
            (600, vec![3, 9], Some(9)),
            (660, vec![3, 9, 12], Some(12)),
            (720, vec![3, 9, 12], Some(3)),
        ];
        for (seconds, packs, expected) in turns {
            assert_eq!(bounds.next_turn(&packs, at(seconds)), expected, "{seconds}");
        }
    }
}
