//! What the majority has agreed on, and how commands change it.
//!
//! [`State::apply`] is the replicated state machine: the same commands in the same order give the same state
//! on every member. Each command of the planner names the epoch or revision that it was planned from and does
//! nothing when that has moved on (rule R5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{
    Certificates, Command, Departure, Duty, Inheritance, Leasing, MemberKind, Move, OrderId, Outcome, Refusal,
    Settings, SoloReport, Status, What, Why,
    cause::REMEMBERED_MOVES,
    command::{BATCH_LEVEL, LONGEST_BATCH},
    tokens::{Invited, Token, TokenHash},
};

/// How many outcomes of orders are remembered, so that asking again by id tells.
const REMEMBERED_ORDERS: usize = 64;
/// How many splits are remembered.
pub(crate) const REMEMBERED_SPLITS: usize = 8;
/// The longest reason that is kept, in bytes.
const REASON_LIMIT: usize = 200;

/// A member as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Random, one per Raft store (rule R8); a member whose store was replaced has a new one.
    pub raft_id: u64,
    /// Node or witness.
    pub kind: MemberKind,
    /// `host:port` of its node-to-node listener.
    pub address: String,
    /// Whether an administrator lets it serve.
    pub activated: bool,
    /// Where it stands.
    pub status: Status,
    /// In words, why the status is not in-service; empty when it is.
    #[serde(default)]
    pub reason: String,
    /// The life of its process that the status speaks of.
    pub incarnation: Option<Incarnation>,
    /// While it is not activated: how long calls may go on there, in milliseconds from when it has heard of that; nothing: to
    /// their own end.
    #[serde(default)]
    pub drain_ms: Option<u64>,
    /// Goes up at every change of this member.
    pub revision: u64,
}

/// Who has a duty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The epoch, which names the holder.
    pub epoch: Epoch,
    /// The life of the holder's process that may act; a later one needs a new epoch.
    pub incarnation: Incarnation,
    /// The holder is to finish what is in flight and let go.
    pub draining: bool,
}

/// A time in which nodes ran alone, as it was found when they met again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The generation since then: above all that ran alone.
    pub generation: u64,
    /// What ran where.
    pub ran: BTreeMap<NodeName, SoloReport>,
    /// Who is publisher since then.
    pub winner: NodeName,
    /// When it was healed, by the leader's wall clock, in milliseconds since 1970.
    pub healed_ms: u64,
}

/// What the majority has agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Everyone who belongs to the cluster.
    pub members: BTreeMap<NodeName, Member>,
    /// The publisher, named by the epoch of its role.
    pub publisher: Option<Epoch>,
    /// Who has which duty. A duty that nobody ever had is absent.
    pub duties: BTreeMap<Duty, Assignment>,
    /// The generation of new epochs (rule R7).
    pub generation: u64,
    /// The number of the last epoch given.
    pub number: u64,
    /// The last orders of administrators, oldest first.
    pub orders: Vec<(OrderId, Outcome)>,
    /// Join tokens that were made and are not forgotten yet, by what is known of their secrets.
    #[serde(with = "crate::tokens::as_list")]
    pub tokens: BTreeMap<TokenHash, Token>,
    /// Who was let in by a token and has not come yet.
    pub invited: BTreeMap<NodeName, Invited>,
    /// The cluster's authority and its operators.
    pub certificates: Certificates,
    /// The settings of the cluster.
    pub settings: Settings,
    /// How long leases run; nothing before the first leader has said so.
    pub leasing: Option<Leasing>,
    /// The feature level at which everyone works.
    pub feature_level: u32,
    /// Duties that an administrator has moved to a node, for as long as it serves.
    pub placed: BTreeMap<Duty, NodeName>,
    /// The last moves, oldest first.
    pub moves: Vec<Move>,
    /// The last splits, oldest first.
    pub splits: Vec<Split>,
    /// Raft stores that belong to the cluster no more, with the names that they had, oldest first: they are not let in
    /// again.
    pub removed: Vec<(u64, NodeName)>,
    /// The groups that survivors have left, oldest first: this group goes on with what they had agreed on.
    pub departures: Vec<Departure>,
    /// Who answers for the calls of lives that are over, oldest first.
    pub heirs: Vec<Inheritance>,
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
            settings: Settings::default(),
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
    /// Applies one command. Total: whatever the command says, the state stays consistent.
    pub fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.change(command);
        self.advance_rotation();
        outcome
    }

    fn change(&mut self, command: Command) -> Outcome {
        match command {
            Command::Admit { name, kind, address, raft_id } => self.admit(name, kind, address, raft_id),
            Command::Gone { name, raft_id } => self.gone(&name, raft_id),
            Command::SetStatus { name, revision, status, incarnation, reason, cause: _ } => {
                self.set_status(&name, revision, status, incarnation, reason)
            }
            Command::SetPublisher { from, to, why } => {
                if self.publisher != from || !self.serves(&to) {
                    return Outcome::Stale;
                }
                self.publish(to, why);
                Outcome::Done
            }
            Command::Drain { duty, epoch } => match self.duties.get_mut(&duty) {
                Some(assignment) if assignment.epoch == epoch && !assignment.draining => {
                    assignment.draining = true;
                    Outcome::Done
                }
                _ => Outcome::Stale,
            },
            Command::Assign { duty, from, to, incarnation, why } => {
                if self.duties.get(&duty).map(|a| &a.epoch) != from.as_ref() || !self.serves(&to) {
                    return Outcome::Stale;
                }
                let epoch = self.next_epoch(to);
                self.moved(What::Duty(duty), from.map(|epoch| epoch.node), epoch.clone(), why);
                self.duties.insert(duty, Assignment { epoch, incarnation, draining: false });
                Outcome::Done
            }
            Command::Retime { from, to } => {
                if self.leasing != from || to.bound_ms < to.lease_ms {
                    return Outcome::Stale;
                }
                self.leasing = Some(to);
                Outcome::Done
            }
            Command::RaiseLevel { from, to } => {
                if self.feature_level != from || to <= from {
                    return Outcome::Stale;
                }
                self.feature_level = to;
                Outcome::Done
            }
            Command::Heal { from, generation, winner, ran, at_ms } => {
                self.heal(from, generation, winner, ran, at_ms)
            }
            Command::Inherit { of, life, to, incarnation, calls, cause, at_ms } => self.inherit(Inheritance {
                node: of,
                life,
                heir: to,
                heir_life: incarnation,
                epoch: None,
                calls,
                cause,
                at_ms,
            }),
            Command::Batch(parts) => self.all_or_none(parts),
            Command::Operate { id, order } => match self.outcome_of(id) {
                Some(outcome) => outcome,
                None => {
                    let outcome = match self.operate(order) {
                        Ok(outcome) => outcome,
                        Err(refusal) => Outcome::Refused(refusal),
                    };
                    self.remember(id, outcome.clone());
                    outcome
                }
            },
            Command::Settle { id } => match self.outcome_of(id) {
                Some(outcome) => outcome,
                None => {
                    let outcome = Outcome::Refused(Refusal::Settled);
                    self.remember(id, outcome.clone());
                    outcome
                }
            },
        }
    }

    /// Each part was planned from what those before it lead to, so that where one is a no-op the rest is out of date too.
    fn all_or_none(&mut self, parts: Vec<Command>) -> Outcome {
        let nested = parts.iter().any(|part| matches!(part, Command::Batch(_)));
        if self.feature_level < BATCH_LEVEL || parts.len() > LONGEST_BATCH || nested {
            return Outcome::Stale;
        }
        let mut next = self.clone();
        for part in parts {
            match next.change(part) {
                Outcome::Done => {}
                no_op => return no_op,
            }
        }
        *self = next;
        Outcome::Done
    }

    /// The duties that all members know.
    pub fn known_duties(&self) -> impl Iterator<Item = Duty> {
        let level = self.feature_level;
        Duty::ALL.into_iter().filter(move |duty| duty.level() <= level)
    }

    /// Whether this member is a node in service that an administrator lets serve.
    pub fn serves(&self, name: &NodeName) -> bool {
        self.members.get(name).is_some_and(Member::serves)
    }

    /// Who holds this duty by what has been agreed.
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
        mut reason: String,
    ) -> Outcome {
        let Some(member) = self.members.get_mut(name).filter(|m| m.revision == revision && m.activated) else {
            return Outcome::Stale;
        };
        if matches!(status, Status::Deactivated | Status::Leaving) {
            // Only an administrator's order does that.
            return Outcome::Stale;
        }
        while reason.len() > REASON_LIMIT {
            reason.pop();
        }
        member.status = status;
        member.incarnation = incarnation;
        member.reason = reason;
        member.revision += 1;
        Outcome::Done
    }

    fn heal(
        &mut self,
        from: u64,
        generation: u64,
        winner: NodeName,
        ran: BTreeMap<NodeName, SoloReport>,
        healed_ms: u64,
    ) -> Outcome {
        let above_all = ran.values().all(|report| report.epoch.generation < generation);
        if self.generation != from || generation <= from || !above_all {
            return Outcome::Stale;
        }
        self.generation = generation;
        // Nobody stands down for one that does not serve.
        if self.serves(&winner) {
            for name in ran.keys().filter(|name| **name != winner) {
                if let Some(member) = self.members.get_mut(name).filter(|member| member.serves()) {
                    member.status = Status::Recovering;
                    member.reason = format!("it ran alone in a split and stands down for {winner}");
                    member.revision += 1;
                }
            }
            let why = Why { cause: crate::Cause::Heal, at_ms: healed_ms, idle_ms: 0 };
            self.publish(winner.clone(), why);
        }
        push_bounded(&mut self.splits, Split { generation, ran, winner, healed_ms }, REMEMBERED_SPLITS);
        Outcome::Done
    }

    pub(crate) fn publish(&mut self, to: NodeName, why: Why) {
        let from = self.publisher().cloned();
        let epoch = self.next_epoch(to);
        self.publisher = Some(epoch.clone());
        self.moved(What::Publisher, from, epoch, why);
    }

    fn moved(&mut self, what: What, from: Option<NodeName>, epoch: Epoch, why: Why) {
        let Why { cause, at_ms, idle_ms } = why;
        let to = epoch.node.clone();
        push_bounded(&mut self.moves, Move { what, from, to, epoch, cause, at_ms, idle_ms }, REMEMBERED_MOVES);
    }

    pub(crate) fn next_epoch(&mut self, node: NodeName) -> Epoch {
        self.number += 1;
        Epoch { generation: self.generation, number: self.number, node }
    }

    fn outcome_of(&self, id: OrderId) -> Option<Outcome> {
        self.orders.iter().find(|(known, _)| *known == id).map(|(_, outcome)| outcome.clone())
    }

    fn remember(&mut self, id: OrderId, outcome: Outcome) {
        push_bounded(&mut self.orders, (id, outcome), REMEMBERED_ORDERS);
    }
}

/// The oldest make room.
pub(crate) fn push_bounded<T>(list: &mut Vec<T>, item: T, most: usize) {
    if list.len() >= most {
        list.remove(0);
    }
    list.push(item);
}

impl Member {
    /// Another time for the calls of a member that is out already. Counted anew, if it is another.
    pub(crate) fn drain_within(&mut self, drain_ms: Option<u64>) -> Outcome {
        if self.activated || self.drain_ms == drain_ms {
            return Outcome::Unchanged;
        }
        self.drain_ms = drain_ms;
        self.revision += 1;
        Outcome::Done
    }

    /// Whether it is a node in service that an administrator lets serve.
    pub fn serves(&self) -> bool {
        self.kind == MemberKind::Node && self.activated && self.status == Status::InService
    }
}
