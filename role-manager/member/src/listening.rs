//! A survivor that an administrator lets go on alone listens for the members that are given up as lost, before it writes
//! its own group: how long, and what stops it.

use std::{collections::BTreeSet, time::Duration};

use twinbox_ids::NodeName;
use twinbox_roles_core::{SoloRecord, State, Timing};

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListeningVerdict {
    /// Nothing of them so far: check again soon.
    Listen,
    /// This member is not lost: the node takes part in its group again.
    Heard(NodeName),
    /// Every lease that the lost members can have given or taken has expired: ask [`ListeningStep::may_write`].
    Silent,
}

/// A survivor that takes no more part in its group, and listens.
#[derive(Debug, Clone)]
pub struct ListeningStep {
    lost: BTreeSet<NodeName>,
    began: Duration,
    /// End of the required silence.
    until: Duration,
}

impl ListeningStep {
    /// Begins at this time of the boot clock, with the survivor's applied state and the solo record on its disk.
    pub fn new(
        lost: BTreeSet<NodeName>,
        timing: &Timing,
        state: &State,
        record: &SoloRecord,
        now: Duration,
    ) -> Self {
        Self { lost, began: now, until: now + required_silence(timing, state, record) }
    }

    /// Checks for a sign of the lost members, at least every few milliseconds. `answering` is a member whose supervisor
    /// has answered since the beginning: its machine is not lost.
    pub fn check(
        &self,
        now: Duration,
        answering: Option<&NodeName>,
        last_contact: impl Fn(&NodeName) -> Option<Duration>,
    ) -> ListeningVerdict {
        let is_heard = |name: &&NodeName| last_contact(name).is_some_and(|at| at >= self.began);
        match answering.or_else(|| self.lost.iter().find(is_heard)) {
            Some(name) => ListeningVerdict::Heard(name.clone()),
            None if now < self.until => ListeningVerdict::Listen,
            None => ListeningVerdict::Silent,
        }
    }

    /// Whether the new group may be written after the silence, by the solo record on disk then. The survivor's own
    /// leases have expired; a write in flight (`in_flight`: a gate is open or busy) would have been so for at least a
    /// lease.
    pub fn may_write(record: &SoloRecord, in_flight: bool) -> bool {
        !in_flight && !record.report.as_ref().is_some_and(|report| report.is_acting())
    }
}

/// Those of the lost members with contact so recent that they may hold a lease.
pub fn in_contact(
    lost: &BTreeSet<NodeName>,
    timing: &Timing,
    state: &State,
    since_contact: impl Fn(&NodeName) -> Option<Duration>,
) -> BTreeSet<NodeName> {
    let limit = required_silence(timing, state, &SoloRecord::default());
    lost.iter().filter(|name| since_contact(name).is_some_and(|ago| ago < limit)).cloned().collect()
}

/// Silence after which every lease of the lost members has expired (rules R4 and R7), by the agreed state and by what
/// the disk knows of longer leases.
fn required_silence(timing: &Timing, state: &State, record: &SoloRecord) -> Duration {
    let longest = Duration::from_millis(record.persisted.longest_lease_ms);
    timing.silence_limit(state).max(timing.wait_for(longest) + timing.margin)
}
