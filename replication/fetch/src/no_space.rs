//! Blobs that lack space on this node: one line in the log when the first is refused, and one when none waits for space.

use std::{collections::HashSet, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_ids::BlobHash;

/// Time without a refusal after which a stored blob shows that there is space: a blob that waits is tried each minute at least.
const RELIEVED: Duration = Duration::from_secs(120);

/// The blobs that this node refused for lack of space.
#[derive(Default)]
pub(crate) struct NoSpace {
    waiting: HashSet<BlobHash>,
    /// Number of refused blobs since the first.
    refused: usize,
    last: Option<BootInstant>,
}

impl NoSpace {
    /// Notes that a blob was refused; true when no other waits for space.
    pub(crate) fn refused(&mut self, hash: BlobHash, now: BootInstant) -> bool {
        let is_first = self.waiting.is_empty();
        self.refused += usize::from(self.waiting.insert(hash));
        self.last = Some(now);
        is_first
    }

    /// Notes that a blob is here or lacks something else; the number of refused blobs when none waits for space any more.
    pub(crate) fn ended(&mut self, hash: &BlobHash, is_here: bool, now: BootInstant) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        self.waiting.remove(hash);
        // A blob that is not wanted any more is not tried again.
        let is_relieved = is_here && self.last.is_some_and(|last| now.since(last) >= RELIEVED);
        if !self.waiting.is_empty() && !is_relieved {
            return None;
        }
        self.waiting.clear();
        Some(std::mem::take(&mut self.refused))
    }
}

#[cfg(test)]
#[path = "../tests/unit/no_space.rs"]
mod tests;
