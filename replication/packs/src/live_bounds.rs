//! The live bytes that packs have at most: compaction counts those of a pack again only when many may have gone since.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Extent, format::span};

/// Upper bounds of the live bytes of packs. A bound that sinks too far costs another count; one that is too high is set right by the next
/// start, which counts all packs.
///
/// Packs of this process need no count: their bytes are known, and what was removed of them since they were made.
#[derive(Debug)]
pub struct LiveBounds {
    /// The last pack of earlier processes.
    last: Option<u32>,
    bounds: Mutex<HashMap<u32, Bound>>,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    /// So many bytes were removed since the pack was made, or since its count began.
    Removed(u64),
    /// So many bytes are live at most.
    Live(u64),
}

impl LiveBounds {
    /// Of these packs of earlier processes, and of those that this process makes; their numbers are higher.
    pub fn new(packs: &[u32]) -> Self {
        Self { last: packs.iter().max().copied(), bounds: Mutex::default() }
    }

    /// True for a pack of an earlier process.
    pub fn is_to_be_counted(&self, pack: u32) -> bool {
        self.last.is_some_and(|last| pack <= last)
    }

    /// To be called before the live bytes of a pack are counted.
    pub fn begin(&self, pack: u32) {
        self.bounds().insert(pack, Bound::Removed(0));
    }

    /// Those are counted; what was removed meanwhile may or may not be among them. `None`: they are not known.
    pub fn end(&self, pack: u32, counted: Option<u64>) {
        let mut bounds = self.bounds();
        let removed = match bounds.get(&pack) {
            Some(Bound::Removed(removed)) => *removed,
            Some(Bound::Live(_)) | None => 0,
        };
        bounds.insert(pack, Bound::Live(counted.unwrap_or(0).saturating_sub(removed)));
    }

    /// These bytes are not in use any more, or soon: to be called once no count finds them.
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

    /// Whether less than half of a pack with `used` bytes may be live. True for one that was to be counted and was not.
    pub fn may_be_sparse(&self, pack: u32, used: u64) -> bool {
        let live = match self.bounds().get(&pack) {
            Some(Bound::Removed(removed)) => used.saturating_sub(*removed),
            Some(Bound::Live(live)) => *live,
            None => return self.is_to_be_counted(pack),
        };
        live.saturating_mul(2) < used
    }

    /// The pack was removed.
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

    fn piece(pack: u32, length: u32) -> Extent {
        Extent { pack, offset: 0, length }
    }

    #[test]
    fn pack_is_counted_again_when_half_of_it_may_have_gone() {
        let bounds = LiveBounds::new(&[PACK - 3, PACK + 1]);
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
    fn what_is_removed_during_a_count_lowers_the_bound() {
        let bounds = LiveBounds::new(&[PACK]);
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
        let bounds = LiveBounds::new(&[PACK - 1]);
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
}
