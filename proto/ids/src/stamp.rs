//! Times: wall-clock moments for people, hybrid stamps for merging.

use std::{fmt, ops::Add, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Origin;

/// A wall-clock moment: milliseconds since 1970-01-01 00:00 UTC. For display and for policy, never for leases.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Timestamp(pub u64);

/// In whole milliseconds; no sum is later than the latest time.
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A hybrid logical stamp (rule D5): wall milliseconds, a counter that breaks ties within one, and the origin
/// that breaks ties between nodes. Total order; never rewritten once given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970, by the writer's hybrid clock.
    pub wall: u64,
    /// Orders stamps of one writer within one millisecond.
    pub counter: u32,
    /// The origin of the writer.
    pub origin: Origin,
}

impl Stamp {
    /// Below every stamp that a clock gives.
    pub const ZERO: Self = Self { wall: 0, counter: 0, origin: Origin(0) };
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.wall, self.counter, &self.origin.to_string()[..8])
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_with_a_duration_counts_whole_milliseconds_and_ends_at_the_latest_time() {
        for (time, duration, sum) in [
            (5, Duration::ZERO, 5),
            (5, Duration::from_micros(1_999), 6),
            (u64::MAX - 1, Duration::from_secs(1), u64::MAX),
            (0, Duration::MAX, u64::MAX),
        ] {
            assert_eq!(Timestamp(time) + duration, Timestamp(sum), "{time} {duration:?}");
        }
    }
}
