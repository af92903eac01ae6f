//! Time that received packets wait for their handling, and a histogram of it.

use std::time::Duration;

/// Upper bounds of the buckets, in microseconds. One more bucket counts larger values.
pub const BOUNDS_US: [u64; 18] = [
    500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 10_000, 12_000, 15_000, 20_000, 30_000, 50_000, 100_000,
    200_000, 500_000, 1_000_000,
];

/// Time from the kernel's reception of a packet to its handling; a session subtracts the time that its visits are apart by plan. Neither
/// the network nor the sender's clock is in it: it tells whether this node keeps up. Both times are by the wall clock; a step of it in
/// between is bounded by the longest wait that counts.
pub(crate) fn waited(arrived: Duration, now: Duration) -> Duration {
    now.saturating_sub(arrived).min(LONGEST)
}

/// A longer wait counts as this one.
const LONGEST: Duration = Duration::from_secs(1);

/// Histogram of durations: of the wait of audio packets, or of a duration measured by RTCP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Packets per bucket: bucket `i` counts values up to [`BOUNDS_US`]`[i]` and above the previous bound.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// Maximum, in microseconds.
    pub max_us: u64,
    /// Sum, in microseconds.
    pub sum_us: u64,
}

impl Lateness {
    /// Counts one packet.
    pub fn add(&mut self, late: Duration) {
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound| bound < us);
        self.buckets[bucket] += 1;
        self.max_us = self.max_us.max(us);
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Adds another histogram, for example of another thread.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.max_us = self.max_us.max(other.max_us);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// Difference to an earlier reading. Its maximum is the bound of the highest bucket in use, or the overall maximum
    /// if that is lower.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = Self { sum_us: self.sum_us.saturating_sub(earlier.sum_us), ..Self::default() };
        for (i, bucket) in difference.buckets.iter_mut().enumerate() {
            *bucket = self.buckets[i].saturating_sub(earlier.buckets[i]);
        }
        difference.max_us = self.max_us;
        difference.max_us = difference.percentile(1.0).map_or(0, |d| d.as_micros() as u64);
        difference
    }

    /// Number of packets counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Packets handled later than this many milliseconds; exact if the value is a bound of [`BOUNDS_US`].
    pub fn over_ms(&self, ms: u64) -> u64 {
        let first = BOUNDS_US.partition_point(|&bound| bound <= ms * 1_000);
        self.buckets[first..].iter().sum()
    }

    /// Upper bound of the bucket that holds the packet at this share (0 to 1) of all, at most the maximum. `None` if
    /// the histogram is empty.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        Some(Duration::from_micros(BOUNDS_US.get(bucket).map_or(self.max_us, |&b| b.min(self.max_us))))
    }

    /// The median.
    pub fn p50(&self) -> Option<Duration> {
        self.percentile(0.5)
    }

    /// The 99th percentile.
    pub fn p99(&self) -> Option<Duration> {
        self.percentile(0.99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_is_bounded_when_the_wall_clock_steps() {
        let at = Duration::from_millis;
        for (arrived, now, wait) in
            [(1_000, 1_007, 7), (1_000, 1_000, 0), (1_000, 400, 0), (1_000, 3_600_000, 1_000)]
        {
            assert_eq!(waited(at(arrived), at(now)), at(wait), "{arrived} {now}");
        }
    }

    #[test]
    fn percentiles_are_bounds_of_buckets() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.p50(), None);
        for us in [100, 700, 700, 900, 45_000] {
            lateness.add(Duration::from_micros(us));
        }
        let before = lateness.clone();
        assert_eq!(lateness.p50(), Some(Duration::from_millis(1)));
        assert_eq!(lateness.p99(), Some(Duration::from_millis(45)), "never above the maximum");
        assert_eq!((lateness.over_ms(20), lateness.over_ms(1), lateness.count()), (1, 1, 5));
        lateness.add(Duration::from_millis(20));
        let since = lateness.since(&before);
        assert_eq!((since.count(), since.over_ms(20), since.max_us), (1, 0, 20_000));
        lateness.merge(&since);
        assert_eq!(lateness.count(), 7);
    }
}
