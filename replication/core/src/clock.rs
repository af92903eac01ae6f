//! The hybrid clock (rule D5).

use std::time::Duration;

use twinbox_ids::{Origin, Stamp, Timestamp};

/// Gives stamps that never go back, follow the wall clock where it goes forward, and are above the stamps that they
/// replace.
#[derive(Debug, Clone)]
pub struct Clock {
    origin: Origin,
    wall: u64,
    counter: u32,
    /// Milliseconds that the wall clock is behind the cluster's time.
    correction: i64,
}

impl Clock {
    /// A clock for one incarnation of a store. If the store has stamps, restore the clock before its first stamp.
    pub fn new(origin: Origin) -> Self {
        Self { origin, wall: 0, counter: 0, correction: 0 }
    }

    /// Continues above `highest`: every later stamp is higher.
    pub fn restore(&mut self, highest: Stamp) {
        if (highest.wall, highest.counter) > (self.wall, self.counter) {
            (self.wall, self.counter) = (highest.wall, highest.counter);
        }
    }

    /// Takes the wall clock as this many milliseconds behind the cluster's time from now on. Stamps do not go back: those of a
    /// clock that was ahead go on from where they were until the cluster's time has come there.
    pub fn correct(&mut self, behind_ms: i64) {
        self.correction = behind_ms;
    }

    /// The stamp of a local write. `now` is the wall clock, `replaced` the highest stamp in the record that the
    /// write changes.
    ///
    /// A replaced stamp that lies ahead (its writer's clock was wrong) is exceeded, but does not advance this clock:
    /// one wrong clock must not set all others wrong. Stamps of one record still only go up.
    pub fn tick(&mut self, now: Timestamp, replaced: Option<Stamp>) -> Stamp {
        let now = self.corrected(now);
        (self.wall, self.counter) = if now > self.wall { (now, 0) } else { successor(self.wall, self.counter) };
        let (wall, counter) = match replaced {
            Some(stamp) if (stamp.wall, stamp.counter) >= (self.wall, self.counter) => {
                successor(stamp.wall, stamp.counter)
            }
            _ => (self.wall, self.counter),
        };
        Stamp { wall, counter, origin: self.origin }
    }

    /// Observes a stamp of another node. Later local stamps are above it, unless it lies more than `bound` ahead of the
    /// wall clock. The stamp is stored unchanged either way. False when it was beyond the bound.
    pub fn observe(&mut self, stamp: Stamp, now: Timestamp, bound: Duration) -> bool {
        let bound = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        let within = stamp.wall <= self.corrected(now).saturating_add(bound);
        if within {
            self.restore(stamp);
        }
        within
    }

    fn corrected(&self, now: Timestamp) -> u64 {
        now.0.saturating_add_signed(self.correction)
    }

    /// The highest stamp that moved this clock, its own included: the next incarnation restores it.
    pub fn reading(&self) -> Stamp {
        Stamp { wall: self.wall, counter: self.counter, origin: self.origin }
    }
}

fn successor(wall: u64, counter: u32) -> (u64, u32) {
    match counter.checked_add(1) {
        Some(counter) => (wall, counter),
        None => (wall.saturating_add(1), 0),
    }
}
