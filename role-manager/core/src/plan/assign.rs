//! Placement of the role of publisher and of the duties.

use std::{cmp::Reverse, time::Duration};

use twinbox_ids::{Epoch, Incarnation, NodeName};

use super::status;
use crate::{
    Cause, Command, Duty, MemberObservation, MoveObject, MoveReason, PlannerPolicy, Presence, RoleAction, Sign,
    State, Trigger, View, rule_for, soft,
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

/// The incarnation in which a node could take this duty now. Each duty has its own conditions, in addition to the
/// feature level.
fn eligible(view: &View, state: &State, duty: Duty, name: &NodeName) -> Option<Incarnation> {
    let knows = view.observed.get(name).is_some_and(|observed| observed.report.feature_levels.max >= duty.level());
    let incarnation = match duty {
        // Any node in service can run it.
        Duty::Notifier | Duty::Mta | Duty::MailboxSync | Duty::DirectorySync | Duty::Timetable => {
            candidate(view, state, name)
        }
    };
    incarnation.filter(|_| knows)
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

/// Cause that moves the role and duties off a holder that does not serve.
fn displacement(view: &View, state: &State, name: &NodeName) -> Option<Cause> {
    let Some(member) = state.members.get(name) else { return Some(Cause::Operator) };
    let observed = view.observed.get(name)?;
    let sign = status::sign(member, observed)?;
    let moves = rule_for(sign).publisher == RoleAction::Move && status::is_on(state, sign, observed);
    moves.then(|| status::cause(sign, observed))
}

/// The role moves if its holder does not serve, or if a better place is due.
pub(super) fn publisher(view: &View, state: &State, policy: &PlannerPolicy) -> Option<Command> {
    let (to, cause) = match state.publisher() {
        None => (elect(view, state)?, Cause::Start),
        Some(present) if state.serves(present) => {
            overloaded(view, state, policy, present).or_else(|| failback(view, state, policy, present))?
        }
        Some(present) => {
            let cause = displacement(view, state, present)?;
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

/// Whether the role has stayed long enough to move for a soft trigger.
fn damping_is_over(view: &View, state: &State, policy: &PlannerPolicy) -> bool {
    let soft = |cause: &Cause| matches!(cause, Cause::Space | Cause::Cpu | Cause::Alarm(_) | Cause::Failback);
    let recent = state.moves.iter().filter(|m| m.object == MoveObject::Publisher && soft(&m.cause));
    let recent = recent.filter(|m| view.wall_ms.abs_diff(m.at_ms) < HOUR_MS).count();
    let doublings = u32::try_from(recent).unwrap_or(MOST_DOUBLINGS).min(MOST_DOUBLINGS);
    let stays = policy.damping * 2_u32.pow(doublings);
    // The known epoch is another one: the role has only just moved.
    let known = view.publisher_since.as_ref().filter(|(epoch, _)| state.publisher.as_ref() == Some(epoch));
    known.is_some_and(|(_, since)| view.now.saturating_sub(*since) >= stays)
}

/// A soft trigger on the publisher, and a node that is better on the same measure.
fn overloaded(view: &View, state: &State, policy: &PlannerPolicy, present: &NodeName) -> Option<(NodeName, Cause)> {
    let ours = view.observed.get(present)?;
    let signs = [Sign::SpaceLow, Sign::CpuHigh, Sign::AlarmOften];
    for sign in signs {
        let rule = rule_for(sign);
        let Some(trigger) = rule.trigger.filter(|_| rule.publisher == RoleAction::MoveToBetter) else { continue };
        let bad_for = ours.bad.get(&trigger).map(|since| view.now.saturating_sub(*since));
        let due = bad_for.is_some_and(|passed| passed >= policy.damping) && state.settings.is_on(trigger);
        if !due || !damping_is_over(view, state, policy) {
            continue;
        }
        let better = |name: &&NodeName| {
            let theirs = view.observed.get(*name).map(|observed| &observed.report.measures);
            let measures = theirs.filter(|_| candidate(view, state, name).is_some());
            *name != present
                && has_no_bad_measure(view, state, name)
                && measures.is_some_and(|theirs| {
                    !theirs.is_far_behind()
                        && soft::is_better(trigger, theirs, &ours.report.measures, &state.settings)
                })
        };
        if let Some(to) = state.members.keys().find(better) {
            let cause = match (trigger, &state.settings.alarm_rule) {
                (Trigger::Alarm, Some(rule)) => Cause::Alarm(rule.code.clone()),
                _ => status::cause(sign, ours),
            };
            return Some((to.clone(), cause));
        }
    }
    None
}

/// Whether no measure of this node is bad that would move the role off it again.
fn has_no_bad_measure(view: &View, state: &State, name: &NodeName) -> bool {
    let observed = view.observed.get(name);
    observed.is_some_and(|observed| observed.bad.keys().all(|trigger| !state.settings.is_on(*trigger)))
}

/// Return to the preferred node, within its window, after that node has been well for a while.
fn failback(view: &View, state: &State, policy: &PlannerPolicy, present: &NodeName) -> Option<(NodeName, Cause)> {
    let to = state.settings.preferred.as_ref().filter(|to| *to != present)?;
    let minute = u16::try_from(view.wall_ms / MINUTE_MS % MINUTES_A_DAY).ok()?;
    let observed = view.observed.get(to)?;
    let well = view.now.saturating_sub(observed.health_since) >= policy.damping;
    let fit = well && !observed.report.measures.is_far_behind() && has_no_bad_measure(view, state, to);
    let due = state.settings.failback.is_open(minute) && candidate(view, state, to).is_some();
    (due && fit && damping_is_over(view, state, policy))
        .then(|| (to.clone(), status::cause(Sign::WindowOpen, observed)))
}

/// Place for a duty, and the cause for which it would go there.
struct Target<'a> {
    name: &'a NodeName,
    incarnation: Incarnation,
    cause: Option<Cause>,
}

/// Whether a node's own part of a duty has failed for the grace time.
fn has_failed(observed: &MemberObservation, duty: Duty, now: Duration, policy: &PlannerPolicy) -> bool {
    let known = observed.duties.get(&duty);
    known.is_some_and(|(works, since)| !works && now.saturating_sub(*since) >= policy.health_grace)
}

/// Place for a duty: where it is pinned, or was moved to, or with the publisher; elsewhere only if its part there has
/// failed. None if no node can take it.
fn target<'a>(view: &'a View, state: &'a State, policy: &PlannerPolicy, duty: Duty) -> Option<Target<'a>> {
    let holder = state.duties.get(&duty).map(|a| &a.epoch.node);
    let fit = |name: &NodeName| {
        let observed = view.observed.get(name)?;
        let works = !has_failed(observed, duty, view.now, policy);
        // A node whose part has recovered only recently does not take the duty from one where it works.
        let back = observed.duties.get(&duty).is_some_and(|(works, since)| {
            *works && observed.health_since < *since && view.now.saturating_sub(*since) < policy.damping
        });
        eligible(view, state, duty, name).filter(|_| works && (!back || holder == Some(name)))
    };
    let on =
        |name: &'a NodeName, cause: Option<Cause>| fit(name).map(|incarnation| Target { name, incarnation, cause });
    let pinned = || on(state.settings.pins.get(&duty)?, Some(Cause::Pin));
    let placed = || on(state.placed.get(&duty)?, Some(Cause::Operator));
    let published = || on(state.publisher()?, None);
    let stays = || holder.and_then(|name| on(name, None));
    let failed = || {
        let service = Some(Cause::Service(duty.name().to_owned()));
        let publisher = state.publisher().filter(|name| eligible(view, state, duty, name).is_some())?;
        let elsewhere =
            state.members.keys().filter(|name| *name != publisher).find_map(|name| on(name, service.clone()));
        elsewhere.or_else(|| {
            let incarnation = eligible(view, state, duty, publisher)?;
            Some(Target { name: publisher, incarnation, cause: service })
        })
    };
    pinned().or_else(placed).or_else(published).or_else(|| state.publisher().and_then(|_| stays())).or_else(failed)
}

pub(super) fn duty(view: &View, state: &State, policy: &PlannerPolicy, duty: Duty) -> Option<Command> {
    let found = target(view, state, policy, duty).filter(|_| !view.may_act_solo);
    let assign = |from: Option<&Epoch>, cause: Cause, idle: u64| {
        let target = found.as_ref()?;
        let reason = MoveReason { cause, at_ms: view.wall_ms, idle_ms: idle };
        let (to, incarnation) = (target.name.clone(), target.incarnation);
        Some(Command::Assign { duty, from: from.cloned(), to, incarnation, reason })
    };
    let Some(present) = state.duties.get(&duty) else { return assign(None, Cause::Start, 0) };
    let node = &present.epoch.node;
    // A fact about an earlier epoch does not count: the present one has just been given, and no other node has it.
    let fact = view.leases.get(&duty).filter(|fact| fact.epoch == present.epoch);
    let held = fact.is_some_and(|fact| fact.held);
    let outdated = present.epoch.generation < state.generation;
    let frozen = fact.is_some_and(|fact| fact.frozen) || present.draining || outdated;
    let in_place = found
        .as_ref()
        .is_some_and(|target| present.epoch.node == *target.name && present.incarnation == target.incarnation);
    let out = state.members.get(node).is_none_or(|member| !member.activated);
    if in_place && !frozen {
        return None;
    }
    // A holder that does not serve keeps its duty if its sign moves nothing. A move that has begun goes on.
    if !state.serves(node) && !out && !present.draining && displacement(view, state, node).is_none() {
        return None;
    }
    match (held, fact) {
        (false, Some(fact)) => {
            let cause = cause_of_move(view, state, present, found.as_ref()?);
            assign(Some(&present.epoch), cause, idle_ms(view, fact.acted))
        }
        _ if (found.is_some() || out) && !present.draining => {
            Some(Command::Drain { duty, epoch: present.epoch.clone() })
        }
        _ => None,
    }
}

/// Cause for which a duty moves: its holder's sign, its placement, or the publisher's move.
fn cause_of_move(view: &View, state: &State, present: &crate::Assignment, target: &Target<'_>) -> Cause {
    let node = &present.epoch.node;
    if !state.serves(node)
        && let Some(cause) = displacement(view, state, node)
    {
        return cause;
    }
    if node == target.name {
        return if present.incarnation == target.incarnation { Cause::Renewal } else { Cause::Exit };
    }
    let last = state.moves.iter().rev().find(|m| m.object == MoveObject::Publisher && m.to == *target.name);
    target.cause.clone().or_else(|| last.map(|m| m.cause.clone())).unwrap_or(Cause::Start)
}
