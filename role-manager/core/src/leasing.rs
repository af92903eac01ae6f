//! How long leases run is agreed, and may be changed while they run.
//!
//! A leader grants leases of the length that is in force in *its* applied state, and says the length with each. So one
//! leader has nothing to fear from a change: it counts every lease by the length with which it granted it. Another leader
//! must wait for leases that it does not know of (rule R4), and so must a node that goes on alone (rule R7). Therefore the
//! state carries two lengths: the one in force, and a bound above every lease that may still be out.
//!
//! * A *shorter* length is in force at once; the bound stays until some leader has waited, by the old bound, until no lease
//!   of a leader before it can be out, and then until its own longer ones are out. What it proposes then lowers the bound,
//!   and from that moment on it grants no longer lease itself. A leader that does not know of that waits by the old bound.
//! * A *longer* length raises the bound in one commit and comes into force in a later one. Whoever grants by it has applied
//!   both. Every later leader has applied the first, since it was committed, so it waits by the raised bound. A node that
//!   goes on alone has the first in its log, and knows it committed, before it can have accepted the second: a leader
//!   proposes the second only after it applied the first, and says with each entry how far it is committed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{State, Timing};

/// Keep-alive interval, and how long a node is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// How often a node renews its leases.
    pub keep_alive_ms: u64,
    /// How many keep-alives in a row may be missed.
    pub missed: u32,
    /// How long the answer to one may take.
    pub answer_ms: u64,
}

impl Pace {
    /// The length of a lease: missed keep-alives and the answer to the last.
    pub fn lease_ms(self) -> u64 {
        self.keep_alive_ms.saturating_mul(u64::from(self.missed)).saturating_add(self.answer_ms)
    }
}

/// The agreed length of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leasing {
    /// What the timing profile of the configuration says.
    pub profile: Pace,
    /// The length by which leases are granted.
    pub lease_ms: u64,
    /// No lease that may still be out is longer.
    pub bound_ms: u64,
}

impl State {
    /// Keep-alive interval and missed count as the settings want them, if the cluster has its timing already.
    pub fn pace(&self) -> Option<Pace> {
        self.leasing.map(|leasing| self.pace_of(leasing))
    }

    /// The same, were that the agreed leasing.
    pub(crate) fn pace_of(&self, leasing: Leasing) -> Pace {
        Pace {
            keep_alive_ms: self.settings.keep_alive_ms.unwrap_or(leasing.profile.keep_alive_ms),
            missed: self.settings.missed.unwrap_or(leasing.profile.missed),
            ..leasing.profile
        }
    }

    /// The settings have changed: a shorter lease is in force at once, a longer one is announced.
    pub(crate) fn settle_leasing(&mut self) {
        let wanted = self.pace().map(Pace::lease_ms);
        if let (Some(leasing), Some(wanted)) = (self.leasing.as_mut(), wanted) {
            leasing.bound_ms = leasing.bound_ms.max(wanted);
            leasing.lease_ms = leasing.lease_ms.min(wanted);
        }
    }
}

impl Timing {
    /// The timing with what the cluster has agreed on put in: the pace and the length of leases in force.
    pub fn agreed(&self, state: &State) -> Self {
        let (Some(leasing), Some(pace)) = (state.leasing, state.pace()) else { return *self };
        Self {
            keep_alive: Duration::from_millis(pace.keep_alive_ms),
            missed: pace.missed,
            lease: Duration::from_millis(leasing.lease_ms),
            ..*self
        }
    }

    /// No lease that anybody may hold is longer than this, by what has been agreed.
    pub fn longest_lease(&self, state: &State) -> Duration {
        state.leasing.map_or(self.lease, |leasing| Duration::from_millis(leasing.bound_ms.max(leasing.lease_ms)))
    }

    /// The pace of this profile.
    pub fn pace(&self) -> Pace {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let keep_alive_ms = millis(self.keep_alive);
        let answer_ms = millis(self.lease).saturating_sub(keep_alive_ms.saturating_mul(u64::from(self.missed)));
        Pace { keep_alive_ms, missed: self.missed, answer_ms }
    }
}
