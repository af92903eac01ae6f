//! The planner: decides every move from the known facts. Pure and total.
//!
//! For every view `plan(apply(plan(view)))` is empty: a plan contains all wanted changes, and after they have been
//! applied the planner wants nothing more until something changes (rule P5).

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

/// Input of the planner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The agreed state.
    pub state: State,
    /// The leader's clock.
    pub now: Duration,
    /// The leader's wall clock, in milliseconds since 1970: for windows of the day and for people.
    pub wall_ms: u64,
    /// The leader's knowledge of each member.
    pub seen: BTreeMap<NodeName, Seen>,
    /// The leader's knowledge of each duty's lease.
    pub leases: BTreeMap<Duty, LeaseFact>,
    /// A node may be acting solo (rule R7): no duty is assigned.
    pub alone_somewhere: bool,
    /// The highest generation in which a member is known to have acted solo.
    pub alone_generation: Option<u64>,
    /// The publisher's epoch, and the time since which the leader knows of it.
    pub publisher_since: Option<(Epoch, Duration)>,
    /// The longest lease that may still run, in milliseconds.
    pub longest_out_ms: u64,
    /// Ended incarnations whose calls may need an heir.
    pub ended: Vec<Ended>,
}

/// The leader's knowledge of a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Whether the member is live.
    pub presence: Presence,
    /// Whether its node lease has expired.
    pub lapsed: bool,
    /// The incarnation heard last.
    pub incarnation: Option<Incarnation>,
    /// Last contact with the incarnation to which its agreed status refers.
    pub heard: Duration,
    /// Its failing critical services; `None` as long as it has not reported on them.
    pub failing: Option<Vec<ServiceHealth>>,
    /// Time since which its health has been as it is, apart from failures of single duties.
    pub health_since: Duration,
    /// For each duty, whether the node's own part of it works, and the time since which that is so.
    pub duties: BTreeMap<Duty, (bool, Duration)>,
    /// Time since which each bad measure of it has been bad.
    pub bad: BTreeMap<Trigger, Duration>,
    /// The rest of its report.
    pub report: Report,
    /// It requests a lease and is refused, since its program does not support the cluster's feature level.
    pub unfit: Option<Speaks>,
}

/// Presence of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// Its node lease runs.
    Live,
    /// The leader is too new to know.
    #[default]
    Unknown,
    /// Its node lease has expired.
    Silent,
    /// It has reported that it leaves.
    Left,
    /// Its supervisor reports that the process has exited.
    Exited,
}

/// The leader's knowledge of the lease of one epoch of a duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseFact {
    /// The epoch; does not apply to any other epoch of the duty.
    pub epoch: Epoch,
    /// A node may be acting under it.
    pub held: bool,
    /// It will not be extended again.
    pub frozen: bool,
    /// Last time at which its holder was known to be able to act.
    pub acted: Duration,
}

/// The changes due now, in this order.
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

/// The commands planned so far, and the state that they lead to.
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

/// The length of leases: first that of the profile, then that of the settings; `leasing.rs` explains the two steps.
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

/// Solo work of a split that has ended and is not healed yet: the reports by node, and the highest generation.
struct SplitOver {
    ran: BTreeMap<NodeName, SoloReport>,
    highest: u64,
}

/// The split, if all nodes that ran solo have stopped and all that may have run solo are live to report it.
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

/// Raises the generation above all solo epochs.
fn heal(view: &View, state: &State, split: SplitOver) -> Option<Command> {
    let serves = |name: &&NodeName| state.serves(name) && is_live(view, name);
    let node =
        |name: &&NodeName| state.members.get(*name).is_some_and(|m| m.activated && m.kind == MemberKind::Node);
    // The preferred node, else the publisher, else any; a node that serves before one that does not.
    let ranked = || state.settings.preferred.iter().chain(state.publisher()).chain(state.members.keys());
    let winner = ranked().find(serves).or_else(|| ranked().find(node))?.clone();
    let (from, generation) = (state.generation, split.highest + 1);
    Some(Command::Heal { from, generation, winner, ran: split.ran, at_ms: view.wall_ms })
}

/// Raises the feature level when all members are live and know the next level.
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
    /// Whether a node may go solo when it loses the other (rule R7).
    pub fn may_assume(&self) -> bool {
        self.is_bare_pair() && self.settings.on_quorum_loss == OnQuorumLoss::Assume
    }
}
