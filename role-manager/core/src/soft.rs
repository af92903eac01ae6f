//! Soft triggers: bad measures, and nodes that are better on the same measure (rule R9).

use crate::{Measures, MoveCondition, RoleSettings, Trigger};

/// Free space in bytes below which the disk is low.
const LOW_SPACE: u64 = 1 << 30;
/// CPU use from which a node is overloaded, in ‰.
const BUSY: u16 = 900;
/// CPU use up to which a node can take more, in ‰.
const NOT_BUSY: u16 = 700;

/// The triggers that move the role only to a better node.
pub(crate) const SOFT: [Trigger; 3] = [Trigger::Space, Trigger::Cpu, Trigger::Alarm];

/// Whether this measure of a node is bad.
pub(crate) fn is_bad(trigger: Trigger, measures: &Measures, settings: &RoleSettings) -> bool {
    match trigger {
        Trigger::Space => measures.free_bytes.is_some_and(|free| free < LOW_SPACE),
        Trigger::Cpu => measures.cpu_permille.is_some_and(|busy| busy >= BUSY),
        Trigger::Alarm => {
            let rule = settings.alarm_rule.as_ref();
            rule.zip(measures.alarms).is_some_and(|(rule, raised)| raised >= rule.times)
        }
        Trigger::Operator | Trigger::MissedKeepAlives | Trigger::Exit | Trigger::Service => false,
    }
}

/// Whether one node is so much better than another that a move which waits for that is worthwhile. It must be good itself
/// with a reserve, so that nothing moves back.
pub(crate) fn is_better(waits: MoveCondition, theirs: &Measures, ours: &Measures, settings: &RoleSettings) -> bool {
    match waits {
        MoveCondition::MoreSpace => theirs
            .free_bytes
            .zip(ours.free_bytes)
            .is_some_and(|(theirs, ours)| theirs >= LOW_SPACE * 2 && theirs / 2 >= ours),
        MoveCondition::LessLoad => theirs.cpu_permille.is_some_and(|busy| busy <= NOT_BUSY),
        MoveCondition::FewerAlarms => {
            let rule = settings.alarm_rule.as_ref();
            rule.zip(theirs.alarms).is_some_and(|(rule, raised)| raised.saturating_mul(2) <= rule.times)
                && theirs.alarms < ours.alarms
        }
        _ => false,
    }
}
