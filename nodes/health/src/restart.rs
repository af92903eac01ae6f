//! Restart policy of a failed service, before other nodes must take over. Pure.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_ids::Backoff;

/// Maximum number of starts within [`WINDOW`]; then the service is given up, and tried only every `NOW_AND_THEN`.
const MOST: usize = 5;
const WINDOW: Duration = Duration::from_secs(300);
const NOW_AND_THEN: Duration = Duration::from_secs(30);
/// Pauses after starts, by their number in the window.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_millis(3_200));

/// Restarts of one service.
#[derive(Debug, Default)]
pub struct Restarts {
    recent: Vec<BootInstant>,
    total: u32,
}

/// Action for a failed service.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start it now.
    Start,
    /// Wait: the pause after the last start has not expired.
    Wait,
    /// Too many recent starts; the role manager moves its duties meanwhile. The service is retried later.
    GiveUp,
}

impl Restarts {
    /// Decides; a `Start` is counted. The pause doubles with each start in the window.
    pub fn decide(&mut self, now: BootInstant) -> Decision {
        if self.lately(now) >= MOST && self.recent.last().is_some_and(|last| now.since(*last) < NOW_AND_THEN) {
            return Decision::GiveUp;
        }
        if let Some(last) = self.recent.last() {
            let starts = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
            if now.since(*last) < PAUSES.after(starts) {
                return Decision::Wait;
            }
        }
        self.recent.push(now);
        self.total += 1;
        Decision::Start
    }

    /// Counts a start that was decided elsewhere.
    pub fn ordered(&mut self, now: BootInstant) {
        self.recent.push(now);
        self.total += 1;
    }

    /// Number of starts in the window before now.
    pub fn lately(&mut self, now: BootInstant) -> usize {
        self.recent.retain(|start| now.since(*start) < WINDOW);
        self.recent.len()
    }

    /// Number of starts since the process began.
    pub fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_service_is_restarted_with_growing_pauses_and_not_for_ever() {
        let mut restarts = Restarts::default();
        let at = |ms: u64| BootInstant::from_nanos(ms * 1_000_000);
        let starts: Vec<u64> = (0..90_000).filter(|ms| restarts.decide(at(*ms)) == Decision::Start).collect();
        assert_eq!(starts, [0, 200, 600, 1_400, 3_000, 33_000, 63_000]);
        assert_eq!(restarts.decide(at(90_000)), Decision::GiveUp);
        let later: Vec<u64> = (900..960).filter(|s| restarts.decide(at(s * 1_000)) == Decision::Start).collect();
        assert_eq!(later[..2], [900, 901], "the window has passed");
    }
}
