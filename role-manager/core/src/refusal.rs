//! Refusals of orders, each with the remedy.

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{CertificateRefusal, Duty, MemberKind, SettingError, Status};

/// Reason for which an order was refused, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No member has this name.
    #[error("there is no node '{name}' in this cluster; its members are: {members}")]
    Unknown {
        /// The requested name.
        name: NodeName,
        /// Names of the existing members, separated by commas.
        members: String,
    },
    /// A witness serves no calls.
    #[error(
        "'{name}' is a witness: it votes and holds no data, so it takes no role or duty and cannot be deactivated"
    )]
    Witness {
        /// Name of the witness.
        name: NodeName,
    },
    /// The node is deactivated.
    #[error("'{name}' is deactivated; activate it first")]
    Deactivated {
        /// Name of the node.
        name: NodeName,
    },
    /// The node cannot take the role now.
    #[error("'{name}' is {status}: {reason}; wait until it is in service, or choose another node")]
    NotInService {
        /// Name of the node.
        name: NodeName,
        /// Its present status.
        status: Status,
        /// Reason for this status.
        reason: String,
    },
    /// No node would be left in service (rule R9).
    #[error("'{name}' is the last node in service, or the last that may be; bring another into service first")]
    LastInService {
        /// Name of the node.
        name: NodeName,
    },
    /// The node lacks too much of the others' data.
    #[error(
        "'{name}' still lacks {behind} changes that others have: while it is publisher, MWI and notifications may be out of \
         date until it has caught up; no acknowledged data is lost; wait, or use --force"
    )]
    FarBehind {
        /// Name of the node.
        name: NodeName,
        /// Number of missing changes.
        behind: u64,
    },
    /// The member is being removed.
    #[error("'{name}' is leaving the cluster; it can join again with a token after its removal")]
    Leaving {
        /// Name of the member.
        name: NodeName,
    },
    /// Administrators have switched off the trigger `operator`.
    #[error("the trigger 'operator' is off; switch it on with 'twinbox cluster set trigger.operator on'")]
    OperatorOff,
    /// No node is preferred.
    #[error("no node is preferred; name one with 'twinbox cluster set preferred NODE'")]
    NoPreferred,
    /// Failback is `none`.
    #[error("failback is 'none'; set it to 'manual' or 'scheduled', or use 'twinbox cluster make-publisher'")]
    NoFailback,
    /// A scheduled failback has no preferred node.
    #[error("a scheduled failback needs a preferred node; set both together")]
    ScheduleWithoutPreferred,
    /// The member is in contact, so it is not lost.
    #[error(
        "'{name}' is not lost: it is in contact; leave out --lost, so that it hands over the data that only it has"
    )]
    NotLost {
        /// Name of the member.
        name: NodeName,
    },
    /// The member to be replaced is still in contact.
    #[error("'{name}' is still in contact; shut it down first, or let the new member join as another node")]
    StillThere {
        /// Name of the member.
        name: NodeName,
    },
    /// A duty is not pinned.
    #[error("'{duty}' is not pinned; it follows the publisher already")]
    NotPinned {
        /// Name of the duty.
        duty: Duty,
    },
    /// The duty is pinned to another node.
    #[error("'{duty}' is pinned to '{to}'; remove the pin with 'twinbox duty unpin {duty}', or pin it elsewhere")]
    Pinned {
        /// Name of the duty.
        duty: Duty,
        /// Node to which the duty is pinned.
        to: NodeName,
    },
    /// Invalid setting.
    #[error(transparent)]
    Setting(SettingError),
    /// The cluster has not agreed on its timing yet.
    #[error("the cluster has not agreed on its timing yet; try again in a moment")]
    NoTimingYet,
    /// The resulting lease would be too long or too short.
    #[error(
        "a lease of {lease_ms} ms would follow (missed × keep-alive + {answer_ms} ms); it must be {least} to {most} ms"
    )]
    Lease {
        /// The resulting lease, in milliseconds.
        lease_ms: u64,
        /// Part of the lease for the answer, in milliseconds.
        answer_ms: u64,
        /// The shortest permitted lease, in milliseconds.
        least: u64,
        /// The longest permitted lease, in milliseconds.
        most: u64,
    },
    /// The joining member's version does not know the cluster's feature level.
    #[error(
        "this version supports the feature levels {min} to {max}, and the cluster is at {level}; install one that supports it"
    )]
    FeatureLevel {
        /// The lowest feature level of the joining member.
        min: u32,
        /// The highest feature level of the joining member.
        max: u32,
        /// The feature level of the cluster.
        level: u32,
    },
    /// Not all members know the duty. Never part of the agreed state: such an order is not written into the log.
    #[error(
        "not all members support the duty '{duty}': it needs feature level {needed}, and the cluster is at {level}; upgrade all members"
    )]
    DutyLevel {
        /// Name of the duty.
        duty: Duty,
        /// The feature level that introduced the duty.
        needed: u32,
        /// The feature level of the cluster.
        level: u32,
    },
    /// The outcome of the order was queried before the order arrived.
    #[error("the order had not been carried out when its outcome was queried, and will not be; give it again")]
    Settled,
    /// The cluster does not know this token.
    #[error(
        "this cluster does not know the token: it is for another cluster, or expired long ago; create another with 'twinbox cluster token'"
    )]
    ForeignToken,
    /// The token has expired.
    #[error("the token expired {seconds} s ago; create another with 'twinbox cluster token'")]
    ExpiredToken {
        /// Time since the expiry, in seconds.
        seconds: u64,
    },
    /// A member has already joined with the token.
    #[error("the token was already used by '{by}': a token admits one member; create another")]
    UsedToken {
        /// Name of that member.
        by: NodeName,
    },
    /// The token is for the other kind of member.
    #[error("the token is for a {kind}; create one for a {wanted}")]
    TokenKind {
        /// The kind of member that the token admits.
        kind: MemberKind,
        /// The kind of the joining member.
        wanted: MemberKind,
    },
    /// Too many tokens are unused and not expired.
    #[error("{count} tokens are unused and not expired; wait until some are used or expire")]
    TooManyTokens {
        /// Number of these tokens.
        count: u64,
    },
    /// The validity of the token is too long or too short.
    #[error("the validity of a token must be from 1 second to {days} days")]
    #[serde(rename = "token-life")]
    TokenValidity {
        /// The longest permitted validity, in days.
        days: u64,
    },
    /// Another member has the name.
    #[error("another member of this cluster has the name '{name}'; choose another")]
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// Another member has the address.
    #[error("'{by}' already has the address {address}; every member needs its own")]
    AddressTaken {
        /// Member that has the address.
        by: NodeName,
        /// The address.
        address: String,
    },
    /// The address is invalid.
    #[error("'{address}' is not a valid address of a member; write HOST:PORT")]
    BadAddress {
        /// The address as given.
        address: String,
    },
    /// A cluster has at most one witness.
    #[error(
        "'{by}' is already the witness: a cluster has at most one; replace it with 'twinbox cluster replace {by}'"
    )]
    SecondWitness {
        /// Name of the present witness.
        by: NodeName,
    },
    /// A witness would not add safety to an odd number of nodes.
    #[error(
        "a witness in addition to {nodes} nodes adds no safety: it helps only an even number of nodes; let another node join first"
    )]
    OddNodes {
        /// Number of nodes.
        nodes: u64,
    },
    /// A witness cannot form a cluster.
    #[error("this is a witness: it holds no data, so it cannot go on alone; give the order to a remaining node")]
    WitnessAlone,
    /// The node has not been admitted to the cluster yet.
    #[error("this node has not been admitted to the cluster yet, so it has no state to go on with")]
    NoMemberYet,
    /// The cluster has a majority.
    #[error(
        "the cluster has a majority, so no member has to go on alone; remove a permanently lost member with \
         'twinbox cluster remove NAME --lost'"
    )]
    Majority,
    /// A node given up as lost must be another member.
    #[error("'{name}' is not another member of this cluster; the others are: {members}")]
    NotAnother {
        /// The requested name.
        name: NodeName,
        /// Names of the other members, separated by commas.
        members: String,
    },
    /// Not all other members were given up as lost.
    #[error(
        "not all other members are named; missing: {names}. Name a permanently lost one with --lost, too. Shut down a running \
         one and name it; let it join again afterwards, with an empty folder and a new token"
    )]
    NotNamed {
        /// Names of the missing members, separated by commas.
        names: String,
    },
    /// A member given up as lost, or its supervisor, is still in contact.
    #[error(
        "'{name}' is not lost: it or its supervisor is in contact. Repair it; to give it up, shut it down together with its \
         supervisor"
    )]
    Heard {
        /// Name of the member.
        name: NodeName,
    },
    /// Refusal of an order about certificates.
    #[error(transparent)]
    Certificates(#[from] CertificateRefusal),
}
