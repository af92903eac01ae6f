//! Aligned timer for all periodic work in a node, so that work due at the same time wakes the process once.

use std::time::Duration;

use tokio::time::sleep;
use twinbox_clock::BootInstant;

/// Ticks immediately, and then at each multiple of its period on the boot clock. Missed ticks are skipped.
pub struct AlignedTicker {
    period: Duration,
    begun: bool,
}

/// Timer with this period, at least a millisecond.
pub fn every(period: Duration) -> AlignedTicker {
    AlignedTicker { period: period.max(Duration::from_millis(1)), begun: false }
}

impl AlignedTicker {
    /// Waits for the next tick and returns its delay. Safe to cancel.
    pub async fn tick(&mut self) -> Duration {
        if !std::mem::replace(&mut self.begun, true) {
            return Duration::ZERO;
        }
        let now = BootInstant::now();
        let left = until_next(self.period, now);
        sleep(left).await;
        (now + left).elapsed()
    }
}

/// Time until the next multiple of the period.
fn until_next(period: Duration, now: BootInstant) -> Duration {
    let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(period - now.as_nanos() % period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickers_share_tick_times_whenever_started() {
        let (short, long) = (Duration::from_millis(100), Duration::from_millis(200));
        for nanos in [0, 1, 99_999_999, 100_000_000, 123_456_789, 987_654_321] {
            let now = BootInstant::from_nanos(nanos);
            let next = now + until_next(long, now);
            assert!(now < next && next.since(now) <= long, "{nanos}");
            let mut tick = now + until_next(short, now);
            while tick < next {
                tick = tick + until_next(short, tick);
            }
            assert_eq!(tick, next, "{nanos}");
        }
    }
}
