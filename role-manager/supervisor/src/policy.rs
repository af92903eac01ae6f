//! Restart policy for the node's process. Pure.

use std::time::Duration;

use crate::How;

/// Exit code for wrong usage, most likely a mistake in the configuration. Another try would meet the same mistake.
const WRONG_USE: i32 = 2;
const SIGTERM: i32 = 15;
/// Number of consecutive incarnations that ended before they were ready after which the supervisor ends and reports it.
const FALSE_STARTS: u32 = 8;
/// The first pause; it doubles each time ...
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Run time after which an incarnation that was ready counts as good.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Action after an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start the next incarnation after this pause.
    Again(Duration),
    /// End too, with this exit code.
    End(u8),
}

/// An incarnation that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Cause of the exit.
    pub how: How,
    /// Its run time.
    pub lived: Duration,
    /// Whether it had reported that it was ready.
    pub ready: bool,
    /// Whether the supervisor had been told to stop.
    pub stopping: bool,
}

/// Restart policy with the history of exits.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Consecutive exits without a good incarnation.
    failures: u32,
    false_starts: u32,
    /// Whether any incarnation under this supervisor has been ready.
    proven: bool,
}

impl Policy {
    /// An incarnation under this supervisor is ready, started by it or not.
    pub fn proven(&mut self) {
        self.proven = true;
    }

    /// Decides after the exit of an incarnation.
    ///
    /// * One that was told to stop, or that ended well on its own, was meant to: its code is passed on. One that ended
    ///   by SIGTERM before it could handle it has stopped too.
    /// * One that reports wrong usage is not restarted.
    /// * If the first one ends with a code before it was ready, the start has failed: the supervisor ends with it.
    ///   One that a signal ended is tried again.
    /// * Any other is restarted: immediately after a good incarnation, else after a pause that doubles.
    pub fn ended(&mut self, end: &Ended) -> Verdict {
        let code = end.how.code();
        match end.how {
            How::Signal { number: SIGTERM, .. } if end.stopping => return Verdict::End(0),
            _ if end.stopping => return Verdict::End(code),
            How::Code(0 | WRONG_USE) => return Verdict::End(code),
            How::Code(_) if !end.ready && !self.proven => return Verdict::End(code),
            _ => {}
        }
        self.proven |= end.ready;
        self.false_starts = if end.ready { 0 } else { self.false_starts + 1 };
        if self.false_starts >= FALSE_STARTS {
            return Verdict::End(code);
        }
        if end.ready && end.lived >= WELL_AFTER {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            n => FIRST_PAUSE.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_PAUSE),
        };
        self.failures = self.failures.saturating_add(1);
        Verdict::Again(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: How = How::Signal { number: 9, core: false };

    fn end(how: How, lived_s: u64, ready: bool) -> Ended {
        Ended { how, lived: Duration::from_secs(lived_s), ready, stopping: false }
    }

    #[test]
    fn what_was_meant_to_end_is_not_started_again() {
        for (how, ready, stopping, code) in [
            (How::Code(0), true, true, 0),
            (How::Code(0), true, false, 0),
            (How::Code(0), false, false, 0),
            (How::Code(2), false, false, 2),
            (How::Code(2), true, false, 2),
            (How::Code(1), false, false, 1),
            (How::Code(1), true, true, 1),
            (KILLED, true, true, 137),
            (How::Signal { number: 15, core: false }, false, true, 0),
        ] {
            let end = Ended { how, lived: Duration::from_secs(5), ready, stopping };
            assert_eq!(Policy::default().ended(&end), Verdict::End(code), "{end:?}");
        }
    }

    #[test]
    fn a_mistake_that_appears_later_ends_it_too() {
        let mut policy = Policy::default();
        assert_eq!(policy.ended(&end(KILLED, 3_600, true)), Verdict::Again(Duration::ZERO));
        assert_eq!(policy.ended(&end(How::Code(2), 0, false)), Verdict::End(2));
    }

    #[test]
    fn a_process_that_was_well_is_restarted_immediately_every_time() {
        let mut policy = Policy::default();
        for how in [KILLED, How::Code(101), How::Code(1), How::Unseen] {
            assert_eq!(policy.ended(&end(how, 60, true)), Verdict::Again(Duration::ZERO), "{how:?}");
        }
    }

    #[test]
    fn a_crash_loop_is_slowed_down_to_one_start_in_half_a_minute() {
        let mut policy = Policy::default();
        let pauses: Vec<u64> = (0..12)
            .map(|_| match policy.ended(&end(KILLED, 1, true)) {
                Verdict::Again(pause) => pause.as_millis() as u64,
                Verdict::End(code) => panic!("ended with {code}"),
            })
            .collect();
        assert_eq!(pauses, [0, 250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, 30000]);
        policy.ended(&end(KILLED, 60, true));
        assert_eq!(
            policy.ended(&end(KILLED, 1, true)),
            Verdict::Again(Duration::from_millis(250)),
            "it had recovered"
        );
    }

    #[test]
    fn who_never_gets_ready_is_given_up() {
        let mut policy = Policy::default();
        for _ in 1..FALSE_STARTS {
            assert!(matches!(policy.ended(&end(KILLED, 1, false)), Verdict::Again(_)));
        }
        assert_eq!(policy.ended(&end(KILLED, 1, false)), Verdict::End(137));
    }

    #[test]
    fn a_later_start_that_fails_is_tried_again() {
        let mut policy = Policy::default();
        policy.ended(&end(KILLED, 5, true));
        assert!(matches!(policy.ended(&end(How::Code(1), 0, false)), Verdict::Again(_)), "its port is still taken");
    }
}
