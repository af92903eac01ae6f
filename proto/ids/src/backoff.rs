//! Delays between attempts.

use std::{ops::RangeInclusive, time::Duration};

/// Doublings after which a delay no longer grows, even if it is below the longest.
const MOST_DOUBLINGS: u32 = 31;

/// Delays between attempts at what fails: after the first failure the first delay, after each further one in a row twice the
/// delay before, up to the longest. Pure: the caller sleeps, or notes the time of the next attempt.
///
/// Holds the number of failures for a caller that has no count of its own: a constant names the two delays, and a copy of it
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// From the first delay to the longest one; nothing has failed. If `longest` is below `first`, each delay is
    /// `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The longest delay.
    pub const fn longest(self) -> Duration {
        self.longest
    }

    /// The delay after this number of failures in a row, from 1; 0 counts as 1. Independent of the failures counted here.
    pub fn after(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(MOST_DOUBLINGS);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }

    /// Counts a failure; returns the delay before the next attempt.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.after(self.failures)
    }

    /// Forgets the failures: the delays begin again with the first.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// A delay between these two shares of `delay`, chosen by `random`, from 0 to 1: members that failed together do not try
    /// again together. A number that the caller derives from its input makes the delay deterministic.
    pub fn spread(delay: Duration, shares: RangeInclusive<f64>, random: f64) -> Duration {
        let (least, most) = shares.into_inner();
        delay.mul_f64(least + (most - least) * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Duration = Duration::ZERO;
    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_from_the_first_to_the_longest_and_begin_again_after_a_reset() {
        const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        let mut backoff = RETRY;
        for _ in 0..2 {
            let delays: Vec<u128> = (0..7).map(|_| backoff.failed().as_millis()).collect();
            assert_eq!(delays, [250, 500, 1_000, 2_000, 3_000, 3_000, 3_000]);
            backoff.reset();
        }
        assert_eq!((backoff, RETRY.longest()), (RETRY, 3 * S));
    }

    #[test]
    fn each_delay_is_twice_the_one_before_up_to_the_longest() {
        for first in [ZERO, MS, 7 * MS, S, 3_600 * S, Duration::MAX] {
            for longest in [ZERO, MS, 250 * MS, 10 * S, 86_400 * S, Duration::MAX] {
                let mut backoff = Backoff::new(first, longest);
                let mut expected = first.min(longest);
                assert_eq!(backoff.after(0), expected, "{backoff:?}");
                for failures in 1..=MOST_DOUBLINGS + 1 {
                    assert_eq!(backoff.after(failures), expected, "{backoff:?}");
                    assert_eq!(backoff.failed(), expected, "{backoff:?}");
                    expected = expected.saturating_mul(2).min(longest);
                }
                // Failures without end.
                assert_eq!(backoff.failed(), backoff.after(MOST_DOUBLINGS + 1), "{backoff:?}");
                assert_eq!(backoff.after(u32::MAX), backoff.after(MOST_DOUBLINGS + 1), "{backoff:?}");
            }
        }
    }

    #[test]
    fn spread_delay_lies_between_its_shares_as_the_number_chooses() {
        for (shares, random, ms) in [
            (0.5..=1.0, 0.0, 4_000_u32),
            (0.5..=1.0, 0.5, 6_000),
            (0.5..=1.0, 1.0, 8_000),
            (0.75..=1.25, 0.0, 6_000),
            (0.75..=1.25, 1.0, 10_000),
            (1.0..=1.0, 0.3, 8_000),
            (0.5..=1.0, -7.0, 4_000),
            (0.5..=1.0, 7.0, 8_000),
        ] {
            let spread = Backoff::spread(8 * S, shares.clone(), random);
            assert_eq!(spread, ms * MS, "{shares:?} {random}");
        }
    }
}
