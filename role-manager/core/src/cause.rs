//! Causes of moves, and the history of moves.

use std::fmt;

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, NodeName};

use crate::Duty;

/// The feature level from which a move forced by a call has the cause `call`: members below it cannot read that cause.
pub const CALL_CAUSE_LEVEL: u32 = 3;
/// Number of moves that are remembered at a feature level: at least six moves of the role with those of all duties.
pub(crate) fn remembered_moves(level: u32) -> usize {
    if level < Duty::MailboxSync.level() { 32 } else { 48 }
}

/// Event that may move roles; each can be switched on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// An administrator's `make-publisher`.
    Operator,
    /// No message for a lease.
    MissedKeepAlives,
    /// The process has exited: its supervisor reports it, or its next incarnation has started.
    Exit,
    /// A critical service has failed and did not recover.
    Service,
    /// Low disk space.
    Space,
    /// The processor was busy for long.
    Cpu,
    /// The alarm rule: a named alarm, n times in t.
    Alarm,
}

impl Trigger {
    /// All triggers.
    pub const ALL: [Self; 7] =
        [Self::Operator, Self::MissedKeepAlives, Self::Exit, Self::Service, Self::Space, Self::Cpu, Self::Alarm];

    /// The name for people and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::MissedKeepAlives => "missed-keep-alives",
            Self::Exit => "exit",
            Self::Service => "service",
            Self::Space => "space",
            Self::Cpu => "cpu",
            Self::Alarm => "alarm",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trigger| trigger.name() == name)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Cause for which a status, the publisher or a duty has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It had no holder, or a node has come (back) into service.
    #[default]
    Start,
    /// An administrator's order.
    Operator,
    /// A call reached the passive node (`force-failover-on-call`). From [`crate::CALL_CAUSE_LEVEL`] on.
    Call,
    /// No message for a lease.
    MissedKeepAlives,
    /// The holder's process has exited.
    Exit,
    /// The holder has shut down in an orderly way.
    Shutdown,
    /// This critical service of the holder has failed.
    Service(String),
    /// Low disk space on the holder.
    Space,
    /// The holder's processor was busy for long.
    Cpu,
    /// This alarm was raised on the holder as often as the rule requires.
    Alarm(String),
    /// Return to the preferred node, in its window or by `cluster failback`.
    Failback,
    /// The duty is pinned to the node.
    Pin,
    /// A move was begun and not made: the same node goes on in a new epoch.
    Renewal,
    /// Two nodes that had run solo have met again.
    Heal,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Operator => f.write_str("operator"),
            Self::Call => f.write_str("call"),
            Self::MissedKeepAlives => f.write_str("missed-keep-alives"),
            Self::Exit => f.write_str("exit"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Service(name) => write!(f, "service({name})"),
            Self::Space => f.write_str("space"),
            Self::Cpu => f.write_str("cpu"),
            Self::Alarm(code) => write!(f, "alarm({code})"),
            Self::Failback => f.write_str("failback"),
            Self::Pin => f.write_str("pin"),
            Self::Renewal => f.write_str("renewal"),
            Self::Heal => f.write_str("heal"),
        }
    }
}

/// Details of a command that moves something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveReason {
    /// The cause.
    pub cause: Cause,
    /// The leader's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// Time during which no holder is known to have acted, in milliseconds by the leader's clock. It runs to this
    /// assignment from the last moment at which the previous holder could act: since a lease of it was renewed, or
    /// since its last contact with a leader that did not lead then.
    pub idle_ms: u64,
}

impl MoveReason {
    /// With this cause and no time known.
    pub fn because(cause: Cause) -> Self {
        Self { cause, ..Self::default() }
    }
}

/// Object of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveObject {
    /// The role of publisher.
    Publisher,
    /// A duty.
    Duty(Duty),
}

impl fmt::Display for MoveObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publisher => f.write_str("publisher"),
            Self::Duty(duty) => f.write_str(duty.name()),
        }
    }
}

/// One move, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Object that moved.
    #[serde(rename = "what")]
    pub object: MoveObject,
    /// The previous holder; none the first time.
    pub from: Option<NodeName>,
    /// The new holder.
    pub to: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// The cause.
    pub cause: Cause,
    /// Time of the move by the leader's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// Time during which no holder is known to have acted, in milliseconds; see [`MoveReason::idle_ms`].
    pub idle_ms: u64,
}
