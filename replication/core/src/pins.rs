//! Pins of blobs: for some time after a use a blob is not removed (rule D9).

use std::{collections::HashMap, time::Duration};

use twinbox_ids::BlobHash;

/// Number of pins from which on expired ones are removed.
const MANY: usize = 1_024;

/// Milliseconds in the unit of the pins' times.
const UNIT_MS: u64 = 100;

/// Pins of the last hour or so: one for each blob that was used, so each is short. A blob whose hash begins as that of a pinned
/// one is pinned too, which only delays its removal. Times are milliseconds of a clock that does not go back.
#[derive(Debug, Default)]
pub struct Pins {
    since: HashMap<u64, u32>,
    /// Number of pins at which expired ones are removed next.
    prune_at: usize,
}

fn short(hash: &BlobHash) -> u64 {
    hash.0.first_chunk().map_or(0, |begin| u64::from_be_bytes(*begin))
}

fn units(ms: u64) -> u32 {
    u32::try_from(ms / UNIT_MS).unwrap_or(u32::MAX)
}

/// May end a tenth of a second before `time` has passed.
fn is_in_force(since: u32, now: u32, time: Duration) -> bool {
    u128::from(now.saturating_sub(since)) < time.as_millis() / u128::from(UNIT_MS)
}

impl Pins {
    /// Pins a blob from now on; pins older than `longest` may be forgotten.
    pub fn pin(&mut self, hash: &BlobHash, now_ms: u64, longest: Duration) {
        let now = units(now_ms);
        self.since.insert(short(hash), now);
        if self.since.len() >= self.prune_at.max(MANY) {
            self.since.retain(|_, since| is_in_force(*since, now, longest));
            self.prune_at = self.since.len().saturating_mul(2);
        }
    }

    /// Whether a blob was pinned less than `time` ago.
    pub fn hold(&self, hash: &BlobHash, now_ms: u64, time: Duration) -> bool {
        self.since.get(&short(hash)).is_some_and(|since| is_in_force(*since, units(now_ms), time))
    }
}
