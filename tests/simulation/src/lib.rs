//! Whole clusters on a virtual clock: the real planner, the real leases and the real state machine of the role
//! manager, over an abstract Raft, a network that delays, loses, reorders and cuts, processes that die, hang
//! and come back, and clocks that run at their worst.
//!
//! Judged by effects at a fake receiver on global time (rule P3), not by what nodes believe. Everything follows
//! from the seed: [`run`] with the seed of a failure replays it, and its trace says what happened.

mod clock;
mod member;
mod raft;
mod receiver;
mod world;

use std::fmt;

pub use receiver::Violation;

/// A rule that is broken on purpose: the simulation must find each of them (rule P4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A new leader moves duties at once (rule R4).
    NoNewLeaderWait,
    /// The holder counts its lease from the answer's arrival (rule R2).
    LeaseFromReceipt,
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
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NoNewLeaderWait,
        Self::LeaseFromReceipt,
        Self::NoCompareAndSet,
        Self::NoQuorumNeeded,
        Self::NoFreeze,
        Self::ReleaseInFlight,
        Self::NoOwnEntry,
    ];
}

/// What a run that kept all rules did; to see that runs are worth their time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Effects that arrived.
    pub effects: u64,
    /// Epochs in which somebody acted.
    pub epochs: u64,
    /// Leaders elected.
    pub terms: u64,
}

/// A run that broke a rule.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Replays it.
    pub seed: u64,
    /// Which rule.
    pub violation: Violation,
    /// What happened last.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.violation)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// One cluster from its founding to its end, with all that goes wrong in between.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Report, Box<Failure>> {
    let mut world = world::World::new(seed, mutant);
    world.play().map_err(|violation| Box::new(Failure { seed, violation, trace: world.trace() }))
}
