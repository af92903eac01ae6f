//! Retries changes that could not be applied (rule D12).

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;
use twinbox_clock::BootInstant;
use twinbox_ids::Backoff;
use twinbox_replication_store::Store;

/// Pauses before retries.
const RETRY: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(600));
/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Retries changes that are set aside, until dropped.
pub(crate) async fn run(store: Store) {
    let mut timing = Timing::default();
    loop {
        if timing.is_due(store.health().set_aside, BootInstant::now())
            && let Err(error) = store.retry_set_aside().await
        {
            warn!(%error, "changes that were set aside cannot be tried again now");
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The next attempt.
#[derive(Debug, Default)]
struct Timing {
    known: u64,
    next: Option<(BootInstant, Backoff)>,
}

impl Timing {
    /// True when the changes that are set aside, `count` in number, are due for an attempt. A further one starts the pauses again.
    fn is_due(&mut self, count: u64, now: BootInstant) -> bool {
        let is_more = count > std::mem::replace(&mut self.known, count);
        self.next = self.next.filter(|_| count > 0 && !is_more);
        if count == 0 || self.next.is_some_and(|(at, _)| now < at) {
            return false;
        }
        let (is_due, mut retry) = self.next.map_or((false, RETRY), |(_, retry)| (true, retry));
        self.next = Some((now + retry.failed(), retry));
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_ten_minutes_and_begin_again_with_a_further_change() {
        let at = |seconds: u64| BootInstant::from_nanos(seconds * 1_000_000_000);
        let mut timing = Timing::default();
        assert!(!timing.is_due(0, at(0)));
        let due: Vec<u64> = (0..4_000).filter(|second| timing.is_due(1, at(*second))).collect();
        assert_eq!(due[..5], [2, 6, 14, 30, 62]);
        assert_eq!(due[due.len() - 1] - due[due.len() - 2], 600, "{due:?}");
        assert!(!timing.is_due(2, at(4_000)) && !timing.is_due(2, at(4_001)) && timing.is_due(2, at(4_002)));
        assert!(!timing.is_due(0, at(5_000)) && !timing.is_due(1, at(5_001)) && timing.is_due(1, at(5_003)));
    }
}
