//! Raft as the role manager relies on it, without its messages: one leader a term, elected by a majority; what a
//! majority accepted is never lost; a leader that was replaced commits nothing more, but a part of what it had
//! proposed may live on.

use std::collections::VecDeque;

use twinbox_roles_core::Command;

/// An entry of the log. `None` is the entry with which a leader begins.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) command: Option<Command>,
}

/// What the majority has accepted.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
}

impl Log {
    /// How far a member that knows this term may read: later entries were accepted under leaders that it has not
    /// heard of.
    pub(crate) fn known_in(&self, term: u64) -> usize {
        self.entries.partition_point(|entry| entry.term <= term)
    }
}

/// What a leader has proposed and nobody has accepted yet.
pub(crate) type Pending = VecDeque<Option<Command>>;
