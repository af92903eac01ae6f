//! A node of a pair without a witness goes solo (`on-quorum-loss = assume`, rule R7).
//!
//! A solo epoch is local: it is stored on disk before the node does anything in it. Its generation is above the agreed
//! one, so that receivers can tell it. It is never compared with Raft's epochs: [`crate::Holder`] does not know it.
//!
//! A node goes solo only after the other has been silent for so long that every lease of the other has expired:
//! [`crate::Timing::silence_limit`] counts from the other's last message. If the other leads, it grants leases only
//! within E of this node's last answer.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, NodeName};

use crate::{Duty, OnQuorumLoss, PersistedBounds, SoloReport, State, Timing, Voters};

/// Solo state on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SoloRecord {
    /// The agreed facts that a solo node needs.
    #[serde(rename = "learned")]
    pub persisted: PersistedBounds,
    /// Solo work that the cluster has not recorded yet.
    pub report: Option<SoloReport>,
}

/// Facts from which a node decides whether it goes solo.
#[derive(Debug, Clone, Copy)]
pub struct SoloInputs<'a> {
    /// Its boot clock.
    pub now: Duration,
    /// Its wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// State that this incarnation has applied.
    pub state: &'a State,
    /// Its Raft store. State applied before that store was admitted is not its own.
    pub raft_id: u64,
    /// The voters: others may have agreed on something without this node.
    pub voters: &'a Voters,
    /// Whether it is in touch with a majority: it leads with one, or got an answer for a lease within E + K.
    pub quorum: bool,
    /// Time of the other's last authenticated message, Raft's included; if there was none, the start of the process.
    pub last_contact: Duration,
    /// Time of the arbiter's last answer, counted from the request.
    pub arbiter: Option<Duration>,
    /// Whether writes of the solo epoch are in flight.
    pub in_flight: bool,
}

/// Next action of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoloVerdict {
    /// Do nothing: the node is not alone, or must not go solo.
    Idle,
    /// The node is alone and waits, for this reason.
    Wait(String),
    /// Store this on disk in place of the present record, synced; then call [`Solo::stored`] and decide again.
    Store(SoloRecord),
    /// Act in this epoch until this time of the boot clock; decide again before it.
    Act(Epoch, Duration),
    /// Let no more writes through; decide again when none is in flight.
    Stop,
}

/// Decides whether this node goes solo.
#[derive(Debug, Clone)]
pub struct Solo {
    node: NodeName,
    timing: Timing,
    record: SoloRecord,
}

impl Solo {
    /// With the record of an earlier incarnation. The solo work of that incarnation has ended, at an unknown time.
    pub fn new(node: NodeName, timing: Timing, stored: Option<SoloRecord>, wall_ms: u64) -> Self {
        let mut record = stored.unwrap_or_default();
        if let Some(report) = record.report.as_mut() {
            report.to_ms.get_or_insert(wall_ms.max(report.from_ms));
        }
        Self { node, timing, record }
    }

    /// Solo work for the next keep-alive to report.
    pub fn report(&self) -> Option<&SoloReport> {
        self.record.report.as_ref()
    }

    /// Whether the reported solo work includes this duty. A duty above the feature level is not run solo either.
    pub fn runs(&self, duty: Duty) -> bool {
        self.report().is_some_and(|report| report.duties.contains(&duty))
    }

    /// Agreed facts on disk, for the next keep-alive to report.
    pub fn persisted(&self) -> PersistedBounds {
        self.record.persisted
    }

    /// This record is on disk.
    pub fn stored(&mut self, record: SoloRecord) {
        self.record = record;
    }

    /// Next action. Call in each turn of the node, before a keep-alive that reports its solo work.
    pub fn decide(&self, facts: &SoloInputs<'_>) -> SoloVerdict {
        let obstacle = self.obstacle(facts);
        let acting = self.record.report.as_ref().filter(|report| report.is_acting());
        match (acting, obstacle) {
            (Some(report), None) => SoloVerdict::Act(report.epoch.clone(), self.until(facts)),
            (Some(_), Some(_)) if facts.in_flight => SoloVerdict::Stop,
            (Some(report), Some(_)) => {
                let ended = SoloReport { to_ms: Some(facts.wall_ms.max(report.from_ms)), ..report.clone() };
                SoloVerdict::Store(SoloRecord { report: Some(ended), ..self.record.clone() })
            }
            (None, obstacle) => match (self.agreed_changes(facts), obstacle) {
                (Some(record), _) => SoloVerdict::Store(record),
                (None, None) => SoloVerdict::Store(self.begin(facts)),
                (None, Some(Obstacle::Majority)) => SoloVerdict::Idle,
                (None, Some(Obstacle::Waiting(reason))) => SoloVerdict::Wait(reason),
            },
        }
    }

    /// Facts agreed since and not on disk yet. Drops the report of solo work that the cluster has recorded. An applied
    /// state that is behind, after a restart, changes nothing.
    fn agreed_changes(&self, facts: &SoloInputs<'_>) -> Option<SoloRecord> {
        let state = facts.state;
        let member = state.members.get(&self.node).filter(|member| member.raft_id == facts.raft_id);
        if state.generation < self.record.persisted.generation || member.is_none() {
            return None;
        }
        let longest = self.timing.longest_lease(state).as_millis();
        let longest_lease_ms = u64::try_from(longest).unwrap_or(u64::MAX);
        let persisted = PersistedBounds { generation: state.generation, longest_lease_ms };
        let report = self.report().filter(|report| report.epoch.generation >= state.generation).cloned();
        let next = SoloRecord { persisted, report };
        (next != self.record).then_some(next)
    }

    /// A new epoch, above the agreed ones and above all earlier solo epochs of this node.
    fn begin(&self, facts: &SoloInputs<'_>) -> SoloRecord {
        let before = self.report();
        let agreed = facts.state.generation.max(self.record.persisted.generation);
        let generation = before.map_or(0, |report| report.epoch.generation).max(agreed + 1);
        let number = before.map_or(0, |report| report.epoch.number).max(facts.state.number) + 1;
        let epoch = Epoch { generation, number, node: self.node.clone() };
        // Work not reported yet is part of it.
        let from_ms = before.map_or(facts.wall_ms, |report| report.from_ms.min(facts.wall_ms));
        let duties = facts.state.known_duties().collect::<BTreeSet<_>>();
        let report = Some(SoloReport { epoch, duties, from_ms, to_ms: None });
        SoloRecord { report, ..self.record.clone() }
    }

    fn until(&self, facts: &SoloInputs<'_>) -> Duration {
        let lease = self.timing.agreed(facts.state).lease;
        let from = match facts.state.settings.arbiter {
            Some(_) => facts.arbiter.unwrap_or_default(),
            None => facts.now,
        };
        (from + lease).saturating_sub(self.timing.margin)
    }

    /// Reason that keeps this node from going solo.
    fn obstacle(&self, facts: &SoloInputs<'_>) -> Option<Obstacle> {
        let state = facts.state;
        if facts.quorum {
            return Some(Obstacle::Majority);
        }
        let waiting = |text: &str| Some(Obstacle::Waiting(text.to_owned()));
        if !state.is_pair_of(facts.voters) {
            return waiting("it waits for a majority of the members");
        }
        if state.settings.on_quorum_loss == OnQuorumLoss::Hold {
            return waiting("it waits for the other node: 'on-quorum-loss' is 'hold'");
        }
        let own = state.members.get(&self.node).filter(|member| member.raft_id == facts.raft_id);
        if !own.is_some_and(|member| member.activated) {
            return waiting("this node is not activated");
        }
        let persisted = Duration::from_millis(self.record.persisted.longest_lease_ms);
        let needed = self.timing.silence_limit(state).max(self.timing.wait_for(persisted) + self.timing.margin);
        if facts.now.saturating_sub(facts.last_contact) <= needed {
            return Some(Obstacle::Waiting(format!(
                "the last message of the other node is less than {needed:?} old"
            )));
        }
        if let Some(address) = &state.settings.arbiter {
            let answers = facts.arbiter.is_some_and(|at| {
                facts.now.saturating_sub(at) + self.timing.margin < self.timing.agreed(state).lease
            });
            if !answers {
                return Some(Obstacle::Waiting(format!("the arbiter {address} does not answer")));
            }
        }
        None
    }
}

enum Obstacle {
    Majority,
    Waiting(String),
}
