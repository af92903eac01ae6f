//! Limits of PIN attempts: counted per node and window before the hash is computed, with a share for each node while
//! the nodes do not all reach each other, and back-off instead of a lock (rule S1).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Backoff, NodeName, Origin, Timestamp};
use twinbox_replication_core::{Edit, Field, Record, Tag};

use crate::{
    schema::attempts as tag,
    value::{read_u64, set_u64},
};

/// Limits of wrong tries. The tries of this window and of the one before count, so that a window border does not allow
/// more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptPolicy {
    /// Length of a window, in milliseconds.
    pub window_ms: u64,
    /// Maximum wrong tries in two windows, over all nodes; at least the number of nodes.
    pub limit: u64,
    /// Wrong tries without any wait.
    pub free: u64,
    /// Wait after the first try beyond the free ones, in milliseconds; it doubles with each further one.
    pub backoff_ms: u64,
}

impl AttemptPolicy {
    /// For the PIN of one mailbox.
    pub fn mailbox() -> Self {
        Self { window_ms: 3_600_000, limit: 12, free: 5, backoff_ms: 5_000 }
    }

    /// For one source, which may try at many mailboxes.
    pub fn source() -> Self {
        Self { window_ms: 3_600_000, limit: 40, free: 20, backoff_ms: 5_000 }
    }

    /// The number of the window in which a moment lies.
    pub fn window(&self, now: Timestamp) -> u64 {
        now.0 / self.window_ms.max(1)
    }
}

/// Wrong tries by node.
pub type WrongAttempts = BTreeMap<NodeName, u64>;

/// The tries of one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptCounts {
    /// Wrong tries in the window before this one.
    pub before: WrongAttempts,
    /// Wrong tries in this window.
    pub current: WrongAttempts,
    /// Start of the last try.
    pub last: Option<Timestamp>,
}

/// Whether a try may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryVerdict {
    /// Count the try, then check the PIN.
    Allowed,
    /// Do not check the PIN.
    BackOff {
        /// Seconds until the next try is allowed; at least one.
        seconds: u64,
    },
}

impl AttemptCounts {
    /// Reads the records of two windows.
    pub fn read(before: &Record, current: &Record) -> Self {
        let last = |record: &Record| record.bytes(tag::LAST).and_then(read_u64).map(Timestamp);
        Self { before: wrong(before), current: wrong(current), last: last(current).max(last(before)) }
    }

    fn of(&self, node: &NodeName) -> u64 {
        let count = |wrong: &WrongAttempts| wrong.get(node).copied().unwrap_or_default();
        count(&self.before).saturating_add(count(&self.current))
    }

    fn total(&self) -> u64 {
        self.before.values().chain(self.current.values()).fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Whether `node`, one of `nodes` that share the limit, may allow a try now. `together`: every other node is reachable,
    /// so that all tries are known here. Otherwise a node stays within its share and assumes that the others use theirs
    /// fully: all of them together stay within the limit, however long the split lasts.
    pub fn verdict(
        &self,
        policy: &AttemptPolicy,
        node: &NodeName,
        nodes: u64,
        together: bool,
        now: Timestamp,
    ) -> TryVerdict {
        let nodes = nodes.max(1);
        let limit = policy.limit.max(nodes);
        let share = limit / nodes;
        let exhausted = if together {
            self.total() >= limit
        } else {
            let own = self.of(node);
            own >= share || own.saturating_add(self.reserved(node, nodes, share)) >= limit
        };
        let wait = if exhausted { self.until_forgotten(policy, share, now) } else { self.pause(policy, now) };
        match wait {
            0 => TryVerdict::Allowed,
            ms => TryVerdict::BackOff { seconds: ms.div_ceil(1_000) },
        }
    }

    /// Tries that the other nodes may have used: for each the known ones, and at least its share.
    fn reserved(&self, node: &NodeName, nodes: u64, share: u64) -> u64 {
        let known: BTreeSet<_> = self.before.keys().chain(self.current.keys()).filter(|n| *n != node).collect();
        let unknown = (nodes - 1).saturating_sub(known.len() as u64);
        known.iter().fold(unknown.saturating_mul(share), |sum, n| sum.saturating_add(self.of(n).max(share)))
    }

    /// Milliseconds until enough tries no longer count, because their window is too old.
    fn until_forgotten(&self, policy: &AttemptPolicy, share: u64, now: Timestamp) -> u64 {
        let window = policy.window_ms.max(1);
        let rest = window - now.0 % window;
        let current = self.current.values().fold(0u64, |sum, n| sum.saturating_add(*n));
        if current >= share { rest.saturating_add(window) } else { rest }
    }

    /// Milliseconds left of the wait after the last try. If the clock went back, at most the whole wait.
    fn pause(&self, policy: &AttemptPolicy, now: Timestamp) -> u64 {
        let (Some(beyond), Some(last)) = (self.total().checked_sub(policy.free), self.last) else { return 0 };
        let [first, longest] = [policy.backoff_ms, policy.window_ms].map(Duration::from_millis);
        let failures = u32::try_from(beyond).unwrap_or(u32::MAX).saturating_add(1);
        let wait = Backoff::new(first, longest).after(failures);
        let allowed = (last + wait).min(now + wait);
        allowed.0.saturating_sub(now.0)
    }
}

/// Tries begun and not right, by node: the sum over the incarnations of its store.
fn wrong(record: &Record) -> WrongAttempts {
    let right = cells(record, tag::RIGHT);
    let mut wrong = WrongAttempts::new();
    for (owner, begun) in cells(record, tag::BEGUN) {
        let less = right.get(&owner).copied().unwrap_or_default();
        let of_node = wrong.entry(owner.0).or_default();
        *of_node = of_node.saturating_add(begun.saturating_sub(less));
    }
    wrong
}

fn cells(record: &Record, tag: Tag) -> BTreeMap<(NodeName, Origin), u64> {
    match record.field(tag) {
        Some(Field::Counter(cells)) => cells.clone(),
        _ => BTreeMap::new(),
    }
}

/// The edits of the current window's record that count a try. They must be durable before the hash is computed.
pub fn begin(now: Timestamp) -> Vec<Edit> {
    vec![Edit::Count(tag::BEGUN, 1), set_u64(tag::LAST, now.0)]
}

/// The edits for a right try, of the record of the window in which it began. Earlier wrong tries still count: an
/// attacker must not profit from the owner's sign-in.
pub fn right_answer() -> Vec<Edit> {
    vec![Edit::Count(tag::RIGHT, 1)]
}
