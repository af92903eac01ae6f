//! The planner's policy as a table: signs of a node and their consequences. The planner acts by these rows, and the
//! documentation shows them.

use std::{fmt, time::Duration};

use crate::{LeaseTiming, Status, Timing, Trigger};

/// Parameters of the planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannerPolicy {
    /// Time for which a critical service must have failed before its node is taken out of service.
    pub health_grace: Duration,
    /// Time for which a node taken out of service must have been well before it is in service again.
    pub settle: Duration,
    /// Time for which a measure must have been bad, or a preferred node well, before the role moves for it; also the
    /// minimum time that the role stays after such a move.
    pub damping: Duration,
    /// The pace of leases by the timing profile.
    pub lease_timing: LeaseTiming,
}

impl From<Timing> for PlannerPolicy {
    fn from(timing: Timing) -> Self {
        let Timing { health_grace, settle, damping, .. } = timing;
        Self { health_grace, settle, damping, lease_timing: timing.lease_timing() }
    }
}

/// Sign of a node that holds the role or a duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sign {
    /// It was made publisher by an order.
    Ordered,
    /// An administrator has taken it out.
    Deactivated,
    /// An administrator removes it.
    Removed,
    /// It has shut down in an orderly way.
    Left,
    /// No message of it for a lease.
    Silent,
    /// Its process has exited.
    Exited,
    /// Its next incarnation has started.
    Restarted,
    /// One of its critical services fails.
    ServiceFailed,
    /// Its own part of one duty fails.
    DutyFailed,
    /// Low disk space.
    SpaceLow,
    /// Its processor has been busy for long.
    CpuHigh,
    /// The alarm of the alarm rule was raised on it.
    AlarmOften,
    /// The preferred node is well, and its window is open.
    WindowOpen,
    /// It ran solo in a split.
    RanSolo,
}

/// Consequence for the role or for duties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleAction {
    /// They stay.
    Stay,
    /// They go to another node in service.
    Move,
    /// They go only to a node that is better on the same measure.
    MoveToBetter,
    /// They follow the publisher.
    Follow,
}

impl fmt::Display for RoleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stay => "stays",
            Self::Move => "moves",
            Self::MoveToBetter => "moves to a better node",
            Self::Follow => "follow",
        })
    }
}

/// One row of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The sign.
    pub sign: Sign,
    /// The sign as text.
    pub when: &'static str,
    /// The trigger that must be on for the row to move roles.
    pub trigger: Option<Trigger>,
    /// The node's new status; none if it stays.
    pub status: Option<Status>,
    /// Consequence for the role of publisher if the node has it.
    pub publisher: RoleAction,
    /// Consequence for its duties.
    pub duties: RoleAction,
    /// Condition that the move waits for.
    pub waits: &'static str,
}

const fn rule(
    sign: Sign,
    when: &'static str,
    trigger: Option<Trigger>,
    status: Option<Status>,
    publisher: RoleAction,
    duties: RoleAction,
    waits: &'static str,
) -> Rule {
    Rule { sign, when, trigger, status, publisher, duties, waits }
}

/// The policy: a sign, its trigger, the node's new status, the role, the duties, and what a move waits for.
#[rustfmt::skip]
pub const RULES: [Rule; 14] = {
    use RoleAction::{Follow, Move, MoveToBetter, Stay};
    use Status::{Deactivated, Leaving, NotFunctioning, Recovering, Starting};
    [
        rule(Sign::Ordered, "`make-publisher` names another node",
            Some(Trigger::Operator), None, Move, Follow, "the release of each duty"),
        rule(Sign::Deactivated, "`deactivate`",
            None, Some(Deactivated), Move, Move, "the release of each duty"),
        rule(Sign::Removed, "`cluster remove`",
            None, Some(Leaving), Move, Move, "the release of each duty"),
        rule(Sign::Left, "shut down in an orderly way",
            None, Some(NotFunctioning), Move, Move, "nothing"),
        rule(Sign::Silent, "no message for a lease",
            Some(Trigger::MissedKeepAlives), Some(NotFunctioning), Move, Move, "the end of its leases"),
        rule(Sign::Exited, "its supervisor reports that the process has exited",
            Some(Trigger::Exit), Some(NotFunctioning), Move, Move, "nothing"),
        rule(Sign::Restarted, "a new incarnation is active and has not reported on its services",
            Some(Trigger::Exit), Some(Starting), Move, Move, "proof that the old process has exited, or the end of its leases"),
        rule(Sign::ServiceFailed, "a critical service fails (`space`: the trigger `space`)",
            Some(Trigger::Service), Some(NotFunctioning), Move, Move, "the grace for a local restart; if no other node serves, it stays in service"),
        rule(Sign::DutyFailed, "its part of a duty fails",
            Some(Trigger::Service), None, Stay, Move, "the grace for a local restart, and a node where it works; the other duties stay"),
        rule(Sign::SpaceLow, "less than 1 GiB free",
            Some(Trigger::Space), None, MoveToBetter, Follow, "damping; a node with 2 GiB free and twice as much"),
        rule(Sign::CpuHigh, "processors 90 % busy",
            Some(Trigger::Cpu), None, MoveToBetter, Follow, "damping; a node at 70 % or less"),
        rule(Sign::AlarmOften, "the alarm of `alarm-rule` was raised as often as the rule says",
            Some(Trigger::Alarm), None, MoveToBetter, Follow, "damping; a node with half as many or fewer"),
        rule(Sign::WindowOpen, "`failback scheduled`: its window is open and the preferred node is well",
            None, None, Move, Follow, "damping, then the release of each duty"),
        rule(Sign::RanSolo, "two nodes that ran solo (`assume`) are connected again",
            None, Some(Recovering), Move, Move, "both have stopped; the preferred node wins"),
    ]
};

/// The row for a sign.
pub fn rule_for(sign: Sign) -> &'static Rule {
    // Every sign has a row; a test checks all of them.
    RULES.iter().find(|rule| rule.sign == sign).unwrap_or(&RULES[0])
}

/// The policy as a table in Markdown, as the documentation shows it.
pub fn policy_table() -> String {
    let mut table = String::from(
        "| condition observed | trigger | its status becomes | publisher | duties | waits for |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for rule in &RULES {
        let trigger = rule.trigger.map_or("always".to_owned(), |trigger| format!("`{trigger}`"));
        let status = rule.status.map_or("unchanged".to_owned(), |status| format!("`{status}`"));
        let duties = match rule.duties {
            RoleAction::Stay => "stay",
            RoleAction::Move => "move",
            RoleAction::MoveToBetter => "move to a better node",
            RoleAction::Follow => "follow",
        };
        let Rule { when, publisher, waits, .. } = rule;
        table.push_str(&format!("| {when} | {trigger} | {status} | {publisher} | {duties} | {waits} |\n"));
    }
    table
}
