//! The numbers that IMAP needs (rule D10): UIDs that never go backwards, and a MODSEQ for every change.

use twinbox_replication_core::{Edit, Record};

use crate::schema::counters as tag;

/// The numbers for the next change of a mailbox's messages, and the edits of its counters' record that take them.
///
/// Nodes separated by a split may give one UID to two messages: [`crate::uids`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// UID for a message that has none yet, or whose UID clashes: the one after the highest given. A gap would hide a
    /// message of another node whose UID falls into it.
    pub uid: u64,
    /// MODSEQ for every message that this change touches.
    pub modseq: u64,
}

impl Numbers {
    /// The next numbers after a counters' record.
    pub fn after(counters: &Record) -> Self {
        let highest = counters.highest(tag::HIGHEST_UID).max(counters.counter(tag::UIDS));
        Self { uid: highest.saturating_add(1), modseq: counters.counter(tag::MODSEQ).saturating_add(1) }
    }

    /// The same, with a UID above this one: messages may be here whose counters are still to come.
    pub fn above(self, uid: u64) -> Self {
        Self { uid: self.uid.max(uid.saturating_add(1)), ..self }
    }

    /// Takes the UID and the MODSEQ: a message was added.
    pub fn take_both(self) -> Vec<Edit> {
        vec![Edit::Raise(tag::HIGHEST_UID, self.uid), Edit::Count(tag::MODSEQ, 1)]
    }

    /// Takes a MODSEQ: messages changed.
    pub fn take_modseq() -> Vec<Edit> {
        vec![Edit::Count(tag::MODSEQ, 1)]
    }
}
