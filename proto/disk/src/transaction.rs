//! The view of a transaction: the store, over it the writes of its group, over those its own.

use std::collections::BTreeMap;

use crate::{DiskError, range::KeyRange};

/// Maximum length of a key, in bytes.
pub const MAX_KEY: usize = 1024;

/// Maximum length of a value, in bytes. sled puts a page over a quarter of a segment into a separate file that it never
/// syncs; a page has up to 20 values, and this limit keeps all of them together below that.
pub const MAX_VALUE: usize = 48 * 1024;

/// The error of a key or a value that is too long to be written.
pub fn check_lengths(key: &[u8], value: &[u8]) -> Result<(), DiskError> {
    for (what, length, limit) in [("key", key.len(), MAX_KEY), ("value", value.len(), MAX_VALUE)] {
        if length > limit {
            return Err(DiskError::TooLarge { what, length, limit });
        }
    }
    Ok(())
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Writes not yet in the store; `None` removes.
pub(crate) type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Everything that is committed, beneath the writes of a group.
pub(crate) trait Stored {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;

    /// The pairs of a range, ascending.
    fn scan(&self, range: KeyRange) -> Box<dyn Iterator<Item = Result<Pair, DiskError>> + '_>;
}

/// A running transaction. It sees all earlier commits and its own writes.
pub struct Transaction<'a> {
    /// `None` on a simulated disk, where `group` holds everything.
    stored: Option<&'a dyn Stored>,
    group: &'a Overlay,
    own: Overlay,
    /// Ranges without a stored key.
    empty: Vec<KeyRange>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(stored: Option<&'a dyn Stored>, group: &'a Overlay) -> Self {
        Self { stored, group, own: Overlay::new(), empty: Vec::new() }
    }

    pub(crate) fn into_writes(self) -> Overlay {
        self.own
    }

    /// The writes so far.
    #[cfg(feature = "simulation")]
    pub(crate) fn writes(&self) -> &Overlay {
        &self.own
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        if let Some(written) = self.own.get(key).or_else(|| self.group.get(key)) {
            return Ok(written.clone());
        }
        match self.stored {
            Some(stored) if !self.empty.iter().any(|range| range.contains(key)) => stored.get(key),
            _ => Ok(None),
        }
    }

    /// Looks once for stored keys in `from..to`: if there are none, [`Self::get`] looks for none of them in the store. For many reads
    /// of keys that are likely not there.
    pub fn look_ahead(&mut self, from: &[u8], to: &[u8]) -> Result<(), DiskError> {
        let range = KeyRange::between(from, to);
        let first = self.stored.and_then(|stored| stored.scan(range.clone()).next()).transpose()?;
        if first.is_none() {
            self.empty.push(range);
        }
        Ok(())
    }

    /// All keys that begin with `prefix`, with their values, in order.
    pub fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, DiskError> {
        self.scan_from(prefix, prefix, usize::MAX)
    }

    /// The first `limit` keys that begin with `prefix` and are at or after `start`, in order.
    pub fn scan_from(&self, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Pair>, DiskError> {
        let range = KeyRange::prefix_from(prefix, start);
        let mut pending: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        let own = self.own.range::<[u8], _>(range.bounds());
        for (key, value) in self.group.range::<[u8], _>(range.bounds()).chain(own) {
            pending.insert(key, value.as_deref());
        }
        let mut pending = pending.into_iter().peekable();
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        for entry in self.stored.into_iter().flat_map(|stored| stored.scan(range.clone())) {
            let (key, value) = entry?;
            let mut overwritten = false;
            while let Some((next, written)) = pending.next_if(|(next, _)| *next <= key.as_slice()) {
                overwritten = next == key.as_slice();
                found.extend(written.map(|value| (next.to_vec(), value.to_vec())));
            }
            if !overwritten {
                found.push((key, value));
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
        check_lengths(&key, &value)?;
        self.own.insert(key, Some(value));
        Ok(())
    }

    /// Removes a key; no effect if it is missing.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.own.insert(key.into(), None);
    }
}
