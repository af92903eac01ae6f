//! The time up to which records age. Pure.
//!
//! One wrong clock must not make every deleted message old at once. Members vouch for each other's clocks; a node without
//! others has only its own, and takes no more time from it than it has run.

use twinbox_ids::Timestamp;

/// Before 2020: a clock that was not set yet.
const NOT_SET: Timestamp = Timestamp(1_577_836_800_000);

/// The clock of the purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PurgeClock {
    /// The highest time that it has shown.
    shown: Timestamp,
}

impl PurgeClock {
    /// Continues from the `stored` time; without one begins at `wall`. `None` while `wall` is not set.
    pub(super) fn new(stored: Option<Timestamp>, wall: Timestamp) -> Option<Self> {
        let shown = stored.unwrap_or(wall);
        (wall >= NOT_SET).then_some(Self { shown })
    }

    /// The time now: `wall` if other members `confirm` it, else at most the last time shown and the `ran_ms` since.
    pub(super) fn now(&mut self, wall: Timestamp, ran_ms: u64, confirmed: bool) -> Timestamp {
        let ran = Timestamp(self.shown.0.saturating_add(ran_ms));
        let now = if confirmed { wall } else { wall.min(ran) };
        self.shown = self.shown.max(now);
        now
    }

    /// The time to be stored.
    pub(super) fn shown(&self) -> Timestamp {
        self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u64 = 1_800_000_000_000;
    const YEAR: u64 = 31_536_000_000;

    fn at(after: u64) -> Timestamp {
        Timestamp(BEGIN + after)
    }

    #[test]
    fn jump_ahead_counts_for_nothing_unless_others_confirm_it() {
        let mut clock = PurgeClock::new(None, at(0)).expect("a clock that is set");
        assert_eq!(clock.now(at(10), 10, false), at(10));
        assert_eq!(clock.now(at(YEAR), 10, false), at(20), "the time that passed");
        assert_eq!(clock.now(at(30), 10, false), at(30), "set right again");
        assert_eq!(clock.now(at(5), 10, false), at(5), "a jump back delays");
        assert_eq!(clock.shown(), at(30), "and is not stored");
        assert_eq!(clock.now(at(YEAR), 10, true), at(YEAR));
        assert_eq!(clock.shown(), at(YEAR));
    }

    #[test]
    fn jump_while_the_node_was_down_counts_for_nothing() {
        let mut clock = PurgeClock::new(Some(at(40)), at(YEAR)).expect("a clock that is set");
        assert_eq!(clock.now(at(YEAR), 5, false), at(45));
        assert_eq!(PurgeClock::new(Some(at(40)), Timestamp(7)), None);
    }
}
