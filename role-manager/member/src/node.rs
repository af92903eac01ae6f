//! One turn of a node: its solo work and its leases, in the one order that is safe.

use std::time::Duration;

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{Duty, Exits, Grant, SoloInputs, SoloRecord, State, Timing, Voters};

use crate::{Contacts, HolderAction, HolderEvent, HolderStep, LeaseDenied, SoloAction, SoloEvent, SoloStep};

/// Facts of this moment. The applied state, the voters and the exit proofs may be those of the beginning of the turn.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    /// Its boot clock.
    pub now: Duration,
    /// Its wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// The applied state.
    pub state: &'a State,
    /// The leader that this member knows.
    pub leader: Option<&'a NodeName>,
    /// Id of its Raft store.
    pub raft_id: u64,
    /// The voters as this member knows them.
    pub voters: &'a Voters,
    /// The exit proofs that this member knows.
    pub exits: &'a Exits,
    /// Whether this member may take part in its group (rule R8).
    pub may_take_part: bool,
    /// Whether the node is leaving its group for one of its own, and must not act.
    pub is_held: bool,
    /// The last contacts with the other members.
    pub contacts: &'a Contacts,
    /// As in [`SoloInputs::arbiter`].
    pub arbiter: Option<Duration>,
    /// As in [`SoloInputs::in_flight`].
    pub in_flight: bool,
}

/// An event between turns, or while an action is carried out.
#[derive(Debug)]
pub enum NodeEvent {
    /// As [`HolderEvent::FactsChanged`].
    FactsChanged,
    /// As [`HolderEvent::Answered`].
    Answered {
        /// Time at which the keep-alive was sent.
        sent: Duration,
        /// Name of the leader that was asked.
        leader: NodeName,
        /// The answer.
        result: Result<Box<Grant>, LeaseDenied>,
    },
    /// As [`HolderEvent::Released`].
    Released {
        /// The duty of the gate.
        duty: Duty,
        /// The epoch to release.
        epoch: Epoch,
    },
    /// The record of [`SoloAction::Store`] is on disk, synced.
    Stored(SoloRecord),
    /// The record of [`SoloAction::Store`] is not on disk: in this turn the node does not act solo.
    NotStored,
    /// As [`HolderEvent::Leave`].
    Leave,
}

/// Something to carry out before the turn goes on, with the facts of that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAction {
    /// Carry these out in the order given.
    Leases(Vec<HolderAction>),
    /// Carry this out.
    Solo(SoloAction),
}

/// Part of a turn that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The applied state may take duties from the node, which then close.
    Apply,
    /// Solo work begins or ends, one action at a time, before the next keep-alive reports it.
    Solo,
    /// A keep-alive may be due.
    Ask,
    /// Gates are set with what the stages before have changed.
    Gates,
    /// Calls may be inherited by proof alone.
    Exits,
    End,
}

/// The node's side of its leases, and its solo work: one owner drives both.
#[derive(Debug, Clone)]
pub struct NodeStep {
    node: NodeName,
    started: Duration,
    holder: HolderStep,
    solo: SoloStep,
    stage: Stage,
}

impl NodeStep {
    /// A node without leases that does not act solo, with the record of an earlier incarnation. `now` is its boot clock at
    /// the start of its process, `wall_ms` its wall clock, in milliseconds since 1970.
    pub fn new(
        (node, incarnation): (NodeName, Incarnation),
        timing: Timing,
        stored: Option<SoloRecord>,
        (now, wall_ms): (Duration, u64),
    ) -> Self {
        let holder = HolderStep::new(node.clone(), incarnation, timing, now);
        let solo = SoloStep::new(node.clone(), timing, stored, wall_ms);
        Self { node, started: now, holder, solo, stage: Stage::Apply }
    }

    /// Its owner has panicked and starts again, with all gates closed. The node has no lease and asks for one, or goes on
    /// leaving. Its solo work goes on as it was, since writes may be in flight, and inherited calls stay its own.
    pub fn restart(&mut self, now: Duration) {
        self.holder = self.holder.restarted(now);
        self.stage = Stage::Apply;
    }

    /// Begins a turn or goes on with it: carry the action out and call again, until there is none and the turn has ended.
    ///
    /// A turn is due when the applied state, the leader, a fact, an exit proof or an answer comes, when a release has
    /// ended, and at [`HolderStep::next`]. A node ends solo work before it reports that, and reports it before it gets a
    /// grant. Its gates are set after that, with the answer of a leader that is this very member. A node that leaves does
    /// none of that: it waits for writes in flight and notifies the leader.
    pub fn turn(&mut self, facts: &NodeFacts<'_>) -> Option<NodeAction> {
        let &NodeFacts { now, wall_ms, state, voters, exits, may_take_part, is_held, .. } = facts;
        let leader = || facts.leader.cloned();
        let (next, event) = match self.stage {
            Stage::Apply if self.holder.is_leaving() => {
                (Stage::End, HolderEvent::Leaving { leader: leader(), may_take_part })
            }
            Stage::Apply => (Stage::Solo, HolderEvent::Applied { state, leader: leader() }),
            Stage::Solo => {
                if let Some(action) = self.look(facts) {
                    return Some(NodeAction::Solo(action));
                }
                self.end_solo_stage(now);
                return self.turn(facts);
            }
            Stage::Ask => (Stage::Gates, HolderEvent::Turn { state, may_take_part }),
            Stage::Gates => (Stage::Exits, HolderEvent::Gates { is_held, solo: self.solo.leases(now) }),
            Stage::Exits => (Stage::End, HolderEvent::Exits { state, voters, exits, wall_ms }),
            Stage::End => {
                self.stage = Stage::Apply;
                return None;
            }
        };
        self.stage = next;
        Some(NodeAction::Leases(self.holder.step(now, event)))
    }

    /// Handles an event at this time of the boot clock.
    pub fn step(&mut self, now: Duration, event: NodeEvent) -> Vec<HolderAction> {
        let event = match event {
            NodeEvent::FactsChanged => HolderEvent::FactsChanged,
            NodeEvent::Answered { sent, leader, result } => HolderEvent::Answered { sent, leader, result },
            NodeEvent::Released { duty, epoch } => HolderEvent::Released { duty, epoch },
            NodeEvent::Leave => HolderEvent::Leave,
            NodeEvent::Stored(record) => {
                self.solo.step(SoloEvent::Stored(record));
                return Vec::new();
            }
            NodeEvent::NotStored => {
                self.end_solo_stage(now);
                return Vec::new();
            }
        };
        self.holder.step(now, event)
    }

    /// The node's side of its leases.
    pub fn holder(&self) -> &HolderStep {
        &self.holder
    }

    /// Its solo work.
    pub fn solo(&self) -> &SoloStep {
        &self.solo
    }

    fn look(&mut self, facts: &NodeFacts<'_>) -> Option<SoloAction> {
        let &NodeFacts { now, wall_ms, state, raft_id, voters, contacts, arbiter, in_flight, .. } = facts;
        let other = state.members.keys().find(|name| **name != self.node);
        let last_contact = other.and_then(|other| contacts.last(other)).unwrap_or(self.started);
        // A node about to leave its group does no more solo work.
        let quorum = self.holder.has_quorum(now, state) || facts.is_held;
        let inputs = SoloInputs { now, wall_ms, state, raft_id, voters, quorum, last_contact, arbiter, in_flight };
        self.solo.step(SoloEvent::Look(inputs))
    }

    fn end_solo_stage(&mut self, now: Duration) {
        if self.solo.is_stopping() {
            self.holder.step(now, HolderEvent::StopsSolo);
        }
        self.stage = Stage::Ask;
    }
}
