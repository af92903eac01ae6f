//! The agreed length of leases, and its change while leases run.
//!
//! A leader grants leases of the length in force in *its* applied state, and sends the length with each. So one leader
//! is safe during a change: it counts every lease by the length with which it granted it. Another leader must wait for
//! leases that it does not know (rule R4), and so must a node that goes solo (rule R7). Therefore the state has two
//! lengths: the one in force, and an upper bound of all leases that may still run.
//!
//! * A *shorter* length is in force immediately. The bound stays until a leader has waited, by the old bound, until no
//!   lease of an earlier leader can run, and then until its own longer ones have expired. Its next proposal lowers the
//!   bound, and from that moment on it grants no longer lease itself. A leader that does not know that proposal waits
//!   by the old bound.
//! * A *longer* length raises the bound in one commit and comes into force in a later one. A leader that grants by it
//!   has applied both. Every later leader has applied the first, since it was committed, so it waits by the raised
//!   bound. A node that goes solo has the first in its log, and knows it committed, before it can have accepted the
//!   second: a leader proposes the second only after it applied the first, and sends the commit index with each entry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{State, Timing};

/// Keep-alive interval, and tolerance for missed keep-alives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTiming {
    /// Interval at which a node renews its leases, in milliseconds.
    pub keep_alive_ms: u64,
    /// Number of consecutive keep-alives that may be missed.
    pub missed: u32,
    /// Time allowed for the answer to one keep-alive, in milliseconds.
    pub answer_ms: u64,
}

impl LeaseTiming {
    /// The length of a lease: missed keep-alives and the answer to the last.
    pub fn lease_ms(self) -> u64 {
        self.keep_alive_ms.saturating_mul(u64::from(self.missed)).saturating_add(self.answer_ms)
    }
}

/// The agreed length of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leasing {
    /// The pace of the timing profile in the configuration.
    pub profile: LeaseTiming,
    /// The length of leases granted now, in milliseconds.
    pub lease_ms: u64,
    /// Upper bound of all leases that may still run, in milliseconds.
    pub bound_ms: u64,
}

impl State {
    /// Keep-alive interval and missed count by the settings; none before the cluster has agreed on its timing.
    pub fn lease_timing(&self) -> Option<LeaseTiming> {
        self.leasing.map(|leasing| self.lease_timing_of(leasing))
    }

    /// The same for this leasing.
    pub(crate) fn lease_timing_of(&self, leasing: Leasing) -> LeaseTiming {
        LeaseTiming {
            keep_alive_ms: self.settings.keep_alive_ms.unwrap_or(leasing.profile.keep_alive_ms),
            missed: self.settings.missed.unwrap_or(leasing.profile.missed),
            ..leasing.profile
        }
    }

    /// Applies changed settings: a shorter lease is in force immediately, a longer one raises the bound.
    pub(crate) fn settle_leasing(&mut self) {
        let wanted = self.lease_timing().map(LeaseTiming::lease_ms);
        if let (Some(leasing), Some(wanted)) = (self.leasing.as_mut(), wanted) {
            leasing.bound_ms = leasing.bound_ms.max(wanted);
            leasing.lease_ms = leasing.lease_ms.min(wanted);
        }
    }
}

impl Timing {
    /// The timing with the agreed values: pace and length of leases in force.
    pub fn agreed(&self, state: &State) -> Self {
        let (Some(leasing), Some(lease_timing)) = (state.leasing, state.lease_timing()) else { return *self };
        Self {
            keep_alive: Duration::from_millis(lease_timing.keep_alive_ms),
            missed: lease_timing.missed,
            lease: Duration::from_millis(leasing.lease_ms),
            ..*self
        }
    }

    /// Upper bound of all leases that any node may hold, by the agreed state.
    pub fn longest_lease(&self, state: &State) -> Duration {
        state.leasing.map_or(self.lease, |leasing| Duration::from_millis(leasing.bound_ms.max(leasing.lease_ms)))
    }

    /// Silence of a node, by this node's clock, after which another goes on without it: every lease that the silent one
    /// may have has expired then, including those that it granted itself.
    pub fn silence_limit(&self, state: &State) -> Duration {
        self.wait_for(self.longest_lease(state)) + self.margin
    }

    /// The pace of this profile.
    pub fn lease_timing(&self) -> LeaseTiming {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let keep_alive_ms = millis(self.keep_alive);
        let answer_ms = millis(self.lease).saturating_sub(keep_alive_ms.saturating_mul(u64::from(self.missed)));
        LeaseTiming { keep_alive_ms, missed: self.missed, answer_ms }
    }
}
