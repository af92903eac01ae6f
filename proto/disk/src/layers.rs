//! Writes that are durable in the journal and not yet in the index, in memory. Every read consults them first.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use twinbox_journal::Position;

use crate::{
    range::{KeyRange, ReadFrom},
    transaction::Overlay,
};

/// Maximum bytes that one [`Layers::range`] copies, apart from its last entry.
const COPIED: usize = 256 * 1024;

/// A key with its value; `None` is a removal.
pub(crate) type Written = (Vec<u8>, Option<Vec<u8>>);

/// The two layers: the commits of the last moments, and under it those that are being applied to the index. No lock is
/// held during IO.
#[derive(Default)]
pub(crate) struct Layers(RwLock<Maps>);

#[derive(Default)]
struct Maps {
    active: Overlay,
    /// Position in the journal up to which `active` and all before it hold everything; `None` when `active` is empty.
    covers: Option<Position>,
    frozen: Option<Arc<Overlay>>,
}

/// Writes that are to be applied to the index.
pub(crate) struct Frozen {
    pub(crate) writes: Arc<Overlay>,
    /// Position in the journal up to which the index holds everything once they are applied.
    pub(crate) covers: Position,
}

impl Layers {
    /// The value that was last written to a key, if it is not in the index yet; `Some(None)` is a removal.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        let maps = self.read();
        let frozen = || maps.frozen.as_ref().and_then(|frozen| frozen.get(key));
        maps.active.get(key).or_else(frozen).cloned()
    }

    /// The first entries of a range, at most `limit`, in the order in which they are read; and whether there are more.
    pub(crate) fn range(&self, range: &KeyRange, from: ReadFrom, limit: usize) -> (Vec<Written>, bool) {
        let maps = self.read();
        let mut found: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for layer in maps.frozen.as_deref().into_iter().chain([&maps.active]) {
            // One more than is wanted, which shows that there are more.
            let entries = from.read(layer.range::<[u8], _>(range.bounds())).take(limit.saturating_add(1));
            found.extend(entries.map(|(key, value)| (key.as_slice(), value.as_deref())));
        }
        let (mut copied, mut bytes) = (Vec::new(), 0);
        for (key, value) in from.read(found.into_iter()) {
            if copied.len() >= limit || bytes >= COPIED {
                return (copied, true);
            }
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            copied.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        }
        (copied, false)
    }

    /// Makes the writes of a group visible, all together. The journal holds them, up to `covers`.
    pub(crate) fn publish(&self, writes: Overlay, covers: Position) {
        let mut maps = self.write();
        if maps.active.is_empty() {
            maps.active = writes;
        } else {
            maps.active.extend(writes);
        }
        maps.covers = Some(covers);
    }

    /// Begins a new upper layer; the writes of the old one are to be applied. `None` when there is none, or while those
    /// frozen before are being applied.
    pub(crate) fn freeze(&self) -> Option<Frozen> {
        let mut maps = self.write();
        if maps.frozen.is_some() {
            return None;
        }
        let covers = maps.covers.take()?;
        let writes = Arc::new(mem::take(&mut maps.active));
        maps.frozen = Some(Arc::clone(&writes));
        Some(Frozen { writes, covers })
    }

    /// Drops the frozen layer: the index has all of it.
    pub(crate) fn drop_frozen(&self) {
        let frozen = self.write().frozen.take();
        // Freed without the lock.
        drop(frozen);
    }

    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
