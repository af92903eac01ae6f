//! The scans of all rows that were attempted, by peer: when the next one is due, and how far they came.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::{Backoff, NodeName};
use twinbox_replication_core::state_fill::Way;

use crate::error::StreamError;

/// Pauses after scans that failed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));

/// The last scans of this process.
#[derive(Default)]
pub(crate) struct StateFills {
    attempts: Mutex<BTreeMap<NodeName, Attempts>>,
    /// The peers that were out of reach of this node's log, as this node was of theirs.
    split: Mutex<BTreeSet<NodeName>>,
    /// The scan under way: rows that came, and rows that the peer has.
    current: Mutex<Option<(u64, u64)>>,
    /// Number of pages that went beyond what any earlier scan of their peer had brought.
    advanced: AtomicU64,
}

struct Attempts {
    /// Time of the first attempt since the last success.
    first: BootInstant,
    next: BootInstant,
    retry: Backoff,
    /// Rows of the longest scan.
    rows: u64,
    /// Reason for which the last scan failed.
    failure: Option<String>,
}

impl StateFills {
    fn state(&self) -> MutexGuard<'_, BTreeMap<NodeName, Attempts>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way from a peer, given the present vectors. A peer whose own merge ends first has all changes that were here;
    /// this node is not further behind than before, and continues to serve callers.
    pub(crate) fn way(&self, peer: &NodeName, now: Way) -> Way {
        let mut split = self.split.lock().unwrap_or_else(PoisonError::into_inner);
        if now == Way::Merge {
            split.insert(peer.clone());
        } else if now == Way::History {
            split.remove(peer);
        }
        if now == Way::State && split.contains(peer) { Way::Merge } else { now }
    }

    /// The time since the first attempt with a peer that may be asked now; `None` while it may not.
    pub(crate) fn begin(&self, peer: &NodeName, now: BootInstant) -> Option<Duration> {
        let mut state = self.state();
        let attempts = state.entry(peer.clone()).or_insert(Attempts {
            first: now,
            next: now,
            retry: RETRY,
            rows: 0,
            failure: None,
        });
        (attempts.next <= now).then(|| now.since(attempts.first))
    }

    /// Notes an attempt that ended early; without a failure if changes of this node are still on their way to the peer.
    pub(crate) fn failed(&self, peer: &NodeName, now: BootInstant, failure: Option<&StreamError>) {
        if let Some(attempts) = self.state().get_mut(peer) {
            attempts.next = now + attempts.retry.failed();
            if failure.is_none() {
                attempts.retry.reset();
            }
            attempts.failure = failure.map(StreamError::to_string);
        }
    }

    fn scan(&self) -> MutexGuard<'_, Option<(u64, u64)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the start of a scan. `of` is the approximate number of the peer's rows; 0 if it does not know.
    pub(crate) fn begun(&self, of: u64) {
        *self.scan() = Some((0, of));
    }

    /// Notes the end of the scan under way, after success or failure.
    pub(crate) fn over(&self) {
        *self.scan() = None;
    }

    /// Rows that the scan under way has brought, and rows of its peer; `None` without one.
    pub(crate) fn current(&self) -> Option<(u64, u64)> {
        *self.scan()
    }

    /// Notes the number of rows that a scan of the peer has brought so far.
    pub(crate) fn scanned(&self, peer: &NodeName, rows: u64) {
        if let Some((came, _)) = self.scan().as_mut() {
            *came = rows;
        }
        if let Some(attempts) = self.state().get_mut(peer).filter(|attempts| attempts.rows < rows) {
            attempts.rows = rows;
            self.advanced.fetch_add(1, Relaxed);
        }
    }

    /// Number that rises while scans bring more than earlier ones did. A scan that is refused each time adds nothing.
    pub(crate) fn advanced(&self) -> u64 {
        self.advanced.load(Relaxed)
    }

    /// The reason for which the last scan of the peer failed.
    pub(crate) fn failure(&self, peer: &NodeName) -> Option<String> {
        self.state().get(peer)?.failure.clone()
    }

    /// Notes a complete scan of the peer.
    pub(crate) fn ended(&self, peer: &NodeName) {
        self.state().remove(peer);
    }
}
