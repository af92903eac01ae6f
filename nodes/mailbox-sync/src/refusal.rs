//! A step that the server refused: repeated after growing pauses, not in each look.

use std::time::Duration;

use twinbox_ids::{Backoff, Timestamp};

/// Pauses after refusals.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(6 * 60 * 60));

/// Refusals of the same step of a message in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Number of refusals, from 1.
    pub times: u8,
    /// Time from which on the step is retried.
    pub retry_at: Timestamp,
}

impl Refusal {
    /// The refusal after those before, if there were any.
    pub fn after(before: Option<Self>, now: Timestamp) -> Self {
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        Self { times, retry_at: now + PAUSES.after(times.into()) }
    }

    /// Whether the step waits at this time. A clock that was set back does not prolong the pause.
    pub(crate) fn waits(self, now: Timestamp) -> bool {
        now < self.retry_at && self.retry_at <= now + PAUSES.longest()
    }
}
