//! What a node tells its leader beside asking for leases.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, NodeName};

use crate::Duty;

/// The feature levels that this build knows.
pub const SPEAKS: Speaks = Speaks { min: 1, max: 4 };
/// Who lacks more changes than this is far behind: it should not be made publisher.
pub const FAR_BEHIND: u64 = 1_000;

/// The feature levels that a member knows, from the lowest to the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speaks {
    /// The lowest at which it can still work.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

impl Default for Speaks {
    fn default() -> Self {
        SPEAKS
    }
}

impl Speaks {
    /// Whether it can work in a cluster at this level.
    pub fn knows(self, level: u32) -> bool {
        (self.min..=self.max).contains(&level)
    }
}

/// Figures of a node. What is not known says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measures {
    /// How busy its processors are, in thousandths of all of them.
    pub cpu_permille: Option<u16>,
    /// Free bytes where the data are.
    pub free_bytes: Option<u64>,
    /// How often the alarm of the alarm rule was raised on it within the rule's time.
    pub alarms: Option<u32>,
    /// How many changes of others it knows to lack.
    pub behind: Option<u64>,
    /// Calls in progress.
    pub calls: Option<u32>,
}

impl Measures {
    /// Whether it lacks too much to be publisher.
    pub fn is_far_behind(&self) -> bool {
        self.behind.is_some_and(|behind| behind > FAR_BEHIND)
    }
}

/// What a node did on its own while it could reach nobody (rule R7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoloReport {
    /// In which epoch.
    pub epoch: Epoch,
    /// The duties that it ran.
    pub duties: BTreeSet<Duty>,
    /// From when, by its own wall clock, in milliseconds since 1970.
    pub from_ms: u64,
    /// Until when, as far as it is over.
    pub to_ms: Option<u64>,
}

impl SoloReport {
    /// Whether the node may still be acting under it.
    pub fn is_acting(&self) -> bool {
        self.to_ms.is_none()
    }
}

/// What a node has on disk of what was agreed, and takes into account if it goes on alone: no duty is leased to either of
/// a pair before the other knows so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Learned {
    /// The generation of agreed epochs.
    pub generation: u64,
    /// No lease that may be out is longer, in milliseconds.
    pub longest_lease_ms: u64,
}

/// What a node tells with each keep-alive, for the planner to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The members that it reaches.
    pub reaches: BTreeSet<NodeName>,
    /// Its figures.
    pub measures: Measures,
    /// The feature levels that it knows.
    pub speaks: Speaks,
    /// What it knows for sure, and will after a restart; see [`crate::Solo::learned`].
    pub learned: Learned,
    /// What it did on its own and the cluster has not taken note of yet.
    pub solo: Option<SoloReport>,
    /// Members whose SIP address does not answer it (rule C3).
    pub unanswered: BTreeSet<NodeName>,
}
