//! Whole clusters on a virtual clock: the real planner, the real leases and the real state machine of the role manager,
//! over an abstract Raft, a network that delays, loses, doubles, reorders and cuts, one way and not transitively,
//! processes that exit, hang and restart, supervisors that report exits late or not at all, administrators who change
//! settings and members, pairs in solo mode, and clocks at their worst.
//!
//! The duties also work from the outbox: real records of `nodes/outbox`, on disks that replicate (rules E1 and R11).
//!
//! Judged by effects at a fake receiver on global time (rule P3), not by the beliefs of nodes. Everything follows from
//! the seed: [`run`] with the seed of a failure replays it, and [`replay`] lists the events.

mod clock;
mod effects;
mod faults;
mod heirs;
mod holder;
mod leader;
mod liveness;
mod member;
mod messages;
mod outbox;
mod raft;
mod receiver;
mod solo;
mod voters;
mod world;

use std::fmt;

pub use outbox::OutboxCounts;
pub use receiver::{Effect, Receiver, Violation};

/// A rule that is broken on purpose: the simulation must find each of them (rule P4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A new leader moves duties immediately (rule R4).
    NoNewLeaderWait,
    /// The holder counts its lease from the answer's arrival (rule R2).
    LeaseFromReceipt,
    /// The holder's clock stops while its machine is suspended (rule R2).
    StandingClock,
    /// Commands do not compare the state that they were planned from (rule R5).
    NoCompareAndSet,
    /// A leader without contact to a majority keeps extending leases (rule R3).
    NoQuorumNeeded,
    /// Leases are extended after a move has been proposed (rule R3).
    NoFreeze,
    /// A duty is given back while writes are in flight (rule R6).
    ReleaseInFlight,
    /// A leader grants before it has applied an entry of its own term (rule R4).
    NoOwnEntry,
    /// The proof that one incarnation of a process has exited is accepted for another (rule R1).
    AnyLife,
    /// A new leader waits by the present length of leases, not by the longest that may still run (rule R4).
    ForgottenLength,
    /// The bound of leases is lowered before the longer ones have expired (rule R4).
    BoundAtOnce,
    /// A node begins solo mode before every lease of the other has expired (rule R7).
    SoloTooSoon,
    /// The leader leases duties without knowing whether a node is in solo mode (rule R7).
    SoloUnseen,
    /// A node acts in solo mode before its disk has recorded that (rule R7).
    SoloUnkept,
    /// The leader leases a duty of a pair before the other knows of the generation (rule R7).
    SoloUnlearned,
    /// A node that has inherited calls by proof alone goes on knowing them, or learns of them by a grant (rule C4).
    InheritedReturns,
    /// A node that failed before the last one died stays out of service (rule R9).
    LastStaysOut,
    /// An effect is acted on without a durable attempt (rule E1).
    NoDurableAttempt,
    /// An effect is recorded as done before its act (rule E1).
    DoneBeforeAct,
    /// A new holder does not ask for the attempts of earlier holders (rule E1).
    NoQuestion,
}

impl Mutant {
    /// All mutants.
    pub const ALL: [Self; 20] = [
        Self::NoNewLeaderWait,
        Self::LeaseFromReceipt,
        Self::StandingClock,
        Self::NoCompareAndSet,
        Self::NoQuorumNeeded,
        Self::NoFreeze,
        Self::ReleaseInFlight,
        Self::NoOwnEntry,
        Self::AnyLife,
        Self::ForgottenLength,
        Self::BoundAtOnce,
        Self::SoloTooSoon,
        Self::SoloUnseen,
        Self::SoloUnkept,
        Self::SoloUnlearned,
        Self::InheritedReturns,
        Self::LastStaysOut,
        Self::NoDurableAttempt,
        Self::DoneBeforeAct,
        Self::NoQuestion,
    ];

    /// Whether a violation shows that the rule is broken: two members act at the same time, or, for the rule that one
    /// serves, none does. Those of the outbox are shown by what a receiver gets twice, or never.
    pub fn is_shown_by(self, violation: &Violation) -> bool {
        match self {
            Self::InheritedReturns => matches!(violation, Violation::TwoHeirs { .. }),
            Self::LastStaysOut => matches!(violation, Violation::Unserved),
            Self::NoDurableAttempt | Self::NoQuestion => matches!(violation, Violation::Repeated { .. }),
            Self::DoneBeforeAct => matches!(violation, Violation::Lost { .. }),
            _ => violation.is_seen_outside(),
        }
    }

    /// Whether the broken rule is one of the outbox.
    pub(crate) fn is_of_the_outbox(self) -> bool {
        matches!(self, Self::NoDurableAttempt | Self::DoneBeforeAct | Self::NoQuestion)
    }

    /// The mutant of this name, as `{:?}` writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }
}

/// Statistics of a run without a violation; they show whether runs exercise enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Effects that arrived.
    pub effects: u64,
    /// Agreed epochs in which a member acted.
    pub epochs: u64,
    /// Solo epochs in which a node acted.
    pub solo_epochs: u64,
    /// Writes sent after a pause, and recognized by their epoch.
    pub late_writes: u64,
    /// Leaders elected.
    pub terms: u64,
    /// Incarnations whose calls were inherited.
    pub heirs: u64,
    /// The outbox.
    pub outbox: OutboxCounts,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.effects += other.effects;
        self.epochs += other.epochs;
        self.solo_epochs += other.solo_epochs;
        self.late_writes += other.late_writes;
        self.terms += other.terms;
        self.heirs += other.heirs;
        self.outbox += other.outbox;
    }
}

/// A run with a violation.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed, for a replay.
    pub seed: u64,
    /// The violated rule.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.violation)
    }
}

/// One cluster from its founding to its end, with all faults in between.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Report, Failure> {
    world::World::new(seed, mutant, false).play().map_err(|violation| Failure { seed, violation })
}

/// As [`run`], with a trace of all events, line by line.
pub fn replay(seed: u64, mutant: Option<Mutant>) -> (Result<Report, Failure>, Vec<String>) {
    let mut world = world::World::new(seed, mutant, true);
    let result = world.play().map_err(|violation| Failure { seed, violation });
    (result, world.take_trace())
}
