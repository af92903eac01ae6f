//! Orders of administrators.

use std::fmt;

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{CertificateOrder, Duty, FeatureLevels, MemberKind, Refusal, Setting, State, tokens::TokenHash};

/// Id of an administrator's order, by which its outcome can be queried if the answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId(pub u128);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Facts that the leader adds to an order when it proposes it. The state machine reads no clock and observes no node,
/// so the facts make the result the same on every member. The sender leaves them empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The leader's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the node named by the order is in contact.
    pub live: bool,
    /// Number of changes that the node named by the order lacks, as far as known.
    pub behind: u64,
    /// Whether the leader expects the named member, by configuration or invitation, and no store of it was admitted.
    pub never_joined: bool,
}

/// An administrator's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Make this node the publisher; duties follow.
    MakePublisher {
        /// Name of the node.
        name: NodeName,
        /// Even if the node lacks many of the others' changes.
        #[serde(default)]
        force: bool,
        /// Requested by a call that reached this passive node, not by an administrator.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        on_call: bool,
        /// The leader's facts.
        #[serde(default)]
        facts: Facts,
    },
    /// Give the role back to the preferred node.
    Failback {
        /// The leader's facts.
        #[serde(default)]
        facts: Facts,
    },
    /// Let this node serve again.
    Activate(NodeName),
    /// Take this node out; its duties move.
    Deactivate {
        /// Name of the node.
        name: NodeName,
        /// Time limit for calls there, in milliseconds from when the node learns of the order; without it they end on
        /// their own.
        #[serde(default)]
        within_ms: Option<u64>,
    },
    /// Move a duty to a node. It stays there while the node serves, or until an order makes a publisher.
    MoveDuty {
        /// The duty.
        duty: Duty,
        /// The node that gets the duty.
        to: NodeName,
    },
    /// Keep a duty on a node whenever that node serves.
    Pin {
        /// The duty.
        duty: Duty,
        /// The node that gets the duty.
        to: NodeName,
    },
    /// Let a duty follow the publisher again.
    Unpin(Duty),
    /// Change settings, all or none.
    Set(Vec<Setting>),
    /// Remove a member from the cluster.
    Remove {
        /// Name of the member.
        name: NodeName,
        /// The member is permanently lost and hands nothing over.
        #[serde(default)]
        lost: bool,
        /// Time limit for calls there; see [`Order::Deactivate`].
        #[serde(default)]
        within_ms: Option<u64>,
        /// The leader's facts.
        #[serde(default)]
        facts: Facts,
    },
    /// Admit one joining member that shows this token's secret.
    Invite {
        /// Hash of the secret.
        token: TokenHash,
        /// The kind of the joining member.
        kind: MemberKind,
        /// Validity of the token, in milliseconds.
        valid_ms: u64,
        /// The permanently lost member that the joining member replaces.
        #[serde(default)]
        replaces: Option<NodeName>,
        /// The leader's facts.
        #[serde(default)]
        facts: Facts,
    },
    /// A joining member has shown a token's secret.
    Redeem {
        /// The token.
        token: TokenHash,
        /// The name that the joining member wants.
        name: NodeName,
        /// Its kind.
        kind: MemberKind,
        /// `host:port` of its node-to-node listener.
        address: String,
        /// Digest of its public key. A repeated request with the same key is not a second use.
        key: [u8; 32],
        /// The feature levels that it knows.
        #[serde(default, rename = "speaks")]
        feature_levels: FeatureLevels,
        /// The leader's facts.
        #[serde(default)]
        facts: Facts,
    },
    /// An order about the CA or operators.
    Certificates(CertificateOrder),
}

impl Order {
    /// Makes this node the publisher, unless it is far behind.
    pub fn make_publisher(name: NodeName) -> Self {
        Self::MakePublisher { name, force: false, on_call: false, facts: Facts::default() }
    }

    /// Makes this passive node the publisher because a call reached it (`force-failover-on-call`).
    pub fn take_role_on_call(name: NodeName) -> Self {
        Self::MakePublisher { name, force: false, on_call: true, facts: Facts::default() }
    }

    /// Deactivates this node; its calls end on their own.
    pub fn deactivate(name: NodeName) -> Self {
        Self::Deactivate { name, within_ms: None }
    }

    /// The node for which the leader must supply facts.
    pub fn about<'a>(&'a self, state: &'a State) -> Option<&'a NodeName> {
        match self {
            Self::MakePublisher { name, .. } | Self::Remove { name, .. } => Some(name),
            Self::Invite { replaces, .. } => replaces.as_ref(),
            Self::Redeem { token, .. } => state.tokens.get(token)?.replaces.as_ref(),
            _ => None,
        }
    }

    /// Refusal if a cluster at this feature level must not log this order because not all members could read it.
    pub fn refused_at(&self, level: u32) -> Option<Refusal> {
        let (Self::MoveDuty { duty, .. } | Self::Pin { duty, .. } | Self::Unpin(duty)) = self else { return None };
        (level < duty.level()).then(|| Refusal::DutyLevel { duty: *duty, needed: duty.level(), level })
    }

    /// The same order with the leader's facts; see [`Ledger::with_facts`](crate::Ledger::with_facts).
    pub fn with(mut self, known: Facts) -> Self {
        if let Self::MakePublisher { facts, .. }
        | Self::Failback { facts }
        | Self::Remove { facts, .. }
        | Self::Invite { facts, .. }
        | Self::Redeem { facts, .. } = &mut self
        {
            *facts = known;
        }
        self
    }
}
