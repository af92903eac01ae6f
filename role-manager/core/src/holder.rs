//! Leases as the holder sees them, and the words between holder and leader (rules R2 to R5).
//!
//! Times are durations since some start of the *local* `CLOCK_BOOTTIME`; nothing here reads a clock. The holder
//! counts from the moment at which it sent the request, the leader from the moment at which it answered, and
//! the leader adds what two drifting clocks may make of it, so that the holder always stops first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{Duty, Lives, Report, ServiceHealth, State, Timing};

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
    /// The last grant of this leader that was heard: shows that the request is no old one that was held up.
    pub echo: Option<Echo>,
    /// What the planner should know.
    pub report: Report,
}

/// Names one grant of one leader.
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
    /// How long the leases run, from the moment at which the request was sent.
    pub lease: Duration,
    /// The duties that the node may act under, and in which epoch.
    pub duties: BTreeMap<Duty, Epoch>,
    /// Duties that run somewhere under a lease.
    pub running: BTreeSet<Duty>,
    /// Duties whose holder says that they fail, and why.
    pub failed: BTreeMap<Duty, String>,
    /// Who of the members that are heard says that it does not reach whom.
    pub cuts: BTreeSet<(NodeName, NodeName)>,
    /// How many calls which life had when it reported last: whoever leads next has to know (rule C4).
    pub lives: Lives,
    /// When this was granted, by the leader's clock; see [`KeepAlive::echo`].
    pub at: Duration,
}

impl Grant {
    /// What the next keep-alive to the same leader should say.
    pub fn echo(&self) -> Echo {
        Echo { term: self.term, at: self.at }
    }
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
    /// The supervisor said that this process has exited: a late word of it.
    #[error("the supervisor of '{0}' has said that this process exited")]
    Exited(NodeName),
    /// The member does not know the level at which the cluster works.
    #[error(
        "'{name}' knows the feature levels {min} to {max}, and the cluster is at {level}; install a version that knows it"
    )]
    FeatureLevel {
        /// Who.
        name: NodeName,
        /// Its lowest.
        min: u32,
        /// Its highest.
        max: u32,
        /// The cluster's.
        level: u32,
    },
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
        // The leader says with each lease how long it is: the length may change while leases run.
        let runs = grant.lease.saturating_sub(self.timing.margin);
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
