//! Names of records and of their fields.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A table of records. The owner of the data defines the meaning of each number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Table(pub u16);

/// A field of a record.
pub type Tag = u16;

/// The name of a record: opaque bytes within a table (rule D6). They may be private (an extension, an address),
/// so they are never printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The table.
    pub table: Table,
    /// The row.
    pub id: Vec<u8>,
}

impl Key {
    /// A key from its parts.
    pub fn new(table: Table, id: impl Into<Vec<u8>>) -> Self {
        Self { table, id: id.into() }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {} bytes)", self.table.0, self.id.len())
    }
}
