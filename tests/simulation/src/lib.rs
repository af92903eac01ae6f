//! Whole clusters on a virtual clock: the real planner, the real leases and the real state machine of the role
//! manager, over an abstract Raft, a network that delays, loses, doubles, reorders and cuts, one way and not transitively,
//! processes that die, hang and come back, supervisors that tell of it late or not at all, administrators who change
//! settings and members, pairs that go on alone, and clocks that run at their worst.
//!
//! Judged by effects at a fake receiver on global time (rule P3), not by what nodes believe. Everything follows
//! from the seed: [`run`] with the seed of a failure replays it, and [`replay`] says what happened.

mod alone;
mod clock;
mod effects;
mod faults;
mod heirs;
mod judge;
mod member;
mod messages;
mod raft;
mod receiver;
mod voters;
mod world;

use std::fmt;

pub use receiver::{Effect, Receiver, Violation};

/// A rule that is broken on purpose: the simulation must find each of them (rule P4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A new leader moves duties at once (rule R4).
    NoNewLeaderWait,
    /// The holder counts its lease from the answer's arrival (rule R2).
    LeaseFromReceipt,
    /// The holder's clock stands still while its machine is suspended (rule R2).
    StandingClock,
    /// Commands do not compare what they were planned from (rule R5).
    NoCompareAndSet,
    /// A leader that has heard nobody for long goes on extending leases (rule R3).
    NoQuorumNeeded,
    /// Leases are extended after a move has been proposed (rule R3).
    NoFreeze,
    /// A duty is given back while writes are in flight (rule R6).
    ReleaseInFlight,
    /// A leader grants before it has applied an entry of its own term (rule R4).
    NoOwnEntry,
    /// The proof that one life of a process has exited is taken for another (rule R1).
    AnyLife,
    /// A new leader waits by the length of leases that is in force, not by the longest that may be out (rule R4).
    ForgottenLength,
    /// The bound of leases is lowered before the longer ones are out (rule R4).
    BoundAtOnce,
    /// A node goes on alone before every lease of the other is out (rule R7).
    SoloTooSoon,
    /// The leader leases duties without knowing whether somebody acts alone (rule R7).
    SoloUnseen,
    /// A node acts alone before it has kept that on its disk (rule R7).
    SoloUnkept,
    /// The leader leases a duty of a pair before the other knows of the generation (rule R7).
    SoloUnlearned,
    /// A node that failed before the last one died stays out of service (rule R9).
    LastStaysOut,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 16] = [
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
        Self::LastStaysOut,
    ];

    /// Whether a run shows that the rule is broken: by two that act at the same time, or where the rule is that one serves, by
    /// none that does.
    pub fn is_shown_by(self, violation: &Violation) -> bool {
        match self {
            Self::LastStaysOut => matches!(violation, Violation::Unserved),
            _ => violation.is_seen_outside(),
        }
    }

    /// The one of this name, as `{:?}` writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }
}

/// What a run that kept all rules did; to see that runs are worth their time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Effects that arrived.
    pub effects: u64,
    /// Agreed epochs in which somebody acted.
    pub epochs: u64,
    /// Epochs of nodes that acted alone.
    pub solo_epochs: u64,
    /// Writes that left after a pause, and that their epoch gave away.
    pub told: u64,
    /// Leaders elected.
    pub terms: u64,
    /// Lives whose calls somebody has inherited.
    pub heirs: u64,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.effects += other.effects;
        self.epochs += other.epochs;
        self.solo_epochs += other.solo_epochs;
        self.told += other.told;
        self.terms += other.terms;
        self.heirs += other.heirs;
    }
}

/// A run that broke a rule.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Replays it.
    pub seed: u64,
    /// Which rule.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.violation)
    }
}

/// One cluster from its founding to its end, with all that goes wrong in between.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Report, Failure> {
    world::World::new(seed, mutant, false).play().map_err(|violation| Failure { seed, violation })
}

/// The same, with everything that happened, line by line.
pub fn replay(seed: u64, mutant: Option<Mutant>) -> (Result<Report, Failure>, Vec<String>) {
    let mut world = world::World::new(seed, mutant, true);
    let result = world.play().map_err(|violation| Failure { seed, violation });
    (result, world.take_trace())
}
