//! Desired against sent, for one target: what to send when. Pure; time and chance are handed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::Lights;

use crate::{Light, SendError, Target};

/// How gently it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// At most so many at a time.
    pub concurrency: usize,
    /// At least so long between two beginnings: a take-over resends all lights, and a PBX is small.
    pub pace: Duration,
    /// The wait after the first failure; it doubles with each. Also the pace while the target does not answer.
    pub first_retry: Duration,
    /// The longest wait for one that does not answer.
    pub longest_retry: Duration,
    /// The wait after a refusal.
    pub after_refusal: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            concurrency: 16,
            pace: Duration::from_millis(2),
            first_retry: Duration::from_millis(500),
            longest_retry: Duration::from_secs(60),
            after_refusal: Duration::from_secs(60),
        }
    }
}

/// One light at one target, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LightState {
    /// Who is told.
    pub target: Target,
    /// Whose.
    pub mailbox: MailboxId,
    /// Its number.
    pub number: String,
    /// What it should show.
    pub desired: Lights,
    /// What arrived last under this holder.
    pub sent: Option<Lights>,
    /// Being sent.
    pub sending: bool,
    /// Failures since it last arrived.
    pub failures: u32,
    /// Why it failed last.
    pub error: Option<String>,
}

/// All lights, as one target should see them and does.
#[derive(Debug)]
pub struct Board {
    target: Target,
    policy: Policy,
    entries: BTreeMap<MailboxId, Entry>,
    /// Those to be sent, by when.
    due: BTreeSet<(BootInstant, MailboxId)>,
    sending: usize,
    not_before: BootInstant,
    /// The last that was tried was not answered: tries are few until one is.
    away: bool,
}

#[derive(Debug)]
struct Entry {
    number: String,
    desired: Lights,
    sent: Option<(String, Lights)>,
    phase: Phase,
    failures: u32,
    error: Option<SendError>,
    /// To be forgotten once its last state has arrived.
    leaving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing to do.
    Quiet,
    /// To be sent, not before.
    Due(BootInstant),
    Sending,
}

impl Entry {
    fn arrived(&self) -> bool {
        self.sent.as_ref().is_some_and(|(number, lights)| *number == self.number && *lights == self.desired)
    }

    /// It failed last although the target is there.
    fn answered(&self) -> bool {
        matches!(self.error, Some(SendError::Refused(_) | SendError::Incomplete(_)))
    }
}

impl Board {
    /// Nothing known, nothing sent.
    pub fn new(target: Target, policy: Policy) -> Self {
        let (entries, due, not_before) = (BTreeMap::new(), BTreeSet::new(), BootInstant::from_nanos(0));
        Self { target, policy, entries, due, sending: 0, not_before, away: false }
    }

    /// What a light should show from now on. While it is being sent or waits to be sent again, only the latest is kept.
    pub fn want(&mut self, light: Light, now: BootInstant) {
        let entry = self.entries.entry(light.mailbox).or_insert_with(|| Entry {
            number: String::new(),
            desired: Lights::default(),
            sent: None,
            phase: Phase::Quiet,
            failures: 0,
            error: None,
            leaving: false,
        });
        let changed = entry.number != light.number || entry.desired != light.lights;
        entry.number = light.number;
        entry.desired = light.lights;
        entry.leaving = false;
        match entry.phase {
            Phase::Sending => {}
            Phase::Due(at) if entry.arrived() => {
                entry.phase = Phase::Quiet;
                self.due.remove(&(at, light.mailbox));
            }
            // Who is there may like another state better; who does not answer is not asked sooner because there is
            // more to tell.
            Phase::Due(at) if changed && entry.answered() => self.schedule(light.mailbox, at.min(now)),
            Phase::Quiet if !entry.arrived() => self.schedule(light.mailbox, now),
            Phase::Due(_) | Phase::Quiet => {}
        }
    }

    /// The mailbox is no more: its light goes out, then it is forgotten.
    pub fn remove(&mut self, mailbox: MailboxId, now: BootInstant) {
        let Some(entry) = self.entries.get(&mailbox) else { return };
        let (number, lights) = (entry.number.clone(), Lights::default());
        self.want(Light { mailbox, number, lights }, now);
        if let Some(entry) = self.entries.get_mut(&mailbox) {
            entry.leaving = true;
        }
        self.forget_if_done(mailbox);
    }

    /// The mailboxes on the board.
    pub fn mailboxes(&self) -> Vec<MailboxId> {
        self.entries.keys().copied().collect()
    }

    /// The next light to send, if one may be sent now. Report [`Self::finished`] for each.
    pub fn next(&mut self, now: BootInstant) -> Option<Light> {
        let &(at, mailbox) = self.due.first()?;
        if at > now || now < self.not_before || self.sending >= self.policy.concurrency.max(1) {
            return None;
        }
        self.due.remove(&(at, mailbox));
        let entry = self.entries.get_mut(&mailbox)?;
        entry.phase = Phase::Sending;
        self.sending += 1;
        self.not_before = now + if self.away { self.policy.first_retry } else { self.policy.pace };
        Some(Light { mailbox, number: entry.number.clone(), lights: entry.desired })
    }

    /// When [`Self::next`] may have something; `None`: not before something changes.
    pub fn wake(&self) -> Option<BootInstant> {
        let (at, _) = self.due.first()?;
        (self.sending < self.policy.concurrency.max(1)).then(|| (*at).max(self.not_before))
    }

    /// What became of a light that was sent. `chance` is any number: it spreads the retries of many.
    pub fn finished(&mut self, light: &Light, result: Result<(), SendError>, now: BootInstant, chance: u64) {
        self.sending = self.sending.saturating_sub(1);
        match result {
            Ok(()) | Err(SendError::Refused(_) | SendError::Incomplete(_)) => self.is_back(now),
            Err(SendError::Unreachable(_)) => self.away = true,
            Err(SendError::NotHolder) => {}
        }
        let Some(entry) = self.entries.get_mut(&light.mailbox) else { return };
        let superseded = entry.number != light.number || entry.desired != light.lights;
        entry.phase = Phase::Quiet;
        let at = match result {
            Ok(()) => {
                entry.sent = Some((light.number.clone(), light.lights));
                entry.failures = 0;
                entry.error = None;
                superseded.then_some(now)
            }
            Err(error) => {
                // What the receiver has now is not known: the same state is sent again even if it arrived before.
                entry.sent = None;
                entry.failures = entry.failures.saturating_add(1);
                let wait = match &error {
                    SendError::Refused(_) | SendError::Incomplete(_) if superseded => Duration::ZERO,
                    SendError::Refused(_) => self.policy.after_refusal,
                    _ => backoff(&self.policy, entry.failures),
                };
                entry.error = Some(error);
                Some(now + jitter(wait, chance))
            }
        };
        if let Some(at) = at {
            self.schedule(light.mailbox, at);
        }
        self.forget_if_done(light.mailbox);
    }

    /// The target answers. If it did not before: whatever it has missed is sent now.
    fn is_back(&mut self, now: BootInstant) {
        if !std::mem::take(&mut self.away) {
            return;
        }
        self.not_before = self.not_before.min(now + self.policy.pace);
        let missed = |entry: &Entry| {
            matches!(entry.phase, Phase::Due(at) if at > now)
                && matches!(entry.error, Some(SendError::Unreachable(_)))
        };
        let missed: Vec<_> = self.entries.iter().filter(|(_, e)| missed(e)).map(|(mailbox, _)| *mailbox).collect();
        missed.into_iter().for_each(|mailbox| self.schedule(mailbox, now));
    }

    /// How every light is.
    pub fn snapshot(&self) -> Vec<LightState> {
        self.entries
            .iter()
            .map(|(mailbox, entry)| LightState {
                target: self.target.clone(),
                mailbox: *mailbox,
                number: entry.number.clone(),
                desired: entry.desired,
                sent: entry.sent.as_ref().map(|(_, lights)| *lights),
                sending: entry.phase == Phase::Sending,
                failures: entry.failures,
                error: entry.error.as_ref().map(ToString::to_string),
            })
            .collect()
    }

    fn schedule(&mut self, mailbox: MailboxId, at: BootInstant) {
        let Some(entry) = self.entries.get_mut(&mailbox) else { return };
        if let Phase::Due(before) = entry.phase {
            self.due.remove(&(before, mailbox));
        }
        entry.phase = Phase::Due(at);
        self.due.insert((at, mailbox));
    }

    fn forget_if_done(&mut self, mailbox: MailboxId) {
        let done = |entry: &Entry| entry.leaving && entry.phase == Phase::Quiet && entry.arrived();
        if self.entries.get(&mailbox).is_some_and(done) {
            self.entries.remove(&mailbox);
        }
    }
}

/// The wait after so many failures.
fn backoff(policy: &Policy, failures: u32) -> Duration {
    let factor = 2u32.checked_pow(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    policy.first_retry.saturating_mul(factor).min(policy.longest_retry)
}

/// Between three quarters of the wait and all of it.
fn jitter(wait: Duration, chance: u64) -> Duration {
    let quarter = wait / 4;
    let part = u32::try_from(chance % 1_000).unwrap_or_default();
    wait - quarter * part / 1_000
}
