//! The fields of a record, in the order of their tags. Most records have a dozen fields or fewer: a list of just their length is made,
//! copied and searched faster than a tree, whose nodes have room for eleven.

use serde::{Deserialize, Serialize};

use crate::{Field, Tag};

/// Maximum fields that are joined with others one by one.
const FEW: usize = 8;

/// Fields with ascending tags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fields(Vec<(Tag, Field)>);

impl Fields {
    /// Fields of one tag are merged.
    pub(crate) fn new(mut fields: Vec<(Tag, Field)>) -> Self {
        if fields.is_sorted_by(|(left, _), (right, _)| left < right) {
            return Self(fields);
        }
        fields.sort_by_key(|(tag, _)| *tag);
        let mut merged: Vec<(Tag, Field)> = Vec::with_capacity(fields.len());
        for (tag, field) in fields {
            match merged.last_mut().filter(|(last, _)| *last == tag) {
                Some((_, last)) => last.merge(field),
                None => merged.push((tag, field)),
            }
        }
        Self(merged)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Tag, &Field)> {
        self.0.iter().map(|(tag, field)| (*tag, field))
    }

    pub(crate) fn get(&self, tag: Tag) -> Option<&Field> {
        let place = self.place(tag).ok()?;
        self.0.get(place).map(|(_, field)| field)
    }

    /// Joins other fields with those here.
    pub(crate) fn merge(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        // Each insertion moves all fields behind it: those of a hostile peer would take seconds.
        if other.0.len() > FEW {
            self.0.extend(other.0);
            *self = Self::new(std::mem::take(&mut self.0));
            return;
        }
        for (tag, field) in other.0 {
            match self.place(tag) {
                Ok(place) => {
                    if let Some((_, own)) = self.0.get_mut(place) {
                        own.merge(field);
                    }
                }
                Err(place) => self.0.insert(place, (tag, field)),
            }
        }
    }

    /// The place of a tag, or where it belongs.
    fn place(&self, tag: Tag) -> Result<usize, usize> {
        self.0.binary_search_by_key(&tag, |(tag, _)| *tag)
    }
}
