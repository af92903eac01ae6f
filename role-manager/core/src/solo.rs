//! One of a pair without a witness goes on alone (`on-quorum-loss = assume`, rule R7).
//!
//! A solo epoch is local: it is kept on disk before anything is done in it, its generation is above the agreed one, so that
//! receivers can tell it, and it is never compared with Raft's: [`crate::Holder`] does not know of it. When the two meet
//! again both stop first, and say so; the leader then raises the generation above all of theirs ([`crate::Command::Heal`])
//! and only after that leases duties again.
//!
//! A node goes on alone only when it has not heard the other for so long that every lease is out which the other can have:
//! [`crate::Timing::unheard`] counts from the last word of the other, and the other, if it leads, gives leases only within E
//! of our last answer. Both may go on alone, each in its own epoch: that is what `assume` accepts, and an arbiter prevents.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, NodeName};

use crate::{Learned, OnQuorumLoss, SoloReport, State, Timing, Voters};

/// What is kept on disk of going on alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SoloRecord {
    /// What was agreed, as far as it matters to a node that goes on alone.
    pub learned: Learned,
    /// What it did alone and the cluster has not taken note of.
    pub report: Option<SoloReport>,
}

/// What a node knows when it asks itself whether it goes on alone.
#[derive(Debug, Clone, Copy)]
pub struct Alone<'a> {
    /// Its boot clock.
    pub now: Duration,
    /// Its wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// What it has applied, of this life alone.
    pub state: &'a State,
    /// Its Raft store: what was applied before that was let in is no state of its own.
    pub raft_id: u64,
    /// Who votes: others may have agreed on something without this node.
    pub voters: &'a Voters,
    /// Whether it is in touch with a majority: it leads with one, or has had a lease's answer within E + K.
    pub quorum: bool,
    /// When it last heard any authenticated word of the other, Raft's included; the start of the process if it never did.
    pub heard: Duration,
    /// When the arbiter last answered, counted from the moment at which it was asked.
    pub arbiter: Option<Duration>,
    /// Whether writes of the solo epoch are in flight.
    pub in_flight: bool,
}

/// What a node is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoloVerdict {
    /// It is not alone, or may not go on alone: nothing.
    Rest,
    /// It is alone and waits; in words, what for.
    Wait(String),
    /// Keep this on disk in the place of what is there, synced; call [`Solo::kept`], and ask again.
    Keep(SoloRecord),
    /// Act in this epoch until this moment of the boot clock, and ask again before.
    Act(Epoch, Duration),
    /// Let nothing more through; ask again when nothing is in flight.
    Stop,
}

/// Whether this node goes on alone.
#[derive(Debug, Clone)]
pub struct Solo {
    node: NodeName,
    timing: Timing,
    record: SoloRecord,
}

impl Solo {
    /// With what an earlier life of the process has kept. What that life did is over; nobody knows since when.
    pub fn new(node: NodeName, timing: Timing, kept: Option<SoloRecord>, wall_ms: u64) -> Self {
        let mut record = kept.unwrap_or_default();
        if let Some(report) = record.report.as_mut() {
            report.to_ms.get_or_insert(wall_ms.max(report.from_ms));
        }
        Self { node, timing, record }
    }

    /// What the next keep-alive says of what was done alone.
    pub fn report(&self) -> Option<&SoloReport> {
        self.record.report.as_ref()
    }

    /// What the next keep-alive says of what is known.
    pub fn learned(&self) -> Learned {
        self.record.learned
    }

    /// This record is on disk.
    pub fn kept(&mut self, record: SoloRecord) {
        self.record = record;
    }

    /// What to do now. To be asked at every word of the other, at every change, and at least once in a keep-alive interval.
    pub fn decide(&self, facts: &Alone<'_>) -> SoloVerdict {
        let obstacle = self.obstacle(facts);
        let acting = self.record.report.as_ref().filter(|report| report.is_acting());
        match (acting, obstacle) {
            (Some(report), None) => SoloVerdict::Act(report.epoch.clone(), self.until(facts)),
            (Some(_), Some(_)) if facts.in_flight => SoloVerdict::Stop,
            (Some(report), Some(_)) => {
                let over = SoloReport { to_ms: Some(facts.wall_ms.max(report.from_ms)), ..report.clone() };
                SoloVerdict::Keep(SoloRecord { report: Some(over), ..self.record.clone() })
            }
            (None, obstacle) => match (self.news(facts), obstacle) {
                (Some(record), _) => SoloVerdict::Keep(record),
                (None, None) => SoloVerdict::Keep(self.begin(facts)),
                (None, Some(Obstacle::Together)) => SoloVerdict::Rest,
                (None, Some(Obstacle::Why(why))) => SoloVerdict::Wait(why),
            },
        }
    }

    /// What has been agreed on since, and is not on disk yet. What was done alone is forgotten when the cluster has taken
    /// note of it. An applied state that is behind, after a restart, is no news.
    fn news(&self, facts: &Alone<'_>) -> Option<SoloRecord> {
        let state = facts.state;
        let member = state.members.get(&self.node).filter(|member| member.raft_id == facts.raft_id);
        if state.generation < self.record.learned.generation || member.is_none() {
            return None;
        }
        let longest = self.timing.longest_lease(state).as_millis();
        let longest_lease_ms = u64::try_from(longest).unwrap_or(u64::MAX);
        let learned = Learned { generation: state.generation, longest_lease_ms };
        let report = self.report().filter(|report| report.epoch.generation >= state.generation).cloned();
        let next = SoloRecord { learned, report };
        (next != self.record).then_some(next)
    }

    /// A new epoch, above the agreed ones and above all that this node ever had alone.
    fn begin(&self, facts: &Alone<'_>) -> SoloRecord {
        let before = self.report();
        let agreed = facts.state.generation.max(self.record.learned.generation);
        let generation = before.map_or(0, |report| report.epoch.generation).max(agreed + 1);
        let number = before.map_or(0, |report| report.epoch.number).max(facts.state.number) + 1;
        let epoch = Epoch { generation, number, node: self.node.clone() };
        // What has not been told yet is part of it.
        let from_ms = before.map_or(facts.wall_ms, |report| report.from_ms.min(facts.wall_ms));
        let duties = facts.state.known_duties().collect::<BTreeSet<_>>();
        let report = Some(SoloReport { epoch, duties, from_ms, to_ms: None });
        SoloRecord { report, ..self.record.clone() }
    }

    fn until(&self, facts: &Alone<'_>) -> Duration {
        let lease = self.timing.agreed(facts.state).lease;
        let from = match facts.state.settings.arbiter {
            Some(_) => facts.arbiter.unwrap_or_default(),
            None => facts.now,
        };
        (from + lease).saturating_sub(self.timing.margin)
    }

    /// What keeps this node from going on alone.
    fn obstacle(&self, facts: &Alone<'_>) -> Option<Obstacle> {
        let state = facts.state;
        if facts.quorum {
            return Some(Obstacle::Together);
        }
        let why = |text: &str| Some(Obstacle::Why(text.to_owned()));
        if !state.is_pair_of(facts.voters) {
            return why("it waits for a majority of the members");
        }
        if state.settings.on_quorum_loss == OnQuorumLoss::Hold {
            return why("it waits for the other node: 'on-quorum-loss' is 'hold'");
        }
        let own = state.members.get(&self.node).filter(|member| member.raft_id == facts.raft_id);
        if !own.is_some_and(|member| member.activated) {
            return why("this node is not activated");
        }
        let kept = Duration::from_millis(self.record.learned.longest_lease_ms);
        let needed = self.timing.unheard(state).max(self.timing.wait_for(kept) + self.timing.margin);
        if facts.now.saturating_sub(facts.heard) <= needed {
            return Some(Obstacle::Why(format!("the other node has been heard less than {needed:?} ago")));
        }
        if let Some(address) = &state.settings.arbiter {
            let answers = facts.arbiter.is_some_and(|at| {
                facts.now.saturating_sub(at) + self.timing.margin < self.timing.agreed(state).lease
            });
            if !answers {
                return Some(Obstacle::Why(format!("the arbiter {address} does not answer")));
            }
        }
        None
    }
}

enum Obstacle {
    Together,
    Why(String),
}
