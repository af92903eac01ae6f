//! Basic types of the role manager.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A job that one node runs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// MWI and other notifications.
    Notifier,
    /// Sending mail.
    Mta,
    /// Users from LDAP directories.
    DirectorySync,
    /// The jobs of the timetable that one node runs.
    Timetable,
    /// Voicemail in the users' mail accounts.
    MailboxSync,
}

impl Duty {
    /// All duties, in display order.
    pub const ALL: [Self; 5] = [Self::Notifier, Self::Mta, Self::DirectorySync, Self::Timetable, Self::MailboxSync];

    /// The feature level from which this duty is assigned: members below it cannot read its name.
    pub fn level(self) -> u32 {
        match self {
            Self::Notifier => 1,
            Self::Mta => 5,
            Self::DirectorySync | Self::Timetable => 6,
            Self::MailboxSync => 7,
        }
    }

    /// The name for people and on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notifier => "notifier",
            Self::Mta => "mta",
            Self::DirectorySync => "directory-sync",
            Self::Timetable => "timetable",
            Self::MailboxSync => "mailbox-sync",
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

/// Kind of a member.
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
    /// Known to the cluster; its critical services are not yet reported as working.
    Starting,
    /// Works, but lacks too many of the others' changes to be publisher.
    Replicating,
    /// In service.
    InService,
    /// Taken out by an administrator.
    Deactivated,
    /// Silent, or one of its critical services has failed.
    NotFunctioning,
    /// Ran solo in a split and stands down for the other.
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

/// Report of a node on its critical services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthReport {
    /// One entry per critical service.
    pub services: Vec<ServiceHealth>,
}

impl HealthReport {
    /// The failing services to report in a cluster at this feature level. The service of a duty above it is left out: a
    /// leader that does not know the duty would take the whole node out of service.
    pub fn failing(&self, level: u32) -> Vec<ServiceHealth> {
        let is_known = |name: &str| Duty::from_name(name).is_none_or(|duty| duty.level() <= level);
        self.services.iter().filter(|service| !service.ok && is_known(&service.name)).cloned().collect()
    }
}

/// Report of a node on one critical service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The service: `calls`, `store`, `replication`, `space`, …
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// Reason, as text, for a failure. The text must not change while the fault is the same: every change is committed.
    pub detail: String,
}
