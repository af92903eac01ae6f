//! Parts of a record that a later release wrote and this one does not know: kept, merged and handed on (rule D7).
//!
//! A later release that adds a field to a message must be content with this merge: what belongs to the write of a register
//! goes with that write, everything else is joined, so that a number may come with several contents.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use twinbox_ids::{NodeName, Origin, Stamp};

use crate::{Field, Tag, fields::Fields};

/// Place of an unknown part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PartPlace {
    /// In the change that brings the record; rows have none of it.
    Change,
    /// In the record.
    Record,
    /// In the tombstone.
    Tombstone,
    /// Beside the kind of merge of a field.
    Field(Tag),
    /// Beside the members or cells of a field.
    Kind(Tag),
    /// In one write of a register.
    Register(Tag, Stamp),
    /// In the value of one write of a register.
    Value(Tag, Stamp),
    /// In the blob that one write of a register names.
    Blob(Tag, Stamp),
    /// In one member of a set or claim.
    Member(Tag, Vec<u8>),
    /// In one cell of a counter.
    Cell(Tag, NodeName, Origin),
}

impl PartPlace {
    /// Field and stamp, in a write of a register.
    fn write(&self) -> Option<(Tag, Stamp)> {
        match self {
            Self::Register(tag, stamp) | Self::Value(tag, stamp) | Self::Blob(tag, stamp) => Some((*tag, *stamp)),
            _ => None,
        }
    }
}

/// An unknown part, as it came.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Part {
    /// Number of the field.
    pub number: u32,
    /// The field with its number, as in the message.
    pub bytes: Vec<u8>,
}

/// The bytes may be private, so they are never printed.
impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {}: {} bytes", self.number, self.bytes.len())
    }
}

/// All unknown parts of a record, in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown(BTreeMap<PartPlace, BTreeSet<Part>>);

impl Unknown {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a part.
    pub fn insert(&mut self, place: PartPlace, part: Part) {
        self.0.entry(place).or_default().insert(part);
    }

    /// The parts at a place, in the order of their numbers.
    pub fn at(&self, place: &PartPlace) -> impl Iterator<Item = &Part> {
        self.0.get(place).into_iter().flatten()
    }

    /// Joins the parts, and drops those of writes that `fields`, the joined fields, no longer show.
    pub(crate) fn merge(&mut self, other: Self, fields: &Fields) {
        for (place, parts) in other.0 {
            self.0.entry(place).or_default().extend(parts);
        }
        self.0.retain(|place, _| match place.write() {
            Some((tag, written)) => {
                matches!(fields.get(tag), Some(Field::Register { stamp, .. }) if *stamp == written)
            }
            None => true,
        });
    }

    /// Without those of the change that brought the record.
    pub(crate) fn without_change(mut self) -> Self {
        self.0.remove(&PartPlace::Change);
        self
    }
}
