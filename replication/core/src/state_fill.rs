//! Decisions about a log that is cut and a store that fills by state (rules D1, D2, D3). Pure.
//!
//! A node whose vector is below the beginning of a peer's log cannot be served by history. It takes all rows of a scan of
//! that peer, and then the peer's vector as of the start of the scan.

use std::{collections::BTreeSet, time::Duration};

use twinbox_ids::Timestamp;

use crate::{Key, Vector};

/// Maximum number of rows that a [`Cover`] remembers as changed since the start of its scan.
const MOST_CHANGED: usize = 500_000;

/// Time for which changes stay in the log that every member has.
const STABLE_FOR: Duration = Duration::from_secs(3_600);

/// The way in which a node gets what it lacks from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the peer's log.
    History,
    /// By the rows of a scan. This node was behind: rows that the peer has removed are removed here, too.
    State,
    /// By the rows of a scan in both directions: neither log reaches the other node. Nothing is removed on either.
    Merge,
}

/// True when a log that begins after `begins` has all that a node with `vector` lacks of it.
pub fn reaches(begins: &Vector, vector: &Vector) -> bool {
    begins.missing_from(vector).is_empty()
}

impl Way {
    /// The way from a peer with the vector `theirs` and a log that begins after `their_begins` to a node with the vector
    /// `own` and a log that begins after `own_begins`.
    pub fn between(own: &Vector, own_begins: &Vector, theirs: &Vector, their_begins: &Vector) -> Self {
        match (reaches(their_begins, own), reaches(own_begins, theirs)) {
            (true, _) => Self::History,
            (false, true) => Self::State,
            (false, false) => Self::Merge,
        }
    }
}

/// Number of changes that a node gets from the log in any case.
const FEW: u64 = 20_000;

/// The beginning of its log that a source with the vector `has` tells a follower whose fill has not ended: that of its log, or
/// behind all that it has, so that the follower takes rows. A scan has no more rows than changes were ever made, and each row comes
/// once, without its history: that is less work when the follower lacks most of the changes.
pub fn begins_for(log_begins: &Vector, has: &Vector, follower: &Vector) -> Vector {
    let missing: u64 = has.iter().map(|(origin, upto)| upto.saturating_sub(follower.get(origin))).sum();
    let takes_rows = missing > FEW && missing > has.total() / 2;
    if takes_rows { has.clone() } else { log_begins.clone() }
}

/// Judgement of a row that is here and that the scan of a source does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentRow {
    /// All its changes are covered by the source, which has deleted and purged it.
    Purged,
    /// It has a change that the source does not cover, or that cannot be excluded.
    Kept,
}

/// The conditions under which a scan may remove rows.
#[derive(Debug, Clone, Copy)]
pub struct ScanFacts<'a> {
    /// The way between the two nodes.
    pub way: Way,
    /// At the start of the scan, the source had every change that this node had before it asked for the scan (rule D2).
    pub handed_over: bool,
    /// The source's vector as of the start of the scan.
    pub start: &'a Vector,
    /// The changes that rows of earlier, interrupted scans may show, the highest number of each origin.
    pub seen: &'a Vector,
}

/// Decides about the rows that a scan does not have. Exact, because it counts changes by number: the source covered all
/// that this node had, so a row here that it lacks at the start of the scan was purged, unless a change of the row came
/// later. Those are in the log here, which is not cut meanwhile. Stamps cannot decide it: those of one origin are not
/// in the order of its numbers, and a counter has none.
#[derive(Debug, Clone)]
pub struct Cover {
    start: Vector,
    removes: bool,
    changed: BTreeSet<Key>,
}

impl Cover {
    /// The cover of one scan.
    pub fn new(facts: ScanFacts<'_>) -> Self {
        let ScanFacts { way, handed_over, start, seen } = facts;
        // A row of an interrupted scan of another source may be newer than this source.
        let removes = way == Way::State && handed_over && reaches(seen, start);
        Self { start: start.clone(), removes, changed: BTreeSet::new() }
    }

    /// Whether any row may be removed.
    pub fn removes(&self) -> bool {
        self.removes
    }

    /// The source's vector as of the start of the scan.
    pub fn start(&self) -> &Vector {
        &self.start
    }

    /// A change that is in the log here and that the start of the scan does not cover.
    pub fn note(&mut self, key: Key) {
        self.changed.insert(key);
        if self.changed.len() > MOST_CHANGED {
            self.remove_nothing();
        }
    }

    /// Some change here cannot be attributed to a row.
    pub fn remove_nothing(&mut self) {
        self.removes = false;
        self.changed.clear();
    }

    /// Judges a row that the scan does not have, after all changes that the row shows were noted.
    pub fn judge(&self, key: &Key) -> AbsentRow {
        if self.removes && !self.changed.contains(key) { AbsentRow::Purged } else { AbsentRow::Kept }
    }
}

/// Length of the log that a node keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPolicy {
    /// Time for which a change stays that every member has.
    pub stable_for: Duration,
    /// Time after which a change goes even if members lack it: they fill by state.
    pub keep_for: Duration,
    /// Size in bytes above which the oldest changes go even if members lack them.
    pub keep_bytes: u64,
}

/// A change in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number.
    pub seq: u64,
    /// The time of its latest stamp; 0 when it has none.
    pub made: Timestamp,
    /// Its size, with its key.
    pub bytes: u64,
}

impl LogPolicy {
    /// A policy with the usual time for changes that every member has: a member that reconnects, or whose disk is set back
    /// by minutes, goes on from the log.
    pub fn new(keep_for: Duration, keep_bytes: u64) -> Self {
        Self { stable_for: STABLE_FOR, keep_for, keep_bytes }
    }

    /// Whether a change goes now, the oldest of a log of `size` bytes that is a part of the gap-free prefix. A stamp from
    /// the future keeps it until the log is too large.
    pub fn removes(&self, entry: &LogEntry, is_stable: bool, size: u64, now: Timestamp) -> bool {
        let is_older = |than: Duration| {
            let than = u64::try_from(than.as_millis()).unwrap_or(u64::MAX);
            entry.made.0.saturating_add(than) <= now.0
        };
        (is_stable && is_older(self.stable_for)) || is_older(self.keep_for) || size > self.keep_bytes
    }
}
