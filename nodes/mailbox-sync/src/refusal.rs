//! A step that the server refused: repeated after growing pauses, not in each look.

use twinbox_ids::Timestamp;

/// Pause after the first refusal, in milliseconds; it doubles with each further one.
const FIRST_PAUSE_MS: u64 = 60_000;
/// Longest pause, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 6 * 60 * 60_000;

/// Refusals of the same step of a message in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Number of refusals, from 1.
    pub times: u8,
    /// Time from which on the step is tried again.
    pub retry_at: Timestamp,
}

impl Refusal {
    /// The refusal after those before, if there were any.
    pub fn after(before: Option<Self>, now: Timestamp) -> Self {
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        let pause = (FIRST_PAUSE_MS << (times - 1).min(16)).min(LONGEST_PAUSE_MS);
        Self { times, retry_at: Timestamp(now.0.saturating_add(pause)) }
    }

    /// Whether the step waits at this time. A clock that was set back does not prolong the pause.
    pub(crate) fn waits(self, now: Timestamp) -> bool {
        now < self.retry_at && self.retry_at.0 - now.0 <= LONGEST_PAUSE_MS
    }
}
