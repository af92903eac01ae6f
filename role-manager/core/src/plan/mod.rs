//! The planner: decides every move from the known facts. Pure and total.
//!
//! For every view `plan(apply(plan(view)))` is empty: a plan contains all wanted changes, and after they have been
//! applied the planner wants nothing more until something changes (rule P5).

mod assign;
mod proposal;
mod status;

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::{Epoch, Incarnation, NodeName};

pub use proposal::proposal;

use crate::{
    Command, Duty, EndedIncarnation, FeatureLevels, Leasing, PlannerPolicy, Report, ServiceHealth, State, Status,
    Trigger, heirs, pair,
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
    pub observed: BTreeMap<NodeName, MemberObservation>,
    /// The leader's knowledge of each duty's lease.
    pub leases: BTreeMap<Duty, LeaseFact>,
    /// A node may be acting solo (rule R7): no duty is assigned.
    pub may_act_solo: bool,
    /// The highest generation in which a member is known to have acted solo.
    pub solo_generation: Option<u64>,
    /// The publisher's epoch, and the time since which the leader knows of it.
    pub publisher_since: Option<(Epoch, Duration)>,
    /// The longest lease that may still run, in milliseconds.
    pub longest_running_ms: u64,
    /// Ended incarnations whose calls may need an heir.
    pub ended: Vec<EndedIncarnation>,
}

/// The leader's knowledge of a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberObservation {
    /// Whether the member is live.
    pub presence: Presence,
    /// Whether its node lease has expired.
    pub lease_expired: bool,
    /// The incarnation of the last message.
    pub incarnation: Option<Incarnation>,
    /// Last contact with the incarnation to which its agreed status refers.
    pub last_contact: Duration,
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
    pub unfit: Option<FeatureLevels>,
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
pub fn plan(view: &View, policy: &PlannerPolicy) -> Vec<Command> {
    let mut plan = Plan { commands: Vec::new(), next: view.state.clone() };
    plan.add(retime(view, policy));
    let split = pair::ended_split(view);
    for command in status::statuses(view, &plan.next, policy, split.is_some()) {
        plan.add(Some(command));
    }
    plan.add(split.and_then(|split| pair::heal(view, &plan.next, split)));
    plan.add(assign::publisher(view, &plan.next, policy));
    let known: Vec<Duty> = view.state.known_duties().collect();
    plan.assign(view, policy, &known);
    plan.add(raise_level(view));
    let added: Vec<Duty> = plan.next.known_duties().filter(|duty| !known.contains(duty)).collect();
    plan.assign(view, policy, &added);
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

    fn assign(&mut self, view: &View, policy: &PlannerPolicy, duties: &[Duty]) {
        for duty in duties {
            let command = assign::duty(view, &self.next, policy, *duty);
            self.add(command);
        }
    }
}

/// The length of leases: first that of the profile, then that of the settings; `leasing.rs` explains the two steps.
fn retime(view: &View, policy: &PlannerPolicy) -> Option<Command> {
    let from = view.state.leasing;
    let lease = policy.lease_timing.lease_ms();
    let first = Leasing { profile: policy.lease_timing, lease_ms: lease, bound_ms: lease };
    let Some(present) = from else { return Some(Command::Retime { from, to: first }) };
    let mut to = present;
    if present.profile != policy.lease_timing {
        // Members with another profile refuse each other, so all have been stopped and started since.
        to.profile = policy.lease_timing;
        to.bound_ms = to.bound_ms.max(first.lease_ms);
    }
    let wanted = view.state.lease_timing_of(to).lease_ms();
    // A longer lease comes into force only when its bound was agreed on before.
    to.lease_ms = if wanted <= present.bound_ms { wanted } else { to.lease_ms.min(wanted) };
    to.bound_ms = to.bound_ms.max(wanted);
    if view.longest_running_ms <= to.lease_ms {
        to.bound_ms = to.lease_ms.max(wanted);
    }
    (to != present).then_some(Command::Retime { from, to })
}

/// Raises the feature level when all members are live and know the next level.
fn raise_level(view: &View) -> Option<Command> {
    let from = view.state.feature_level;
    let mut to = u32::MAX;
    for (name, _) in view.state.members.iter().filter(|(_, member)| member.status != Status::Leaving) {
        let observed = view.observed.get(name).filter(|observed| observed.presence == Presence::Live)?;
        to = to.min(observed.report.feature_levels.max);
    }
    (to > from && to < u32::MAX).then_some(Command::RaiseLevel { from, to })
}
