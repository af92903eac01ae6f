//! The commands that change the agreed state.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{Cause, Duty, Leasing, MemberKind, Order, OrderId, Refusal, SoloReport, Status, Why};

/// The feature level from which on several planned commands are one entry of the log: members below it do not know
/// [`Command::Batch`].
pub const BATCH_LEVEL: u32 = 4;
/// The most commands in one batch.
pub(crate) const LONGEST_BATCH: usize = 16;

/// A change of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// A member with this Raft store belongs to the cluster; replaces an older store of the same name.
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
        /// Whose.
        name: NodeName,
        /// The revision of the member that this was planned from.
        revision: u64,
        /// The new status.
        status: Status,
        /// The life of the process that it speaks of.
        incarnation: Option<Incarnation>,
        /// In words, why it is not in-service.
        reason: String,
        /// Why it changes.
        #[serde(default)]
        cause: Cause,
    },
    /// The role of publisher moves.
    SetPublisher {
        /// The epoch that this was planned from.
        from: Option<Epoch>,
        /// The next publisher.
        to: NodeName,
        /// Why.
        #[serde(default)]
        why: Why,
    },
    /// The holder of a duty is to let go of it.
    Drain {
        /// Which duty.
        duty: Duty,
        /// The epoch that this was planned from.
        epoch: Epoch,
    },
    /// A duty gets a holder, in a new epoch.
    Assign {
        /// Which duty.
        duty: Duty,
        /// The epoch that this was planned from.
        from: Option<Epoch>,
        /// The next holder.
        to: NodeName,
        /// The life of its process that may act.
        incarnation: Incarnation,
        /// Why.
        #[serde(default)]
        why: Why,
    },
    /// The length of leases: what is in force, and what is a bound of those still out.
    Retime {
        /// What this was planned from.
        from: Option<Leasing>,
        /// The next.
        to: Leasing,
    },
    /// The feature level rises: all members know it.
    RaiseLevel {
        /// What this was planned from.
        from: u32,
        /// The next.
        to: u32,
    },
    /// Nodes that had run alone are together again: later epochs are above all of theirs (rule R7).
    Heal {
        /// The generation that this was planned from.
        from: u64,
        /// The next.
        generation: u64,
        /// Who becomes publisher, if that serves.
        winner: NodeName,
        /// What ran where.
        ran: BTreeMap<NodeName, SoloReport>,
        /// The leader's wall clock, in milliseconds since 1970.
        at_ms: u64,
    },
    /// A member that was leaving is no voter any more and has handed over what it had.
    Gone {
        /// Who.
        name: NodeName,
        /// Its Raft store.
        raft_id: u64,
    },
    /// The calls of a life that is over get an heir (rule C4). What it was planned from is that they have none: it is done
    /// at most once for each life. From [`crate::HEIRS_LEVEL`] on.
    Inherit {
        /// Whose calls.
        of: NodeName,
        /// The life that is over.
        life: Incarnation,
        /// Who is to answer for them.
        to: NodeName,
        /// The life of the heir's process that does.
        incarnation: Incarnation,
        /// How many calls there were at the last report.
        calls: u32,
        /// Why the life counts as over.
        cause: Cause,
        /// The leader's wall clock, in milliseconds since 1970.
        at_ms: u64,
    },
    /// An administrator's order. Done at most once per id.
    Operate {
        /// Chosen by whoever asks.
        id: OrderId,
        /// What to do.
        order: Order,
    },
    /// Commands of one plan, applied one after the other if each of them changes something, else none of them. No batch is in
    /// another, and none has more than 16 parts. From [`BATCH_LEVEL`] on.
    Batch(Vec<Command>),
    /// Asks what became of an order, and keeps it from being done from now on if nothing did.
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

    /// The same without the moment at which it was planned: what is planned again later differs from it in nothing else.
    pub fn timeless(&self) -> Self {
        let mut command = self.clone();
        match &mut command {
            Self::SetPublisher { why, .. } | Self::Assign { why, .. } => (why.at_ms, why.idle_ms) = (0, 0),
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
            Self::Gone { name, .. } => write!(f, "{name} is gone"),
            Self::Inherit { of, life, to, calls, .. } => write!(f, "{calls} calls of {of} ({life}) to {to}"),
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

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The state has changed.
    Done,
    /// It was so already.
    Unchanged,
    /// What the command was planned from has moved on; nothing was changed.
    Stale,
    /// Not possible; nothing was changed.
    Refused(Refusal),
}
