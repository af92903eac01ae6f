//! The prober of one stream: sends probes on its live lane, one at a time (rule A2). Pure.

use std::time::Duration;

use twinbox_clock::BootInstant;

/// An action or event of the prober.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProberAction {
    /// Send this probe.
    Send(u64),
    /// The follower has not answered in time.
    Lost,
    /// The follower answers again after it was lost.
    Back,
    /// The follower answered a probe in time.
    Answered {
        /// Time at which the probe was sent.
        sent: BootInstant,
        /// Milliseconds until the answer.
        took: u64,
    },
}

/// The prober of a stream that is up and has not answered yet.
#[derive(Debug)]
pub(crate) struct StreamProber {
    timeout: Duration,
    number: u64,
    /// Time of the last probe, and whether its answer has come.
    sent: Option<BootInstant>,
    answered: bool,
    lost: bool,
}

impl StreamProber {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, number: 0, sent: None, answered: true, lost: false }
    }

    /// Changes the timeout, also of a probe under way.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Time until [`Self::tick`] is due: a probe goes out every `timeout`, and its answer must come within the same time.
    pub(crate) fn pause(&self, now: BootInstant) -> Duration {
        match self.sent {
            None => Duration::ZERO,
            Some(_) if self.lost => self.timeout,
            Some(sent) => self.timeout.saturating_sub(now.since(sent)),
        }
    }

    pub(crate) fn tick(&mut self, now: BootInstant) -> Option<ProberAction> {
        if self.lost || self.sent.is_some_and(|sent| now.since(sent) < self.timeout) {
            return None;
        }
        if self.answered {
            return Some(self.send(now));
        }
        self.lost = true;
        Some(ProberAction::Lost)
    }

    /// Takes the answer to probe `number`.
    pub(crate) fn answer(&mut self, number: u64, now: BootInstant) -> Vec<ProberAction> {
        let Some(sent) = self.sent.filter(|_| number == self.number && !self.answered) else { return Vec::new() };
        self.answered = true;
        if std::mem::take(&mut self.lost) {
            // A late answer. The next probe, sent immediately, decides whether the peer counts.
            return vec![ProberAction::Back, self.send(now)];
        }
        vec![ProberAction::Answered { sent, took: u64::try_from(now.since(sent).as_millis()).unwrap_or(u64::MAX) }]
    }

    fn send(&mut self, now: BootInstant) -> ProberAction {
        self.number += 1;
        self.sent = Some(now);
        self.answered = false;
        ProberAction::Send(self.number)
    }
}

#[cfg(test)]
#[path = "../tests/unit/stream_prober.rs"]
mod tests;
