//! Leases as the holder sees them, and the messages between holder and leader (rules R2 to R5).
//!
//! Times are durations since some start of the *local* `CLOCK_BOOTTIME`; this module reads no clock. The holder counts
//! from the time at which it sent the request, the leader from the time at which it answered. The leader adds the
//! maximum drift between two clocks, so that the holder always stops first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{CallCounts, Duty, Report, ServiceHealth, State, Timing};

/// A node's request to its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    /// Name of the requesting node.
    pub node: NodeName,
    /// Its Raft store.
    pub raft_id: u64,
    /// Number of starts of that store. It orders the incarnations: a late message of an earlier one is recognized.
    pub run: u64,
    /// The present incarnation.
    pub incarnation: Incarnation,
    /// Its failing critical services; `None` as long as it has not reported on them.
    pub failing: Option<Vec<ServiceHealth>>,
    /// Epochs that it has released, with nothing in flight.
    pub released: BTreeMap<Duty, Epoch>,
    /// The process is about to end in an orderly way, with everything released.
    pub leaving: bool,
    /// The last grant received from this leader: shows that the request is not an old, delayed one.
    pub echo: Option<Echo>,
    /// Report for the planner.
    pub report: Report,
}

/// Identifies one grant of one leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// The leader's term.
    pub term: u64,
    /// [`Grant::at`].
    pub at: Duration,
}

/// The leader's answer to a [`KeepAlive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The leader's term.
    pub term: u64,
    /// Duration of the leases, from the time at which the request was sent.
    pub lease: Duration,
    /// The duties that the node may run, with their epochs.
    pub duties: BTreeMap<Duty, Epoch>,
    /// Duties that run somewhere under a lease.
    pub running: BTreeSet<Duty>,
    /// Duties that fail by their holder's report, with the reason.
    pub failed: BTreeMap<Duty, String>,
    /// Pairs of live members of which the first reports that it does not reach the second.
    pub cuts: BTreeSet<(NodeName, NodeName)>,
    /// Number of calls in the last report of each incarnation: the next leader needs it (rule C4).
    pub call_counts: CallCounts,
    /// Time of the grant by the leader's clock; see [`KeepAlive::echo`].
    pub at: Duration,
}

impl Grant {
    /// The echo for the next keep-alive to the same leader.
    pub fn echo(&self) -> Echo {
        Echo { term: self.term, at: self.at }
    }
}

/// Reason for which a leader grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGrant {
    /// The leader has no contact with a majority (rule R3).
    #[error("the leader has had no contact with a majority for {silence:?}")]
    NoQuorum {
        /// Time since it last did.
        silence: Duration,
    },
    /// The name is not among the members.
    #[error("'{0}' is not a member of this cluster")]
    NotMember(NodeName),
    /// The cluster knows the member with another store.
    #[error("the cluster knows '{0}' by another store; this one has not been admitted yet, or was replaced")]
    OtherStore(NodeName),
    /// A later incarnation of this node has sent a message.
    #[error("a later incarnation of '{0}' is active; this one must stop")]
    Superseded(NodeName),
    /// Late message of a process that has exited by its supervisor's report.
    #[error("the supervisor of '{0}' has reported that this incarnation exited")]
    Exited(NodeName),
    /// The member does not know the cluster's feature level.
    #[error(
        "'{name}' supports the feature levels {min} to {max}, and the cluster is at {level}; install a version that supports it"
    )]
    FeatureLevel {
        /// Name of the member.
        name: NodeName,
        /// Its lowest feature level.
        min: u32,
        /// Its highest feature level.
        max: u32,
        /// The feature level of the cluster.
        level: u32,
    },
}

/// The holder's side of one duty: whether this node may act, and until which time.
#[derive(Debug, Clone)]
pub struct Holder {
    duty: Duty,
    node: NodeName,
    incarnation: Incarnation,
    timing: Timing,
    /// The epoch in which the applied state assigns the duty to this node.
    assigned: Option<Epoch>,
    draining: bool,
    /// The highest term of an accepted answer.
    term: u64,
    /// The leased epoch, and the end of its lease by this node's clock.
    leased: Option<(Epoch, Duration)>,
    /// All epochs up to this one are released forever.
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
        // Each grant has its own lease length, which may change while leases run.
        let runs = grant.lease.saturating_sub(self.timing.margin);
        let until = sent + runs;
        match &mut self.leased {
            Some((leased, known)) if leased == epoch => *known = until.max(*known),
            Some((leased, _)) if *leased > *epoch => {}
            leased => *leased = Some((epoch.clone(), until)),
        }
    }

    /// The epoch to act in and its end by this node's clock. Only with applied state *and* a lease for exactly that
    /// epoch (rule R5), and not while the duty is drained.
    pub fn may_act(&self, now: Duration) -> Option<(&Epoch, Duration)> {
        let epoch = self.assigned.as_ref().filter(|_| !self.draining)?;
        let (leased, until) = self.leased.as_ref()?;
        let is_released = self.released.as_ref().is_some_and(|released| released >= epoch);
        (leased == epoch && now < *until && !is_released).then_some((epoch, *until))
    }

    /// The epoch that this node must release, once nothing is in flight.
    pub fn must_release(&self) -> Option<&Epoch> {
        self.assigned
            .as_ref()
            .filter(|epoch| self.draining && self.released.as_ref().is_none_or(|released| released < *epoch))
    }

    /// The epoch that the applied state assigns to this node, leased or not.
    pub fn assigned(&self) -> Option<&Epoch> {
        self.assigned.as_ref()
    }

    /// Releases this epoch forever: nothing is in flight and nothing will be.
    pub fn release(&mut self, epoch: Epoch) {
        if self.released.as_ref().is_none_or(|released| *released < epoch) {
            self.released = Some(epoch);
        }
    }

    /// The released epoch while the state still assigns it to this node; each keep-alive reports it until the duty moves.
    pub fn released(&self) -> Option<&Epoch> {
        self.released.as_ref().filter(|released| self.assigned.as_ref() == Some(released))
    }
}
