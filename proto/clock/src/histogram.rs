//! Histograms of durations for monitoring, without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A histogram that several threads fill.
#[derive(Debug)]
pub struct DurationHistogram {
    bounds_us: &'static [u64],
    /// One more than bounds.
    counts: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

/// Values of a histogram at one time: `counts[i]` durations were at most `bounds_us[i]` and above the previous bound;
/// the last count is of durations above all bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramView {
    /// Upper bounds in microseconds, ascending.
    pub bounds_us: &'static [u64],
    /// Counts; one more than bounds.
    pub counts: Vec<u64>,
    /// Sum of all durations in microseconds.
    pub sum_us: u64,
}

impl DurationHistogram {
    /// An empty histogram with these upper bounds in microseconds, ascending.
    pub fn new(bounds_us: &'static [u64]) -> Self {
        let counts = (0..=bounds_us.len()).map(|_| AtomicU64::default()).collect();
        Self { bounds_us, counts, sum_us: AtomicU64::default() }
    }

    /// Counts a duration.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = self.bounds_us.partition_point(|bound| *bound < us);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Present values.
    pub fn view(&self) -> HistogramView {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        HistogramView { bounds_us: self.bounds_us, counts, sum_us: self.sum_us.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_under_the_first_bound_that_it_does_not_exceed() {
        let histogram = DurationHistogram::new(&[500, 1_000]);
        for us in [1, 500, 501, 9_999_999] {
            histogram.record(Duration::from_micros(us));
        }
        let HistogramView { counts, sum_us, .. } = histogram.view();
        assert_eq!((counts, sum_us), (vec![2, 1, 1], 10_001_001));
    }
}
