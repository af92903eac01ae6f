//! The planner's policy as a table: signs of a node and their consequences. The planner acts by these rows, and the
//! documentation shows them. Only [`Rule::when`] is for people alone.

use std::{fmt, time::Duration};

use crate::{LeaseTiming, RoleSettings, Status, Timing, Trigger};

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

/// Condition that a move waits for. It makes a move later, never earlier than safe: no duty is assigned while a lease of it
/// may run (rule R4), whatever its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MoveCondition {
    /// Nothing: its release or exit proof ends a lease immediately.
    Nothing,
    /// The release of each duty by its holder. Without one, the end of the lease.
    Release,
    /// The end of its leases.
    LeaseEnd,
    /// Proof that the old process has exited. Without one, the end of its leases.
    ExitProof,
    /// The grace for a local restart, and another node that serves.
    GraceAndAnother,
    /// The grace for a local restart, and a node where the duty works.
    GraceAndWorkingPlace,
    /// Damping, and a node with more free space.
    MoreSpace,
    /// Damping, and a node with less load.
    LessLoad,
    /// Damping, and a node with fewer alarms.
    FewerAlarms,
    /// Damping; then the duties follow as after an order.
    DampingAndRelease,
    /// Both nodes have stopped.
    BothStopped,
}

impl MoveCondition {
    /// Time for which the sign must have lasted.
    pub(crate) fn time(self, policy: &PlannerPolicy) -> Duration {
        match self {
            Self::GraceAndAnother | Self::GraceAndWorkingPlace => policy.health_grace,
            Self::MoreSpace | Self::LessLoad | Self::FewerAlarms | Self::DampingAndRelease => policy.damping,
            Self::Nothing | Self::Release | Self::LeaseEnd | Self::ExitProof | Self::BothStopped => Duration::ZERO,
        }
    }

    /// Whether the holder's release of a duty ends its lease.
    pub(crate) fn is_met_by_release(self) -> bool {
        !matches!(self, Self::LeaseEnd | Self::ExitProof)
    }

    /// Whether the proof that the holder's process has exited ends its leases.
    pub(crate) fn is_met_by_exit(self) -> bool {
        matches!(self, Self::Nothing | Self::ExitProof)
    }
}

impl fmt::Display for MoveCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Release => "the release of each duty",
            Self::LeaseEnd => "the end of its leases",
            Self::ExitProof => "proof that the old process has exited, or the end of its leases",
            Self::GraceAndAnother => "the grace for a local restart; if no other node serves, it stays in service",
            Self::GraceAndWorkingPlace => {
                "the grace for a local restart, and a node where it works; the other duties stay"
            }
            Self::MoreSpace => "damping; a node with 2 GiB free and twice as much",
            Self::LessLoad => "damping; a node at 70 % or less",
            Self::FewerAlarms => "damping; a node with half as many or fewer",
            Self::DampingAndRelease => "damping, then the release of each duty",
            Self::BothStopped => "both have stopped; the preferred node wins",
        })
    }
}

/// One row of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The sign.
    pub sign: Sign,
    /// The sign as text for people. It decides nothing: the planner recognizes the sign by facts, not by a sentence.
    pub when: &'static str,
    /// The trigger that must be on for the row to move roles.
    pub trigger: Option<Trigger>,
    /// The node's new status. None if it goes on serving: the planner looks for such a sign at nodes that serve (rule R9).
    pub status: Option<Status>,
    /// Consequence for the role of publisher if the node has it.
    pub publisher: RoleAction,
    /// Consequence for its duties.
    pub duties: RoleAction,
    /// Condition that the move waits for.
    pub waits: MoveCondition,
}

impl Rule {
    /// Whether the settings let the row act.
    pub(crate) fn is_on(&self, settings: &RoleSettings) -> bool {
        self.trigger.is_none_or(|trigger| settings.is_on(trigger))
    }

    /// Whether the row moves the role off a publisher that goes on serving.
    pub(crate) fn moves_a_serving_publisher(&self) -> bool {
        self.status.is_none() && matches!(self.publisher, RoleAction::Move | RoleAction::MoveToBetter)
    }
}

const fn rule(
    sign: Sign,
    when: &'static str,
    trigger: Option<Trigger>,
    status: Option<Status>,
    publisher: RoleAction,
    duties: RoleAction,
    waits: MoveCondition,
) -> Rule {
    Rule { sign, when, trigger, status, publisher, duties, waits }
}

/// The policy: a sign, its trigger, the node's new status, the role, the duties, and what a move waits for.
///
/// The rows `Ordered`, `Deactivated`, `Removed` and `RanSolo` also say what an order or a heal does to the agreed state. All
/// members must apply these alike, so a change of such a row needs a new feature level.
#[rustfmt::skip]
pub const RULES: [Rule; 14] = {
    use MoveCondition::{
        BothStopped, DampingAndRelease, ExitProof, FewerAlarms, GraceAndAnother, GraceAndWorkingPlace, LeaseEnd, LessLoad,
        MoreSpace, Nothing, Release,
    };
    use RoleAction::{Follow, Move, MoveToBetter, Stay};
    use Status::{Deactivated, Leaving, NotFunctioning, Recovering, Starting};
    [
        rule(Sign::Ordered, "`make-publisher` names another node",
            Some(Trigger::Operator), None, Move, Follow, Release),
        rule(Sign::Deactivated, "`deactivate`",
            None, Some(Deactivated), Move, Move, Release),
        rule(Sign::Removed, "`cluster remove`",
            None, Some(Leaving), Move, Move, Release),
        rule(Sign::Left, "shut down in an orderly way",
            None, Some(NotFunctioning), Move, Move, Nothing),
        rule(Sign::Silent, "no message for a lease",
            Some(Trigger::MissedKeepAlives), Some(NotFunctioning), Move, Move, LeaseEnd),
        rule(Sign::Exited, "its supervisor reports that the process has exited",
            Some(Trigger::Exit), Some(NotFunctioning), Move, Move, Nothing),
        rule(Sign::Restarted, "a new incarnation is active and has not reported on its services",
            Some(Trigger::Exit), Some(Starting), Move, Move, ExitProof),
        rule(Sign::ServiceFailed, "a critical service fails (`space`: the trigger `space`)",
            Some(Trigger::Service), Some(NotFunctioning), Move, Move, GraceAndAnother),
        rule(Sign::DutyFailed, "its part of a duty fails",
            Some(Trigger::Service), None, Stay, Move, GraceAndWorkingPlace),
        rule(Sign::SpaceLow, "less than 1 GiB free",
            Some(Trigger::Space), None, MoveToBetter, Follow, MoreSpace),
        rule(Sign::CpuHigh, "processors 90 % busy",
            Some(Trigger::Cpu), None, MoveToBetter, Follow, LessLoad),
        rule(Sign::AlarmOften, "the alarm of `alarm-rule` was raised as often as the rule says",
            Some(Trigger::Alarm), None, MoveToBetter, Follow, FewerAlarms),
        rule(Sign::WindowOpen, "`failback scheduled`: its window is open and the preferred node is well",
            None, None, Move, Follow, DampingAndRelease),
        rule(Sign::RanSolo, "two nodes that ran solo (`assume`) are connected again",
            None, Some(Recovering), Move, Move, BothStopped),
    ]
};

/// The row for a sign.
pub fn rule_for(sign: Sign) -> &'static Rule {
    // Every sign has a row; a test checks all of them.
    RULES.iter().find(|rule| rule.sign == sign).unwrap_or(&RULES[0])
}
