//! The nouns of the role manager.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A job that one node runs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// Message lights and other notifications.
    Notifier,
}

impl Duty {
    /// Every duty that there is.
    pub const ALL: [Self; 1] = [Self::Notifier];

    /// The feature level from which on this duty is assigned: members below it cannot read its name.
    pub fn level(self) -> u32 {
        match self {
            Self::Notifier => 1,
        }
    }

    /// The name by which people and the wire know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Notifier => "notifier",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|duty| duty.name() == name)
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a member is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberKind {
    /// Serves calls, holds a full copy of the data, votes.
    Node,
    /// Votes, holds no data, never has a duty.
    Witness,
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Witness => "witness",
        })
    }
}

/// The status of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Known to the cluster, its critical services not yet reported as working.
    Starting,
    /// Works, and lacks so much of the others' data that it should not be publisher yet.
    Replicating,
    /// Does its work.
    InService,
    /// Taken out by an administrator.
    Deactivated,
    /// Not heard, or a critical service of it has failed.
    NotFunctioning,
    /// Ran alone in a split and stands down for the other.
    Recovering,
    /// Being removed from the cluster.
    Leaving,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Replicating => "replicating",
            Self::InService => "in-service",
            Self::Deactivated => "deactivated",
            Self::NotFunctioning => "not-functioning",
            Self::Recovering => "recovering",
            Self::Leaving => "leaving",
        })
    }
}

/// What a node says of its critical services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthReport {
    /// One line per critical service.
    pub services: Vec<ServiceHealth>,
}

/// What a node says of one critical service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The service: `calls`, `store`, `replication`, `space`, …
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// In words, why not. The same words as long as it is the same fault: every change of them is committed.
    pub detail: String,
}
