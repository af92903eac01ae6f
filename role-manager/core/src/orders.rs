//! What administrators may order.

use std::fmt;

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{CertificateOrder, Duty, MemberKind, Refusal, Setting, Speaks, tokens::TokenHash};

/// Names an order of an administrator, so that one whose outcome got lost can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId(pub u128);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What the leader adds to an order when it proposes it, since the state machine reads no clock and hears nobody, so that
/// it comes to the same on every member. Whoever asks leaves it empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The leader's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the node that the order is about is heard.
    pub live: bool,
    /// How many changes the node that the order is about lacks, as far as that is known.
    pub behind: u64,
}

/// What an administrator may order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Make this node the publisher; duties follow.
    MakePublisher {
        /// Which node.
        name: NodeName,
        /// Although it lacks much of the others' data.
        #[serde(default)]
        force: bool,
        /// A call that reached this node, which is passive, asks for it; no administrator does.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        on_call: bool,
        /// The leader's knowledge.
        #[serde(default)]
        facts: Facts,
    },
    /// Give the role back to the preferred node.
    Failback {
        /// The leader's knowledge.
        #[serde(default)]
        facts: Facts,
    },
    /// Let this node serve again.
    Activate(NodeName),
    /// Take this node out; its duties move.
    Deactivate {
        /// Which node.
        name: NodeName,
        /// How long calls may go on there, in milliseconds from when the node has heard of it; nothing: to their own end.
        #[serde(default)]
        within_ms: Option<u64>,
    },
    /// Move a duty to a node; it stays there as long as that serves, or until the publisher is made anew.
    MoveDuty {
        /// Which duty.
        duty: Duty,
        /// Where to.
        to: NodeName,
    },
    /// Keep a duty on a node whenever that serves.
    Pin {
        /// Which duty.
        duty: Duty,
        /// Where to.
        to: NodeName,
    },
    /// Let a duty follow the publisher again.
    Unpin(Duty),
    /// Change settings: all of these, or none.
    Set(Vec<Setting>),
    /// Remove a member from the cluster.
    Remove {
        /// Whom.
        name: NodeName,
        /// It is gone for good and hands nothing over.
        #[serde(default)]
        lost: bool,
        /// How long calls may go on there; see [`Order::Deactivate`].
        #[serde(default)]
        within_ms: Option<u64>,
        /// The leader's knowledge.
        #[serde(default)]
        facts: Facts,
    },
    /// Let one newcomer in who shows this token's secret.
    Invite {
        /// What is known of the secret.
        token: TokenHash,
        /// What the newcomer may be.
        kind: MemberKind,
        /// How long the token is good, in milliseconds.
        valid_ms: u64,
        /// The member that is gone for good and whose place the newcomer takes.
        #[serde(default)]
        replaces: Option<NodeName>,
        /// The leader's knowledge.
        #[serde(default)]
        facts: Facts,
    },
    /// A newcomer has shown a token's secret.
    Redeem {
        /// The token.
        token: TokenHash,
        /// The name that the newcomer wants.
        name: NodeName,
        /// What it wants to be.
        kind: MemberKind,
        /// `host:port` of its node-to-node listener.
        address: String,
        /// Digest of its public key: asking again with the same key is no second use.
        key: [u8; 32],
        /// The feature levels that it knows.
        #[serde(default)]
        speaks: Speaks,
        /// The leader's knowledge.
        #[serde(default)]
        facts: Facts,
    },
    /// About the authority and operators.
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

    /// Takes this node out; calls end by themselves.
    pub fn deactivate(name: NodeName) -> Self {
        Self::Deactivate { name, within_ms: None }
    }

    /// The node that the order is about, where the leader's knowledge of it matters.
    pub fn about(&self) -> Option<&NodeName> {
        match self {
            Self::MakePublisher { name, .. } | Self::Remove { name, .. } => Some(name),
            Self::Invite { replaces, .. } => replaces.as_ref(),
            _ => None,
        }
    }

    /// Why this order may not be written into the log of a cluster at this feature level: not all members could read it.
    pub fn refused_at(&self, level: u32) -> Option<Refusal> {
        let (Self::MoveDuty { duty, .. } | Self::Pin { duty, .. } | Self::Unpin(duty)) = self else { return None };
        (level < duty.level()).then(|| Refusal::DutyLevel { duty: *duty, needed: duty.level(), level })
    }

    /// The same order with what the leader knows; see [`Ledger::inform`](crate::Ledger::inform).
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
