//! The planner: from what is known to what is to be done. Pure and total; it decides everything that moves.
//!
//! For every view `plan(apply(plan(view)))` is empty: what the planner wants it says at once, and when it has
//! been done it wants nothing more until something changes (rule P5).

mod place;
mod proposal;
mod status;

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::{Epoch, Incarnation, NodeName};

pub use proposal::proposal;

use crate::{
    Command, Duty, Ended, Leasing, MemberKind, OnQuorumLoss, Policy, Report, ServiceHealth, SoloReport, Speaks,
    State, Status, Trigger, heirs,
};

/// Everything that the planner is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// What has been agreed.
    pub state: State,
    /// The leader's clock.
    pub now: Duration,
    /// The leader's wall clock, in milliseconds since 1970: for windows of the day and for people.
    pub wall_ms: u64,
    /// What the leader knows of each member.
    pub seen: BTreeMap<NodeName, Seen>,
    /// What the leader knows of each duty's lease.
    pub leases: BTreeMap<Duty, LeaseFact>,
    /// A node may be acting alone (rule R7): no duty goes to anybody.
    pub alone_somewhere: bool,
    /// The highest generation in which anybody is known to have acted alone.
    pub alone_generation: Option<u64>,
    /// The publisher's epoch, and since when the leader knows of it.
    pub publisher_since: Option<(Epoch, Duration)>,
    /// The longest lease that may still be out, in milliseconds.
    pub longest_out_ms: u64,
    /// Lives that are over, whose calls somebody may have to answer for.
    pub ended: Vec<Ended>,
}

/// What the leader knows of a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Whether it is there.
    pub presence: Presence,
    /// Whether its node lease has run out by time.
    pub lapsed: bool,
    /// The life of its process that was heard last.
    pub incarnation: Option<Incarnation>,
    /// When the life that its agreed status speaks of was heard last.
    pub heard: Duration,
    /// Its critical services that fail; `None` as long as it has not reported on them.
    pub failing: Option<Vec<ServiceHealth>>,
    /// Since when it has been as well or as ill as it is, failures of single duties apart.
    pub health_since: Duration,
    /// Of each duty whether its own part of it works, and since when that is so.
    pub duties: BTreeMap<Duty, (bool, Duration)>,
    /// Since when a measure of it is bad.
    pub bad: BTreeMap<Trigger, Duration>,
    /// What it says beside.
    pub report: Report,
    /// It asks for its lease and is refused, since its program knows other feature levels than the cluster's.
    pub unfit: Option<Speaks>,
}

/// Whether a member is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// Its node lease runs.
    Live,
    /// The leader is too new to know.
    #[default]
    Unknown,
    /// Its node lease has run out.
    Silent,
    /// It said that it was leaving.
    Left,
    /// Its supervisor says that the process has exited.
    Exited,
}

/// What the leader knows of the lease of one epoch of a duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseFact {
    /// Which epoch; a fact about another epoch than the agreed one says nothing of that.
    pub epoch: Epoch,
    /// Somebody may be acting under it.
    pub held: bool,
    /// It will not be extended again.
    pub frozen: bool,
    /// When its holder was last known to be able to act.
    pub acted: Duration,
}

/// What is to be done now, in this order.
pub fn plan(view: &View, policy: &Policy) -> Vec<Command> {
    let mut plan = Plan { commands: Vec::new(), next: view.state.clone() };
    plan.add(retime(view, policy));
    let split = split_over(view);
    for command in status::statuses(view, &plan.next, policy, split.is_some()) {
        plan.add(Some(command));
    }
    plan.add(split.and_then(|split| heal(view, &plan.next, split)));
    plan.add(place::publisher(view, &plan.next, policy));
    let known: Vec<Duty> = view.state.known_duties().collect();
    plan.place(view, policy, &known);
    plan.add(raise_level(view));
    let brought: Vec<Duty> = plan.next.known_duties().filter(|duty| !known.contains(duty)).collect();
    plan.place(view, policy, &brought);
    for command in heirs::heirs(view, &plan.next) {
        plan.add(Some(command));
    }
    plan.commands
}

/// What is wanted so far, and the state that it leads to.
struct Plan {
    commands: Vec<Command>,
    next: State,
}

impl Plan {
    fn add(&mut self, command: Option<Command>) {
        if let Some(command) = command {
            self.next.apply(command.clone());
            self.commands.push(command);
        }
    }

    fn place(&mut self, view: &View, policy: &Policy, duties: &[Duty]) {
        for duty in duties {
            let command = place::duty(view, &self.next, policy, *duty);
            self.add(command);
        }
    }
}

/// The length of leases: first what the profile says, then what the settings want; `leasing.rs` says why in two steps.
fn retime(view: &View, policy: &Policy) -> Option<Command> {
    let from = view.state.leasing;
    let first =
        Leasing { profile: policy.pace, lease_ms: policy.pace.lease_ms(), bound_ms: policy.pace.lease_ms() };
    let Some(present) = from else { return Some(Command::Retime { from, to: first }) };
    let mut to = present;
    if present.profile != policy.pace {
        // Members with another profile refuse each other, so all have been stopped and started since.
        to.profile = policy.pace;
        to.bound_ms = to.bound_ms.max(first.lease_ms);
    }
    let wanted = view.state.pace_of(to).lease_ms();
    // A longer lease comes into force only when its bound was agreed on before.
    to.lease_ms = if wanted <= present.bound_ms { wanted } else { to.lease_ms.min(wanted) };
    to.bound_ms = to.bound_ms.max(wanted);
    if view.longest_out_ms <= to.lease_ms {
        to.bound_ms = to.lease_ms.max(wanted);
    }
    (to != present).then_some(Command::Retime { from, to })
}

/// Whether this member's node lease runs.
fn is_live(view: &View, name: &NodeName) -> bool {
    view.seen.get(name).is_some_and(|seen| seen.presence == Presence::Live)
}

/// What was done alone in a split that is over and not healed yet: who ran, and the highest generation of it.
struct SplitOver {
    ran: BTreeMap<NodeName, SoloReport>,
    highest: u64,
}

/// Nodes that ran alone have all stopped, and those who may have run are all there to say so.
fn split_over(view: &View) -> Option<SplitOver> {
    let state = &view.state;
    let news = |solo: &&SoloReport| solo.epoch.generation >= state.generation;
    let told = |name: &NodeName| view.seen.get(name)?.report.solo.as_ref().filter(news).cloned();
    let ran: BTreeMap<NodeName, SoloReport> =
        state.members.keys().filter_map(|name| Some((name.clone(), told(name)?))).collect();
    let remembered = view.alone_generation.filter(|generation| *generation >= state.generation);
    let highest = ran.values().map(|solo| solo.epoch.generation).max().max(remembered)?;
    let all_there = !state.is_bare_pair() || state.members.keys().all(|name| is_live(view, name));
    let still_acts = ran.iter().any(|(name, solo)| is_live(view, name) && solo.is_acting());
    (all_there && !still_acts).then_some(SplitOver { ran, highest })
}

/// Later epochs get above all that were had alone.
fn heal(view: &View, state: &State, split: SplitOver) -> Option<Command> {
    let serves = |name: &&NodeName| state.serves(name) && is_live(view, name);
    let node =
        |name: &&NodeName| state.members.get(*name).is_some_and(|m| m.activated && m.kind == MemberKind::Node);
    // The preferred one, else the publisher, else anybody; one that serves before one that does not.
    let ranked = || state.settings.preferred.iter().chain(state.publisher()).chain(state.members.keys());
    let winner = ranked().find(serves).or_else(|| ranked().find(node))?.clone();
    let (from, generation) = (state.generation, split.highest + 1);
    Some(Command::Heal { from, generation, winner, ran: split.ran, at_ms: view.wall_ms })
}

/// The feature level rises when every member is there and knows the next.
fn raise_level(view: &View) -> Option<Command> {
    let from = view.state.feature_level;
    let mut to = u32::MAX;
    for (name, _) in view.state.members.iter().filter(|(_, member)| member.status != Status::Leaving) {
        let seen = view.seen.get(name).filter(|seen| seen.presence == Presence::Live)?;
        to = to.min(seen.report.speaks.max);
    }
    (to > from && to < u32::MAX).then_some(Command::RaiseLevel { from, to })
}

impl State {
    /// Whether a node may go on alone when it loses the other (rule R7).
    pub fn may_assume(&self) -> bool {
        self.is_bare_pair() && self.settings.on_quorum_loss == OnQuorumLoss::Assume
    }
}
