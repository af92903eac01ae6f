//! The load generator's clock: callers speak 20 ms a packet, in four groups 5 ms apart, and requests go out when
//! they are due. It notes how late it was itself.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_testkit::{Crowd, Place, Speech};

use crate::machine;

/// A quarter of a packet's time.
const STEP: Duration = Duration::from_millis(5);
/// A generator that is later than this measures itself.
pub const LATE: Duration = Duration::from_millis(5);

/// A crowd with a clock.
pub struct Driver {
    /// The callers.
    pub crowd: Crowd,
    speech: Speech,
    speaking: Vec<usize>,
    /// When each caller that speaks is to hang up, if ever.
    until: Vec<(BootInstant, usize)>,
    begun: BootInstant,
    step: u32,
    late: Duration,
}

impl Driver {
    /// A crowd at `place`, driven by the calling thread, which runs before all others of its core from now on.
    pub fn new(place: &Place) -> Self {
        machine::prefer();
        let crowd = Crowd::open(place);
        let (speech, begun) = (Speech::new(1), BootInstant::now());
        Self { crowd, speech, speaking: Vec::new(), until: Vec::new(), begun, step: 0, late: Duration::ZERO }
    }

    /// This caller skips the greeting and speaks from now on, and hangs up after `stay`, if that is given.
    pub fn speak(&mut self, caller: usize, stay: Option<Duration>) {
        self.crowd.press_pound(caller);
        self.speaking.push(caller);
        if let Some(stay) = stay {
            self.until.push((BootInstant::now() + stay, caller));
        }
    }

    /// This caller speaks no more.
    pub fn hush(&mut self, caller: usize) {
        self.speaking.retain(|n| *n != caller);
    }

    /// Drives for this long; `each` is called every 5 ms, to place calls and the like.
    pub fn drive(&mut self, time: Duration, mut each: impl FnMut(&mut Self)) {
        let end = BootInstant::now() + time;
        while BootInstant::now() < end {
            let due = self.begun + STEP * self.step;
            let now = BootInstant::now();
            if now < due {
                self.crowd.take(due.since(now));
                continue;
            }
            self.late = self.late.max(now.since(due));
            let group = (self.step % 4) as usize;
            let callers: Vec<usize> = self.speaking.iter().copied().filter(|n| n % 4 == group).collect();
            self.crowd.speak(callers.into_iter(), self.speech);
            self.step += 1;
            let due_to_leave: Vec<usize> =
                self.until.iter().filter(|(at, _)| *at <= now).map(|(_, n)| *n).collect();
            if !due_to_leave.is_empty() {
                self.until.retain(|(at, _)| *at > now);
                for caller in due_to_leave {
                    self.hush(caller);
                    self.crowd.hang_up(caller);
                }
            }
            each(self);
        }
    }

    /// The most that this generator was late since the last time it was asked. What lies further back than that,
    /// such as a pause between two steps, is not counted: the clock starts anew.
    pub fn take_late(&mut self) -> Duration {
        std::mem::take(&mut self.late)
    }

    /// Starts the clock anew after a pause.
    pub fn resume(&mut self) {
        (self.begun, self.step, self.late) = (BootInstant::now(), 0, Duration::ZERO);
    }
}
