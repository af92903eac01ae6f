//! Whether, and when, the node's process is started again. Pure.

use std::time::Duration;

use crate::How;

/// What was wrong with how the program was asked for: a mistake in the configuration, most likely. Trying again would
/// meet the same mistake.
const WRONG_USE: i32 = 2;
const SIGTERM: i32 = 15;
/// Lives that ended before they were ready, one after the other: then whoever started the supervisor is told.
const FALSE_STARTS: u32 = 8;
/// The first pause; each further one is twice as long ...
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Who was ready and lived so long, was well.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// What is to be done after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start the next life after this pause.
    Again(Duration),
    /// End too, with this exit code.
    End(u8),
}

/// One life that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub how: How,
    /// How long it lived.
    pub lived: Duration,
    /// Whether it had said that it was ready.
    pub ready: bool,
    /// Whether the supervisor had been told to stop.
    pub stopping: bool,
}

/// Remembers how it went so far.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Ends in a row that were not after a good life.
    failures: u32,
    false_starts: u32,
    /// Whether any life under this supervisor has been ready.
    proven: bool,
}

impl Policy {
    /// A life under this supervisor is ready, started by it or not.
    pub fn proven(&mut self) {
        self.proven = true;
    }

    /// A life has ended.
    ///
    /// * One that was told to stop, or that ended well by itself, was meant to: its code is passed on. One that had not
    ///   come so far as to hear SIGTERM, and ended by it, has stopped too.
    /// * One that says that it was asked wrongly is not asked again.
    /// * The first one that ends with a code before it was ready is a start that failed: whoever started us is told.
    ///   One that a signal ended is tried again.
    /// * Every other is followed by the next: at once after a good life, else after a pause that doubles.
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
    fn whoever_was_well_is_started_again_at_once_every_time() {
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
