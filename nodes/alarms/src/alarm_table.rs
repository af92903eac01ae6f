//! Alarms of one node: effect of a report on an alarm, and choice of its record. Pure.

use std::time::Duration;

use twinbox_ids::{NodeName, Timestamp};

use crate::{
    ClearingRule, Code,
    alarm::{Alarm, AlarmId},
    inbox::PendingAlarm,
    schema::{ALARMS_OF_A_CODE, ALARMS_OF_A_NODE},
};

/// Minimum interval between writes of the count of an alarm that is already raised.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// Alarms of this node.
#[derive(Debug)]
pub struct AlarmTable {
    node: NodeName,
    alarms: Vec<Alarm>,
}

/// Action that a report requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportOutcome {
    /// Nothing.
    Nothing,
    /// Repeat the report later: only the count has changed, and it was written recently.
    Later,
    /// Write the alarm.
    Write {
        /// New state of the alarm.
        alarm: Box<Alarm>,
        /// Whether it was raised, or happened.
        raised: bool,
        /// Whether it was cleared.
        cleared: bool,
    },
}

impl AlarmTable {
    /// Creates the table with the stored alarms.
    pub fn new(node: NodeName, alarms: Vec<Alarm>) -> Self {
        Self { node, alarms }
    }

    /// The alarms.
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Whether this report raises an alarm that is not raised, or repeats an event alarm: such raises go to the
    /// outside and have a budget.
    pub fn would_raise(&self, code: Code, subject: &str, pending: &PendingAlarm) -> bool {
        pending.raised > 0
            && self.find(code, subject).is_none_or(|alarm| {
                alarm.cleared.is_some() || code.clearing_rule() == ClearingRule::WhenAcknowledged
            })
    }

    fn find(&self, code: Code, subject: &str) -> Option<&Alarm> {
        self.alarms.iter().find(|alarm| alarm.code == Some(code) && alarm.subject == subject)
    }

    /// Applies a report for a code and subject.
    pub fn apply(&mut self, code: Code, subject: &str, pending: &PendingAlarm, now: Timestamp) -> ReportOutcome {
        let mut alarm = match self.find(code, subject) {
            Some(alarm) => alarm.clone(),
            None if pending.raised == 0 => return ReportOutcome::Nothing,
            None => {
                let slot = self.slot_for(code);
                Alarm::new(self.node.clone(), slot, AlarmId::random(), code, subject.to_owned(), pending.at)
            }
        };
        let raises = self.would_raise(code, subject, pending);
        if pending.raised > 0 {
            // A clock that was set back must not stop the counting.
            let since = Duration::from_millis(now.0.abs_diff(alarm.seen.0));
            if !raises && !pending.cleared && since < COUNT_INTERVAL {
                return ReportOutcome::Later;
            }
            alarm.count = alarm.count.saturating_add(pending.raised);
            alarm.detail.clone_from(&pending.detail);
            alarm.seen = pending.at;
            if raises {
                alarm.raises = alarm.raises.saturating_add(1);
                alarm.raised = pending.at;
                alarm.cleared = None;
                alarm.acknowledged = None;
            }
        }
        let cleared = pending.cleared && alarm.cleared.is_none() && code.clearing_rule() == ClearingRule::WhenEnded;
        if cleared {
            alarm.cleared = Some(pending.at);
        }
        if pending.raised == 0 && !cleared {
            return ReportOutcome::Nothing;
        }
        self.alarms.retain(|other| other.slot != alarm.slot);
        self.alarms.push(alarm.clone());
        ReportOutcome::Write { alarm: Box::new(alarm), raised: raises, cleared }
    }

    /// Free record, or the record of the most expendable alarm: a cleared alarm first, then an acknowledged one,
    /// then an event alarm; among those the lowest severity and oldest. A code that has used its share gives up one
    /// of its own.
    fn slot_for(&self, code: Code) -> u16 {
        let expendability = |alarm: &&Alarm| {
            let rule = alarm.code.map(Code::clearing_rule);
            let rank = match (alarm.cleared, &alarm.acknowledged, rule) {
                (Some(_), ..) => 0,
                (None, Some(_), _) => 1,
                (None, None, Some(ClearingRule::WhenAcknowledged)) => 2,
                _ => 3,
            };
            (rank, alarm.code.map(Code::severity), alarm.seen)
        };
        let own = || self.alarms.iter().filter(|alarm| alarm.code == Some(code));
        let free = (0..ALARMS_OF_A_NODE).find(|slot| self.alarms.iter().all(|alarm| alarm.slot != *slot));
        let reused = match free {
            _ if own().count() >= ALARMS_OF_A_CODE => own().min_by_key(expendability),
            Some(free) => return free,
            None => self.alarms.iter().min_by_key(expendability),
        };
        reused.map_or(0, |alarm| alarm.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> AlarmTable {
        AlarmTable::new("a".parse().expect("a name"), Vec::new())
    }

    fn raised(count: u64, at: u64) -> PendingAlarm {
        PendingAlarm { raised: count, at: Timestamp(at), detail: format!("at {at}"), cleared: false }
    }

    fn cleared(at: u64) -> PendingAlarm {
        PendingAlarm { raised: 0, at: Timestamp(at), detail: String::new(), cleared: true }
    }

    /// Fields of a written alarm: count, raises, cleared, reported as raised, reported as cleared.
    fn written(outcome: ReportOutcome) -> Option<(u64, u64, bool, bool, bool)> {
        match outcome {
            ReportOutcome::Write { alarm, raised, cleared } => {
                Some((alarm.count, alarm.raises, alarm.cleared.is_some(), raised, cleared))
            }
            ReportOutcome::Nothing | ReportOutcome::Later => None,
        }
    }

    #[test]
    fn repeated_raises_increase_the_count_of_one_alarm() {
        let mut table = table();
        let mut apply = |pending: PendingAlarm| {
            let now = pending.at;
            (written(table.apply(Code::Space, "a", &pending, now)), table.alarms().len())
        };
        assert_eq!(apply(cleared(1)), (None, 0));
        assert_eq!(apply(raised(3, 1_000)), (Some((3, 1, false, true, false)), 1));
        assert_eq!(apply(raised(5, 2_000)), (None, 1), "the count is written later");
        assert_eq!(apply(raised(7, 90_000)), (Some((10, 1, false, false, false)), 1));
        assert_eq!(apply(cleared(95_000)), (Some((10, 1, true, false, true)), 1));
        assert_eq!(apply(cleared(96_000)), (None, 1));
        assert_eq!(apply(raised(1, 97_000)), (Some((11, 2, false, true, false)), 1));
        let both = PendingAlarm { cleared: true, ..raised(1, 98_000) };
        assert_eq!(apply(both), (Some((12, 2, true, false, true)), 1));
    }

    #[test]
    fn event_alarm_is_raised_each_time_and_is_not_cleared_automatically() {
        let mut table = table();
        for (n, at) in [(1, 1_000), (2, 1_001)] {
            let outcome = table.apply(Code::RoleMoved, "publisher", &raised(1, at), Timestamp(at));
            assert_eq!(written(outcome), Some((n, n, false, true, false)));
        }
        assert_eq!(
            table.apply(Code::RoleMoved, "publisher", &cleared(2_000), Timestamp(2_000)),
            ReportOutcome::Nothing
        );
        assert_eq!(table.alarms().len(), 1);
    }

    #[test]
    fn flood_of_one_code_uses_only_its_share_of_slots() {
        let mut table = table();
        table.apply(Code::Clock, "kept", &raised(1, 1), Timestamp(1));
        for n in 0..10_000_u64 {
            table.apply(Code::DeadLetter, &n.to_string(), &raised(1, n), Timestamp(n));
        }
        assert_eq!(table.alarms().len(), ALARMS_OF_A_CODE + 1);
        for code in Code::ALL {
            for n in 0..200_u64 {
                table.apply(*code, &n.to_string(), &raised(1, n), Timestamp(n));
            }
        }
        assert_eq!(table.alarms().len(), usize::from(ALARMS_OF_A_NODE));
        let mut slots: Vec<u16> = table.alarms().iter().map(|alarm| alarm.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), usize::from(ALARMS_OF_A_NODE), "each alarm has its own slot");
    }

    #[test]
    fn cleared_alarm_is_replaced_first() {
        let mut table = table();
        for n in 0..ALARMS_OF_A_CODE as u64 {
            table.apply(Code::Cpu, &n.to_string(), &raised(1, n), Timestamp(n));
        }
        table.apply(Code::Cpu, "7", &cleared(1_000), Timestamp(1_000));
        table.apply(Code::Cpu, "new", &raised(1, 1_001), Timestamp(1_001));
        let has = |subject: &str| table.alarms().iter().any(|alarm| alarm.subject == subject);
        assert!(has("new") && has("0") && !has("7"));
    }
}
