//! The writes of a history, and the data that each disk must have.

use std::collections::{BTreeMap, BTreeSet};

use crate::content::RowId;

/// A commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Version(RowId, u64),
    Filing(u64),
    Deletion(u64),
}

/// All that was tried, whether it was acknowledged or not.
#[derive(Default)]
pub(crate) struct Tried {
    /// The newest version of each row.
    pub(crate) versions: BTreeMap<RowId, u64>,
    /// The number of all versions of all rows.
    pub(crate) counted: u64,
    /// Recordings by number: they become messages.
    pub(crate) messages: BTreeMap<u64, Message>,
}

pub(crate) struct Message {
    /// The node that records it.
    pub(crate) author: usize,
    pub(crate) length: usize,
    /// Its filing was tried. Only a node that lost it in a cut files it again.
    pub(crate) is_filing: bool,
    /// A node was asked to delete it.
    pub(crate) is_deleting: bool,
}

/// The data that one disk must have.
#[derive(Default)]
pub(crate) struct Owed {
    /// The newest version of each row. A later one that was tried may be there.
    pub(crate) versions: BTreeMap<RowId, u64>,
    /// The number of all versions that it has.
    pub(crate) counted: u64,
    /// Recordings whose audio is durable there. No change that names it was acknowledged.
    pub(crate) sealed: BTreeSet<u64>,
    /// Messages with their audio.
    pub(crate) filed: BTreeSet<u64>,
    /// Messages that were deleted.
    pub(crate) deleted: BTreeSet<u64>,
}

impl Owed {
    /// A write was acknowledged on this disk.
    pub(crate) fn add(&mut self, write: Write, tried: &Tried) {
        match write {
            Write::Version(row, version) => {
                let newest = self.versions.entry(row).or_default();
                *newest = version.max(*newest);
                self.counted += 1;
            }
            Write::Filing(number) => {
                self.sealed.remove(&number);
                if tried.messages.get(&number).is_some_and(|message| !message.is_deleting) {
                    self.filed.insert(number);
                }
            }
            Write::Deletion(number) => {
                self.deleted.insert(number);
            }
        }
    }

    /// A message is about to be deleted: it may be there or not.
    pub(crate) fn release(&mut self, number: u64) {
        self.sealed.remove(&number);
        self.filed.remove(&number);
    }
}
