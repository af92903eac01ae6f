//! The difference between two copies of one record, and the report of its repair.

use crate::{Key, Record, Tag};

/// The parts of a record that another copy has and this one lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lack {
    /// Fields, ascending.
    pub fields: Vec<Tag>,
    /// A delete, or stamps that it saw.
    pub deletion: bool,
}

/// The fault of a row that was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFault {
    /// The row was not here.
    Missing,
    /// Its bytes could not be read.
    Unreadable,
    /// The row lacked a part.
    Incomplete,
}

/// A row that was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedRow {
    /// Its key.
    pub key: Key,
    /// Its fault.
    pub fault: RowFault,
    /// The parts that were added.
    pub added: Lack,
}

impl Record {
    /// The parts of `other` that this record lacks; `None` when merging it in changes nothing.
    pub fn lacks(&self, other: &Self) -> Option<Lack> {
        let mut merged = self.clone();
        merged.merge(other.clone());
        if merged == *self {
            return None;
        }
        let fields = merged.fields().filter(|(tag, field)| self.field(*tag) != Some(field)).map(|(tag, _)| tag);
        Some(Lack { fields: fields.collect(), deletion: merged.tombstone() != self.tombstone() })
    }

    /// The parts of it that an empty record lacks: all.
    pub fn all_parts(&self) -> Lack {
        Lack { fields: self.fields().map(|(tag, _)| tag).collect(), deletion: self.tombstone().is_some() }
    }
}
