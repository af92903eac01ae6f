//! What the majority has agreed on, and the commands that change it.
//!
//! [`State::apply`] is the replicated state machine: the same commands in the same order give the same state
//! on every member. Each command of the planner names the epoch or revision that it was planned from and does
//! nothing when that has moved on (rule R5).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{
    Duty, MemberKind, Status,
    tokens::{Invited, Token, TokenHash},
};

/// How many outcomes of orders are remembered, so that asking again by id tells.
const REMEMBERED_ORDERS: usize = 64;
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

/// What the majority has agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    #[serde(default)]
    pub orders: Vec<(OrderId, Outcome)>,
    /// Join tokens that were made and are not forgotten yet, by what is known of their secrets.
    #[serde(default, with = "crate::tokens::as_list")]
    pub tokens: BTreeMap<TokenHash, Token>,
    /// Who was let in by a token and has not come yet.
    #[serde(default)]
    pub invited: BTreeMap<NodeName, Invited>,
}

/// Names an order of an administrator, so that one whose outcome got lost can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId(pub u128);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What an administrator may order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Make this node the publisher; duties follow.
    MakePublisher(NodeName),
    /// Let this node serve again.
    Activate(NodeName),
    /// Take this node out; its duties move.
    Deactivate(NodeName),
    /// Let one newcomer in who shows this token's secret.
    Invite {
        /// What is known of the secret.
        token: TokenHash,
        /// What the newcomer may be.
        kind: MemberKind,
        /// How long the token is good, in milliseconds.
        valid_ms: u64,
        /// The leader's wall clock when it proposed this; whoever asks leaves it 0.
        #[serde(default)]
        at_ms: u64,
    },
    /// A newcomer has shown a token's secret.
    Redeem {
        /// The token.
        token: TokenHash,
        /// The name that the newcomer wants.
        name: NodeName,
        /// What it wants to be.
        kind: MemberKind,
        /// `host:port` of its node-to-node listener.
        address: String,
        /// Digest of its public key: asking again with the same key is no second use.
        key: [u8; 32],
        /// The leader's wall clock when it proposed this; whoever asks leaves it 0.
        #[serde(default)]
        at_ms: u64,
    },
}

impl Order {
    /// The same order at this moment of the leader's wall clock, in milliseconds since 1970. The state machine reads no
    /// clock, so that it comes to the same on every member.
    pub fn at(mut self, now_ms: u64) -> Self {
        if let Self::Invite { at_ms, .. } | Self::Redeem { at_ms, .. } = &mut self {
            *at_ms = now_ms;
        }
        self
    }
}

/// A change of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// A member with this Raft store belongs to the cluster; replaces an older store of the same name.
    Admit {
        /// Its name.
        name: NodeName,
        /// Node or witness.
        kind: MemberKind,
        /// `host:port`.
        address: String,
        /// Its Raft store.
        raft_id: u64,
    },
    /// A member's status changes.
    SetStatus {
        /// Whose.
        name: NodeName,
        /// The revision of the member that this was planned from.
        revision: u64,
        /// The new status.
        status: Status,
        /// The life of the process that it speaks of.
        incarnation: Option<Incarnation>,
        /// In words, why it is not in-service.
        reason: String,
    },
    /// The role of publisher moves.
    SetPublisher {
        /// The epoch that this was planned from.
        from: Option<Epoch>,
        /// The next publisher.
        to: NodeName,
    },
    /// The holder of a duty is to let go of it.
    Drain {
        /// Which duty.
        duty: Duty,
        /// The epoch that this was planned from.
        epoch: Epoch,
    },
    /// A duty gets a holder, in a new epoch.
    Assign {
        /// Which duty.
        duty: Duty,
        /// The epoch that this was planned from.
        from: Option<Epoch>,
        /// The next holder.
        to: NodeName,
        /// The life of its process that may act.
        incarnation: Incarnation,
    },
    /// An administrator's order. Done at most once per id.
    Operate {
        /// Chosen by whoever asks.
        id: OrderId,
        /// What to do.
        order: Order,
    },
    /// Asks what became of an order, and keeps it from being done from now on if nothing did.
    Settle {
        /// The order's id.
        id: OrderId,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admit { name, kind, raft_id, .. } => write!(f, "admit {kind} {name} as {raft_id:016x}"),
            Self::SetStatus { name, status, .. } => write!(f, "{name} is {status}"),
            Self::SetPublisher { to, .. } => write!(f, "publisher is {to}"),
            Self::Drain { duty, epoch } => write!(f, "drain {duty} of {epoch}"),
            Self::Assign { duty, to, .. } => write!(f, "{duty} to {to}"),
            Self::Operate { id, order } => write!(f, "order {id}: {order:?}"),
            Self::Settle { id } => write!(f, "settle order {id}"),
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The state has changed.
    Done,
    /// It was so already.
    Unchanged,
    /// What the command was planned from has moved on; nothing was changed.
    Stale,
    /// Not possible; nothing was changed.
    Refused(Refusal),
}

/// Why an order was refused, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No member has this name.
    #[error("there is no node '{name}' in this cluster; its members are: {members}")]
    Unknown {
        /// What was asked for.
        name: NodeName,
        /// Who there is, separated by commas.
        members: String,
    },
    /// A witness serves no calls.
    #[error("'{name}' is a witness: it votes and holds no data, so it can be neither publisher nor deactivated")]
    Witness {
        /// Who.
        name: NodeName,
    },
    /// The node was taken out.
    #[error("'{name}' is deactivated; activate it first")]
    Deactivated {
        /// Who.
        name: NodeName,
    },
    /// The node cannot take the role now.
    #[error("'{name}' is {status}: {reason}; wait until it is in service, or choose another node")]
    NotInService {
        /// Who.
        name: NodeName,
        /// Where it stands.
        status: Status,
        /// Why.
        reason: String,
    },
    /// Nobody would be left (rule R9).
    #[error("'{name}' is the last node in service, or the last that may be; bring another into service first")]
    LastInService {
        /// Who.
        name: NodeName,
    },
    /// Somebody asked what had become of the order before it arrived.
    #[error("the order had not been carried out when it was asked about, and will not be; give it again")]
    Settled,
    /// The cluster knows no such token.
    #[error("this cluster does not know the token: it is another cluster's, or ended long ago; make another")]
    ForeignToken,
    /// The token's time is over.
    #[error("the token expired {seconds} s ago; make another with 'twinbox cluster token'")]
    ExpiredToken {
        /// Since when.
        seconds: u64,
    },
    /// Somebody has joined with it.
    #[error("the token was used already, by '{by}': a token lets one newcomer in; make another")]
    UsedToken {
        /// Who joined with it.
        by: NodeName,
    },
    /// It is for the other kind of member.
    #[error("the token is for a {kind}; make one for a {wanted}")]
    TokenKind {
        /// What it is for.
        kind: MemberKind,
        /// What the newcomer wants to be.
        wanted: MemberKind,
    },
    /// Too many tokens are out.
    #[error("{count} tokens are out and not expired; wait until some are used or expire")]
    TooManyTokens {
        /// How many.
        count: u64,
    },
    /// The token would be good for too long, or not at all.
    #[error("a token is good for at least a second and at most {days} days")]
    TokenLife {
        /// The longest.
        days: u64,
    },
    /// Another member has the name.
    #[error("the name '{name}' is taken by a member of this cluster; choose another")]
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// Another member has the address.
    #[error("{by} is at {address} already; every member has its own address")]
    AddressTaken {
        /// Who has it.
        by: NodeName,
        /// The address.
        address: String,
    },
    /// The address is none.
    #[error("'{address}' is no address of a member; write HOST:PORT")]
    BadAddress {
        /// As given.
        address: String,
    },
    /// A cluster has one witness at most.
    #[error("'{by}' is the witness already: a cluster has one at most")]
    SecondWitness {
        /// Who.
        by: NodeName,
    },
    /// A witness would make it worse.
    #[error("a witness beside {nodes} nodes adds no safety: it serves an even number; let another node join first")]
    OddNodes {
        /// How many there are.
        nodes: u64,
    },
}

impl State {
    /// Applies one command. Total: whatever the command says, the state stays consistent.
    pub fn apply(&mut self, command: Command) -> Outcome {
        match command {
            Command::Admit { name, kind, address, raft_id } => self.admit(name, kind, address, raft_id),
            Command::SetStatus { name, revision, status, incarnation, reason } => {
                self.set_status(&name, revision, status, incarnation, reason)
            }
            Command::SetPublisher { from, to } => {
                if self.publisher != from || !self.serves(&to) {
                    return Outcome::Stale;
                }
                self.publisher = Some(self.next_epoch(to));
                Outcome::Done
            }
            Command::Drain { duty, epoch } => match self.duties.get_mut(&duty) {
                Some(assignment) if assignment.epoch == epoch && !assignment.draining => {
                    assignment.draining = true;
                    Outcome::Done
                }
                _ => Outcome::Stale,
            },
            Command::Assign { duty, from, to, incarnation } => {
                if self.duties.get(&duty).map(|a| &a.epoch) != from.as_ref() || !self.serves(&to) {
                    return Outcome::Stale;
                }
                let epoch = self.next_epoch(to);
                self.duties.insert(duty, Assignment { epoch, incarnation, draining: false });
                Outcome::Done
            }
            Command::Operate { id, order } => match self.outcome_of(id) {
                Some(outcome) => outcome,
                None => {
                    let outcome = self.operate(order);
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

    /// Whether this member is a node in service that an administrator lets serve.
    pub fn serves(&self, name: &NodeName) -> bool {
        self.members.get(name).is_some_and(Member::serves)
    }

    /// Who holds this duty by what has been agreed.
    pub fn holder(&self, duty: Duty) -> Option<&Assignment> {
        self.duties.get(&duty)
    }

    fn admit(&mut self, name: NodeName, kind: MemberKind, address: String, raft_id: u64) -> Outcome {
        self.invited.remove(&name);
        match self.members.get_mut(&name) {
            Some(member) if member.raft_id == raft_id && member.kind == kind && member.address == address => {
                Outcome::Unchanged
            }
            Some(member) => {
                member.raft_id = raft_id;
                member.kind = kind;
                member.address = address;
                member.revision += 1;
                Outcome::Done
            }
            None => {
                let member = Member {
                    raft_id,
                    kind,
                    address,
                    activated: true,
                    status: Status::Starting,
                    reason: "it has just joined".to_owned(),
                    incarnation: None,
                    revision: 1,
                };
                self.members.insert(name, member);
                Outcome::Done
            }
        }
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
        if status == Status::Deactivated {
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

    fn operate(&mut self, order: Order) -> Outcome {
        let name = match &order {
            Order::Invite { token, kind, valid_ms, at_ms } => return self.invite(*token, *kind, *valid_ms, *at_ms),
            Order::Redeem { token, name, kind, address, key, at_ms } => {
                return self.redeem(*token, name, *kind, address, *key, *at_ms);
            }
            Order::MakePublisher(name) | Order::Activate(name) | Order::Deactivate(name) => name,
        };
        let members = || self.members.keys().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        let refusal = match self.members.get(name) {
            None => Some(Refusal::Unknown { name: name.clone(), members: members() }),
            Some(member) if member.kind == MemberKind::Witness => Some(Refusal::Witness { name: name.clone() }),
            Some(member) => self.refusal(&order, name, member),
        };
        if let Some(refusal) = refusal {
            return Outcome::Refused(refusal);
        }
        match order {
            Order::MakePublisher(name) => {
                if self.publisher.as_ref().is_some_and(|epoch| epoch.node == name) {
                    return Outcome::Unchanged;
                }
                self.publisher = Some(self.next_epoch(name));
                Outcome::Done
            }
            Order::Activate(name) => self.set_activated(&name, true),
            Order::Deactivate(name) => self.set_activated(&name, false),
            Order::Invite { .. } | Order::Redeem { .. } => Outcome::Unchanged,
        }
    }

    fn refusal(&self, order: &Order, name: &NodeName, member: &Member) -> Option<Refusal> {
        match order {
            Order::MakePublisher(_) if !member.activated => Some(Refusal::Deactivated { name: name.clone() }),
            Order::MakePublisher(_) if member.status != Status::InService => Some(Refusal::NotInService {
                name: name.clone(),
                status: member.status,
                reason: member.reason.clone(),
            }),
            Order::Deactivate(_) if member.activated && !self.leaves_another(name, member) => {
                Some(Refusal::LastInService { name: name.clone() })
            }
            _ => None,
        }
    }

    /// Whether somebody could take the place of a node that is taken out: one in service if that one is, one
    /// that may come into service in any case.
    fn leaves_another(&self, name: &NodeName, member: &Member) -> bool {
        let mut others = self.members.iter().filter(|(other, _)| *other != name).map(|(_, other)| other);
        others.any(|other| match member.serves() {
            true => other.serves(),
            false => other.kind == MemberKind::Node && other.activated,
        })
    }

    fn set_activated(&mut self, name: &NodeName, activated: bool) -> Outcome {
        let Some(member) = self.members.get_mut(name) else { return Outcome::Stale };
        if member.activated == activated {
            return Outcome::Unchanged;
        }
        member.activated = activated;
        (member.status, member.reason) = match activated {
            true => (Status::Starting, "it has just been activated".to_owned()),
            false => (Status::Deactivated, "an administrator has deactivated it".to_owned()),
        };
        member.revision += 1;
        Outcome::Done
    }

    fn next_epoch(&mut self, node: NodeName) -> Epoch {
        self.number += 1;
        Epoch { generation: self.generation, number: self.number, node }
    }

    fn outcome_of(&self, id: OrderId) -> Option<Outcome> {
        self.orders.iter().find(|(known, _)| *known == id).map(|(_, outcome)| outcome.clone())
    }

    fn remember(&mut self, id: OrderId, outcome: Outcome) {
        if self.orders.len() >= REMEMBERED_ORDERS {
            self.orders.remove(0);
        }
        self.orders.push((id, outcome));
    }
}

impl Member {
    /// Whether it is a node in service that an administrator lets serve.
    pub fn serves(&self) -> bool {
        self.kind == MemberKind::Node && self.activated && self.status == Status::InService
    }
}
