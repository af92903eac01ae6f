//! Records: sets of fields, and the causal delete over them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twinbox_ids::Stamp;

use crate::{BlobRef, Field, Members, Tag, Unknown, Value, fields::Fields};

/// A row, or a change to one: the same type, since a change takes effect by merging it into the row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    fields: Fields,
    tombstone: Option<Tombstone>,
    unknown: Unknown,
}

/// A delete, with the stamps that it saw (rule D4). The fields stay: a delete is a flag, and the content is purged when
/// every member has the delete (rule D3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Stamp of the latest delete.
    pub stamp: Stamp,
    /// The stamp of each register that the delete saw.
    pub saw: BTreeMap<Tag, Stamp>,
}

impl Tombstone {
    fn merge(&mut self, other: Self) {
        self.stamp = self.stamp.max(other.stamp);
        for (tag, stamp) in other.saw {
            let seen = self.saw.entry(tag).or_insert(stamp);
            *seen = stamp.max(*seen);
        }
    }
}

impl Record {
    /// A record with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// A record from its parts; fields of one tag are merged.
    pub fn from_parts(fields: impl IntoIterator<Item = (Tag, Field)>, tombstone: Option<Tombstone>) -> Self {
        Self { fields: Fields::new(fields.into_iter().collect()), tombstone, unknown: Unknown::new() }
    }

    /// The record with these parts that this release does not know.
    pub fn with_unknown(mut self, unknown: Unknown) -> Self {
        self.unknown.merge(unknown, &self.fields);
        self
    }

    /// The parts that this release does not know.
    pub fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    /// True when the record has no field and no delete: merging it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.tombstone.is_none() && self.unknown.is_empty()
    }

    /// The join of two records: commutative, associative, idempotent.
    pub fn merge(&mut self, other: Self) {
        self.fields.merge(other.fields);
        match (&mut self.tombstone, other.tombstone) {
            (Some(mine), Some(other)) => mine.merge(other),
            (mine @ None, other) => *mine = other,
            (Some(_), None) => {}
        }
        if !self.unknown.is_empty() || !other.unknown.is_empty() {
            self.unknown = std::mem::take(&mut self.unknown).without_change();
            self.unknown.merge(other.unknown.without_change(), &self.fields);
        }
    }

    /// The row that it makes where there is none: as merged into an empty record, without parts that belong to its change.
    pub fn into_row(self) -> Self {
        if self.unknown.is_empty() {
            return self;
        }
        let mut row = Self::new();
        row.merge(self);
        row
    }

    /// The fields, deleted or not.
    pub fn fields(&self) -> impl Iterator<Item = (Tag, &Field)> {
        self.fields.iter()
    }

    /// One field, deleted or not.
    pub fn field(&self, tag: Tag) -> Option<&Field> {
        self.fields.get(tag)
    }

    /// The value of a register and the stamp of its write, deleted or not.
    pub fn register(&self, tag: Tag) -> Option<(&Value, Stamp)> {
        match self.field(tag)? {
            Field::Register { stamp, value } => Some((value, *stamp)),
            _ => None,
        }
    }

    /// The bytes of a register that holds bytes.
    pub fn bytes(&self, tag: Tag) -> Option<&[u8]> {
        self.register(tag)?.0.bytes()
    }

    /// The members of a set, add-wins or remove-wins, in byte order.
    pub fn set(&self, tag: Tag) -> impl Iterator<Item = &[u8]> {
        self.field(tag)
            .filter(|field| matches!(field, Field::AddWins(_) | Field::RemoveWins(_)))
            .into_iter()
            .flat_map(Field::present)
            .map(|(value, _)| value)
    }

    /// Everything that was ever added to an add-wins set, in byte order, removed or deleted since or not.
    pub fn ever_added(&self, tag: Tag) -> impl Iterator<Item = &[u8]> {
        let members = match self.field(tag) {
            Some(Field::AddWins(members)) => Some(members),
            _ => None,
        };
        members.into_iter().flat_map(Members::iter).map(|(value, _)| value)
    }

    /// The sum of a counter; 0 if there is none.
    pub fn counter(&self, tag: Tag) -> u64 {
        match self.field(tag) {
            Some(Field::Counter(cells)) => cells.values().fold(0, |sum, count| sum.saturating_add(*count)),
            _ => 0,
        }
    }

    /// The highest cell of a counter that is raised ([`crate::Edit::Raise`]); 0 if there is none.
    pub fn highest(&self, tag: Tag) -> u64 {
        match self.field(tag) {
            Some(Field::Counter(cells)) => cells.values().copied().max().unwrap_or_default(),
            _ => 0,
        }
    }

    /// The claimant that has the name: the earliest (rule D6).
    pub fn claim(&self, tag: Tag) -> Option<&[u8]> {
        self.claimants(tag).into_iter().next()
    }

    /// The claimants that were too late, earliest first.
    pub fn losers(&self, tag: Tag) -> Vec<&[u8]> {
        self.claimants(tag).into_iter().skip(1).collect()
    }

    fn claimants(&self, tag: Tag) -> Vec<&[u8]> {
        let mut claimants: Vec<(Option<Stamp>, &[u8])> = self
            .field(tag)
            .filter(|field| matches!(field, Field::Claim(_)))
            .into_iter()
            .flat_map(Field::present)
            .map(|(value, member)| (member.marks.earliest(), value))
            .collect();
        claimants.sort_unstable();
        claimants.into_iter().map(|(_, value)| value).collect()
    }

    /// The delete, if there was one.
    pub fn tombstone(&self) -> Option<&Tombstone> {
        self.tombstone.as_ref()
    }

    /// True when the field holds an edit that no delete saw: a register written, a member added or a name claimed by a
    /// writer that did not know of the delete. Always false for a counter, which does not show whether the record is
    /// wanted.
    pub fn outlives_delete(&self, tag: Tag) -> bool {
        match self.field(tag) {
            Some(Field::Register { stamp, .. }) => {
                self.tombstone.as_ref().and_then(|t| t.saw.get(&tag)).is_none_or(|seen| seen < stamp)
            }
            Some(Field::Counter(_)) | None => false,
            // A delete removes the members that it saw: it did not see those that are still present.
            Some(set) => set.present().next().is_some(),
        }
    }

    /// True when it was deleted and nothing outlives the delete.
    pub fn is_deleted(&self) -> bool {
        self.tombstone.is_some() && !self.fields.iter().any(|(tag, _)| self.outlives_delete(tag))
    }

    /// The blobs that the record names.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobRef> {
        self.fields.iter().filter_map(|(_, field)| match field {
            Field::Register { value: Value::Blob(blob), .. } => Some(blob),
            _ => None,
        })
    }

    /// The highest stamp in the record: a local write stamps above it (rule D5).
    pub fn latest(&self) -> Option<Stamp> {
        let deleted = self.tombstone.as_ref().map(|t| t.stamp);
        self.fields.iter().map(|(_, field)| field.latest()).chain([deleted]).flatten().max()
    }
}
