//! A step that the server refused, or whose outcome is not known: repeated after growing pauses, not in each look.

use twinbox_ids::Timestamp;

/// Pause after the first refusal, in milliseconds; it doubles with each further one.
const FIRST_PAUSE_MS: u64 = 60_000;
/// Longest pause, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 6 * 60 * 60_000;

/// Largest number of refusals: rows have seven bits for it.
pub(crate) const MOST_TIMES: u8 = 127;

/// Refusals of the same step of a message in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Number of refusals, from 1 to 127.
    pub times: u8,
    /// The server may have carried the latest out: an APPEND without an answer.
    pub unknown: bool,
    /// Time from which on the step is tried again.
    pub retry_at: Timestamp,
}

impl Refusal {
    /// The refusal after those before, if there were any.
    pub fn after(before: Option<Self>, now: Timestamp) -> Self {
        let times = before.map_or(0, |before| before.times).saturating_add(1).min(MOST_TIMES);
        Self { times, unknown: false, retry_at: Timestamp(now.0.saturating_add(pause(times))) }
    }

    /// Whether the step waits at this time. A clock that was set back does not prolong the pause. `ordered`: an
    /// administrator wants the step now. That cuts the pause short, but not the first minute after an APPEND that the
    /// server may have carried out: it may show the mail only later.
    pub(crate) fn waits(self, now: Timestamp, ordered: bool) -> bool {
        let cut = match (ordered, self.unknown) {
            (false, _) => 0,
            (true, true) => pause(self.times) - FIRST_PAUSE_MS,
            (true, false) => return false,
        };
        let end = self.retry_at.0.saturating_sub(cut);
        now.0 < end && end - now.0 <= LONGEST_PAUSE_MS
    }
}

/// Pause after so many refusals, in milliseconds.
fn pause(times: u8) -> u64 {
    (FIRST_PAUSE_MS << times.saturating_sub(1).min(16)).min(LONGEST_PAUSE_MS)
}
