//! Why orders are refused, each with the way out.

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{CertificateRefusal, Duty, MemberKind, SettingError, Status};

/// Why an order was refused, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No member has this name.
    #[error("there is no node '{name}' in this cluster; its members are: {members}")]
    Unknown {
        /// What was asked for.
        name: NodeName,
        /// Who there is, separated by commas.
        members: String,
    },
    /// A witness serves no calls.
    #[error("'{name}' is a witness: it votes and holds no data, so it can be neither publisher nor deactivated")]
    Witness {
        /// Who.
        name: NodeName,
    },
    /// The node was taken out.
    #[error("'{name}' is deactivated; activate it first")]
    Deactivated {
        /// Who.
        name: NodeName,
    },
    /// The node cannot take the role now.
    #[error("'{name}' is {status}: {reason}; wait until it is in service, or choose another node")]
    NotInService {
        /// Who.
        name: NodeName,
        /// Where it stands.
        status: Status,
        /// Why.
        reason: String,
    },
    /// Nobody would be left (rule R9).
    #[error("'{name}' is the last node in service, or the last that may be; bring another into service first")]
    LastInService {
        /// Who.
        name: NodeName,
    },
    /// The node lacks too much of the others' data.
    #[error(
        "'{name}' still lacks {behind} changes that others have: while it is publisher, lights and notifications may be \
         out of date until it has caught up; nothing that was acknowledged is lost; wait, or use --force"
    )]
    FarBehind {
        /// Who.
        name: NodeName,
        /// How many.
        behind: u64,
    },
    /// The member is being removed.
    #[error("'{name}' is leaving the cluster; it can join again with a token once it is gone")]
    Leaving {
        /// Who.
        name: NodeName,
    },
    /// Administrators have switched their own orders off.
    #[error("the trigger 'operator' is off; switch it on with 'twinbox cluster set trigger.operator on'")]
    OperatorOff,
    /// There is no node to go back to.
    #[error("no node is preferred; name one with 'twinbox cluster set preferred NODE'")]
    NoPreferred,
    /// Failback is not wanted.
    #[error("failback is 'none'; set it to 'manual' or 'scheduled', or use 'twinbox cluster make-publisher'")]
    NoFailback,
    /// A window needs a node to go back to.
    #[error("a scheduled failback needs a preferred node; set both together")]
    ScheduleWithoutPreferred,
    /// The member is heard, so it is not lost.
    #[error("'{name}' is not lost, it is heard; leave out --lost, so that it hands over what only it has")]
    NotLost {
        /// Who.
        name: NodeName,
    },
    /// Who is replaced must be gone.
    #[error("'{name}' is heard; shut it down first, or let the newcomer join as another node")]
    StillThere {
        /// Who.
        name: NodeName,
    },
    /// A duty is not pinned.
    #[error("'{duty}' is not pinned; it follows the publisher already")]
    NotPinned {
        /// Which.
        duty: Duty,
    },
    /// A pin holds the duty.
    #[error("'{duty}' is pinned to '{to}'; remove the pin with 'twinbox duty unpin {duty}', or pin it elsewhere")]
    Pinned {
        /// Which.
        duty: Duty,
        /// Where.
        to: NodeName,
    },
    /// A setting that makes no sense.
    #[error(transparent)]
    Setting(SettingError),
    /// The cluster has not agreed on its timing yet.
    #[error("the cluster has not agreed on its timing yet; try again in a moment")]
    NoTimingYet,
    /// The lease would be too long or too short.
    #[error(
        "a lease of {lease_ms} ms would follow (missed × keep-alive + {answer_ms} ms); it must be {least} to {most} ms"
    )]
    Lease {
        /// What would follow.
        lease_ms: u64,
        /// What is added for the answer.
        answer_ms: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// The newcomer's version does not know the cluster's feature level.
    #[error(
        "this version knows the feature levels {min} to {max}, and the cluster is at {level}; install one that knows it"
    )]
    FeatureLevel {
        /// The newcomer's lowest.
        min: u32,
        /// The newcomer's highest.
        max: u32,
        /// The cluster's.
        level: u32,
    },
    /// Not all members know the duty. Never part of the agreed state: such an order is not written into the log.
    #[error(
        "not all members know the duty '{duty}': it needs feature level {needed}, and the cluster is at {level}; upgrade all members"
    )]
    DutyLevel {
        /// Which.
        duty: Duty,
        /// The level that brings it.
        needed: u32,
        /// The cluster's.
        level: u32,
    },
    /// Somebody asked what had become of the order before it arrived.
    #[error("the order had not been carried out when it was asked about, and will not be; give it again")]
    Settled,
    /// The cluster knows no such token.
    #[error("this cluster does not know the token: it is another cluster's, or ended long ago; make another")]
    ForeignToken,
    /// The token's time is over.
    #[error("the token expired {seconds} s ago; make another with 'twinbox cluster token'")]
    ExpiredToken {
        /// Since when.
        seconds: u64,
    },
    /// Somebody has joined with it.
    #[error("the token was used already, by '{by}': a token lets one newcomer in; make another")]
    UsedToken {
        /// Who joined with it.
        by: NodeName,
    },
    /// It is for the other kind of member.
    #[error("the token is for a {kind}; make one for a {wanted}")]
    TokenKind {
        /// What it is for.
        kind: MemberKind,
        /// What the newcomer wants to be.
        wanted: MemberKind,
    },
    /// Too many tokens are out.
    #[error("{count} tokens are out and not expired; wait until some are used or expire")]
    TooManyTokens {
        /// How many.
        count: u64,
    },
    /// The token would be good for too long, or not at all.
    #[error("a token is good for at least a second and at most {days} days")]
    TokenLife {
        /// The longest.
        days: u64,
    },
    /// Another member has the name.
    #[error("the name '{name}' is taken by a member of this cluster; choose another")]
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// Another member has the address.
    #[error("{by} is at {address} already; every member has its own address")]
    AddressTaken {
        /// Who has it.
        by: NodeName,
        /// The address.
        address: String,
    },
    /// The address is none.
    #[error("'{address}' is no address of a member; write HOST:PORT")]
    BadAddress {
        /// As given.
        address: String,
    },
    /// A cluster has one witness at most.
    #[error(
        "'{by}' is the witness already: a cluster has one at most; 'twinbox cluster replace {by}' puts another in its place"
    )]
    SecondWitness {
        /// Who.
        by: NodeName,
    },
    /// A witness would make it worse.
    #[error("a witness beside {nodes} nodes adds no safety: it serves an even number; let another node join first")]
    OddNodes {
        /// How many there are.
        nodes: u64,
    },
    /// A witness cannot be a cluster.
    #[error("this is a witness: it holds no data, so it cannot go on alone; ask a node that is left")]
    WitnessAlone,
    /// It has not been let in yet.
    #[error("this node has not been let into the cluster yet, so there is nothing that it could go on with")]
    NoMemberYet,
    /// The cluster can decide without that.
    #[error(
        "there is a majority of the members, so nobody has to go on alone; 'twinbox cluster remove NAME --lost' takes out \
         one that is gone for good"
    )]
    Majority,
    /// Who is given up for lost must be another member.
    #[error("'{name}' is no other member of this cluster; the others are: {members}")]
    NotAnother {
        /// What was asked for.
        name: NodeName,
        /// Who there is, separated by commas.
        members: String,
    },
    /// Not all others were given up for lost.
    #[error(
        "not every other member is named; missing: {names}. One that is gone for good: name it with --lost, too. One that \
         lives: shut it down and name it, and let it join again afterwards, with an empty folder and a new token"
    )]
    NotNamed {
        /// Whom, separated by commas.
        names: String,
    },
    /// One that is given up for lost lives.
    #[error(
        "'{name}' is not lost: it is heard, or its supervisor is. Repair what keeps it from its work, or shut it down, \
         supervisor included, if it is to be given up"
    )]
    Heard {
        /// Who.
        name: NodeName,
    },
    /// About certificates.
    #[error(transparent)]
    Certificates(#[from] CertificateRefusal),
}
