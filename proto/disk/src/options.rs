//! Settings of a store.

use crate::Appended;

/// Settings of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Length of the journal's segments in bytes: a whole multiple of 4,096, at least 8,192. A store that exists keeps
    /// the length with which it was made. The journal usually has at most seven segments.
    pub journal_segment_bytes: u64,
    /// Bytes of the file system that a copy of the index leaves free beside four times the rows, at least. Without them the index
    /// is not rewritten.
    pub left_free: u64,
    /// The rows that are no part of the index, because they are written once and removed oldest first.
    pub appended: Option<Appended>,
}

/// [`Options::left_free`] of a store that keeps no reserve.
const LEFT_FREE: u64 = 256 * 1024 * 1024;

impl Options {
    /// For a store with few and small commits: segments of 1 MiB.
    pub fn small() -> Self {
        Self { journal_segment_bytes: 1024 * 1024, ..Self::default() }
    }

    /// For a store whose callers refuse new data when `reserve` bytes are free: a copy of the index takes none of them.
    pub fn with_reserve(reserve: u64) -> Self {
        Self { left_free: reserve.max(LEFT_FREE), ..Self::default() }
    }

    /// With rows that are no part of the index: those whose keys begin with `prefix` and have `key_length` bytes. No other key
    /// may begin with it.
    pub fn appending(self, prefix: &'static [u8], key_length: usize) -> Self {
        Self { appended: Some(Appended { prefix, key_length }), ..self }
    }
}

impl Default for Options {
    /// Segments of 4 MiB.
    fn default() -> Self {
        Self { journal_segment_bytes: 4 * 1024 * 1024, left_free: LEFT_FREE, appended: None }
    }
}
