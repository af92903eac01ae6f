//! Members going into and out of service, and the signs for it.

use std::time::Duration;

use twinbox_ids::NodeName;

use crate::{
    Cause, Command, Duty, FeatureLevels, Member, MemberKind, MemberObservation, MoveCondition, PlannerPolicy,
    Presence, ServiceHealth, Sign, State, Status, View, rule_for, state::shortened,
};

/// Status changes of members. When a split has just ended (`healing`), a node that is well serves immediately: only the
/// split kept it out, and the preferred node must not lose the role because the others had no contact with it.
pub(super) fn statuses(view: &View, state: &State, policy: &PlannerPolicy, healing: bool) -> Vec<Command> {
    let mut wanted = Vec::new();
    let mut failed = Vec::new();
    let mut recovering = Vec::new();
    for (name, member) in state.members.iter().filter(|(_, member)| member.activated) {
        let Some(observed) = view.observed.get(name) else { continue };
        match judge(member, observed, view.now, policy) {
            NewStatus::Stay => {}
            // It serves whatever happens to the others, and counts as serving (rule P5).
            NewStatus::Recovering if healing && member.status == Status::NotFunctioning => {
                wanted.push((name, member, observed, Status::InService, String::new()));
            }
            NewStatus::Recovering => recovering.push((name, member, observed)),
            NewStatus::Be(status, reason) => wanted.push((name, member, observed, status, shortened(reason))),
            NewStatus::Fail(reason) => failed.push((name, member, observed, shortened(reason))),
        }
    }
    // Nodes that fail leave service one by one, the publisher last, as long as another serves (rule R9).
    failed.sort_by_key(|(name, member, ..)| (member.serves(), Some(*name) == state.publisher(), *name));
    let serving = |name: &NodeName, member: &Member| match wanted.iter().find(|(n, ..)| *n == name) {
        Some((_, _, _, status, _)) => member.kind == MemberKind::Node && *status == Status::InService,
        None => member.serves(),
    };
    let mut left = state.members.iter().filter(|(name, member)| serving(name, member)).count();
    let rule = rule_for(Sign::ServiceFailed);
    let awaits_another = rule.waits == MoveCondition::GraceAndAnother;
    // If no node would serve, one failed node serves as far as it can, whichever failed first. Recovering nodes first.
    let last = if awaits_another && left == 0 && recovering.is_empty() { failed.pop() } else { None };
    wanted
        .extend(last.map(|(name, member, observed, _)| (name, member, observed, Status::InService, String::new())));
    for (name, member, observed, reason) in failed {
        if member.serves() && awaits_another && left < 2 {
            continue;
        }
        left -= usize::from(member.serves());
        wanted.push((name, member, observed, rule.status.unwrap_or(member.status), reason));
    }
    // If no other node serves, one that is well serves immediately.
    let serve_now = recovering.into_iter().filter(|_| left == 0);
    wanted.extend(serve_now.map(|(n, m, s)| (n, m, s, Status::InService, String::new())));
    wanted
        .into_iter()
        .filter(|(_, member, observed, status, reason)| {
            let incarnation = observed.incarnation.or(member.incarnation);
            member.status != *status || member.incarnation != incarnation || member.reason != *reason
        })
        .map(|(name, member, observed, status, reason)| Command::SetStatus {
            name: name.clone(),
            revision: member.revision,
            status,
            incarnation: observed.incarnation.or(member.incarnation),
            reason,
            cause: match status {
                Status::InService => Cause::Start,
                _ => sign(member, observed).map_or(Cause::Start, |sign| cause(sign, observed)),
            },
        })
        .collect()
}

enum NewStatus {
    Stay,
    Be(Status, String),
    /// Well again, but not long enough.
    Recovering,
    /// Out of service for a failed service, unless no other node serves.
    Fail(String),
}

fn judge(member: &Member, observed: &MemberObservation, now: Duration, policy: &PlannerPolicy) -> NewStatus {
    let be = |sign: Sign, reason: &str| {
        let status = rule_for(sign).status.unwrap_or(member.status);
        NewStatus::Be(status, reason.to_owned())
    };
    // A member refused for its feature levels is live all the same; its reason shows that.
    let or = |reason: &str| match observed.unfit {
        Some(FeatureLevels { min, max }) => {
            format!(
                "its program supports the feature levels {min} to {max}: install one that supports the cluster's"
            )
        }
        None => reason.to_owned(),
    };
    match observed.presence {
        Presence::Unknown => return NewStatus::Stay,
        Presence::Silent => return be(Sign::Silent, &or("no message from it for longer than its lease")),
        Presence::Left => return be(Sign::Left, &or("it has been shut down")),
        Presence::Exited => return be(Sign::Exited, &or("its process has exited")),
        Presence::Live => {}
    }
    let same_incarnation = member.incarnation == observed.incarnation;
    let so_far = now.saturating_sub(observed.health_since);
    let in_service = NewStatus::Be(Status::InService, String::new());
    if member.kind == MemberKind::Witness {
        return in_service;
    }
    let Some(all) = &observed.failing else {
        return match same_incarnation && matches!(member.status, Status::InService | Status::Recovering) {
            true => NewStatus::Stay,
            false => be(Sign::Restarted, "it has not reported on its services yet"),
        };
    };
    let failing: Vec<_> = all.iter().filter(|service| Duty::from_name(&service.name).is_none()).collect();
    if failing.is_empty() {
        let behind = observed.report.measures.is_far_behind();
        let fresh = !same_incarnation || matches!(member.status, Status::Starting | Status::Replicating);
        return match member.status {
            Status::Recovering if same_incarnation && (behind || observed.report.solo.is_some()) => {
                NewStatus::Recovering
            }
            Status::NotFunctioning if same_incarnation && so_far < policy.settle => NewStatus::Recovering,
            _ if fresh && behind => NewStatus::Be(Status::Replicating, "it is copying the others' data".to_owned()),
            _ => in_service,
        };
    }
    match so_far >= rule_for(Sign::ServiceFailed).waits.time(policy) {
        true => NewStatus::Fail(failure_text(&failing)),
        false if same_incarnation => NewStatus::Stay,
        false => NewStatus::Be(Status::Starting, failure_text(&failing)),
    }
}

fn failure_text(failing: &[&ServiceHealth]) -> String {
    let each = failing.iter().map(|service| match service.detail.is_empty() {
        true => format!("{} has failed", service.name),
        false => format!("{} has failed: {}", service.name, service.detail),
    });
    each.collect::<Vec<_>>().join("; ")
}

/// Sign of a member that does not serve; none if it is about to serve again automatically.
pub(super) fn sign(member: &Member, observed: &MemberObservation) -> Option<Sign> {
    match (member.status, observed.presence) {
        (Status::Leaving, _) => Some(Sign::Removed),
        _ if !member.activated => Some(Sign::Deactivated),
        (_, Presence::Unknown) => None,
        (_, Presence::Silent) => Some(Sign::Silent),
        (_, Presence::Left) => Some(Sign::Left),
        (_, Presence::Exited) => Some(Sign::Exited),
        (_, Presence::Live) => match &observed.failing {
            None => Some(Sign::Restarted),
            Some(_) if member.incarnation != observed.incarnation => Some(Sign::Restarted),
            Some(failing) if failing.iter().any(|service| Duty::from_name(&service.name).is_none()) => {
                Some(Sign::ServiceFailed)
            }
            Some(_) if matches!(member.status, Status::Recovering) => Some(Sign::RanSolo),
            // It copies the others' data, as long as that takes.
            Some(_) if member.status == Status::Replicating => Some(Sign::Restarted),
            Some(_) => None,
        },
    }
}

/// Cause of the changes that follow from a sign.
pub(super) fn cause(sign: Sign, observed: &MemberObservation) -> Cause {
    match sign {
        Sign::Ordered | Sign::Deactivated | Sign::Removed => Cause::Operator,
        Sign::Left => Cause::Shutdown,
        Sign::Silent => Cause::MissedKeepAlives,
        Sign::Exited | Sign::Restarted => Cause::Exit,
        Sign::ServiceFailed => match first_failing(observed) {
            Some("space") => Cause::Space,
            Some(service) => Cause::Service(service.to_owned()),
            None => Cause::Service(String::new()),
        },
        Sign::DutyFailed => Cause::Service(String::new()),
        Sign::SpaceLow => Cause::Space,
        Sign::CpuHigh => Cause::Cpu,
        Sign::AlarmOften => Cause::Alarm(String::new()),
        Sign::WindowOpen => Cause::Failback,
        Sign::RanSolo => Cause::Heal,
    }
}

/// Whether the settings let this sign move roles. A process that has exited counts as silent, too, once the end of its
/// lease has come for which that row waits.
pub(super) fn is_on(state: &State, sign: Sign, observed: &MemberObservation) -> bool {
    let is_allowed = |sign: Sign| rule_for(sign).is_on(&state.settings);
    let is_silent = observed.lease_expired || rule_for(Sign::Silent).waits != MoveCondition::LeaseEnd;
    match sign {
        Sign::Exited => is_allowed(sign) || (is_silent && is_allowed(Sign::Silent)),
        Sign::ServiceFailed if first_failing(observed) == Some("space") => is_allowed(Sign::SpaceLow),
        _ => is_allowed(sign),
    }
}

fn first_failing(observed: &MemberObservation) -> Option<&str> {
    let mut failing = observed.failing.iter().flatten().map(|service| service.name.as_str());
    failing.find(|name| Duty::from_name(name).is_none())
}
