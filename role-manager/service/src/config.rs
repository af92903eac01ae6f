//! Configuration of the role manager.

use std::{path::PathBuf, sync::Arc};

use twinbox_ids::{ClusterId, Incarnation, NodeName};
use twinbox_pki::NodeIdentity;
use twinbox_raft::RaftConfig;
use twinbox_roles_core::{FeatureLevels, MemberKind, Timing};

use crate::RolesError;

/// Address of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// `host:port` of its node-to-node listener.
    pub address: String,
}

/// Configuration of this member.
#[derive(Clone)]
pub struct RolesConfig {
    /// Its name.
    pub node: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// The cluster.
    pub cluster: ClusterId,
    /// The incarnation of this process.
    pub incarnation: Incarnation,
    /// All configured members, this one included.
    pub members: Vec<MemberAddress>,
    /// Members that have joined since, as [`crate::Roles::members`] returned them to an earlier incarnation. Stored
    /// apart from `dir`: a store rolled back to the time before they joined must ask them for its run number (rule R8).
    pub learned: Vec<MemberAddress>,
    /// Removed members, as [`crate::Roles::removed_members`] returned them to an earlier incarnation: the configuration
    /// may still name them.
    pub removed: Vec<NodeName>,
    /// Directory of vote, log and snapshot; for this member only.
    pub dir: PathBuf,
    /// Timing; the same on all members.
    pub timing: Timing,
    /// This member's certificate.
    pub tls: Arc<NodeIdentity>,
    /// The feature levels that this program knows and reports.
    pub speaks: FeatureLevels,
    /// Whether it may found the group if no member is in one yet: `cluster init` left its one-time mark.
    pub found: bool,
}

impl RolesConfig {
    pub(crate) fn member(&self, name: &NodeName) -> Option<&MemberAddress> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// The configuration of its Raft.
    pub(crate) fn raft(&self) -> RaftConfig {
        RaftConfig {
            node: self.node.clone(),
            cluster: self.cluster,
            incarnation: self.incarnation,
            timing: self.timing,
            speaks: self.speaks,
        }
    }

    /// Whether it names this member, with a certificate of this member.
    pub(crate) fn check(&self) -> Result<(), RolesError> {
        if self.member(&self.node).is_none() {
            return Err(RolesError::NotAMember { node: self.node.clone() });
        }
        if self.tls.name != self.node || self.tls.cluster != self.cluster {
            return Err(RolesError::Certificate {
                name: self.tls.name.clone(),
                cluster: self.tls.cluster,
                node: self.node.clone(),
                expected: self.cluster,
            });
        }
        Ok(())
    }

    pub(crate) fn own_address(&self) -> &str {
        self.member(&self.node).map_or("", |member| member.address.as_str())
    }
}
