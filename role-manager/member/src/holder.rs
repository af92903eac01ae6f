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

/// Reason for which there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseDenied {
    /// No leader answers, or none with a majority: temporary.
    NoLeader,
    /// The leader refuses this node, for this reason.
    Refused(String),
}

/// An event of the node.
///
/// In each turn of the node the order is [`HolderEvent::Applied`], the decision about solo work,
/// [`HolderEvent::Turn`], [`HolderEvent::Gates`], [`HolderEvent::Exits`]: a node stops solo work before it reports
/// that, and reports it before it gets a grant.
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
        /// Number of keep-alives without an answer so far.
        unanswered: usize,
        /// Whether this member may take part in its group (rule R8).
        may_take_part: bool,
    },
    /// The answer to a keep-alive, or the end of the time for it.
    Answered {
        /// Time at which the keep-alive was sent.
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
    /// The process ends in an orderly way: all that it holds is released.
    Leave,
    /// Everything is released, or the time for it has ended: the leader is to be notified.
    Notify {
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
    /// Send [`HolderStep::request`] to this leader. Note the time before it is sent (rule R2), and report
    /// [`HolderEvent::Answered`] with that time.
    Ask(NodeName),
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
    leaving: bool,
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
            leaving: false,
            next: now,
        }
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
            HolderEvent::Turn { state, unanswered, may_take_part } => {
                if now < self.next {
                    return Vec::new();
                }
                self.next = now + self.timing.agreed(state).keep_alive;
                self.ask(unanswered, may_take_part)
            }
            HolderEvent::Answered { sent, leader, result } => self.take_answer(sent, &leader, result),
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
            HolderEvent::Leave => {
                let held = self.holders.iter().filter_map(|(duty, h)| Some((*duty, h.assigned()?.clone())));
                let held: Vec<_> = held.collect();
                held.into_iter().filter_map(|(duty, epoch)| self.begin_release(duty, epoch)).collect()
            }
            HolderEvent::Notify { leader, may_take_part } => {
                self.leader = leader;
                self.leaving = true;
                self.granted = None;
                self.ask(0, may_take_part)
            }
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
            leaving: self.leaving,
            echo: self.grant().map(Grant::echo),
            report,
        }
    }

    /// Time at which the next keep-alive is due.
    pub fn next(&self) -> Duration {
        self.next
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

    fn ask(&self, unanswered: usize, may_take_part: bool) -> Vec<HolderAction> {
        // A member that may not vote gets no lease either: its state may be old (rule R8).
        let may = unanswered < MAX_UNANSWERED && may_take_part;
        self.leader.iter().filter(|_| may).cloned().map(HolderAction::Ask).collect()
    }

    fn take_answer(
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
        let gate = |(duty, holder): (&Duty, &Holder)| {
            let solo = solo.remove(duty).filter(|(_, until)| now < *until);
            let lease = solo.or_else(|| holder.may_act(now).map(|(epoch, until)| (epoch.clone(), until)));
            match lease.filter(|_| !is_held) {
                Some((epoch, until)) => HolderAction::Open { duty: *duty, epoch, until },
                None => HolderAction::Close(*duty),
            }
        };
        self.holders.iter().map(gate).collect()
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
