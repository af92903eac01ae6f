//! The commands that change the agreed state.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{Cause, Duty, Leasing, MemberKind, MoveReason, Order, OrderId, Refusal, SoloReport, Status};

/// The feature level from which planned commands form one log entry: members below it do not know [`Command::Batch`].
pub const BATCH_LEVEL: u32 = 4;
/// Maximum number of commands in one batch.
pub(crate) const LONGEST_BATCH: usize = 16;

/// A change of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Admit a member with this Raft store; replaces an older store of the same name.
    Admit {
        /// Its name.
        name: NodeName,
        /// Node or witness.
        kind: MemberKind,
        /// `host:port`.
        address: String,
        /// Its Raft store.
        raft_id: u64,
    },
    /// A member's status changes.
    SetStatus {
        /// Name of the member whose status changes.
        name: NodeName,
        /// The revision of the member that this was planned from.
        revision: u64,
        /// The new status.
        status: Status,
        /// The incarnation to which the status refers.
        incarnation: Option<Incarnation>,
        /// Reason, as text, for which the status is not in-service.
        reason: String,
        /// Cause of the change.
        #[serde(default)]
        cause: Cause,
    },
    /// The role of publisher moves.
    SetPublisher {
        /// The epoch that this was planned from.
        from: Option<Epoch>,
        /// The next publisher.
        to: NodeName,
        /// Cause and time of the move.
        #[serde(default, rename = "why")]
        reason: MoveReason,
    },
    /// The holder of a duty must release it.
    Drain {
        /// The duty.
        duty: Duty,
        /// The epoch that this was planned from.
        epoch: Epoch,
    },
    /// A duty gets a holder, in a new epoch.
    Assign {
        /// The duty.
        duty: Duty,
        /// The epoch that this was planned from.
        from: Option<Epoch>,
        /// The next holder.
        to: NodeName,
        /// The incarnation of the holder that may act.
        incarnation: Incarnation,
        /// Cause and time of the move.
        #[serde(default, rename = "why")]
        reason: MoveReason,
    },
    /// The length of leases: the length in force, and a bound of the leases that may still run.
    Retime {
        /// The leasing that this was planned from.
        from: Option<Leasing>,
        /// The next leasing.
        to: Leasing,
    },
    /// The feature level rises: all members know it.
    RaiseLevel {
        /// The level that this was planned from.
        from: u32,
        /// The next level.
        to: u32,
    },
    /// Nodes that had run solo are together again: later epochs are above all solo epochs (rule R7).
    Heal {
        /// The generation that this was planned from.
        from: u64,
        /// The next generation.
        generation: u64,
        /// The node that becomes publisher, if it serves.
        winner: NodeName,
        /// Solo work of each node.
        ran: BTreeMap<NodeName, SoloReport>,
        /// The leader's wall clock, in milliseconds since 1970.
        at_ms: u64,
    },
    /// A leaving member is no longer a voter and has handed over its data.
    #[serde(rename = "gone")]
    Removed {
        /// Name of the member.
        name: NodeName,
        /// Its Raft store.
        raft_id: u64,
    },
    /// The calls of an ended incarnation get an heir (rule C4). Planned from the fact that it has none, so done at most
    /// once per incarnation. From [`crate::HEIRS_LEVEL`] on.
    Inherit {
        /// Node of the ended incarnation.
        of: NodeName,
        /// The ended incarnation.
        #[serde(rename = "life")]
        ended: Incarnation,
        /// The heir.
        to: NodeName,
        /// The incarnation of the heir that owns the calls.
        incarnation: Incarnation,
        /// Number of calls in the last report.
        calls: u32,
        /// Cause for which the incarnation counts as ended.
        cause: Cause,
        /// The leader's wall clock, in milliseconds since 1970.
        at_ms: u64,
    },
    /// An administrator's order. Done at most once per id.
    Operate {
        /// Id chosen by the sender.
        id: OrderId,
        /// The order.
        order: Order,
    },
    /// Commands of one plan, applied in sequence if each changes something, else none. A batch has at most 16 parts and
    /// contains no other batch. From [`BATCH_LEVEL`] on.
    Batch(Vec<Command>),
    /// Queries the outcome of an order. If the order has none, it can no longer be done.
    Settle {
        /// The order's id.
        id: OrderId,
    },
}

impl Command {
    /// The parts of a batch; any other command is its only part.
    pub fn parts(&self) -> &[Self] {
        match self {
            Self::Batch(parts) => parts,
            single => std::slice::from_ref(single),
        }
    }

    /// The same without the time of planning, which is the only difference when it is planned again later.
    pub fn timeless(&self) -> Self {
        let mut command = self.clone();
        match &mut command {
            Self::SetPublisher { reason, .. } | Self::Assign { reason, .. } => {
                (reason.at_ms, reason.idle_ms) = (0, 0)
            }
            Self::Heal { at_ms, .. } | Self::Inherit { at_ms, .. } => *at_ms = 0,
            Self::Batch(parts) => parts.iter_mut().for_each(|part| *part = part.timeless()),
            _ => {}
        }
        command
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admit { name, kind, raft_id, .. } => write!(f, "admit {kind} {name} as {raft_id:016x}"),
            Self::SetStatus { name, status, .. } => write!(f, "{name} is {status}"),
            Self::SetPublisher { to, .. } => write!(f, "publisher is {to}"),
            Self::Retime { to, .. } => write!(f, "leases run {} ms, at most {} ms", to.lease_ms, to.bound_ms),
            Self::RaiseLevel { to, .. } => write!(f, "feature level is {to}"),
            Self::Heal { generation, winner, .. } => write!(f, "heal to generation {generation} with {winner}"),
            Self::Removed { name, .. } => write!(f, "{name} is removed"),
            Self::Inherit { of, ended, to, calls, .. } => write!(f, "{calls} calls of {of} ({ended}) to {to}"),
            Self::Drain { duty, epoch } => write!(f, "drain {duty} of {epoch}"),
            Self::Assign { duty, to, .. } => write!(f, "{duty} to {to}"),
            Self::Operate { id, order } => write!(f, "order {id}: {order:?}"),
            Self::Batch(parts) => parts.iter().enumerate().try_for_each(|(i, part)| {
                let between = if i > 0 { "; " } else { "" };
                write!(f, "{between}{part}")
            }),
            Self::Settle { id } => write!(f, "settle order {id}"),
        }
    }
}

/// Outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandOutcome {
    /// The state has changed.
    Done,
    /// Already in the wanted state.
    Unchanged,
    /// The state that the command was planned from is out of date; nothing was changed.
    Stale,
    /// Not possible; nothing was changed.
    Refused(Refusal),
}
