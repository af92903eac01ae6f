//! Settings of a store.

/// Settings of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Length of the journal's segments in bytes: a whole multiple of 4,096, at least 8,192. A store that exists keeps
    /// the length with which it was made. The journal usually has at most seven segments.
    pub journal_segment_bytes: u64,
}

impl Options {
    /// For a store with few and small commits: segments of 1 MiB.
    pub fn small() -> Self {
        Self { journal_segment_bytes: 1024 * 1024 }
    }
}

impl Default for Options {
    /// Segments of 4 MiB.
    fn default() -> Self {
        Self { journal_segment_bytes: 4 * 1024 * 1024 }
    }
}
