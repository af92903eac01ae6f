//! The data that a node reports to its leader in addition to lease requests.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, NodeName};

use crate::Duty;

/// The feature levels that this build knows.
pub const SUPPORTED_LEVELS: FeatureLevels = FeatureLevels { min: 1, max: 9 };
/// A node that lacks more changes than this is far behind: it should not be made publisher.
pub const FAR_BEHIND: u64 = 1_000;

/// The feature levels that a member knows, from the lowest to the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureLevels {
    /// The lowest supported level.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

impl Default for FeatureLevels {
    fn default() -> Self {
        SUPPORTED_LEVELS
    }
}

impl FeatureLevels {
    /// Whether it can work in a cluster at this level.
    pub fn supports(self, level: u32) -> bool {
        (self.min..=self.max).contains(&level)
    }
}

/// Measures of a node; unknown ones are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measures {
    /// CPU use of all processors, 0 to 1000 ‰.
    pub cpu_permille: Option<u16>,
    /// Free bytes on the file system of the data.
    pub free_bytes: Option<u64>,
    /// Number of times that the alarm of the alarm rule was raised on it within the rule's time.
    pub alarms: Option<u32>,
    /// Number of changes of others that it knows it lacks.
    pub behind: Option<u64>,
    /// Calls in progress.
    pub calls: Option<u32>,
}

impl Measures {
    /// Whether it lacks too many changes to be publisher.
    pub fn is_far_behind(&self) -> bool {
        self.behind.is_some_and(|behind| behind > FAR_BEHIND)
    }
}

/// Solo work of a node (rule R7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoloReport {
    /// Its epoch.
    pub epoch: Epoch,
    /// The duties that it ran.
    pub duties: BTreeSet<Duty>,
    /// Its start by the node's wall clock, in milliseconds since 1970.
    pub from_ms: u64,
    /// Its end, likewise; none while it goes on.
    pub to_ms: Option<u64>,
}

impl SoloReport {
    /// Whether the node may still be acting under it.
    pub fn is_acting(&self) -> bool {
        self.to_ms.is_none()
    }
}

/// Agreed facts that a node has on disk for going solo: no duty is leased to a node of a pair before the other has
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PersistedBounds {
    /// The generation of agreed epochs.
    pub generation: u64,
    /// Upper bound of all leases that may run, in milliseconds.
    pub longest_lease_ms: u64,
}

/// Report of a node to the planner with each keep-alive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The members that the node reaches.
    pub reaches: BTreeSet<NodeName>,
    /// Its measures.
    pub measures: Measures,
    /// The feature levels that it knows.
    pub feature_levels: FeatureLevels,
    /// Agreed facts that survive its restart; see [`crate::Solo::persisted`].
    pub persisted: PersistedBounds,
    /// Its solo work that the cluster has not recorded yet.
    pub solo: Option<SoloReport>,
    /// Members whose SIP address does not answer the node (rule C3).
    pub unanswered: BTreeSet<NodeName>,
}
