//! The recent minimum distance of a node from the end of its leases.

use std::time::Duration;

/// Resolution of the memory.
const MINUTE: Duration = Duration::from_secs(60);
const MINUTES: u64 = 15;
/// One additional slot for the current minute.
const SLOTS: usize = MINUTES as usize + 1;

/// The longest recent gap: from the sending of a granted keep-alive to the answer to the next one. While it is shorter
/// than a lease, each lease was renewed before it expired; the rest of the lease is the margin.
#[derive(Debug, Clone, Default)]
pub struct LongestGap {
    /// Time at which the latest granted keep-alive was sent.
    sent: Option<Duration>,
    /// The longest gap of each minute, with that minute's number.
    minutes: [(u64, Duration); SLOTS],
}

impl LongestGap {
    /// Period that is remembered, plus up to a minute.
    pub const WINDOW: Duration = Duration::from_secs(MINUTES * MINUTE.as_secs());

    /// Notes that at `now` a keep-alive sent at `sent` was granted.
    pub fn granted(&mut self, sent: Duration, now: Duration) {
        if let Some(before) = self.sent {
            let minute = now.as_secs() / MINUTE.as_secs();
            let slot = &mut self.minutes[usize::try_from(minute % SLOTS as u64).unwrap_or(0)];
            if slot.0 != minute {
                *slot = (minute, Duration::ZERO);
            }
            slot.1 = slot.1.max(now.saturating_sub(before));
        }
        self.sent = self.sent.max(Some(sent));
    }

    /// The longest gap, including the current one; none as long as nothing was granted.
    pub fn longest(&self, now: Duration) -> Option<Duration> {
        let since = (now.as_secs() / MINUTE.as_secs()).saturating_sub(MINUTES);
        let lately = self.minutes.iter().filter(|(minute, _)| *minute >= since).map(|(_, gap)| *gap).max();
        let begun = now.saturating_sub(self.sent?);
        Some(begun.max(lately.unwrap_or_default()))
    }
}
