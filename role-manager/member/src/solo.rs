//! Solo work of a node of a pair without a witness (rule R7): what is stored, when gates close, and in which epoch the
//! node may act.

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::{Epoch, NodeName};
use twinbox_roles_core::{Duty, PersistedBounds, Solo, SoloInputs, SoloRecord, SoloReport, SoloVerdict, Timing};

/// An event of the node.
#[derive(Debug)]
pub enum SoloEvent<'a> {
    /// The facts may have changed: in each turn of the node, before a keep-alive that reports its solo work. Repeated
    /// after each action, with the facts of that moment, until there is none.
    Look(SoloInputs<'a>),
    /// This record is on disk, synced.
    Stored(SoloRecord),
}

/// An action for the node to carry out before it looks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoloAction {
    /// Close the gates of all duties now: solo work ends.
    Close,
    /// Replace the record on disk by this one, synced, and report [`SoloEvent::Stored`]. If that fails, do not look
    /// again in this turn: the node does not act.
    Store(SoloRecord),
    /// The node has no majority and does not go solo, for this new reason.
    Wait(String),
}

/// Solo work of a node.
#[derive(Debug, Clone)]
pub struct SoloStep {
    solo: Solo,
    /// The epoch to act in and its end, while the gates may be open in it.
    lease: Option<(Epoch, Duration)>,
    /// Solo work must end, and writes are in flight.
    is_stopping: bool,
    /// The last reason for waiting.
    reason: String,
}

impl SoloStep {
    /// A node that does not act solo, with the record of an earlier incarnation. `wall_ms` is its wall clock, in
    /// milliseconds since 1970.
    pub fn new(node: NodeName, timing: Timing, stored: Option<SoloRecord>, wall_ms: u64) -> Self {
        let solo = Solo::new(node, timing, stored, wall_ms);
        Self { solo, lease: None, is_stopping: false, reason: String::new() }
    }

    /// Handles an event. [`SoloEvent::Stored`] returns no action.
    pub fn step(&mut self, event: SoloEvent<'_>) -> Option<SoloAction> {
        match event {
            SoloEvent::Look(facts) => self.look(facts),
            SoloEvent::Stored(record) => {
                self.solo.stored(record);
                None
            }
        }
    }

    /// Solo work for the next keep-alive to report.
    pub fn report(&self) -> Option<&SoloReport> {
        self.solo.report()
    }

    /// Agreed facts on disk, for the next keep-alive to report.
    pub fn persisted(&self) -> PersistedBounds {
        self.solo.persisted()
    }

    /// Whether solo work must end and writes are still in flight.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// The duties that this node runs solo now, each with the epoch to act in and its end.
    pub fn leases(&self, now: Duration) -> BTreeMap<Duty, (Epoch, Duration)> {
        let running = self.lease.iter().filter(|(_, until)| now < *until);
        let of_each = |lease: &(Epoch, Duration)| {
            let duties = Duty::ALL.into_iter().filter(|duty| self.solo.runs(*duty));
            duties.map(|duty| (duty, lease.clone())).collect()
        };
        running.map(of_each).next().unwrap_or_default()
    }

    fn look(&mut self, facts: SoloInputs<'_>) -> Option<SoloAction> {
        let was_open = self.lease.take().is_some();
        // As long as the gates are open, a write may begin at any moment.
        let verdict = self.solo.decide(&SoloInputs { in_flight: facts.in_flight || was_open, ..facts });
        self.is_stopping = verdict == SoloVerdict::Stop;
        let reason = match &verdict {
            SoloVerdict::Wait(reason) => reason.clone(),
            _ => String::new(),
        };
        let is_new = reason != self.reason;
        self.reason = reason;
        match verdict {
            SoloVerdict::Act(epoch, until) => {
                self.lease = Some((epoch, until));
                None
            }
            _ if was_open => Some(SoloAction::Close),
            SoloVerdict::Store(record) => Some(SoloAction::Store(record)),
            SoloVerdict::Wait(reason) if is_new => Some(SoloAction::Wait(reason)),
            SoloVerdict::Idle | SoloVerdict::Wait(_) | SoloVerdict::Stop => None,
        }
    }
}
