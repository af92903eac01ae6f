//! Drain time of calls on a node that was taken out of service: unlimited, or limited by the order. Pure.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_clock::BootInstant;

/// Interval at which remaining calls are ended again.
const AGAIN: Duration = Duration::from_secs(5);

/// State of a node that is out of service.
#[derive(Debug, Default)]
pub struct Drain(Option<Out>);

/// The drain of this node, shared with the parts that show it.
#[derive(Debug, Clone, Default)]
pub struct SharedDrain(Arc<Mutex<Drain>>);

impl SharedDrain {
    /// Locks the drain; the guard must be held only briefly.
    pub fn lock(&self) -> MutexGuard<'_, Drain> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
struct Out {
    /// Revision of the order: another order starts a new drain.
    revision: u64,
    since: BootInstant,
    within: Option<Duration>,
    ended: Option<BootInstant>,
}

impl Drain {
    /// Applies the agreed state: revision and time limit of the order if this node is out of service, otherwise
    /// `None`. Returns whether the remaining calls must be ended now.
    pub fn look(&mut self, out: Option<(u64, Option<Duration>)>, calls: usize, now: BootInstant) -> bool {
        let Some((revision, within)) = out else {
            self.0 = None;
            return false;
        };
        let begun = self.0.filter(|known| known.revision == revision && known.within == within);
        let out = self.0.insert(begun.unwrap_or(Out { revision, since: now, within, ended: None }));
        let over = within.is_some_and(|within| now.since(out.since) >= within);
        let due = over && calls > 0 && out.ended.is_none_or(|ended| now.since(ended) >= AGAIN);
        if due {
            out.ended = Some(now);
        }
        due
    }

    /// Remaining drain time; `None` without a limit.
    pub fn left(&self, now: BootInstant) -> Option<Duration> {
        let out = self.0?;
        Some(out.within?.saturating_sub(now.since(out.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn calls_have_the_time_of_the_order_and_a_new_order_starts_it_again() {
        let mut drain = Drain::default();
        assert!(!drain.look(None, 3, at(0)) && drain.left(at(0)).is_none());
        assert!(!drain.look(Some((7, Some(MINUTE))), 3, at(10)));
        assert_eq!(drain.left(at(30)), Some(Duration::from_secs(40)));
        assert!(!drain.look(Some((7, Some(MINUTE))), 3, at(69)));
        assert!(drain.look(Some((7, Some(MINUTE))), 3, at(70)), "time is up");
        assert!(!drain.look(Some((7, Some(MINUTE))), 3, at(71)), "ended once");
        assert!(drain.look(Some((7, Some(MINUTE))), 1, at(76)), "and again, as long as one is left");
        assert!(!drain.look(Some((7, Some(MINUTE))), 0, at(90)));
        assert!(!drain.look(Some((8, Some(MINUTE))), 2, at(91)), "another order");
        assert!(drain.look(Some((8, Some(MINUTE))), 2, at(151)));
    }

    #[test]
    fn without_a_limit_calls_end_normally() {
        let mut drain = Drain::default();
        assert!(!drain.look(Some((7, None)), 3, at(0)) && !drain.look(Some((7, None)), 3, at(100_000)));
        assert_eq!(drain.left(at(100_000)), None);
        // Back in service, and immediately out again.
        assert!(!drain.look(None, 3, at(100_001)));
        assert!(drain.look(Some((9, Some(Duration::ZERO))), 3, at(100_002)));
    }
}
