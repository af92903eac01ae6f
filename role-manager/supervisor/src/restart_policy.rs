//! Restart policy for the node's process. Pure.

use std::time::Duration;

use twinbox_ids::Backoff;

use crate::ExitCause;

/// Exit code for wrong usage, most likely a mistake in the configuration. Another try would meet the same mistake.
const WRONG_USAGE: i32 = 2;
const SIGTERM: i32 = 15;
/// Number of consecutive incarnations that ended before they were ready after which the supervisor ends and reports it.
const FALSE_STARTS: u32 = 8;
/// Pauses before starts after exits in a row.
const RESTART: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
/// Run time after which an incarnation that was ready counts as good.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// Action after an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartDecision {
    /// Start the next incarnation after this pause.
    Again(Duration),
    /// End too, with this exit code.
    End(u8),
}

/// An incarnation that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Cause of the exit.
    pub cause: ExitCause,
    /// Its run time.
    pub uptime: Duration,
    /// Whether it had reported that it was ready.
    pub ready: bool,
    /// Whether the supervisor had been requested to stop.
    pub stopping: bool,
}

/// Restart policy with the history of exits.
#[derive(Debug, Clone, Default)]
pub struct RestartPolicy {
    /// Consecutive exits without a good incarnation.
    failures: u32,
    false_starts: u32,
    /// Whether any incarnation under this supervisor has been ready.
    proven: bool,
}

impl RestartPolicy {
    /// An incarnation under this supervisor is ready, started by it or not.
    pub fn proven(&mut self) {
        self.proven = true;
    }

    /// Decides after the exit of an incarnation.
    ///
    /// * One that was requested to stop, or that ended well on its own, was meant to: its code is passed on. One that
    ///   ended by SIGTERM before it could handle it has stopped too.
    /// * One that reports wrong usage is not restarted.
    /// * If the first one ends with a code before it was ready, the start has failed: the supervisor ends with it.
    ///   One that a signal ended is tried again.
    /// * Any other is restarted: immediately after a good incarnation, else after a pause that doubles.
    pub fn ended(&mut self, end: &Ended) -> RestartDecision {
        let code = end.cause.code();
        match end.cause {
            ExitCause::Signal { number: SIGTERM, .. } if end.stopping => return RestartDecision::End(0),
            _ if end.stopping => return RestartDecision::End(code),
            ExitCause::Code(0 | WRONG_USAGE) => return RestartDecision::End(code),
            ExitCause::Code(_) if !end.ready && !self.proven => return RestartDecision::End(code),
            _ => {}
        }
        self.proven |= end.ready;
        self.false_starts = if end.ready { 0 } else { self.false_starts + 1 };
        if self.false_starts >= FALSE_STARTS {
            return RestartDecision::End(code);
        }
        if end.ready && end.uptime >= GOOD_AFTER {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => RESTART.after(failures),
        };
        self.failures = self.failures.saturating_add(1);
        RestartDecision::Again(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: ExitCause = ExitCause::Signal { number: 9, core: false };

    fn end(cause: ExitCause, uptime_s: u64, ready: bool) -> Ended {
        Ended { cause, uptime: Duration::from_secs(uptime_s), ready, stopping: false }
    }

    #[test]
    fn an_intended_end_is_not_restarted() {
        for (cause, ready, stopping, code) in [
            (ExitCause::Code(0), true, true, 0),
            (ExitCause::Code(0), true, false, 0),
            (ExitCause::Code(0), false, false, 0),
            (ExitCause::Code(2), false, false, 2),
            (ExitCause::Code(2), true, false, 2),
            (ExitCause::Code(1), false, false, 1),
            (ExitCause::Code(1), true, true, 1),
            (KILLED, true, true, 137),
            (ExitCause::Signal { number: 15, core: false }, false, true, 0),
        ] {
            let end = Ended { cause, uptime: Duration::from_secs(5), ready, stopping };
            assert_eq!(RestartPolicy::default().ended(&end), RestartDecision::End(code), "{end:?}");
        }
    }

    #[test]
    fn wrong_usage_at_a_later_start_ends_the_supervisor_too() {
        let mut policy = RestartPolicy::default();
        assert_eq!(policy.ended(&end(KILLED, 3_600, true)), RestartDecision::Again(Duration::ZERO));
        assert_eq!(policy.ended(&end(ExitCause::Code(2), 0, false)), RestartDecision::End(2));
    }

    #[test]
    fn a_good_incarnation_is_restarted_immediately_every_time() {
        let mut policy = RestartPolicy::default();
        for cause in [KILLED, ExitCause::Code(101), ExitCause::Code(1), ExitCause::Unknown] {
            assert_eq!(policy.ended(&end(cause, 60, true)), RestartDecision::Again(Duration::ZERO), "{cause:?}");
        }
    }

    #[test]
    fn a_crash_loop_is_slowed_down_to_one_start_per_half_minute() {
        let mut policy = RestartPolicy::default();
        let pauses: Vec<u64> = (0..12)
            .map(|_| match policy.ended(&end(KILLED, 1, true)) {
                RestartDecision::Again(pause) => pause.as_millis() as u64,
                RestartDecision::End(code) => panic!("ended with {code}"),
            })
            .collect();
        assert_eq!(pauses, [0, 250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, 30000]);
        policy.ended(&end(KILLED, 60, true));
        assert_eq!(
            policy.ended(&end(KILLED, 1, true)),
            RestartDecision::Again(Duration::from_millis(250)),
            "it had recovered"
        );
    }

    #[test]
    fn restarts_end_after_repeated_failures_before_ready() {
        let mut policy = RestartPolicy::default();
        for _ in 1..FALSE_STARTS {
            assert!(matches!(policy.ended(&end(KILLED, 1, false)), RestartDecision::Again(_)));
        }
        assert_eq!(policy.ended(&end(KILLED, 1, false)), RestartDecision::End(137));
    }

    #[test]
    fn a_failed_later_start_is_retried() {
        let mut policy = RestartPolicy::default();
        policy.ended(&end(KILLED, 5, true));
        assert!(
            matches!(policy.ended(&end(ExitCause::Code(1), 0, false)), RestartDecision::Again(_)),
            "its port is still taken"
        );
    }
}
