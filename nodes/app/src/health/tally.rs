//! Latency histograms of the health checks for `/metrics`, without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds in microseconds.
pub const BOUNDS_US: [u64; 12] =
    [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000, 5_000_000];

/// A histogram.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Tally {
    /// Counts a value.
    pub fn note(&self, value: Duration) {
        let us = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// `counts[i]` values were at most `BOUNDS_US[i]` and above the previous bound; the last count is of values
    /// above all bounds. Second: the sum in microseconds.
    pub fn view(&self) -> (Vec<u64>, u64) {
        (self.counts.iter().map(|count| count.load(Relaxed)).collect(), self.sum_us.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_under_the_first_bound_that_it_does_not_exceed() {
        let tally = Tally::default();
        for us in [1, 500, 501, 9_999_999] {
            tally.note(Duration::from_micros(us));
        }
        let (counts, sum) = tally.view();
        assert_eq!((counts[0], counts[1], counts[BOUNDS_US.len()], sum), (2, 1, 1, 10_001_001));
    }
}
