//! The agreed state of the cluster, and its changes by commands.
//!
//! [`State::apply`] is the replicated state machine: the same commands in the same order give the same state
//! on every member. Each command of the planner names the epoch or revision that it was planned from and does
//! nothing when that epoch or revision is out of date (rule R5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{
    CallHeir, Certificates, Command, CommandOutcome, Departure, Duty, Leasing, MemberKind, Move, MoveObject,
    MoveReason, OrderId, Refusal, RoleAction, RoleSettings, Sign, SoloReport, Status,
    cause::remembered_moves,
    command::{BATCH_LEVEL, LONGEST_BATCH},
    rule_for,
    tokens::{Invited, Token, TokenHash},
};

/// Number of outcomes of orders that are remembered, for queries by id.
const REMEMBERED_ORDERS: usize = 64;
/// Number of splits that are remembered.
pub(crate) const REMEMBERED_SPLITS: usize = 8;
/// The longest stored reason, in bytes.
const REASON_LIMIT: usize = 200;

/// A reason as a member keeps it.
pub(crate) fn shortened(mut reason: String) -> String {
    while reason.len() > REASON_LIMIT && reason.pop().is_some() {}
    reason
}

/// A member, as agreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Random, one per Raft store (rule R8); a member whose store was replaced has a new one.
    pub raft_id: u64,
    /// Node or witness.
    pub kind: MemberKind,
    /// `host:port` of its node-to-node listener.
    pub address: String,
    /// Whether an administrator has activated it.
    pub activated: bool,
    /// Its status.
    pub status: Status,
    /// Reason, as text, for which the status is not in-service; empty when it is.
    #[serde(default)]
    pub reason: String,
    /// The incarnation to which the status refers.
    pub incarnation: Option<Incarnation>,
    /// While it is not activated: time limit for calls there, in milliseconds from when it learns of that; without it
    /// they end on their own.
    #[serde(default)]
    pub drain_ms: Option<u64>,
    /// Incremented at every change of this member.
    pub revision: u64,
}

/// The holder of a duty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The epoch, which names the holder.
    pub epoch: Epoch,
    /// The incarnation of the holder that may act; a later one needs a new epoch.
    pub incarnation: Incarnation,
    /// The holder must finish writes in flight and release the duty.
    pub draining: bool,
}

/// A time in which nodes ran solo, recorded when they met again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The generation since then: above all solo epochs.
    pub generation: u64,
    /// Solo work of each node.
    pub ran: BTreeMap<NodeName, SoloReport>,
    /// The publisher since then.
    pub winner: NodeName,
    /// Time of the healing by the leader's wall clock, in milliseconds since 1970.
    pub healed_ms: u64,
}

/// The agreed state of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// All members of the cluster.
    pub members: BTreeMap<NodeName, Member>,
    /// The publisher, named by the epoch of its role.
    pub publisher: Option<Epoch>,
    /// Holders of the duties. A duty that never had a holder is absent.
    pub duties: BTreeMap<Duty, Assignment>,
    /// The generation of new epochs (rule R7).
    pub generation: u64,
    /// The number of the last epoch given.
    pub number: u64,
    /// The last orders of administrators, oldest first.
    pub orders: Vec<(OrderId, CommandOutcome)>,
    /// Join tokens not forgotten yet, by the hashes of their secrets.
    #[serde(with = "crate::tokens::as_list")]
    pub tokens: BTreeMap<TokenHash, Token>,
    /// Joining members admitted by a token that have not come yet.
    pub invited: BTreeMap<NodeName, Invited>,
    /// The cluster's CA rotation and its operators.
    pub certificates: Certificates,
    /// The settings of the cluster.
    pub settings: RoleSettings,
    /// Agreed length of leases; none before the first leader has proposed it.
    pub leasing: Option<Leasing>,
    /// The feature level at which all members work.
    pub feature_level: u32,
    /// Duties that an administrator has moved to a node, as long as that node serves.
    pub placed: BTreeMap<Duty, NodeName>,
    /// The last moves, oldest first.
    pub moves: Vec<Move>,
    /// The last splits, oldest first.
    pub splits: Vec<Split>,
    /// Removed Raft stores with their former names, oldest first: they are not admitted again. The id of a member that
    /// never joined is 0, which no store has.
    pub removed: Vec<(u64, NodeName)>,
    /// The groups that survivors have left, oldest first: this group continues with their agreed state.
    pub departures: Vec<Departure>,
    /// Heirs of the calls of ended incarnations, oldest first.
    pub heirs: Vec<CallHeir>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            members: BTreeMap::new(),
            publisher: None,
            duties: BTreeMap::new(),
            generation: 0,
            number: 0,
            orders: Vec::new(),
            tokens: BTreeMap::new(),
            invited: BTreeMap::new(),
            certificates: Certificates::default(),
            settings: RoleSettings::default(),
            leasing: None,
            feature_level: 1,
            placed: BTreeMap::new(),
            moves: Vec::new(),
            splits: Vec::new(),
            removed: Vec::new(),
            departures: Vec::new(),
            heirs: Vec::new(),
        }
    }
}

impl State {
    /// Applies one command. Total: the state stays consistent with any command.
    pub fn apply(&mut self, command: Command) -> CommandOutcome {
        let outcome = self.change(command);
        self.advance_rotation();
        outcome
    }

    fn change(&mut self, command: Command) -> CommandOutcome {
        match command {
            Command::Admit { name, kind, address, raft_id } => self.admit(name, kind, address, raft_id),
            Command::Removed { name, raft_id } => self.remove_left(&name, raft_id),
            Command::SetStatus { name, revision, status, incarnation, reason, cause: _ } => {
                self.set_status(&name, revision, status, incarnation, reason)
            }
            Command::SetPublisher { from, to, reason } => {
                if self.publisher != from || !self.serves(&to) {
                    return CommandOutcome::Stale;
                }
                self.publish(to, reason);
                CommandOutcome::Done
            }
            Command::Drain { duty, epoch } => match self.duties.get_mut(&duty) {
                Some(assignment) if assignment.epoch == epoch && !assignment.draining => {
                    assignment.draining = true;
                    CommandOutcome::Done
                }
                _ => CommandOutcome::Stale,
            },
            Command::Assign { duty, from, to, incarnation, reason } => {
                if self.duties.get(&duty).map(|a| &a.epoch) != from.as_ref() || !self.serves(&to) {
                    return CommandOutcome::Stale;
                }
                let epoch = self.next_epoch(to);
                self.moved(MoveObject::Duty(duty), from.map(|epoch| epoch.node), epoch.clone(), reason);
                self.duties.insert(duty, Assignment { epoch, incarnation, draining: false });
                CommandOutcome::Done
            }
            Command::Retime { from, to } => {
                if self.leasing != from || to.bound_ms < to.lease_ms {
                    return CommandOutcome::Stale;
                }
                self.leasing = Some(to);
                CommandOutcome::Done
            }
            Command::RaiseLevel { from, to } => {
                if self.feature_level != from || to <= from {
                    return CommandOutcome::Stale;
                }
                self.feature_level = to;
                CommandOutcome::Done
            }
            Command::Heal { from, generation, winner, ran, at_ms } => {
                self.heal(from, generation, winner, ran, at_ms)
            }
            Command::Inherit { of, ended, to, incarnation, calls, cause, at_ms } => self.inherit(CallHeir {
                node: of,
                incarnation: ended,
                heir: to,
                heir_incarnation: incarnation,
                epoch: None,
                calls,
                cause,
                at_ms,
            }),
            Command::Batch(parts) => self.all_or_none(parts),
            Command::Operate { id, order } => self.once(id, |state| state.operate(order)),
            Command::Settle { id } => self.once(id, |_| Err(Refusal::Settled)),
        }
    }

    /// Each part was planned from the result of the parts before it. Where one is a no-op, the rest is out of date too.
    fn all_or_none(&mut self, parts: Vec<Command>) -> CommandOutcome {
        let nested = parts.iter().any(|part| matches!(part, Command::Batch(_)));
        if self.feature_level < BATCH_LEVEL || parts.len() > LONGEST_BATCH || nested {
            return CommandOutcome::Stale;
        }
        let mut next = self.clone();
        for part in parts {
            match next.change(part) {
                CommandOutcome::Done => {}
                no_op => return no_op,
            }
        }
        *self = next;
        CommandOutcome::Done
    }

    /// The duties that all members know.
    pub fn known_duties(&self) -> impl Iterator<Item = Duty> {
        let level = self.feature_level;
        Duty::ALL.into_iter().filter(move |duty| duty.level() <= level)
    }

    /// Whether this member is an activated node in service.
    pub fn serves(&self, name: &NodeName) -> bool {
        self.members.get(name).is_some_and(Member::serves)
    }

    /// The agreed holder of this duty.
    pub fn holder(&self, duty: Duty) -> Option<&Assignment> {
        self.duties.get(&duty)
    }

    /// The publisher's name.
    pub fn publisher(&self) -> Option<&NodeName> {
        self.publisher.as_ref().map(|epoch| &epoch.node)
    }

    fn set_status(
        &mut self,
        name: &NodeName,
        revision: u64,
        status: Status,
        incarnation: Option<Incarnation>,
        reason: String,
    ) -> CommandOutcome {
        let Some(member) = self.members.get_mut(name).filter(|m| m.revision == revision && m.activated) else {
            return CommandOutcome::Stale;
        };
        if matches!(status, Status::Deactivated | Status::Leaving) {
            // Only an administrator's order sets these.
            return CommandOutcome::Stale;
        }
        member.status = status;
        member.incarnation = incarnation;
        member.reason = shortened(reason);
        member.revision += 1;
        CommandOutcome::Done
    }

    fn heal(
        &mut self,
        from: u64,
        generation: u64,
        winner: NodeName,
        ran: BTreeMap<NodeName, SoloReport>,
        healed_ms: u64,
    ) -> CommandOutcome {
        let above_all = ran.values().all(|report| report.epoch.generation < generation);
        if self.generation != from || generation <= from || !above_all {
            return CommandOutcome::Stale;
        }
        self.generation = generation;
        // No node stands down for a winner that does not serve.
        if self.serves(&winner) {
            let rule = rule_for(Sign::RanSolo);
            for name in ran.keys().filter(|name| **name != winner) {
                if let Some(member) = self.members.get_mut(name).filter(|member| member.serves()) {
                    member.status = rule.status.unwrap_or(member.status);
                    member.reason = format!("it ran alone in a split and stands down for {winner}");
                    member.revision += 1;
                }
            }
            if rule.publisher == RoleAction::Move {
                let reason = MoveReason { cause: crate::Cause::Heal, at_ms: healed_ms, idle_ms: 0 };
                self.publish(winner.clone(), reason);
            }
        }
        push_bounded(&mut self.splits, Split { generation, ran, winner, healed_ms }, REMEMBERED_SPLITS);
        CommandOutcome::Done
    }

    pub(crate) fn publish(&mut self, to: NodeName, reason: MoveReason) {
        let from = self.publisher().cloned();
        let epoch = self.next_epoch(to);
        self.publisher = Some(epoch.clone());
        self.moved(MoveObject::Publisher, from, epoch, reason);
    }

    fn moved(&mut self, object: MoveObject, from: Option<NodeName>, epoch: Epoch, reason: MoveReason) {
        let MoveReason { cause, at_ms, idle_ms } = reason;
        let to = epoch.node.clone();
        let most = remembered_moves(self.feature_level);
        push_bounded(&mut self.moves, Move { object, from, to, epoch, cause, at_ms, idle_ms }, most);
    }

    pub(crate) fn next_epoch(&mut self, node: NodeName) -> Epoch {
        self.number += 1;
        Epoch { generation: self.generation, number: self.number, node }
    }

    /// Carries an order out, unless one with this id has an outcome already; that outcome is returned then.
    fn once(
        &mut self,
        id: OrderId,
        carry_out: impl FnOnce(&mut Self) -> Result<CommandOutcome, Refusal>,
    ) -> CommandOutcome {
        if let Some((_, outcome)) = self.orders.iter().find(|(known, _)| *known == id) {
            return outcome.clone();
        }
        let outcome = carry_out(self).unwrap_or_else(CommandOutcome::Refused);
        push_bounded(&mut self.orders, (id, outcome.clone()), REMEMBERED_ORDERS);
        outcome
    }
}

/// Appends an item; removes the oldest if the list is full.
pub(crate) fn push_bounded<T>(list: &mut Vec<T>, item: T, most: usize) {
    if list.len() >= most {
        list.remove(0);
    }
    list.push(item);
}

impl Member {
    /// Sets another time limit for the calls of a deactivated member. A changed limit is counted again from the start.
    pub(crate) fn drain_within(&mut self, drain_ms: Option<u64>) -> CommandOutcome {
        if self.activated || self.drain_ms == drain_ms {
            return CommandOutcome::Unchanged;
        }
        self.drain_ms = drain_ms;
        self.revision += 1;
        CommandOutcome::Done
    }

    /// Whether it is an activated node in service.
    pub fn serves(&self) -> bool {
        self.kind == MemberKind::Node && self.activated && self.status == Status::InService
    }
}
