//! The difference between two copies of one record.

use crate::{Record, Tag};

/// The parts of a record that another copy has and this one lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lack {
    /// Fields, ascending.
    pub fields: Vec<Tag>,
    /// A delete, or stamps that it saw.
    pub deletion: bool,
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
