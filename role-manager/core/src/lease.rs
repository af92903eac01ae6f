//! Leases: what the holder believes and what the leader must take for granted (rules R2 to R5).
//!
//! Times are durations since some start of the *local* `CLOCK_BOOTTIME`; nothing here reads a clock. The holder
//! counts from the moment at which it sent the request, the leader from the moment at which it answered, and
//! the leader adds what two drifting clocks may make of it, so that the holder always stops first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{Assignment, Command, Duty, LeaseFact, Presence, Seen, ServiceHealth, State, Timing, View};

/// A node's request to its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    /// Who asks.
    pub node: NodeName,
    /// Its Raft store.
    pub raft_id: u64,
    /// How often that store was started: orders the lives of the process, so that a late word of an earlier one
    /// is known for what it is.
    pub run: u64,
    /// This life of its process.
    pub incarnation: Incarnation,
    /// Its critical services that fail; `None` as long as it has not reported on them.
    pub failing: Option<Vec<ServiceHealth>>,
    /// Epochs that it has let go of, with nothing in flight.
    pub released: BTreeMap<Duty, Epoch>,
    /// The process is about to end in good order, everything released.
    pub leaving: bool,
}

/// The leader's answer to a [`KeepAlive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The leader's term.
    pub term: u64,
    /// How long the leases run, from the moment at which the request was sent.
    pub lease: Duration,
    /// The duties that the node may act under, and in which epoch.
    pub duties: BTreeMap<Duty, Epoch>,
    /// Duties that run somewhere under a lease.
    pub running: BTreeSet<Duty>,
}

/// Why a leader grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGrant {
    /// Rule R3.
    #[error("the leader itself has heard no majority for {unheard:?}")]
    NoQuorum {
        /// For how long.
        unheard: Duration,
    },
    /// The name is not among the members.
    #[error("'{0}' is not a member of this cluster")]
    Stranger(NodeName),
    /// The member is known with another store than the asker's.
    #[error("the cluster knows '{0}' by another store; this one has not been let in yet, or was replaced")]
    OtherStore(NodeName),
    /// A later process of this node has been heard.
    #[error("a later process of '{0}' has been heard; this one must stop")]
    Superseded(NodeName),
}

/// The holder's side of one duty: whether this node may act, and until when.
#[derive(Debug, Clone)]
pub struct Holder {
    duty: Duty,
    node: NodeName,
    incarnation: Incarnation,
    timing: Timing,
    /// The epoch in which the applied state says that we hold the duty.
    assigned: Option<Epoch>,
    draining: bool,
    /// The highest term whose answer has been taken.
    term: u64,
    /// What was leased, and until when by our own clock.
    leased: Option<(Epoch, Duration)>,
    /// Everything up to this epoch is let go of for ever.
    released: Option<Epoch>,
}

impl Holder {
    /// A node that holds nothing yet.
    pub fn new(duty: Duty, node: NodeName, incarnation: Incarnation, timing: Timing) -> Self {
        Self {
            duty,
            node,
            incarnation,
            timing,
            assigned: None,
            draining: false,
            term: 0,
            leased: None,
            released: None,
        }
    }

    /// The applied state has changed.
    pub fn applied(&mut self, state: &State) {
        let ours =
            state.holder(self.duty).filter(|a| a.epoch.node == self.node && a.incarnation == self.incarnation);
        self.assigned = ours.map(|a| a.epoch.clone());
        self.draining = ours.is_some_and(|a| a.draining);
    }

    /// The leader has answered the request that was sent at `sent`.
    pub fn granted(&mut self, sent: Duration, grant: &Grant) {
        if grant.term < self.term {
            return;
        }
        self.term = grant.term;
        let Some(epoch) = grant.duties.get(&self.duty) else { return };
        let runs = grant.lease.min(self.timing.lease).saturating_sub(self.timing.margin);
        let until = sent + runs;
        match &mut self.leased {
            Some((leased, known)) if leased == epoch => *known = until.max(*known),
            Some((leased, _)) if *leased > *epoch => {}
            leased => *leased = Some((epoch.clone(), until)),
        }
    }

    /// The epoch to act in, and the end of it by our own clock: only with applied state *and* a lease for
    /// exactly that epoch (rule R5), and not while it is being given up.
    pub fn may_act(&self, now: Duration) -> Option<(&Epoch, Duration)> {
        let epoch = self.assigned.as_ref().filter(|_| !self.draining)?;
        let (leased, until) = self.leased.as_ref()?;
        let gone = self.released.as_ref().is_some_and(|released| released >= epoch);
        (leased == epoch && now < *until && !gone).then_some((epoch, *until))
    }

    /// The epoch that the cluster wants back, once nothing is in flight.
    pub fn wanted_back(&self) -> Option<&Epoch> {
        self.assigned
            .as_ref()
            .filter(|epoch| self.draining && self.released.as_ref().is_none_or(|released| released < *epoch))
    }

    /// The epoch that the applied state assigns to us, leased or not.
    pub fn assigned(&self) -> Option<&Epoch> {
        self.assigned.as_ref()
    }

    /// Nothing is in flight and nothing will be: let go of this epoch for ever.
    pub fn release(&mut self, epoch: Epoch) {
        if self.released.as_ref().is_none_or(|released| *released < epoch) {
            self.released = Some(epoch);
        }
    }

    /// What has been let go of and is still recorded as ours; said with every keep-alive until the duty has
    /// moved.
    pub fn released(&self) -> Option<&Epoch> {
        self.released.as_ref().filter(|released| self.assigned.as_ref() == Some(released))
    }
}

/// The leader's side: one per leadership, from its first quorum answer on.
#[derive(Debug, Clone)]
pub struct Ledger {
    term: u64,
    timing: Timing,
    since: Duration,
    nodes: BTreeMap<NodeName, NodeRecord>,
    duties: BTreeMap<Duty, DutyRecord>,
}

#[derive(Debug, Clone)]
struct NodeRecord {
    raft_id: u64,
    run: u64,
    incarnation: Incarnation,
    /// Until when its node lease must be taken for running.
    out_at: Duration,
    left: bool,
    failing: Option<Vec<ServiceHealth>>,
    /// Since when its services have been as they are: failing or sound.
    since: Duration,
}

#[derive(Debug, Clone)]
struct DutyRecord {
    epoch: Epoch,
    /// Until when the lease of this epoch must be taken for running.
    out_at: Duration,
    /// A move of this epoch has been proposed, or its holder has let go: never extended again (rule R3).
    frozen: bool,
    /// Whether this leadership has granted it.
    granted: bool,
}

impl Ledger {
    /// A leadership begins. `since` is when its leader first had a quorum; `state` is what it had applied then,
    /// with the first entry of its own term: whatever duty stands there may be under a lease of the leader
    /// before it (rule R4).
    pub fn new(term: u64, since: Duration, state: &State, timing: Timing) -> Self {
        let inherit = |a: &Assignment| DutyRecord {
            epoch: a.epoch.clone(),
            out_at: since + timing.new_leader_wait(),
            frozen: a.draining,
            granted: false,
        };
        let duties = state.duties.iter().map(|(duty, a)| (*duty, inherit(a))).collect();
        Self { term, timing, since, nodes: BTreeMap::new(), duties }
    }

    /// The term of this leadership.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether the node lease of this member runs.
    pub fn is_live(&self, now: Duration, name: &NodeName) -> bool {
        self.seen(now, name).presence == Presence::Live
    }

    /// Whether the wait of a new leader is over, so that it knows whoever can be known.
    pub fn is_settled(&self, now: Duration) -> bool {
        now >= self.since + self.timing.new_leader_wait()
    }

    /// A node asks. `quorum_heard` is when the leader last knew itself followed by a majority.
    pub fn keep_alive(
        &mut self,
        now: Duration,
        quorum_heard: Duration,
        state: &State,
        request: &KeepAlive,
    ) -> Result<Grant, NoGrant> {
        let unheard = now.saturating_sub(quorum_heard);
        if unheard > self.timing.election_max {
            return Err(NoGrant::NoQuorum { unheard });
        }
        let Some(member) = state.members.get(&request.node) else {
            return Err(NoGrant::Stranger(request.node.clone()));
        };
        if member.raft_id != request.raft_id {
            return Err(NoGrant::OtherStore(request.node.clone()));
        }
        let may_hold = member.activated && !request.leaving;
        self.note_node(now, request)?;
        self.note_applied(state);
        let out_at = now + self.timing.lease_at_leader();
        let mut duties = BTreeMap::new();
        for (duty, assignment) in &state.duties {
            let ours = assignment.epoch.node == request.node && assignment.incarnation == request.incarnation;
            let Some(record) = self.duties.get_mut(duty).filter(|r| ours && r.epoch == assignment.epoch) else {
                continue;
            };
            if request.released.get(duty) == Some(&record.epoch) {
                record.frozen = true;
                record.out_at = now;
            } else if may_hold && !record.frozen && !assignment.draining {
                record.out_at = record.out_at.max(out_at);
                record.granted = true;
                duties.insert(*duty, record.epoch.clone());
            }
        }
        let running = self.duties.iter().filter(|(_, r)| r.granted && now < r.out_at).map(|(d, _)| *d).collect();
        Ok(Grant { term: self.term, lease: self.timing.lease, duties, running })
    }

    /// A command is about to be proposed. From here on a duty that it moves is not extended (rule R3), whether
    /// or not the proposal goes through.
    pub fn proposing(&mut self, command: &Command) {
        let (duty, epoch) = match command {
            Command::Drain { duty, epoch } | Command::Assign { duty, from: Some(epoch), .. } => (duty, epoch),
            _ => return,
        };
        if let Some(record) = self.duties.get_mut(duty).filter(|record| record.epoch == *epoch) {
            record.frozen = true;
        }
    }

    /// What the planner is to know at `now`.
    pub fn view(&mut self, now: Duration, state: &State) -> View {
        self.note_applied(state);
        let seen = state.members.keys().map(|name| (name.clone(), self.seen(now, name))).collect();
        let fact = |r: &DutyRecord| LeaseFact { epoch: r.epoch.clone(), held: now < r.out_at, frozen: r.frozen };
        let leases = self.duties.iter().map(|(duty, record)| (*duty, fact(record))).collect();
        View { state: state.clone(), now, seen, leases }
    }

    /// The next moment after `now` at which the view changes by time alone.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let waits = [self.timing.health_grace, self.timing.settle];
        self.nodes
            .values()
            .flat_map(|n| waits.iter().map(|wait| n.since + *wait).chain([n.out_at]))
            .chain(self.duties.values().map(|r| r.out_at))
            .chain([self.since + self.timing.new_leader_wait()])
            .filter(|at| *at > now)
            .min()
    }

    fn note_node(&mut self, now: Duration, request: &KeepAlive) -> Result<(), NoGrant> {
        let running = now + self.timing.lease_at_leader();
        let begun = NodeRecord {
            raft_id: request.raft_id,
            run: request.run,
            incarnation: request.incarnation,
            out_at: running,
            left: false,
            failing: request.failing.clone(),
            since: now,
        };
        let record = self.nodes.entry(request.node.clone()).or_insert_with(|| begun.clone());
        if record.raft_id != request.raft_id || record.run < request.run {
            *record = begun;
        } else if record.run > request.run || record.incarnation != request.incarnation {
            return Err(NoGrant::Superseded(request.node.clone()));
        }
        // A node that was out of reach starts anew: what it says of its services is news.
        let was_well = record.failing.as_ref().map(Vec::is_empty);
        if was_well != request.failing.as_ref().map(Vec::is_empty) || now >= record.out_at {
            record.since = now;
        }
        record.failing.clone_from(&request.failing);
        record.left |= request.leaving;
        record.out_at = if record.left { now } else { running };
        Ok(())
    }

    /// Takes note of epochs that have been given in this leadership: nobody can have a lease for one but by us.
    fn note_applied(&mut self, state: &State) {
        for (duty, assignment) in &state.duties {
            let known = self.duties.get(duty).is_some_and(|record| record.epoch >= assignment.epoch);
            if !known {
                let epoch = assignment.epoch.clone();
                let record = DutyRecord { epoch, out_at: Duration::ZERO, frozen: false, granted: false };
                self.duties.insert(*duty, record);
            }
        }
    }

    fn seen(&self, now: Duration, name: &NodeName) -> Seen {
        let Some(record) = self.nodes.get(name) else {
            let presence = match now < self.since + self.timing.new_leader_wait() {
                true => Presence::Unknown,
                false => Presence::Silent,
            };
            return Seen { presence, incarnation: None, failing: None, health_since: self.since };
        };
        let presence = match (record.left, now < record.out_at) {
            (true, _) => Presence::Left,
            (false, true) => Presence::Live,
            (false, false) => Presence::Silent,
        };
        Seen {
            presence,
            incarnation: Some(record.incarnation),
            failing: record.failing.clone(),
            health_since: record.since,
        }
    }
}
