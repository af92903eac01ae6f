//! Hand-over of a node that is being removed: it leaves when its calls have ended and another node has all its data (rule D2).

use std::time::Duration;

use tracing::info;
use twinbox_clock::BootInstant;

/// A removed node leaves when nothing was left to hand over for this period, which covers the last stored call.
const SETTLED: Duration = Duration::from_millis(500);

/// Progress of the hand-over.
#[derive(Debug, Default)]
pub struct HandOver {
    /// Time since which nothing is left to hand over.
    covered: Option<BootInstant>,
}

impl HandOver {
    /// Applies the facts of `now`: whether this node is being removed, its calls, and the number of changes that no other node is
    /// known to have, which is asked for last. Returns whether the node may leave.
    pub fn look(&mut self, leaving: bool, calls: usize, uncovered: impl FnOnce() -> u64, now: BootInstant) -> bool {
        if !leaving || calls > 0 || uncovered() > 0 {
            self.covered = None;
            return false;
        }
        if self.covered.is_none() {
            info!("this node is being removed: its calls have ended, and other nodes have all its data");
        }
        now.since(*self.covered.get_or_insert(now)) >= SETTLED
    }
}
