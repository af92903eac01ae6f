//! What the role manager needs to be told.

use std::{path::PathBuf, sync::Arc};

use twinbox_ids::{ClusterId, Incarnation, NodeName};
use twinbox_pki::NodeIdentity;
use twinbox_roles_core::{MemberKind, Speaks, Timing};

/// Where a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// `host:port` of its node-to-node listener.
    pub address: String,
}

/// How this member takes part.
#[derive(Clone)]
pub struct RolesConfig {
    /// Its name.
    pub node: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// The cluster.
    pub cluster: ClusterId,
    /// This life of the process.
    pub incarnation: Incarnation,
    /// Everyone who is a member by configuration, this one included.
    pub members: Vec<MemberAddress>,
    /// Others that have joined since, as [`crate::Roles::members`] told an earlier life of this process. Kept apart from
    /// `dir`: a store that was set back to the time before they joined must ask them for its age (rule R8).
    pub learned: Vec<MemberAddress>,
    /// Who was removed from the cluster, as [`crate::Roles::removed_members`] told an earlier life: the configuration may
    /// still name them.
    pub removed: Vec<NodeName>,
    /// Where vote, log and snapshot are kept; of this member alone.
    pub dir: PathBuf,
    /// The same on all members.
    pub timing: Timing,
    /// This member's certificate.
    pub tls: Arc<NodeIdentity>,
    /// The feature levels that this program knows, and tells the others.
    pub speaks: Speaks,
    /// Whether it may found the group if nobody is in one yet: `cluster init` left its one-time mark.
    pub found: bool,
}

impl RolesConfig {
    pub(crate) fn member(&self, name: &NodeName) -> Option<&MemberAddress> {
        self.members.iter().find(|member| member.name == *name)
    }

    pub(crate) fn own_address(&self) -> &str {
        self.member(&self.node).map_or("", |member| member.address.as_str())
    }
}
