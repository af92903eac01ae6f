//! The blocks that were read or written last, in memory, each with the keys that are in it and in no other.
//!
//! sled finds an exact key quickly. For the last entry at or before a key it copies a page, and each read of a row asks for such an entry.
//!
//! The writer notes each write once the map has it ([`BlockCache::wrote`]). A reader keeps a block only if no write was noted since
//! it began to look ([`BlockCache::keep`]): the note of a write under way corrects a block that this write makes stale. Until then the
//! rows of that write are in a layer, where readers look first.

use std::{
    collections::BTreeMap,
    mem,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes that a block counts in addition to its key and its rows.
const BLOCK_BYTES: usize = 160;

/// A block, and what is known of the keys in it.
#[derive(Debug, Clone)]
pub(crate) struct CachedBlock<B> {
    /// The key of its entry.
    pub(crate) begins: Arc<[u8]>,
    pub(crate) end: End,
    /// Its rows. Those at or behind the end do not count.
    pub(crate) block: B,
}

/// The end of the keys that are known to be in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The next block begins with this key.
    Next(Arc<[u8]>),
    /// There is no next block.
    Last,
    /// No other block begins before this key. One may begin there or later.
    Before(Arc<[u8]>),
}

impl End {
    /// All keys up to this bound are known.
    pub(crate) fn up_to(bound: Bound<&[u8]>) -> Self {
        match bound {
            Bound::Included(key) => Self::Before([key, &[0]].concat().into()),
            Bound::Excluded(key) => Self::Before(key.into()),
            Bound::Unbounded => Self::Last,
        }
    }

    /// True when the key is before it.
    pub(crate) fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Next(end) | Self::Before(end) => key < &**end,
            Self::Last => true,
        }
    }

    /// True when all keys up to the bound are before it.
    pub(crate) fn is_behind(&self, to: Bound<&[u8]>) -> bool {
        match (self, to) {
            (Self::Last, _) => true,
            (_, Bound::Unbounded) => false,
            (_, Bound::Included(to)) => self.is_after(to),
            (Self::Next(end) | Self::Before(end), Bound::Excluded(to)) => to <= &**end,
        }
    }

    /// The bound of the keys.
    fn bound(&self) -> Bound<&[u8]> {
        match self {
            Self::Next(end) | Self::Before(end) => Bound::Excluded(end),
            Self::Last => Bound::Unbounded,
        }
    }

    /// True when it tells where the next block begins.
    pub(crate) fn is_exact(&self) -> bool {
        !matches!(self, Self::Before(_))
    }
}

/// The number of writes that were noted when a reader began to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteCount(u64);

/// The blocks of one map in memory. `B` holds the bytes of one.
pub(crate) struct BlockCache<B> {
    /// Maximum bytes of the blocks that are used in a turn.
    most: usize,
    state: Mutex<State<B>>,
}

/// A block stays for the turn in which it was used, and for the next one.
struct State<B> {
    blocks: BTreeMap<Arc<[u8]>, CacheEntry<B>>,
    turn: u64,
    /// Bytes of the blocks that were used in this turn.
    bytes: usize,
    writes: u64,
}

struct CacheEntry<B> {
    end: End,
    block: B,
    /// The last turn in which it was used.
    used: u64,
}

impl<B: AsRef<[u8]> + Clone> BlockCache<B> {
    /// A cache of about this many bytes at most.
    pub(crate) fn new(bytes: usize) -> Self {
        let state = State { blocks: BTreeMap::new(), turn: 0, bytes: 0, writes: 0 };
        Self { most: bytes / 2, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        // A panic in between leaves too few blocks at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block with a key; if it is not known, the writes so far.
    pub(crate) fn find(&self, key: &[u8]) -> Result<CachedBlock<B>, WriteCount> {
        let mut state = self.state();
        let (turn, seen) = (state.turn, WriteCount(state.writes));
        let Some((begins, held)) = state.floor(key).filter(|(_, held)| held.end.is_after(key)) else {
            return Err(seen);
        };
        let known = CachedBlock { begins: begins.clone(), end: held.end.clone(), block: held.block.clone() };
        if held.used != turn {
            held.used = turn;
            state.count(&known.begins, &known.block, self.most);
        }
        Ok(known)
    }

    /// The writes so far, for [`Self::keep`].
    pub(crate) fn writes(&self) -> WriteCount {
        WriteCount(self.state().writes)
    }

    /// Keeps a block that was looked for after `seen`.
    pub(crate) fn keep(&self, seen: WriteCount, CachedBlock { begins, end, block }: CachedBlock<B>) {
        let mut state = self.state();
        if seen != WriteCount(state.writes) {
            return;
        }
        match state.blocks.get_mut(&begins) {
            // The same block; the later end of the two, and the exact one.
            Some(held) if held.end.is_exact() || held.end.is_behind(end.bound()) && !end.is_exact() => {}
            Some(held) => held.end = end,
            None => state.insert(begins, end, block, self.most),
        }
    }
}

impl<B: AsRef<[u8]> + Clone + for<'a> From<&'a [u8]>> BlockCache<B> {
    /// The map has this entry now; `None`: it was removed.
    pub(crate) fn wrote(&self, key: &[u8], block: Option<&[u8]>) {
        let mut state = self.state();
        state.writes += 1;
        if block.is_none() {
            state.blocks.remove(key);
        }
        let Some((begins, held)) = state.floor(key) else { return };
        match block {
            Some(block) if **begins == *key => held.block = block.into(),
            Some(block) if held.end.is_after(key) => {
                let key: Arc<[u8]> = key.into();
                let end = mem::replace(&mut held.end, End::Next(key.clone()));
                state.insert(key, end, block.into(), self.most);
            }
            // The keys from there on are in the block before it, but not in what is known of that one.
            None if matches!(&held.end, End::Next(next) if **next == *key) => held.end = End::Before(key.into()),
            Some(_) | None => {}
        }
    }
}

impl<B: AsRef<[u8]>> State<B> {
    /// The last known block that begins at or before a key.
    fn floor(&mut self, key: &[u8]) -> Option<(&Arc<[u8]>, &mut CacheEntry<B>)> {
        self.blocks.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
    }

    fn insert(&mut self, begins: Arc<[u8]>, end: End, block: B, most: usize) {
        self.count(&begins, &block, most);
        self.blocks.insert(begins, CacheEntry { end, block, used: self.turn });
    }

    /// Counts a block that is used for the first time in this turn, which ends when there are too many.
    fn count(&mut self, begins: &[u8], block: &B, most: usize) {
        self.bytes += begins.len() + block.as_ref().len() + BLOCK_BYTES;
        if self.bytes > most {
            self.blocks.retain(|_, held| held.used == self.turn);
            self.turn += 1;
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/block_cache.rs"]
mod tests;
