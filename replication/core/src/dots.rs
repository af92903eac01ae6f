//! Dots: compact sets of edits by origin.

use std::collections::{BTreeMap, btree_map::Entry};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Origin, Stamp};

/// The stamp of the latest edit in the set, for each origin. One stamp is enough: an origin knew its own earlier edits
/// of a member when it made a later one, which supersedes them. A member that is added and removed a million times thus
/// costs one stamp per origin.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dots(BTreeMap<Origin, Stamp>);

impl Dots {
    /// No edit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an edit.
    pub fn insert(&mut self, stamp: Stamp) {
        match self.0.entry(stamp.origin) {
            Entry::Vacant(entry) => {
                entry.insert(stamp);
            }
            Entry::Occupied(mut entry) => {
                if *entry.get() < stamp {
                    entry.insert(stamp);
                }
            }
        }
    }

    /// The join: for each origin the later edit.
    pub fn merge(&mut self, other: Self) {
        other.0.into_values().for_each(|stamp| self.insert(stamp));
    }

    /// True when the edit, or a later one of its origin, is in the set.
    pub fn covers(&self, stamp: &Stamp) -> bool {
        self.0.get(&stamp.origin).is_some_and(|upto| stamp <= upto)
    }

    /// Removes the edits that `seen` covers.
    pub fn drop_seen(&mut self, seen: &Self) {
        self.0.retain(|_, stamp| !seen.covers(stamp));
    }

    /// True when no edit is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The stamps, by origin.
    pub fn iter(&self) -> impl Iterator<Item = &Stamp> {
        self.0.values()
    }

    /// The earliest stamp.
    pub fn earliest(&self) -> Option<Stamp> {
        self.iter().min().copied()
    }

    /// The latest stamp.
    pub fn latest(&self) -> Option<Stamp> {
        self.iter().max().copied()
    }
}

impl FromIterator<Stamp> for Dots {
    fn from_iter<I: IntoIterator<Item = Stamp>>(stamps: I) -> Self {
        let mut dots = Self::new();
        stamps.into_iter().for_each(|stamp| dots.insert(stamp));
        dots
    }
}
