//! Gathers the changes of commits that come in parts (rule D12).

use std::collections::{BTreeMap, btree_map::Entry};

use twinbox_ids::Origin;

use crate::{Change, CommitPart, Ranges};

/// Changes whose commits are not complete.
#[derive(Debug, Default)]
pub struct CommitAssembly {
    /// By origin and first number of the commit.
    commits: BTreeMap<(Origin, u64), Parts>,
    waiting: usize,
    waiting_bytes: usize,
}

#[derive(Debug, Default)]
struct Parts {
    changes: BTreeMap<u64, Change>,
    seqs: Ranges,
    /// Each change of the commit before this number has come or is here.
    missing: u64,
    bytes: usize,
}

impl CommitAssembly {
    /// Takes a change with its length in bytes. `first_missing` gives the first number, from a number on, whose change of
    /// an origin is not here. Returns the changes of the commit, in order, when each has come or is here; those that are
    /// here are not among them.
    pub fn take(
        &mut self,
        change: Change,
        bytes: usize,
        first_missing: impl Fn(Origin, u64) -> u64,
    ) -> Option<Vec<Change>> {
        if change.is_alone() {
            return Some(vec![change]);
        }
        let (origin, seqs) = (change.origin, change.commit());
        let name = (origin, *seqs.start());
        let parts = self.commits.entry(name).or_default();
        // A second change of that number is equal, or a lie: its length is not counted, so it must not stay.
        if let Entry::Vacant(place) = parts.changes.entry(change.seq) {
            parts.seqs.insert(change.seq..change.seq.saturating_add(1));
            place.insert(change);
            parts.bytes += bytes;
            self.waiting += 1;
            self.waiting_bytes += bytes;
        }
        // Changes that have come or are here stay so: the search continues where the one before it ended. A peer may send many parts of
        // one commit, and name many changes that are here.
        parts.missing = parts.missing.max(*seqs.start());
        while parts.missing <= *seqs.end() {
            let next = parts.seqs.run_end(first_missing(origin, parts.missing));
            if next == parts.missing {
                return None;
            }
            parts.missing = next;
        }
        let Parts { changes, bytes, .. } = self.commits.remove(&name)?;
        self.waiting = self.waiting.saturating_sub(changes.len());
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        Some(changes.into_values().collect())
    }

    /// Number of changes that wait for others.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of these changes.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// The changes of incomplete commits, each as a commit of its own: for a store whose other changes are destroyed.
    pub fn into_remains(self) -> Vec<Change> {
        let changes = self.commits.into_values().flat_map(|parts| parts.changes.into_values());
        changes.map(|change| Change { part: CommitPart::default(), ..change }).collect()
    }
}
