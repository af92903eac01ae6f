//! Why something moves, and what is remembered of it.

use std::fmt;

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, NodeName};

use crate::Duty;

/// The feature level from which on a move that a call forced has the cause `call`: members below it cannot read that.
pub const CALL_CAUSE_LEVEL: u32 = 3;
/// How many moves are remembered.
pub(crate) const REMEMBERED_MOVES: usize = 32;

/// What may make roles move, each to be switched on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// An administrator's `make-publisher`.
    Operator,
    /// Nothing heard for a lease.
    MissedKeepAlives,
    /// The process has exited: its supervisor says so, or the next life of it is there.
    Exit,
    /// A critical service has failed and did not come back.
    Service,
    /// Little room is left on the disk.
    Space,
    /// The processor has been busy for long.
    Cpu,
    /// The alarm rule: a named alarm, n times in t.
    Alarm,
}

impl Trigger {
    /// Every trigger that there is.
    pub const ALL: [Self; 7] =
        [Self::Operator, Self::MissedKeepAlives, Self::Exit, Self::Service, Self::Space, Self::Cpu, Self::Alarm];

    /// The name by which people and the wire know it.
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

    /// Whether it moves roles as long as nobody has said otherwise. The alarm rule does nothing before one is set.
    pub fn by_default(self) -> bool {
        true
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a status, the publisher or a duty has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nobody had it, or a node has come (back) into service.
    #[default]
    Start,
    /// An administrator's order.
    Operator,
    /// A call reached the passive node (`force-failover-on-call`). From [`crate::CALL_CAUSE_LEVEL`] on.
    Call,
    /// Nothing heard for a lease.
    MissedKeepAlives,
    /// The holder's process has exited.
    Exit,
    /// The holder has shut down in good order.
    Shutdown,
    /// A critical service of the holder has failed: this one.
    Service(String),
    /// Little room was left on the holder's disk.
    Space,
    /// The holder's processor had been busy for long.
    Cpu,
    /// This alarm was raised on the holder as often as the rule says.
    Alarm(String),
    /// Back to the preferred node in its window, or by `cluster failback`.
    Failback,
    /// The duty is pinned to the node.
    Pin,
    /// A move had been begun and not been made: the same node goes on in a new epoch.
    Renewal,
    /// Two nodes that had run alone have found each other again.
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

/// What goes with a command that moves something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Why {
    /// The cause.
    pub cause: Cause,
    /// The leader's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// From the last moment at which the holder before was known to be able to act to this assignment, by the leader's clock:
    /// since a lease of it was renewed, or it was heard by a leader that did not lead then.
    pub idle_ms: u64,
}

impl Why {
    /// For this cause, with no time known.
    pub fn because(cause: Cause) -> Self {
        Self { cause, ..Self::default() }
    }
}

/// What can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The role of publisher.
    Publisher,
    /// A duty.
    Duty(Duty),
}

impl fmt::Display for What {
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
    /// What moved.
    pub what: What,
    /// Who had it; nobody the first time.
    pub from: Option<NodeName>,
    /// Who has it.
    pub to: NodeName,
    /// In which epoch.
    pub epoch: Epoch,
    /// Why.
    pub cause: Cause,
    /// When, by the leader's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// For how long nobody is known to have acted; see [`Why::idle_ms`].
    pub idle_ms: u64,
}
