//! The numbers that IMAP needs (rule D10): UIDs that never go backwards, and a MODSEQ for every change.

use twinbox_replication_core::{Edit, Record};

use crate::schema::counters as tag;

/// The numbers for the next change of a mailbox's messages, and the edits of its counters' record that take them.
///
/// Nodes separated by a split may give one UID to two messages. Their counts add up when they merge, so that the next
/// UID is above all given ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// UID for a message that has none yet.
    pub uid: u64,
    /// MODSEQ for every message that this change touches.
    pub modseq: u64,
}

impl Numbers {
    /// The next numbers after a counters' record.
    pub fn after(counters: &Record) -> Self {
        let next = |tag| counters.counter(tag).saturating_add(1);
        Self { uid: next(tag::UIDS), modseq: next(tag::MODSEQ) }
    }

    /// Takes a UID and a MODSEQ: a message was added.
    pub fn take_both() -> Vec<Edit> {
        vec![Edit::Count(tag::UIDS, 1), Edit::Count(tag::MODSEQ, 1)]
    }

    /// Takes a MODSEQ: messages changed.
    pub fn take_modseq() -> Vec<Edit> {
        vec![Edit::Count(tag::MODSEQ, 1)]
    }
}
