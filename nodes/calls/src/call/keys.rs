//! Keys received by two ways. Some telephones and gateways send each key both as an RTP event (RFC 4733) and by INFO;
//! it counts once.

use std::{collections::VecDeque, time::Duration};

use twinbox_clock::BootInstant;

/// Maximum delay between both ways: INFO may follow the end of a long press, and may be retransmitted.
const MAX_DELAY: Duration = Duration::from_secs(4);
/// Maximum number of stored keys; more cannot be pressed in that time.
pub(super) const MAX_KEYS: usize = 64;

/// Path by which a key arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyPath {
    Rtp,
    Info,
}

/// Keys that arrived by one way, and may still arrive by the other.
#[derive(Debug, Default)]
pub(super) struct Keys(VecDeque<(KeyPath, char, BootInstant)>);

impl Keys {
    /// Whether a key is new; `false` if it arrived by the other way before. Each key has at most one twin, in the same
    /// order, so that a digit pressed twice counts twice.
    pub(super) fn is_new(&mut self, path: KeyPath, key: char, now: BootInstant) -> bool {
        while self.0.front().is_some_and(|(_, _, arrived)| now.since(*arrived) > MAX_DELAY) {
            self.0.pop_front();
        }
        if let Some(twin) = self.0.iter().position(|(other, pressed, _)| *other != path && *pressed == key) {
            // Earlier keys did not arrive by this way, and will not any more.
            self.0.drain(..=twin);
            return false;
        }
        if self.0.len() == MAX_KEYS {
            self.0.pop_front();
        }
        self.0.push_back((path, key, now));
        true
    }
}

#[cfg(test)]
#[path = "../../tests/unit/keys.rs"]
mod tests;
