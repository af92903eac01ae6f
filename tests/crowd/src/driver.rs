//! An open-loop load: callers arrive at a rate independent of earlier ones, speak 20 ms per packet, in four groups 5 ms
//! apart, and hang up. The driver records its own lateness.

use std::{net::SocketAddr, ops::Range, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_testkit::{NetPlace, Speech};

use crate::{Caller, Crowd};

/// A quarter of a packet's duration.
const STEP: Duration = Duration::from_millis(5);

/// A crowd with a clock.
pub struct Driver {
    /// The callers.
    pub crowd: Crowd,
    speech: Speech,
    speaking: Vec<usize>,
    /// Callers that wait for an answer, with the length of their stay after it.
    ringing: Vec<(usize, Duration)>,
    /// Time at which each speaking caller hangs up.
    until: Vec<(BootInstant, usize)>,
    begun: BootInstant,
    step: u32,
    /// Lateness of each step.
    late: Vec<Duration>,
}

/// Callers that arrive at a rate.
#[derive(Debug, Clone, Copy)]
pub struct Arrivals<'a> {
    /// The node that they call.
    pub node: SocketAddr,
    /// The mailboxes that they call, in turn.
    pub mailboxes: &'a [String],
    /// New callers per second.
    pub rate: f64,
    /// Time that each stays after the answer: it skips the greeting and speaks.
    pub stay: Duration,
}

/// Results of callers.
#[derive(Debug, Clone, Default)]
pub struct Arrived {
    /// Number of callers.
    pub offered: usize,
    /// INVITE → `200`, of callers that got `200`.
    pub answers: Vec<Duration>,
    /// INVITE → any other final answer.
    pub refusals: Vec<Duration>,
    /// BYE → `200`, of BYEs that got `200`.
    pub byes: Vec<Duration>,
    /// Other statuses of BYEs; 0 for no answer.
    pub broken: Vec<u16>,
    /// INVITEs without a final answer.
    pub unanswered: usize,
}

impl Driver {
    /// A crowd at `place`, driven by the calling thread.
    pub fn new(place: &NetPlace) -> Self {
        Self {
            crowd: Crowd::open(place),
            speech: Speech::new(1),
            speaking: Vec::new(),
            ringing: Vec::new(),
            until: Vec::new(),
            begun: BootInstant::now(),
            step: 0,
            late: Vec::new(),
        }
    }

    /// Makes this caller skip the greeting and speak from now on, and hang up after `stay`, if given.
    pub fn speak(&mut self, caller: usize, stay: Option<Duration>) {
        self.crowd.press_pound(caller);
        self.speaking.push(caller);
        if let Some(stay) = stay {
            self.until.push((BootInstant::now() + stay, caller));
        }
    }

    /// Drives for this time; `each` is called every 5 ms, for example to place calls.
    pub fn drive(&mut self, time: Duration, mut each: impl FnMut(&mut Self)) {
        let end = BootInstant::now() + time;
        while BootInstant::now() < end {
            let due = self.begun + STEP * self.step;
            let now = BootInstant::now();
            if now < due {
                self.crowd.take(due.since(now));
                continue;
            }
            self.late.push(now.since(due));
            let group = (self.step % 4) as usize;
            let callers: Vec<usize> = self.speaking.iter().copied().filter(|n| n % 4 == group).collect();
            self.crowd.speak(callers.into_iter(), self.speech);
            self.step += 1;
            for (caller, stay) in std::mem::take(&mut self.ringing) {
                match self.crowd.callers[caller].answer {
                    Some((200, _)) => self.speak(caller, Some(stay)),
                    Some(_) => {}
                    None => self.ringing.push((caller, stay)),
                }
            }
            let leaving: Vec<usize> = self.until.iter().filter(|(at, _)| *at <= now).map(|(_, n)| *n).collect();
            if !leaving.is_empty() {
                self.until.retain(|(at, _)| *at > now);
                self.speaking.retain(|n| !leaving.contains(n));
                leaving.into_iter().for_each(|caller| self.crowd.hang_up(caller));
            }
            each(self);
        }
    }

    /// Lets callers arrive for this time; returns their indices. Calls still active at the end continue with the next
    /// drive.
    pub fn arrive(&mut self, arrivals: Arrivals<'_>, time: Duration) -> Range<usize> {
        let Arrivals { node, mailboxes, rate, stay } = arrivals;
        let (first, begun, mut placed) = (self.crowd.callers.len(), BootInstant::now(), 0);
        self.drive(time, |driver| {
            while f64::from(placed) <= begun.elapsed().as_secs_f64() * rate {
                let mailbox = &mailboxes[placed as usize % mailboxes.len()];
                let caller = driver.crowd.call(node, mailbox, "2001");
                driver.ringing.push((caller, stay));
                placed += 1;
            }
        });
        first..self.crowd.callers.len()
    }

    /// Drives until all callers have left and been answered, or `patience` has expired.
    pub fn finish(&mut self, patience: Duration) {
        let begun = BootInstant::now();
        let waits = |caller: &Caller| match caller.answer {
            Some((200, _)) => caller.bye.is_none(),
            Some(_) => false,
            None => true,
        };
        while begun.elapsed() < patience && self.crowd.callers.iter().any(waits) {
            self.drive(Duration::from_millis(50), |_| {});
        }
    }

    /// The results of these callers.
    pub fn outcome(&self, callers: Range<usize>) -> Arrived {
        let mut arrived = Arrived { offered: callers.len(), ..Arrived::default() };
        for caller in &self.crowd.callers[callers] {
            match (caller.answer, caller.left, caller.bye) {
                (None, ..) => arrived.unanswered += 1,
                (Some((200, at)), left, bye) => {
                    arrived.answers.push(at.since(caller.called));
                    match bye {
                        Some((200, at)) => arrived.byes.push(at.since(left.unwrap_or(at))),
                        other => arrived.broken.push(other.map_or(0, |(status, _)| status)),
                    }
                }
                (Some((_, at)), ..) => arrived.refusals.push(at.since(caller.called)),
            }
        }
        arrived
    }

    /// The lateness of this generator since the last call of this function: of a hundred steps, one may be later. Earlier lateness, such
    /// as a pause between two measurements, is not counted: the clock is reset.
    pub fn take_late(&mut self) -> Duration {
        let mut late = std::mem::take(&mut self.late);
        late.sort_unstable();
        late.len().checked_sub(1 + late.len() / 100).and_then(|at| late.get(at)).copied().unwrap_or_default()
    }

    /// Resets the clock after a pause.
    pub fn resume(&mut self) {
        (self.begun, self.step, self.late) = (BootInstant::now(), 0, Vec::new());
    }
}
