//! One rhythm for all that looks round in a node, so that what is due at one time wakes the process once.

use std::{sync::LazyLock, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Ticks at once, and then at each multiple of `period` since the first use of any. Ticks that were missed are left out.
pub fn every(period: Duration) -> Interval {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let period = period.max(Duration::from_millis(1));
    let (began, now) = (*BEGAN, Instant::now());
    let over = now.saturating_duration_since(began).as_nanos() % period.as_nanos();
    let last = now - Duration::from_nanos(u64::try_from(over).unwrap_or_default());
    let mut interval = interval_at(last, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_begins_later_ticks_with_the_others() {
        let short = Duration::from_millis(20);
        let mut first = every(short);
        first.tick().await;
        tokio::time::sleep(Duration::from_millis(7)).await;
        let mut second = every(short * 2);
        assert!(second.tick().await <= Instant::now(), "at once");
        let together = [first.tick().await, first.tick().await, first.tick().await];
        let later = second.tick().await;
        assert!(together.contains(&later), "{later:?} is none of {together:?}");
    }
}
