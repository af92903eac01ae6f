//! How near a node has come to the end of its leases, of late.

use std::time::Duration;

/// A minute, the grain of the memory.
const MINUTE: Duration = Duration::from_secs(60);
const MINUTES: u64 = 15;
/// One slot more, for the minute that has begun.
const SLOTS: usize = MINUTES as usize + 1;

/// The longest gap of late: from the sending of a keep-alive that was granted to the answer to the next one. As long as
/// it is shorter than a lease, the lease was renewed before it had run out; the rest of the lease is the margin.
#[derive(Debug, Clone, Default)]
pub struct LongestGap {
    /// When the latest of the granted keep-alives was sent.
    sent: Option<Duration>,
    /// The longest of a minute, with that minute's number.
    minutes: [(u64, Duration); SLOTS],
}

impl LongestGap {
    /// What is older than this, and a minute, is forgotten.
    pub const WINDOW: Duration = Duration::from_secs(MINUTES * MINUTE.as_secs());

    /// At `now` the answer came to a keep-alive that was sent at `sent`, and it said yes.
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

    /// The longest gap, the one that has begun included; nothing as long as nothing was granted.
    pub fn longest(&self, now: Duration) -> Option<Duration> {
        let since = (now.as_secs() / MINUTE.as_secs()).saturating_sub(MINUTES);
        let lately = self.minutes.iter().filter(|(minute, _)| *minute >= since).map(|(_, gap)| *gap).max();
        let begun = now.saturating_sub(self.sent?);
        Some(begun.max(lately.unwrap_or_default()))
    }
}
