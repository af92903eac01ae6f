//! How often a failed service is started again before others must take over. Pure.

use std::time::Duration;

use twinbox_clock::BootInstant;

/// Starts within [`WINDOW`] before a service counts as failed for good (until the window has passed).
const MOST: usize = 5;
const WINDOW: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The restarts of one service.
#[derive(Debug, Default)]
pub struct Restarts {
    recent: Vec<BootInstant>,
    total: u32,
}

/// What to do with a service that has failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start it now.
    Start,
    /// Not yet: the pause after the last start is not over.
    Wait,
    /// It has been started too often lately; the role manager moves its duties meanwhile.
    GiveUp,
}

impl Restarts {
    /// Decides; a `Start` is counted. The pause doubles with each start in the window.
    pub fn decide(&mut self, now: BootInstant) -> Decision {
        self.recent.retain(|start| now.since(*start) < WINDOW);
        if self.recent.len() >= MOST {
            return Decision::GiveUp;
        }
        if let Some(last) = self.recent.last() {
            let pause = FIRST_PAUSE * (1 << self.recent.len());
            if now.since(*last) < pause {
                return Decision::Wait;
            }
        }
        self.recent.push(now);
        self.total += 1;
        Decision::Start
    }

    /// Starts since the process began.
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
        let starts: Vec<u64> = (0..60_000).filter(|ms| restarts.decide(at(*ms)) == Decision::Start).collect();
        assert_eq!(starts, [0, 200, 600, 1_400, 3_000]);
        assert_eq!(restarts.decide(at(60_000)), Decision::GiveUp);
        assert_eq!(restarts.decide(at(300_000)), Decision::Start, "the window has passed");
        assert_eq!(restarts.total(), 6);
    }
}
