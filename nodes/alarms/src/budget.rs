//! Rate limit of writes: a flood must not fill disks. Each write is a change that every node stores and keeps in its log.

use std::time::Duration;

use twinbox_clock::BootInstant;

/// Token bucket: a burst of `most`, then one more per `each`.
#[derive(Debug, Clone)]
pub struct Budget {
    most: u32,
    each: Duration,
    left: u32,
    since: BootInstant,
}

impl Budget {
    /// A full bucket.
    pub fn new(most: u32, each: Duration, now: BootInstant) -> Self {
        Self { most, each, left: most, since: now }
    }

    /// Takes one token; false if there is none.
    pub fn take(&mut self, now: BootInstant) -> bool {
        self.fill(now);
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }

    fn fill(&mut self, now: BootInstant) {
        let more = now.since(self.since).as_nanos() / self.each.as_nanos().max(1);
        if more >= u128::from(self.most - self.left) {
            (self.left, self.since) = (self.most, now);
        } else if let Ok(more) = u32::try_from(more) {
            self.left += more;
            self.since = self.since + self.each * more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_allows_a_burst_and_then_one_per_interval() {
        let at = |seconds: u64| BootInstant::from_nanos(seconds * 1_000_000_000);
        let mut budget = Budget::new(2, Duration::from_secs(10), at(100));
        let taken: Vec<bool> =
            [100, 100, 100, 109, 110, 110, 125, 130, 131, 1_000, 1_000, 1_000].map(|s| budget.take(at(s))).into();
        let expected = [true, true, false, false, true, false, true, true, false, true, true, false];
        assert_eq!(taken, expected);
    }
}
