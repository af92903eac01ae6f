//! Changes, and the vectors that list the changes of a node.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use twinbox_ids::Origin;

use crate::{Key, Record};

/// One change of one record, named by its origin and its number there (rule D1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The incarnation of the store that made it.
    pub origin: Origin,
    /// Its number in that incarnation: from 1, without gaps.
    pub seq: u64,
    /// The record.
    pub key: Key,
    /// The delta that is merged into the record.
    pub delta: Record,
    /// Its place in the commit that made it.
    pub part: CommitPart,
}

/// The place of a change in its commit, whose changes have consecutive numbers and are applied together (rule D12).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitPart {
    /// Number of changes of the commit before it.
    pub before: u32,
    /// Number of changes of the commit after it.
    pub after: u32,
}

impl CommitPart {
    /// Number of the other changes of the commit.
    pub fn others(&self) -> u64 {
        u64::from(self.before) + u64::from(self.after)
    }
}

impl Change {
    /// The numbers of all changes of its commit.
    pub fn commit(&self) -> RangeInclusive<u64> {
        self.seq.saturating_sub(self.part.before.into())..=self.seq.saturating_add(self.part.after.into())
    }

    /// True when its commit has no other change.
    pub fn is_alone(&self) -> bool {
        self.part == CommitPart::default()
    }
}

/// For each origin the number up to which a node has every change, without a gap (rule D1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vector(BTreeMap<Origin, u64>);

/// Changes of one origin that one node has and another lacks: those in `after + 1 ..= upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Origin of the changes.
    pub origin: Origin,
    /// The last one that the other has.
    pub after: u64,
    /// The last one that is missing.
    pub upto: u64,
}

impl Vector {
    /// No change at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number up to which every change of `origin` is there; 0 for none.
    pub fn get(&self, origin: Origin) -> u64 {
        self.0.get(&origin).copied().unwrap_or(0)
    }

    /// True when the change is in the prefix.
    pub fn covers(&self, origin: Origin, seq: u64) -> bool {
        seq <= self.get(origin)
    }

    /// Raises the prefix of `origin` to `upto`; never lowers it.
    pub fn raise(&mut self, origin: Origin, upto: u64) {
        if upto > 0 {
            let entry = self.0.entry(origin).or_insert(0);
            *entry = upto.max(*entry);
        }
    }

    /// The join: the changes that are in either vector.
    pub fn join(&mut self, other: &Self) {
        other.iter().for_each(|(origin, upto)| self.raise(origin, upto));
    }

    /// The changes that are in this vector and missing from `other`, by origin.
    pub fn missing_from(&self, other: &Self) -> Vec<Gap> {
        self.iter()
            .map(|(origin, upto)| Gap { origin, after: other.get(origin), upto })
            .filter(|gap| gap.after < gap.upto)
            .collect()
    }

    /// Origins and their prefixes.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, u64)> {
        self.0.iter().map(|(origin, upto)| (*origin, *upto))
    }

    /// Number of changes in all prefixes together.
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, upto| sum.saturating_add(*upto))
    }
}

impl FromIterator<(Origin, u64)> for Vector {
    fn from_iter<I: IntoIterator<Item = (Origin, u64)>>(iter: I) -> Self {
        let mut vector = Self::new();
        iter.into_iter().for_each(|(origin, upto)| vector.raise(origin, upto));
        vector
    }
}
