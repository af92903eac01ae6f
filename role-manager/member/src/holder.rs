//! The node's side of its leases: keep-alives, gates, releases, and calls inherited by exit proof alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    CallCounts, CallHeir, Duty, Exits, Grant, Holder, KeepAlive, Report, ServiceHealth, State, Timing, Voters,
    heirs_by_proof,
};

/// Maximum number of unanswered keep-alives.
const MAX_UNANSWERED: usize = 3;
/// Maximum number of remembered inheritances by proof alone that are not agreed on.
const INHERITED: usize = 8;
/// Interval at which a node that stops solo work checks for writes in flight.
const STOPPING: Duration = Duration::from_millis(10);
/// Time for which a leaving node waits for writes in flight.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// Time for which a leaving node waits to notify the leader.
const LAST_NOTICE: Duration = Duration::from_secs(1);

/// Reason for which there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseDenied {
    /// No leader answers, or none with a majority: temporary.
    NoLeader,
    /// The leader refuses this node, for this reason.
    Refused(String),
}

/// An event of the node. [`crate::NodeStep`] gives those of a turn their order.
#[derive(Debug)]
pub enum HolderEvent<'a> {
    /// The applied state, or the leader that this member knows, may have changed.
    Applied {
        /// The applied state.
        state: &'a State,
        /// Name of the leader.
        leader: Option<NodeName>,
    },
    /// Facts that a keep-alive reports have changed: the next one is due.
    FactsChanged,
    /// The node has to stop solo work, and writes may be in flight.
    StopsSolo,
    /// A keep-alive may be due.
    Turn {
        /// The applied state.
        state: &'a State,
        /// Whether this member may take part in its group (rule R8).
        may_take_part: bool,
    },
    /// The answer to a keep-alive, which may be late or repeated, or the end of the time for it.
    Answered {
        /// Time at which the keep-alive was sent: that of its [`HolderAction::Ask`].
        sent: Duration,
        /// Name of the leader that was asked.
        leader: NodeName,
        /// The answer.
        result: Result<Box<Grant>, LeaseDenied>,
    },
    /// The gate is closed, and nothing is in flight any more.
    Released {
        /// The duty of the gate.
        duty: Duty,
        /// The epoch to release.
        epoch: Epoch,
    },
    /// The gates are to be set to the present leases.
    Gates {
        /// Whether the node is leaving its group for one of its own, and must not act.
        is_held: bool,
        /// The duties that this node runs solo, each with the epoch to act in and its end.
        solo: BTreeMap<Duty, (Epoch, Duration)>,
    },
    /// Exit proofs may have come.
    Exits {
        /// The applied state.
        state: &'a State,
        /// The voters as this member knows them.
        voters: &'a Voters,
        /// The exit proofs that this member knows.
        exits: &'a Exits,
        /// Wall clock, in milliseconds since 1970.
        wall_ms: u64,
    },
    /// The process ends in an orderly way from now on: all that it holds is released. Repeated, it does nothing.
    Leave,
    /// The next step of the orderly end may be due. Replaces all other events of a turn, until [`HolderAction::Left`].
    Leaving {
        /// Name of the leader.
        leader: Option<NodeName>,
        /// Whether this member may take part in its group (rule R8).
        may_take_part: bool,
    },
}

/// An action for the node to carry out, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HolderAction {
    /// Close the gate of this duty now. Report [`HolderEvent::Released`] when nothing is in flight.
    Release {
        /// The duty.
        duty: Duty,
        /// The epoch to release.
        epoch: Epoch,
    },
    /// Send [`HolderStep::request`] to this leader, and report [`HolderEvent::Answered`]; immediately if it cannot be sent.
    Ask {
        /// The leader.
        leader: NodeName,
        /// Time from which leases count (rule R2): now, before the keep-alive is sent.
        sent: Duration,
    },
    /// Let writes of this duty through in this epoch, until this time of the boot clock.
    Open {
        /// The duty.
        duty: Duty,
        /// The epoch.
        epoch: Epoch,
        /// End of the lease, less the margin.
        until: Duration,
    },
    /// Let no write of this duty through.
    Close(Duty),
    /// Replace the call counts from which this member starts if it leads later (rule C4).
    KeepCallCounts(CallCounts),
    /// This node is the heir of these calls by proof alone: give them to no other node when this member leads.
    Inherit(CallHeir),
    /// Writes of a leaving node are still in flight, and it waits for them no longer: their duty is not released.
    AbandonWrites,
    /// Close all gates, and end the process.
    Left {
        /// Whether a leader knows that the node has left; otherwise the duties move when their leases have expired.
        notified: bool,
    },
}

/// Progress of the orderly end of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// Writes in flight may end, until this time.
    Draining { until: Duration },
    /// A leader is notified, from one time until the other.
    Notifying { since: Duration, until: Duration },
    /// The end.
    Left,
}

/// Facts for a keep-alive that the leases do not need.
#[derive(Debug, Clone)]
pub struct ReportedFacts {
    /// Id of the node's Raft store.
    pub raft_id: u64,
    /// Number of starts of that store.
    pub run: u64,
    /// Failing critical services; `None` before the node has reported on them.
    pub failing: Option<Vec<ServiceHealth>>,
    /// Report for the planner.
    pub report: Report,
}

/// The node's side of its leases.
#[derive(Debug, Clone)]
pub struct HolderStep {
    node: NodeName,
    incarnation: Incarnation,
    timing: Timing,
    holders: BTreeMap<Duty, Holder>,
    /// Epochs whose gates are closed for release.
    releasing: BTreeSet<Epoch>,
    /// The last grant, and the time at which its request was sent.
    granted: Option<(Duration, Box<Grant>)>,
    refused: String,
    /// Inheritances of this node by proof alone (rule C4).
    inherited: Vec<CallHeir>,
    leader: Option<NodeName>,
    leaving: Option<Leaving>,
    /// Send times of keep-alives without an answer.
    asked: Vec<Duration>,
    /// Time at which the next keep-alive is due.
    next: Duration,
}

impl HolderStep {
    /// A node without leases, whose first keep-alive is due at `now`.
    pub fn new(node: NodeName, incarnation: Incarnation, timing: Timing, now: Duration) -> Self {
        let holder = |duty| (duty, Holder::new(duty, node.clone(), incarnation, timing));
        Self {
            holders: Duty::ALL.into_iter().map(holder).collect(),
            node,
            incarnation,
            timing,
            releasing: BTreeSet::new(),
            granted: None,
            refused: String::new(),
            inherited: Vec::new(),
            leader: None,
            leaving: None,
            asked: Vec::new(),
            next: now,
        }
    }

    /// The same node without leases, after a panic of its owner. Calls that it has inherited by proof alone stay its own: a
    /// later grant must not bring them back (rule C4). If it leaves, it goes on with that: a leader may know of its releases.
    pub(crate) fn restarted(&self, now: Duration) -> Self {
        let fresh = Self::new(self.node.clone(), self.incarnation, self.timing, now);
        let leaving = self.leaving.map(|_| Leaving::Draining { until: now });
        Self { inherited: self.inherited.clone(), leaving, ..fresh }
    }

    /// Handles an event at this time of the boot clock.
    pub fn step(&mut self, now: Duration, event: HolderEvent<'_>) -> Vec<HolderAction> {
        match event {
            HolderEvent::Applied { state, leader } => self.apply(now, state, leader),
            HolderEvent::FactsChanged => {
                self.next = now;
                Vec::new()
            }
            HolderEvent::StopsSolo => {
                self.next = self.next.min(now + STOPPING);
                Vec::new()
            }
            HolderEvent::Turn { state, may_take_part } => {
                if now < self.next {
                    return Vec::new();
                }
                self.next = now + self.timing.agreed(state).keep_alive;
                self.ask(now, may_take_part)
            }
            HolderEvent::Answered { sent, leader, result } => self.take_answer(now, sent, &leader, result),
            HolderEvent::Released { duty, epoch } => {
                self.releasing.remove(&epoch);
                if let Some(holder) = self.holders.get_mut(&duty) {
                    holder.release(epoch);
                }
                self.next = now;
                Vec::new()
            }
            HolderEvent::Gates { is_held, solo } => self.set_gates(now, is_held, solo),
            HolderEvent::Exits { state, voters, exits, wall_ms } => self.inherit(state, voters, exits, wall_ms),
            HolderEvent::Leave => self.leave(now),
            HolderEvent::Leaving { leader, may_take_part } => self.go_on_leaving(now, leader, may_take_part),
        }
    }

    /// The keep-alive to send now.
    pub fn request(&self, facts: ReportedFacts) -> KeepAlive {
        let ReportedFacts { raft_id, run, failing, report } = facts;
        let released = |(duty, holder): (&Duty, &Holder)| Some((*duty, holder.released()?.clone()));
        KeepAlive {
            node: self.node.clone(),
            raft_id,
            run,
            incarnation: self.incarnation,
            failing,
            released: self.holders.iter().filter_map(released).collect(),
            leaving: self.is_leaving(),
            echo: self.grant().map(Grant::echo),
            report,
        }
    }

    /// Time of the next turn, if nothing happens before: when a keep-alive is due, or a step of the orderly end.
    pub fn next(&self) -> Duration {
        match self.leaving {
            None | Some(Leaving::Left) => self.next,
            Some(Leaving::Draining { until }) => until,
            Some(Leaving::Notifying { until, .. }) => {
                let expires = self.asked.first().map(|sent| *sent + self.timing.lease);
                expires.unwrap_or(self.next).min(until)
            }
        }
    }

    /// Whether its orderly end has begun.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether [`HolderAction::Left`] was returned.
    pub fn has_left(&self) -> bool {
        self.leaving == Some(Leaving::Left)
    }

    /// The last grant.
    pub fn grant(&self) -> Option<&Grant> {
        self.granted.as_ref().map(|(_, grant)| &**grant)
    }

    /// Whether the last grant is so recent that there is a majority.
    pub fn has_quorum(&self, now: Duration, state: &State) -> bool {
        let limit = self.timing.agreed(state).quorum_lost();
        self.granted.as_ref().is_some_and(|(sent, _)| now.saturating_sub(*sent) <= limit)
    }

    /// Reason for which the leader refuses this node a lease, as text; empty if it does not.
    pub fn refused(&self) -> &str {
        &self.refused
    }

    /// Inheritances of this node by proof alone that it remembers.
    pub fn inherited(&self) -> &[CallHeir] {
        &self.inherited
    }

    /// Applies the agreed state. A keep-alive is due immediately if a duty is newly assigned to this node, or another
    /// member leads.
    fn apply(&mut self, now: Duration, state: &State, leader: Option<NodeName>) -> Vec<HolderAction> {
        let mut wanted = Vec::new();
        let mut urgent = leader != self.leader;
        self.leader = leader;
        for (duty, holder) in &mut self.holders {
            let before = holder.assigned().cloned();
            holder.applied(state);
            urgent |= holder.assigned().is_some() && holder.assigned() != before.as_ref();
            wanted.extend(holder.must_release().map(|epoch| (*duty, epoch.clone())));
        }
        if urgent {
            self.next = self.next.min(now);
        }
        wanted.into_iter().filter_map(|(duty, epoch)| self.begin_release(duty, epoch)).collect()
    }

    fn begin_release(&mut self, duty: Duty, epoch: Epoch) -> Option<HolderAction> {
        self.releasing.insert(epoch.clone()).then_some(HolderAction::Release { duty, epoch })
    }

    /// Requests run concurrently: a leader that does not answer delays neither the next one nor a release.
    fn ask(&mut self, now: Duration, may_take_part: bool) -> Vec<HolderAction> {
        self.forget_unanswered(now);
        // A member that may not vote gets no lease either: its state may be old (rule R8).
        let may = self.asked.len() < MAX_UNANSWERED && may_take_part;
        let Some(leader) = self.leader.clone().filter(|_| may) else { return Vec::new() };
        self.asked.push(now);
        vec![HolderAction::Ask { leader, sent: now }]
    }

    /// Forgets keep-alives that were sent a lease ago: a lease granted to one of them would have expired.
    fn forget_unanswered(&mut self, now: Duration) {
        let lease = self.timing.lease;
        self.asked.retain(|sent| now.saturating_sub(*sent) < lease);
    }

    fn take_answer(
        &mut self,
        now: Duration,
        sent: Duration,
        leader: &NodeName,
        result: Result<Box<Grant>, LeaseDenied>,
    ) -> Vec<HolderAction> {
        self.asked.retain(|asked| *asked != sent);
        match self.leaving {
            None => self.take_result(sent, leader, result),
            Some(Leaving::Notifying { since, .. }) if sent >= since => {
                self.next = now + self.timing.heartbeat / 2;
                let is_granted = result.is_ok();
                let mut actions = self.take_result(sent, leader, result);
                if is_granted {
                    self.leaving = Some(Leaving::Left);
                    actions.push(HolderAction::Left { notified: true });
                }
                actions
            }
            // It answers a keep-alive from before: the leader may not know that the node leaves.
            Some(_) => Vec::new(),
        }
    }

    fn take_result(
        &mut self,
        sent: Duration,
        leader: &NodeName,
        result: Result<Box<Grant>, LeaseDenied>,
    ) -> Vec<HolderAction> {
        let grant = match result {
            Ok(grant) => grant,
            Err(LeaseDenied::NoLeader) => {
                self.refused.clear();
                return Vec::new();
            }
            Err(LeaseDenied::Refused(reason)) => {
                self.refused = format!("{leader} grants no lease: {reason}");
                return Vec::new();
            }
        };
        self.holders.values_mut().for_each(|holder| holder.granted(sent, &grant));
        self.refused.clear();
        // The leader may not know yet which calls this node has inherited by proof. If this node leads later, it must
        // not give them to another one (rule C4).
        let mut counts = grant.call_counts.clone();
        self.inherited.iter().for_each(|item| counts.forget(&item.node, item.incarnation));
        // A late answer tells of no later calls: those of a group that was larger then may have an heir by now.
        if self.granted.as_ref().is_some_and(|(known, _)| *known >= sent) {
            return Vec::new();
        }
        self.granted = Some((sent, grant));
        vec![HolderAction::KeepCallCounts(counts)]
    }

    fn set_gates(
        &self,
        now: Duration,
        is_held: bool,
        mut solo: BTreeMap<Duty, (Epoch, Duration)>,
    ) -> Vec<HolderAction> {
        // A gate that was closed for the last time stays closed, although its lease may still run.
        let is_closed = is_held || self.is_leaving();
        let gate = |(duty, holder): (&Duty, &Holder)| {
            let solo = solo.remove(duty).filter(|(_, until)| now < *until);
            let lease = solo.or_else(|| holder.may_act(now).map(|(epoch, until)| (epoch.clone(), until)));
            match lease.filter(|_| !is_closed) {
                Some((epoch, until)) => HolderAction::Open { duty: *duty, epoch, until },
                None => HolderAction::Close(*duty),
            }
        };
        self.holders.iter().map(gate).collect()
    }

    fn leave(&mut self, now: Duration) -> Vec<HolderAction> {
        if self.is_leaving() {
            return Vec::new();
        }
        self.leaving = Some(Leaving::Draining { until: now + LAST_WRITES });
        let held = self.holders.iter().filter_map(|(duty, holder)| Some((*duty, holder.assigned()?.clone())));
        let held: Vec<_> = held.collect();
        held.into_iter().filter_map(|(duty, epoch)| self.begin_release(duty, epoch)).collect()
    }

    /// Waits for writes in flight, and then notifies a leader of all that was released, until one grants something or
    /// the time has ended. A write that does not end in time keeps its duty until the lease has expired.
    fn go_on_leaving(&mut self, now: Duration, leader: Option<NodeName>, may_take_part: bool) -> Vec<HolderAction> {
        let mut actions = Vec::new();
        if let Some(Leaving::Draining { until }) = self.leaving {
            if !self.releasing.is_empty() {
                if now < until {
                    return actions;
                }
                actions.push(HolderAction::AbandonWrites);
            }
            self.leaving = Some(Leaving::Notifying { since: now, until: now + LAST_NOTICE });
            // Answers to earlier keep-alives count no more.
            self.asked.clear();
            (self.granted, self.next) = (None, now);
        }
        let Some(Leaving::Notifying { until, .. }) = self.leaving else { return actions };
        if now >= until {
            self.leaving = Some(Leaving::Left);
            actions.push(HolderAction::Left { notified: false });
            return actions;
        }
        self.forget_unanswered(now);
        if self.asked.is_empty() && now >= self.next {
            self.next = now + self.timing.heartbeat / 2;
            self.leader = leader;
            actions.extend(self.ask(now, may_take_part));
        }
        actions
    }

    /// Makes the survivor of a pair without a witness the heir, by proof alone and without agreement.
    fn inherit(&mut self, state: &State, voters: &Voters, exits: &Exits, wall_ms: u64) -> Vec<HolderAction> {
        let Some((_, grant)) = &self.granted else { return Vec::new() };
        let own = (&self.node, self.incarnation);
        let mut actions = Vec::new();
        for item in heirs_by_proof(state, voters, own, exits, &grant.call_counts, wall_ms) {
            let same = |known: &CallHeir| (&known.node, known.incarnation) == (&item.node, item.incarnation);
            if self.inherited.iter().any(same) {
                continue;
            }
            if self.inherited.len() >= INHERITED {
                self.inherited.remove(0);
            }
            self.inherited.push(item.clone());
            actions.push(HolderAction::Inherit(item));
        }
        actions
    }
}
