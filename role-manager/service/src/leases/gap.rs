//! The recent minimum distance of a node from the end of its leases. Pure.

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

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_secs(7_000) + Duration::from_millis(ms)
    }

    #[test]
    fn a_gap_runs_from_the_sending_of_one_keep_alive_to_the_answer_to_the_next() {
        let mut gaps = LongestGap::default();
        assert_eq!(gaps.longest(ms(0)), None, "nothing was granted");
        // The first answer may take any time: no lease was at stake.
        gaps.granted(ms(0), ms(500));
        assert_eq!(gaps.longest(ms(510)), Some(Duration::from_millis(510)), "the gap that has begun");
        gaps.granted(ms(150), ms(520));
        gaps.granted(ms(300), ms(530));
        assert_eq!(gaps.longest(ms(530)), Some(Duration::from_millis(520)), "sent at 0, the next answered at 520");
        // An overtaken keep-alive resets nothing.
        gaps.granted(ms(200), ms(540));
        gaps.granted(ms(450), ms(560));
        assert_eq!(gaps.longest(ms(600)), Some(Duration::from_millis(520)));
        assert_eq!(gaps.longest(ms(2_000)), Some(Duration::from_millis(1_550)), "since the one sent at 450");
    }

    #[test]
    fn a_gap_is_remembered_for_the_window_and_then_forgotten() {
        let mut gaps = LongestGap::default();
        gaps.granted(ms(0), ms(10));
        let mut at = 600;
        gaps.granted(ms(at), ms(at));
        let long = Duration::from_millis(600);
        let window = u64::try_from(LongestGap::WINDOW.as_millis()).expect("small");
        while at < window {
            at += 150;
            gaps.granted(ms(at), ms(at));
            assert_eq!(gaps.longest(ms(at)), Some(long), "after {at} ms");
        }
        for _ in 0..2 * 60_000 / 150 {
            at += 150;
            gaps.granted(ms(at), ms(at));
        }
        assert_eq!(gaps.longest(ms(at)), Some(Duration::from_millis(150)), "two minutes after the window");
    }
}
