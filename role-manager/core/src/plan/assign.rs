//! Placement of the role of publisher and of the duties.

use std::{cmp::Reverse, time::Duration};

use twinbox_ids::{Incarnation, NodeName};

use super::status;
use crate::{
    Assignment, Cause, Command, Duty, MemberObservation, MoveCondition, MoveObject, MoveReason, PlannerPolicy,
    Presence, RULES, RoleAction, Rule, Sign, State, View, rule_for, soft,
};

const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;
const MINUTES_A_DAY: u64 = 24 * 60;
/// Maximum number of doublings of the damping.
const MOST_DOUBLINGS: u32 = 6;

/// The incarnation in which a node could take the role or a duty now.
fn candidate(view: &View, state: &State, name: &NodeName) -> Option<Incarnation> {
    let observed = view.observed.get(name).filter(|observed| observed.presence == Presence::Live)?;
    observed.incarnation.filter(|_| state.serves(name))
}

/// The incarnation in which a node could take this duty now: it is in service, and knows the duty's feature level.
fn eligible(view: &View, state: &State, duty: Duty, name: &NodeName) -> Option<Incarnation> {
    let knows = view.observed.get(name).is_some_and(|observed| observed.report.feature_levels.max >= duty.level());
    candidate(view, state, name).filter(|_| knows)
}

/// Whether the incarnation to which the status of a node refers is live, so that it may go on acting.
fn holder_is_live(view: &View, name: &NodeName) -> bool {
    let agreed = view.state.members.get(name).and_then(|member| member.incarnation);
    view.observed
        .get(name)
        .is_some_and(|observed| observed.presence == Presence::Live && observed.incarnation == agreed)
}

/// Time during which no holder is known to have acted, in milliseconds.
fn idle_ms(view: &View, acted: Duration) -> u64 {
    u64::try_from(view.now.saturating_sub(acted).as_millis()).unwrap_or(u64::MAX)
}

/// Cause that moves the role, or the duties, off a holder that does not serve: its sign, by that column of the policy.
fn displacement(view: &View, state: &State, name: &NodeName, column: fn(&Rule) -> RoleAction) -> Option<Cause> {
    let Some(member) = state.members.get(name) else { return Some(Cause::Operator) };
    let observed = view.observed.get(name)?;
    let sign = status::sign(member, observed)?;
    let moves = column(rule_for(sign)) == RoleAction::Move && status::is_on(state, sign, observed);
    moves.then(|| status::cause(sign, observed))
}

/// The role moves if its holder does not serve, or if a better place is due.
pub(super) fn publisher(view: &View, state: &State, policy: &PlannerPolicy) -> Option<Command> {
    let (to, cause) = match state.publisher() {
        None => (elect(view, state)?, Cause::Start),
        Some(present) if state.serves(present) => {
            let acts = |rule: &&Rule| rule.moves_a_serving_publisher() && rule.is_on(&state.settings);
            RULES.iter().filter(acts).find_map(|rule| better_place(view, state, policy, present, rule))?
        }
        Some(present) => {
            let cause = displacement(view, state, present, |rule| rule.publisher)?;
            (elect(view, state)?, cause)
        }
    };
    // A publisher that serves acts until the role moves. One that does not serve could last act at the last contact.
    let absent = state.publisher().filter(|present| !state.serves(present) && !holder_is_live(view, present));
    let last_contact = absent.and_then(|present| view.observed.get(present)).map(|observed| observed.last_contact);
    let reason = MoveReason { cause, at_ms: view.wall_ms, idle_ms: last_contact.map_or(0, |at| idle_ms(view, at)) };
    (state.publisher() != Some(&to)).then(|| Command::SetPublisher { from: state.publisher.clone(), to, reason })
}

/// The best candidate for publisher: not far behind, preferred, with most duties, reached by most.
fn elect(view: &View, state: &State) -> Option<NodeName> {
    let rank = |name: &&NodeName| {
        let behind = view.observed.get(*name).is_some_and(|observed| observed.report.measures.is_far_behind());
        let preferred = state.settings.preferred.as_ref() == Some(*name);
        let holds = state.duties.values().filter(|a| a.epoch.node == **name).count();
        let live = view.observed.values().filter(|observed| observed.presence == Presence::Live);
        let reached = live.filter(|observed| observed.report.reaches.contains(*name)).count();
        (behind, !preferred, Reverse(holds), Reverse(reached), (*name).clone())
    };
    state.members.keys().filter(|name| candidate(view, state, name).is_some()).min_by_key(rank).cloned()
}

/// Whether the role has stayed long enough to move off a publisher that serves: for this time, doubled by each such move.
fn damping_is_over(view: &View, state: &State, damping: Duration) -> bool {
    let soft = |cause: &Cause| matches!(cause, Cause::Space | Cause::Cpu | Cause::Alarm(_) | Cause::Failback);
    let recent = state.moves.iter().filter(|m| m.object == MoveObject::Publisher && soft(&m.cause));
    let recent = recent.filter(|m| view.wall_ms.abs_diff(m.at_ms) < HOUR_MS).count();
    let doublings = u32::try_from(recent).unwrap_or(MOST_DOUBLINGS).min(MOST_DOUBLINGS);
    let stays = damping * 2_u32.pow(doublings);
    // The known epoch is another one: the role has only just moved.
    let known = view.publisher_since.as_ref().filter(|(epoch, _)| state.publisher.as_ref() == Some(epoch));
    known.is_some_and(|(_, since)| view.now.saturating_sub(*since) >= stays)
}

/// A better place for the role than a publisher that serves and shows the sign of this row.
fn better_place(
    view: &View,
    state: &State,
    policy: &PlannerPolicy,
    present: &NodeName,
    rule: &Rule,
) -> Option<(NodeName, Cause)> {
    let lasts = |since: Duration| view.now.saturating_sub(since) >= rule.waits.time(policy);
    let (settings, ours) = (&state.settings, view.observed.get(present)?);
    let is_shown = match rule.sign {
        Sign::WindowOpen => {
            let minute = u16::try_from(view.wall_ms / MINUTE_MS % MINUTES_A_DAY).ok()?;
            settings.failback.is_open(minute)
        }
        Sign::DutyFailed => ours.duties.values().any(|(works, since)| !works && lasts(*since)),
        _ => ours.bad.get(&rule.trigger?).is_some_and(|since| lasts(*since)),
    };
    if !is_shown || !damping_is_over(view, state, rule.waits.time(policy)) {
        return None;
    }
    let better = |name: &&NodeName| {
        let theirs = view.observed.get(*name).filter(|_| candidate(view, state, name).is_some());
        theirs.is_some_and(|theirs| {
            let (measures, own) = (&theirs.report.measures, &ours.report.measures);
            let is_preferred = || settings.preferred.as_ref() == Some(*name) && lasts(theirs.health_since);
            // A bad measure would move the role off it again.
            let has_bad_measure = theirs.bad.keys().any(|trigger| settings.is_on(*trigger));
            let is_fit = *name != present && !measures.is_far_behind() && !has_bad_measure;
            is_fit
                && (rule.publisher == RoleAction::Move || soft::is_better(rule.waits, measures, own, settings))
                && (rule.sign != Sign::WindowOpen || is_preferred())
        })
    };
    let to = state.members.keys().find(better)?.clone();
    match (rule.sign, &settings.alarm_rule) {
        (Sign::AlarmOften, Some(rule)) => Some((to, Cause::Alarm(rule.code.clone()))),
        _ => Some((to, status::cause(rule.sign, ours))),
    }
}

/// Place for a duty, and the cause for which it would go there.
struct Target<'a> {
    name: &'a NodeName,
    incarnation: Incarnation,
    cause: Option<Cause>,
}

/// A duty that wants a place.
struct Placing<'a> {
    view: &'a View,
    state: &'a State,
    policy: &'a PlannerPolicy,
    duty: Duty,
}

/// A place of a duty, if it is one now.
type DutyPlace = for<'a> fn(&Placing<'a>) -> Option<Target<'a>>;

/// The places of a duty, the best first: it goes to the first where its part works.
const PLACES: [DutyPlace; 6] = [
    // It is pinned there.
    |duty| duty.on(duty.state.settings.pins.get(&duty.duty)?, Some(Cause::Pin)),
    // An administrator moved it there.
    |duty| duty.on(duty.state.placed.get(&duty.duty)?, Some(Cause::Operator)),
    // It follows the publisher.
    |duty| duty.on(duty.state.publisher().filter(|_| duty.follows())?, None),
    // Its part fails at the publisher: it stays.
    |duty| duty.state.publisher().and(duty.holder()).and_then(|holder| duty.on(holder, None)),
    // It goes to another node.
    |duty| {
        duty.eligible(duty.state.publisher()?)?;
        duty.others().find_map(|name| duty.on(name, duty.failure()))
    },
    // It works nowhere: the publisher has it until there is a node where it works, if its row waits for one.
    |duty| {
        let awaits_one = rule_for(Sign::DutyFailed).waits == MoveCondition::GraceAndWorkingPlace;
        let other = duty.others().find(|name| !awaits_one && duty.eligible(name).is_some());
        let name = other.or(duty.state.publisher())?;
        Some(Target { name, incarnation: duty.eligible(name)?, cause: duty.failure() })
    },
];

impl<'a> Placing<'a> {
    fn holder(&self) -> Option<&'a NodeName> {
        self.state.duties.get(&self.duty).map(|assignment| &assignment.epoch.node)
    }

    fn eligible(&self, name: &NodeName) -> Option<Incarnation> {
        eligible(self.view, self.state, self.duty, name)
    }

    /// All members but the publisher.
    fn others(&self) -> impl Iterator<Item = &'a NodeName> + use<'a> {
        let state = self.state;
        state.members.keys().filter(move |name| Some(*name) != state.publisher())
    }

    /// Whether the row for which the role moved last takes the duty along from a holder where it works.
    fn follows(&self) -> bool {
        let last = self.state.moves.iter().rfind(|m| m.object == MoveObject::Publisher);
        let sign = last.and_then(|m| match m.cause {
            Cause::Operator | Cause::Call => Some(Sign::Ordered),
            Cause::Space => Some(Sign::SpaceLow),
            Cause::Cpu => Some(Sign::CpuHigh),
            Cause::Alarm(_) => Some(Sign::AlarmOften),
            Cause::Failback => Some(Sign::WindowOpen),
            _ => None,
        });
        let stays = sign.is_some_and(|sign| rule_for(sign).duties == RoleAction::Stay);
        !(stays && self.holder().is_some_and(|holder| self.on(holder, None).is_some()))
    }

    fn failure(&self) -> Option<Cause> {
        Some(Cause::Service(self.duty.name().to_owned()))
    }

    /// This node as the place, if its part of the duty works there.
    fn on(&self, name: &'a NodeName, cause: Option<Cause>) -> Option<Target<'a>> {
        let observed = self.view.observed.get(name)?;
        // A node whose part has recovered only recently does not take the duty from one where it works.
        let back = observed.duties.get(&self.duty).is_some_and(|(works, since)| {
            let passed = self.view.now.saturating_sub(*since);
            *works && observed.health_since < *since && passed < self.policy.damping
        });
        let fit = !self.has_failed(observed) && (!back || self.holder() == Some(name));
        self.eligible(name).filter(|_| fit).map(|incarnation| Target { name, incarnation, cause })
    }

    /// Whether a node's own part of the duty has failed for the grace time, and the policy moves a duty for that.
    fn has_failed(&self, observed: &MemberObservation) -> bool {
        let rule = rule_for(Sign::DutyFailed);
        let lasts = |since: Duration| self.view.now.saturating_sub(since) >= rule.waits.time(self.policy);
        let failed = observed.duties.get(&self.duty).is_some_and(|(works, since)| !works && lasts(*since));
        let moves = rule.status.is_none() && rule.duties == RoleAction::Move;
        failed && moves && rule.is_on(&self.state.settings)
    }
}

/// A duty and its holder, as the planner sees them.
struct Facts<'a> {
    present: Option<&'a Assignment>,
    target: Option<Target<'a>>,
    /// The target is the present holder, in its incarnation.
    in_place: bool,
    /// Its present epoch must end.
    frozen: bool,
    /// Its holder is to give up all that it has.
    out: bool,
    /// Its holder does not serve, by a sign that moves no duty.
    left_alone: bool,
    /// Milliseconds since its lease expired.
    free: Option<u64>,
}

/// The next step of a duty.
enum DutyStep {
    /// It stays as it is.
    Stay,
    /// Its holder is asked to give it back.
    Drain,
    /// It goes to its target, if it has one.
    Assign,
}

/// A condition, and the step that it leads to.
type Case = (fn(&Facts<'_>) -> bool, DutyStep);

/// The cases of a duty: the first that is true decides.
const CASES: [Case; 6] = [
    // No member has it.
    (|duty| duty.present.is_none(), DutyStep::Assign),
    // It is in its place, and nothing ends its epoch.
    (|duty| duty.in_place && !duty.frozen, DutyStep::Stay),
    // Its holder's sign moves nothing. A move that has begun goes on.
    (|duty| duty.left_alone && !duty.out && !duty.is_draining(), DutyStep::Stay),
    // No member can act in its epoch any more.
    (|duty| duty.free.is_some(), DutyStep::Assign),
    // It has another place, or is to leave this one.
    (|duty| (duty.target.is_some() || duty.out) && !duty.is_draining(), DutyStep::Drain),
    (|_| true, DutyStep::Stay),
];

impl Facts<'_> {
    fn is_draining(&self) -> bool {
        self.present.is_some_and(|present| present.draining)
    }
}

fn facts<'a>(view: &'a View, state: &'a State, policy: &'a PlannerPolicy, duty: Duty) -> Facts<'a> {
    let placing = Placing { view, state, policy, duty };
    let target = PLACES.iter().find_map(|place| place(&placing)).filter(|_| !view.may_act_solo);
    let present = state.duties.get(&duty);
    // A fact about an earlier epoch does not count: the present one has just been given, and no other node has it.
    let lease = view.leases.get(&duty).filter(|fact| present.is_some_and(|present| fact.epoch == present.epoch));
    let outdated = present.is_some_and(|present| present.draining || present.epoch.generation < state.generation);
    let holder = present.map(|present| &present.epoch.node);
    Facts {
        in_place: target.as_ref().zip(present).is_some_and(|(target, present)| {
            present.epoch.node == *target.name && present.incarnation == target.incarnation
        }),
        frozen: outdated || lease.is_some_and(|fact| fact.frozen),
        out: holder.is_some_and(|name| state.members.get(name).is_none_or(|member| !member.activated)),
        left_alone: holder.is_some_and(|name| {
            !state.serves(name) && displacement(view, state, name, |rule| rule.duties).is_none()
        }),
        free: lease.filter(|fact| !fact.held).map(|fact| idle_ms(view, fact.acted)),
        present,
        target,
    }
}

pub(super) fn duty(view: &View, state: &State, policy: &PlannerPolicy, duty: Duty) -> Option<Command> {
    let facts = facts(view, state, policy, duty);
    let (_, step) = CASES.iter().find(|(is_so, _)| is_so(&facts))?;
    match step {
        DutyStep::Stay => None,
        DutyStep::Drain => Some(Command::Drain { duty, epoch: facts.present?.epoch.clone() }),
        DutyStep::Assign => {
            let target = facts.target.as_ref()?;
            let cause = facts.present.map_or(Cause::Start, |present| cause_of_move(view, state, present, target));
            let reason = MoveReason { cause, at_ms: view.wall_ms, idle_ms: facts.free.unwrap_or(0) };
            let from = facts.present.map(|present| present.epoch.clone());
            Some(Command::Assign { duty, from, to: target.name.clone(), incarnation: target.incarnation, reason })
        }
    }
}

/// Cause for which a duty moves: its holder's sign, its placement, or the publisher's move.
fn cause_of_move(view: &View, state: &State, present: &Assignment, target: &Target<'_>) -> Cause {
    let node = &present.epoch.node;
    if !state.serves(node)
        && let Some(cause) = displacement(view, state, node, |rule| rule.duties)
    {
        return cause;
    }
    if node == target.name {
        return if present.incarnation == target.incarnation { Cause::Renewal } else { Cause::Exit };
    }
    let last = state.moves.iter().rev().find(|m| m.object == MoveObject::Publisher && m.to == *target.name);
    target.cause.clone().or_else(|| last.map(|m| m.cause.clone())).unwrap_or(Cause::Start)
}
