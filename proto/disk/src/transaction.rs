//! The view of a transaction: the store, over it the writes of its group, over those its own.

use std::{collections::BTreeMap, ops::Bound};

use crate::DiskError;

/// Maximum length of a key, in bytes.
pub const MAX_KEY: usize = 1024;

/// Maximum length of a value, in bytes. sled puts a page over a quarter of a segment into a separate file that it never
/// syncs; a page has up to 20 values, and this limit keeps all of them together below that.
pub const MAX_VALUE: usize = 48 * 1024;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Writes not yet in the store; `None` removes.
pub(crate) type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A running transaction. It sees all earlier commits and its own writes.
pub struct Transaction<'a> {
    /// `None` on a simulated disk, where `group` holds everything.
    tree: Option<&'a sled::Tree>,
    group: &'a Overlay,
    own: Overlay,
    read_error: &'a dyn Fn(sled::Error) -> DiskError,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(
        tree: Option<&'a sled::Tree>,
        group: &'a Overlay,
        read_error: &'a dyn Fn(sled::Error) -> DiskError,
    ) -> Self {
        Self { tree, group, own: Overlay::new(), read_error }
    }

    pub(crate) fn into_writes(self) -> Overlay {
        self.own
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        if let Some(written) = self.own.get(key).or_else(|| self.group.get(key)) {
            return Ok(written.clone());
        }
        let Some(tree) = self.tree else { return Ok(None) };
        Ok(tree.get(key).map_err(self.read_error)?.map(|value| value.to_vec()))
    }

    /// All keys that begin with `prefix`, with their values, in order.
    pub fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, DiskError> {
        self.scan_from(prefix, prefix, usize::MAX)
    }

    /// The first `limit` keys that begin with `prefix` and are at or after `start`, in order.
    pub fn scan_from(&self, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Pair>, DiskError> {
        let start = start.max(prefix);
        let overlay = |layer: &'a Overlay| layer.range::<[u8], _>((Bound::Included(start), Bound::Unbounded));
        let mut pending: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        let own = self.own.range::<[u8], _>((Bound::Included(start), Bound::Unbounded));
        for (key, value) in overlay(self.group).chain(own).filter(|(key, _)| key.starts_with(prefix)) {
            pending.insert(key, value.as_deref());
        }
        let mut pending = pending.into_iter().peekable();
        let mut found = Vec::new();
        let stored = self.tree.into_iter().flat_map(|tree| tree.range(start..));
        for entry in stored.take_while(|e| !matches!(e, Ok((key, _)) if !key.starts_with(prefix))) {
            let (key, value) = entry.map_err(self.read_error)?;
            let mut overwritten = false;
            while let Some((next, written)) = pending.next_if(|(next, _)| *next <= key.as_ref()) {
                overwritten = next == key.as_ref();
                found.extend(written.map(|value| (next.to_vec(), value.to_vec())));
            }
            if !overwritten {
                found.push((key.to_vec(), value.to_vec()));
            }
            if found.len() >= limit {
                break;
            }
        }
        found.extend(pending.filter_map(|(key, value)| value.map(|value| (key.to_vec(), value.to_vec()))));
        found.truncate(limit);
        Ok(found)
    }

    /// Writes a value.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<(), DiskError> {
        let (key, value) = (key.into(), value.into());
        for (what, length, limit) in [("key", key.len(), MAX_KEY), ("value", value.len(), MAX_VALUE)] {
            if length > limit {
                return Err(DiskError::TooLarge { what, length, limit });
            }
        }
        self.own.insert(key, Some(value));
        Ok(())
    }

    /// Removes a key; no effect if it is missing.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.own.insert(key.into(), None);
    }
}
