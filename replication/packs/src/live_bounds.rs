//! The live bytes that packs have at most: compaction counts those of a pack again only when many may have gone since.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Extent, format::span};

/// The bound of a pack whose live bytes are being counted: it shows what is removed meanwhile.
const COUNTING: u64 = u64::MAX;

/// Upper bounds of the live bytes of closed packs, which get no more bytes. A bound that sinks too far costs another
/// count, and a count sets it right; a damaged blob that was replaced is counted at the next start.
#[derive(Debug, Default)]
pub struct LiveBounds(Mutex<HashMap<u32, u64>>);

impl LiveBounds {
    /// To be called before the live bytes of a pack are counted.
    pub fn begin(&self, pack: u32) {
        self.bounds().insert(pack, COUNTING);
    }

    /// Those are counted; what was removed meanwhile may or may not be among them. `None`: they are not known.
    pub fn end(&self, pack: u32, counted: Option<u64>) {
        let mut bounds = self.bounds();
        let removed = COUNTING - bounds.remove(&pack).unwrap_or_default();
        bounds.extend(counted.map(|live| (pack, live.saturating_sub(removed))));
    }

    /// These bytes are not in use any more, or soon: to be called once no count finds them.
    pub fn removed<'a>(&self, extents: impl IntoIterator<Item = &'a Extent>) {
        let mut bounds = self.bounds();
        for extent in extents {
            if let Some(bound) = bounds.get_mut(&extent.pack) {
                *bound = bound.saturating_sub(frame_bytes(extent.length));
            }
        }
    }

    /// Whether less than half of a pack with `used` bytes may be live. True for one that was not counted.
    pub fn may_be_sparse(&self, pack: u32, used: u64) -> bool {
        self.bounds().get(&pack).is_none_or(|bound| bound.saturating_mul(2) < used)
    }

    fn bounds(&self) -> MutexGuard<'_, HashMap<u32, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let bounds = LiveBounds::default();
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
        let bounds = LiveBounds::default();
        let used = 10 * frame_bytes(2_000);
        bounds.begin(PACK);
        (0..6).for_each(|_| bounds.removed(&[piece(PACK, 2_000)]));
        bounds.end(PACK, Some(used));
        assert!(bounds.may_be_sparse(PACK, used));
        bounds.begin(PACK);
        bounds.end(PACK, None);
        assert!(bounds.may_be_sparse(PACK, used), "not known");
    }
}
