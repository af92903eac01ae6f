//! Gathers the changes of commits that come in parts (rule D12).

use std::collections::BTreeMap;

use twinbox_ids::Origin;

use crate::{Change, CommitPart, Ranges};

/// Changes whose commits are not complete.
#[derive(Debug, Default)]
pub struct CommitAssembly {
    /// By origin and first number of the commit.
    commits: BTreeMap<(Origin, u64), Parts>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Parts {
    changes: BTreeMap<u64, Change>,
    seqs: Ranges,
}

impl CommitAssembly {
    /// Takes a change. Returns those of its commit, in order, when all are there or `here`; those that are here are not
    /// among them.
    pub fn take(&mut self, change: Change, here: impl Fn(Origin, u64) -> bool) -> Option<Vec<Change>> {
        if change.is_alone() {
            return Some(vec![change]);
        }
        let (origin, seqs) = (change.origin, change.commit());
        let name = (origin, *seqs.start());
        let parts = self.commits.entry(name).or_default();
        parts.seqs.insert(change.seq..change.seq.saturating_add(1));
        if parts.changes.insert(change.seq, change).is_none() {
            self.waiting += 1;
        }
        let missing = parts.seqs.gaps(*seqs.start()..seqs.end().saturating_add(1));
        if !missing.into_iter().flatten().all(|seq| here(origin, seq)) {
            return None;
        }
        let commit: Vec<Change> = self.commits.remove(&name)?.changes.into_values().collect();
        self.waiting = self.waiting.saturating_sub(commit.len());
        Some(commit)
    }

    /// Number of changes that wait for others.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The changes of incomplete commits, each as a commit of its own: for a store whose other changes are destroyed.
    pub fn into_remains(self) -> Vec<Change> {
        let changes = self.commits.into_values().flat_map(|parts| parts.changes.into_values());
        changes.map(|change| Change { part: CommitPart::default(), ..change }).collect()
    }
}
