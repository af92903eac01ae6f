//! The wait of a change for its audio (rule D12), which is bounded.

use std::{collections::HashMap, time::Duration};

use twinbox_ids::BlobHash;

/// Milliseconds without an attempt, beyond the longest wait, after which a wait is forgotten.
const STALE_MS: u64 = 60_000;

/// Times after which a change is applied, or a fill ends, with audio missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioPatience {
    /// For so long every other node has answered that it does not have the audio, or with a damaged copy.
    pub denied: Duration,
    /// For so long the audio could not be had, because a node could not be asked.
    pub held_up: Duration,
}

impl Default for AudioPatience {
    fn default() -> Self {
        Self { denied: Duration::from_secs(300), held_up: Duration::from_secs(900) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    since: u64,
    /// Every other node has denied it since then.
    denied_since: Option<u64>,
    last: u64,
}

/// The audio that changes wait for. Times are milliseconds on any clock that does not go back. A wait goes on when its stream
/// is opened again.
#[derive(Debug, Default)]
pub struct AudioWaits {
    patience: AudioPatience,
    waits: HashMap<BlobHash, Wait>,
}

impl AudioWaits {
    /// The times.
    pub fn patience(&self) -> AudioPatience {
        self.patience
    }

    /// Changes the times.
    pub fn set_patience(&mut self, patience: AudioPatience) {
        self.patience = patience;
    }

    /// All nodes were asked without success; `denied`: each of them answered that it does not have the audio. True when its change
    /// is to wait no longer.
    pub fn failed(&mut self, hash: BlobHash, denied: bool, now: u64) -> bool {
        let AudioPatience { denied: denial, held_up } = self.patience;
        let (denial, held_up) = (millis(denial), millis(held_up));
        // Of a change that no peer has sent again.
        let stale = held_up.max(denial).saturating_add(STALE_MS);
        self.waits.retain(|_, wait| now.saturating_sub(wait.last) <= stale);
        let wait = self.waits.entry(hash).or_insert(Wait { since: now, denied_since: None, last: now });
        wait.last = now;
        wait.denied_since = denied.then(|| wait.denied_since.unwrap_or(now));
        let is_denied = wait.denied_since.is_some_and(|since| now.saturating_sub(since) >= denial);
        is_denied || now.saturating_sub(wait.since) >= held_up
    }

    /// The wait has ended.
    pub fn ended(&mut self, hash: &BlobHash) {
        self.waits.remove(hash);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
