//! The sums of all rows of a store, by bucket and by range of keys, while the rows are counted and after.
//!
//! The rows are counted in steps, in the order of their keys. Commits continue meanwhile: each tells the row before and after it, in the
//! order of the commits. The caller reads the rows and computes the hashes. Keys sort as the rows do.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    buckets::{Buckets, RowHash},
    range_sums::RangeSums,
};

/// Maximum number of unreadable rows that are remembered.
const UNREADABLE: usize = 10_000;

/// A row as a step read it.
#[derive(Debug, Clone)]
pub struct CountedRow {
    /// Its key.
    pub key: Vec<u8>,
    /// `None` for a row that no comparison counts.
    pub hash: Option<RowHash>,
    /// Its bytes can be decoded.
    pub is_readable: bool,
}

/// The sums of one store, and how far they are.
#[derive(Debug, Default)]
pub struct RowSums {
    buckets: Buckets,
    ranges: RangeSums,
    progress: Progress,
    /// Number of the latest step.
    step: u64,
    /// Rows that the count could not read and that were not replaced since.
    unreadable: BTreeSet<Vec<u8>>,
}

/// Progress of the count.
#[derive(Debug, Default)]
enum Progress {
    /// Rows below this key are counted. During a step, the rows at or above it that change meanwhile, as they are after the
    /// latest change.
    Below {
        key: Vec<u8>,
        changed: Option<BTreeMap<Vec<u8>, Option<RowHash>>>,
    },
    #[default]
    NotBegun,
    Done,
}

impl RowSums {
    fn count(&mut self, key: &[u8], before: Option<RowHash>, after: Option<RowHash>) {
        if let Some(row) = before {
            self.buckets.remove(row);
            self.ranges.remove(key, row);
        }
        if let Some(row) = after {
            self.buckets.add(row);
            self.ranges.add(key, row);
        }
    }

    /// Takes a row that a commit changed, in the order of the commits.
    pub fn follow(&mut self, key: Vec<u8>, before: Option<RowHash>, after: Option<RowHash>) {
        self.unreadable.remove(&key);
        match &mut self.progress {
            Progress::Below { key: next, changed } if key >= *next => {
                if let Some(changed) = changed {
                    changed.insert(key, after);
                }
            }
            Progress::NotBegun => {}
            Progress::Below { .. } | Progress::Done => self.count(&key, before, after),
        }
    }

    /// Begins a step, and returns its number and the first key to be read, `first` for the first step; `None` when all rows are
    /// counted.
    pub fn begin(&mut self, first: &[u8]) -> Option<(u64, Vec<u8>)> {
        let from = match &self.progress {
            Progress::Done => return None,
            Progress::NotBegun => first.to_vec(),
            Progress::Below { key, .. } => key.clone(),
        };
        self.progress = Progress::Below { key: from.clone(), changed: Some(BTreeMap::new()) };
        self.step += 1;
        Some((self.step, from))
    }

    /// Ends a step: counts the rows as they were read, or as they are after a change that came meanwhile. `next` is the first key
    /// of the next step; `None` after the last one. No effect if the step was given up and another has begun. True when all rows
    /// are counted.
    pub fn end(&mut self, step: u64, read: Vec<CountedRow>, next: Option<Vec<u8>>) -> bool {
        if self.step != step {
            return false;
        }
        let Progress::Below { changed, .. } = &mut self.progress else { return false };
        let mut changed = changed.take().unwrap_or_default();
        for CountedRow { key, hash, is_readable } in read {
            let after = changed.remove(&key);
            self.count(&key, None, after.unwrap_or(hash));
            if !is_readable && after.is_none() && self.unreadable.len() < UNREADABLE {
                self.unreadable.insert(key);
            }
        }
        for (key, after) in changed {
            if next.as_ref().is_none_or(|next| key < *next) {
                self.count(&key, None, after);
            }
        }
        self.progress = match next {
            Some(key) => Progress::Below { key, changed: None },
            None => Progress::Done,
        };
        self.is_complete()
    }

    /// Forgets the whole count: the next step is the first one. A step under way has no effect.
    pub fn restart(&mut self) {
        *self = Self { step: self.step + 1, ..Self::default() };
    }

    /// True when all rows are counted.
    pub fn is_complete(&self) -> bool {
        matches!(self.progress, Progress::Done)
    }

    /// The sums by bucket; `None` until all rows are counted.
    pub fn buckets(&self) -> Option<&Buckets> {
        self.is_complete().then_some(&self.buckets)
    }

    /// The sums by range of keys; `None` until all rows are counted.
    pub fn ranges(&self) -> Option<&RangeSums> {
        self.is_complete().then_some(&self.ranges)
    }

    /// The rows that could not be read when they were last counted, 10,000 at most, without those that were replaced since.
    pub fn unreadable(&self) -> impl Iterator<Item = &[u8]> {
        self.unreadable.iter().map(Vec::as_slice)
    }
}
