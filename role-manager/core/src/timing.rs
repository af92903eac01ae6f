//! All durations of the role manager and their derived bounds.
//!
//! The formulas of `rules.md` stand here once, as functions; [`Timing::bounds`] prints them with their values.

use std::{fmt, time::Duration};

const PPM: u128 = 1_000_000;
/// Allowance in the bounds for commits (an fsync on two members each) and the messages between.
const COMMITS: Duration = Duration::from_millis(100);

/// The durations that the members of one cluster share. Members whose lease, election timeout or drift differ
/// refuse each other: a leader could not know how long another's lease runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Interval of the Raft leader's heartbeats. A heartbeat whose answer takes longer counts as lost, so this must be
    /// more than a round trip.
    pub heartbeat: Duration,
    /// The least time after which a follower stands for election.
    pub election_min: Duration,
    /// E: the most time after which a follower stands for election. After a message of the leader it protects that leader
    /// from other candidates for the same time.
    pub election_max: Duration,
    /// Interval at which a node renews its leases.
    pub keep_alive: Duration,
    /// Number of consecutive missed keep-alives after which a node counts as lost.
    pub missed: u32,
    /// L: duration of a lease: the missed keep-alives and the answer to the last.
    pub lease: Duration,
    /// Time by which a gate closes before the end of its lease.
    pub margin: Duration,
    /// ρ: the bound of clock drift, in parts per million.
    pub drift_ppm: u32,
    /// Time for which a critical service must have failed before its node is taken out of service: time for a local
    /// restart.
    pub health_grace: Duration,
    /// Time for which a node taken out of service must have been well before it is in service again.
    pub settle: Duration,
    /// Time for which a measure must have been bad, or a preferred node well, before the role moves for it; also the
    /// minimum time that the role then stays. Doubled by each such move within an hour.
    pub damping: Duration,
}

/// One row of the timing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The event.
    pub event: &'static str,
    /// Formula of the bound.
    pub formula: &'static str,
    /// Value of the bound.
    pub value: Duration,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<58} {:>5} ms  = {}", self.event, self.value.as_millis(), self.formula)
    }
}

impl Timing {
    /// For members on one local network.
    pub const fn lan() -> Self {
        Self {
            heartbeat: Duration::from_millis(75),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            keep_alive: Duration::from_millis(150),
            missed: 4,
            lease: Duration::from_millis(700),
            margin: Duration::from_millis(50),
            drift_ppm: 10_000,
            health_grace: Duration::from_millis(1_000),
            settle: Duration::from_millis(1_000),
            damping: Duration::from_secs(30),
        }
    }

    /// For members far apart, or on a network that loses packets.
    pub const fn wan() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            election_min: Duration::from_millis(900),
            election_max: Duration::from_millis(1_800),
            keep_alive: Duration::from_millis(600),
            missed: 5,
            lease: Duration::from_millis(3_500),
            margin: Duration::from_millis(200),
            drift_ppm: 10_000,
            health_grace: Duration::from_millis(3_000),
            settle: Duration::from_millis(3_000),
            damping: Duration::from_secs(60),
        }
    }

    /// `d(1+ρ)/(1−ρ)`: long enough that `d` has passed on any other clock within the drift.
    pub fn surely_past(&self, d: Duration) -> Duration {
        let drift = u128::from(self.drift_ppm).min(PPM / 2);
        scale(d, PPM + drift, PPM - drift)
    }

    /// Time after its answer for which a leader must assume that a lease runs: L(1+ρ)/(1−ρ).
    pub fn lease_at_leader(&self) -> Duration {
        self.surely_past(self.lease)
    }

    /// Time for which a new leader moves no duty that it found (rule R4): (E+L)(1+ρ)/(1−ρ). The leader before may have
    /// extended a lease until E after its last contact with a quorum, and both run on its clock.
    pub fn new_leader_wait(&self) -> Duration {
        self.wait_for(self.lease)
    }

    /// The same for the longest lease that may still run, while the lease length changes.
    pub fn wait_for(&self, longest_lease: Duration) -> Duration {
        self.surely_past(self.election_max + longest_lease)
    }

    /// Time after its start for which a voter neither votes nor stands (rule R4): E(1+ρ).
    pub fn silence_after_start(&self) -> Duration {
        scale(self.election_max, PPM + u128::from(self.drift_ppm), PPM)
    }

    /// Time without an answer after which a node reports that there is no majority.
    pub fn quorum_lost(&self) -> Duration {
        self.election_max + self.keep_alive
    }

    /// Time after which the outcome of an administrator's order counts as unknown: 2 E.
    pub fn order_limit(&self) -> Duration {
        self.election_max * 2
    }

    /// The timing table: each event with its bound and formula.
    pub fn bounds(&self) -> Vec<Bound> {
        let row = |event, formula, value| Bound { event, formula, value };
        let election = self.election_max * 2;
        let pause = election + self.keep_alive + self.margin + COMMITS;
        vec![
            row("process exited, reported by its supervisor, Raft's leader up: act elsewhere", "C", COMMITS),
            row("process exited together with Raft's leader: act elsewhere", "2E + C", election + COMMITS),
            row(
                "host lost (process and supervisor), Raft's leader up: act elsewhere",
                "L(1+ρ)/(1−ρ) + C",
                self.lease_at_leader() + COMMITS,
            ),
            row(
                "host lost together with Raft's leader: act elsewhere",
                "2E + (E+L)(1+ρ)/(1−ρ) + C",
                election + self.new_leader_wait() + COMMITS,
            ),
            row(
                "leader or witness lost, duty elsewhere: longest pause of it",
                "max(0, 2E + K + M + C − L)",
                pause.saturating_sub(self.lease),
            ),
            row("planned move of a duty", "2 commits and 3 messages = C", COMMITS),
            row(
                "cut off: gate closed at the latest, by the holder's clock",
                "E + L − M for Raft's leader, L − M for others",
                (self.election_max + self.lease).saturating_sub(self.margin),
            ),
            row("majority lost: noticed by a node", "E + K", self.quorum_lost()),
            row("order during a lost majority: answered", "2E", self.order_limit()),
            row("voter started: first vote", "E(1+ρ)", self.silence_after_start()),
            row(
                "critical service failed: duty elsewhere",
                "G + K + C, or the lease when the holder hangs",
                self.health_grace + self.keep_alive + COMMITS.max(self.lease_at_leader()),
            ),
        ]
    }
}

fn scale(d: Duration, numerator: u128, denominator: u128) -> Duration {
    // Rounded up: a bound that is too long is safe.
    let nanos = (d.as_nanos() * numerator).div_ceil(denominator.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
