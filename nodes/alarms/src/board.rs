//! Alarms of one node: effect of a report on an alarm, and choice of its record. Pure.

use std::time::Duration;

use twinbox_ids::{NodeName, Timestamp};

use crate::{
    Code, Course,
    alarm::{Alarm, AlarmId},
    inbox::Said,
    schema::{ALARMS_OF_A_CODE, ALARMS_OF_A_NODE},
};

/// Minimum interval between writes of the count of an alarm that is already raised.
const COUNT_EACH: Duration = Duration::from_secs(30);

/// Alarms of this node.
#[derive(Debug)]
pub struct Board {
    node: NodeName,
    alarms: Vec<Alarm>,
}

/// Action that a report requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
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

impl Board {
    /// Creates a board with the stored alarms.
    pub fn new(node: NodeName, alarms: Vec<Alarm>) -> Self {
        Self { node, alarms }
    }

    /// The alarms.
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Whether this report raises an alarm that is not raised, or repeats an event alarm: such raises go to the
    /// outside and have a budget.
    pub fn would_raise(&self, code: Code, subject: &str, said: &Said) -> bool {
        said.raised > 0
            && self
                .find(code, subject)
                .is_none_or(|alarm| alarm.cleared.is_some() || code.course() == Course::Happened)
    }

    fn find(&self, code: Code, subject: &str) -> Option<&Alarm> {
        self.alarms.iter().find(|alarm| alarm.code == Some(code) && alarm.subject == subject)
    }

    /// Applies a report for a code and subject.
    pub fn say(&mut self, code: Code, subject: &str, said: &Said, now: Timestamp) -> Outcome {
        let mut alarm = match self.find(code, subject) {
            Some(alarm) => alarm.clone(),
            None if said.raised == 0 => return Outcome::Nothing,
            None => {
                let place = self.place_for(code);
                Alarm::new(self.node.clone(), place, AlarmId::random(), code, subject.to_owned(), said.at)
            }
        };
        let raises = self.would_raise(code, subject, said);
        if said.raised > 0 {
            // A clock that was set back must not stop the counting.
            let since = Duration::from_millis(now.0.abs_diff(alarm.seen.0));
            if !raises && !said.cleared && since < COUNT_EACH {
                return Outcome::Later;
            }
            alarm.count = alarm.count.saturating_add(said.raised);
            alarm.detail.clone_from(&said.detail);
            alarm.seen = said.at;
            if raises {
                alarm.raises = alarm.raises.saturating_add(1);
                alarm.raised = said.at;
                alarm.cleared = None;
                alarm.acknowledged = None;
            }
        }
        let cleared = said.cleared && alarm.cleared.is_none() && code.course() == Course::Lasts;
        if cleared {
            alarm.cleared = Some(said.at);
        }
        if said.raised == 0 && !cleared {
            return Outcome::Nothing;
        }
        self.alarms.retain(|other| other.place != alarm.place);
        self.alarms.push(alarm.clone());
        Outcome::Write { alarm: Box::new(alarm), raised: raises, cleared }
    }

    /// Free record, or the record of the most expendable alarm: a cleared alarm first, then an acknowledged one,
    /// then an event alarm; among those the lowest severity and oldest. A code that has used its share gives up one
    /// of its own.
    fn place_for(&self, code: Code) -> u16 {
        let sparing = |alarm: &&Alarm| {
            let course = alarm.code.map(Code::course);
            let rank = match (alarm.cleared, &alarm.acknowledged, course) {
                (Some(_), ..) => 0,
                (None, Some(_), _) => 1,
                (None, None, Some(Course::Happened)) => 2,
                _ => 3,
            };
            (rank, alarm.code.map(Code::severity), alarm.seen)
        };
        let own = || self.alarms.iter().filter(|alarm| alarm.code == Some(code));
        let free = (0..ALARMS_OF_A_NODE).find(|place| self.alarms.iter().all(|alarm| alarm.place != *place));
        let spared = match free {
            _ if own().count() >= ALARMS_OF_A_CODE => own().min_by_key(sparing),
            Some(free) => return free,
            None => self.alarms.iter().min_by_key(sparing),
        };
        spared.map_or(0, |alarm| alarm.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new("a".parse().expect("a name"), Vec::new())
    }

    fn raised(count: u64, at: u64) -> Said {
        Said { raised: count, at: Timestamp(at), detail: format!("at {at}"), cleared: false }
    }

    fn cleared(at: u64) -> Said {
        Said { raised: 0, at: Timestamp(at), detail: String::new(), cleared: true }
    }

    /// Fields of a written alarm: count, raises, cleared, reported as raised, reported as cleared.
    fn written(outcome: Outcome) -> Option<(u64, u64, bool, bool, bool)> {
        match outcome {
            Outcome::Write { alarm, raised, cleared } => {
                Some((alarm.count, alarm.raises, alarm.cleared.is_some(), raised, cleared))
            }
            Outcome::Nothing | Outcome::Later => None,
        }
    }

    #[test]
    fn the_same_again_counts_up_and_makes_no_row() {
        let mut board = board();
        let mut say = |said: Said| {
            let now = said.at;
            (written(board.say(Code::Space, "a", &said, now)), board.alarms().len())
        };
        assert_eq!(say(cleared(1)), (None, 0));
        assert_eq!(say(raised(3, 1_000)), (Some((3, 1, false, true, false)), 1));
        assert_eq!(say(raised(5, 2_000)), (None, 1), "the count is written later");
        assert_eq!(say(raised(7, 90_000)), (Some((10, 1, false, false, false)), 1));
        assert_eq!(say(cleared(95_000)), (Some((10, 1, true, false, true)), 1));
        assert_eq!(say(cleared(96_000)), (None, 1));
        assert_eq!(say(raised(1, 97_000)), (Some((11, 2, false, true, false)), 1));
        let both = Said { cleared: true, ..raised(1, 98_000) };
        assert_eq!(say(both), (Some((12, 2, true, false, true)), 1));
    }

    #[test]
    fn what_happened_is_told_each_time_and_is_not_over_by_itself() {
        let mut board = board();
        for (n, at) in [(1, 1_000), (2, 1_001)] {
            let outcome = board.say(Code::RoleMoved, "publisher", &raised(1, at), Timestamp(at));
            assert_eq!(written(outcome), Some((n, n, false, true, false)));
        }
        assert_eq!(board.say(Code::RoleMoved, "publisher", &cleared(2_000), Timestamp(2_000)), Outcome::Nothing);
        assert_eq!(board.alarms().len(), 1);
    }

    #[test]
    fn a_flood_keeps_to_its_places() {
        let mut board = board();
        board.say(Code::Clock, "kept", &raised(1, 1), Timestamp(1));
        for n in 0..10_000_u64 {
            board.say(Code::DeadLetter, &n.to_string(), &raised(1, n), Timestamp(n));
        }
        assert_eq!(board.alarms().len(), ALARMS_OF_A_CODE + 1);
        for code in Code::ALL {
            for n in 0..200_u64 {
                board.say(*code, &n.to_string(), &raised(1, n), Timestamp(n));
            }
        }
        assert_eq!(board.alarms().len(), usize::from(ALARMS_OF_A_NODE));
        let mut places: Vec<u16> = board.alarms().iter().map(|alarm| alarm.place).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), usize::from(ALARMS_OF_A_NODE), "each has a place of its own");
    }

    #[test]
    fn what_is_over_makes_room_first() {
        let mut board = board();
        for n in 0..ALARMS_OF_A_CODE as u64 {
            board.say(Code::Cpu, &n.to_string(), &raised(1, n), Timestamp(n));
        }
        board.say(Code::Cpu, "7", &cleared(1_000), Timestamp(1_000));
        board.say(Code::Cpu, "new", &raised(1, 1_001), Timestamp(1_001));
        let has = |subject: &str| board.alarms().iter().any(|alarm| alarm.subject == subject);
        assert!(has("new") && has("0") && !has("7"));
    }
}
