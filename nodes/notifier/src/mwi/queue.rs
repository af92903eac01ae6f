//! Desired and sent MWI state for one target: schedules the sends. Pure; time and random numbers are parameters.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::MessageCounts;

use super::{MwiUpdate, SendError, Target};

/// Limits and waits of the sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Maximum number of concurrent sends.
    pub concurrency: usize,
    /// Minimum interval between two starts: a take-over resends the MWI state of all mailboxes, and a PBX has
    /// little capacity.
    pub pace: Duration,
    /// Wait after the first failure; doubles with each further failure. Also the interval while the target does not
    /// answer.
    pub first_retry: Duration,
    /// Maximum wait for a target that does not answer.
    pub longest_retry: Duration,
    /// Wait after a refusal.
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

/// MWI state of one mailbox at one target, for administrators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MwiState {
    /// Receiver of the state.
    pub target: Target,
    /// Mailbox of the state.
    pub mailbox: MailboxId,
    /// Number of the mailbox.
    pub number: String,
    /// State that should be displayed.
    pub desired: MessageCounts,
    /// State that was last delivered under this holder.
    pub sent: Option<MessageCounts>,
    /// Whether a send is in progress.
    pub sending: bool,
    /// Number of failures since the last delivery.
    pub failures: u32,
    /// Reason of the last failure.
    pub error: Option<String>,
}

/// Desired and sent MWI state of all mailboxes, for one target.
#[derive(Debug)]
pub struct MwiQueue {
    target: Target,
    policy: Policy,
    entries: BTreeMap<MailboxId, Entry>,
    /// Due entries, by time.
    due: BTreeSet<(BootInstant, MailboxId)>,
    sending: usize,
    not_before: BootInstant,
    /// The target did not answer the last attempt: attempts are rare until it answers.
    away: bool,
}

#[derive(Debug)]
struct Entry {
    number: String,
    desired: MessageCounts,
    sent: Option<(String, MessageCounts)>,
    phase: Phase,
    failures: u32,
    error: Option<SendError>,
    /// To be removed after its last state was delivered.
    leaving: bool,
    /// To be sent once more after the send in progress.
    repeat: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No send is due.
    Quiet,
    /// Due, not before this time.
    Due(BootInstant),
    Sending,
}

impl Entry {
    fn arrived(&self) -> bool {
        self.sent.as_ref().is_some_and(|(number, counts)| *number == self.number && *counts == self.desired)
    }

    /// Whether the last attempt failed although the target answered.
    fn answered(&self) -> bool {
        matches!(self.error, Some(SendError::Refused(_) | SendError::Incomplete(_)))
    }
}

impl MwiQueue {
    /// An empty queue.
    pub fn new(target: Target, policy: Policy) -> Self {
        let (entries, due, not_before) = (BTreeMap::new(), BTreeSet::new(), BootInstant::from_nanos(0));
        Self { target, policy, entries, due, sending: 0, not_before, away: false }
    }

    /// Sets the desired state. While a send is in progress or waits for a retry, only the latest state is kept.
    pub fn want(&mut self, update: MwiUpdate, now: BootInstant) {
        let entry = self.entries.entry(update.mailbox).or_insert_with(|| Entry {
            number: String::new(),
            desired: MessageCounts::default(),
            sent: None,
            phase: Phase::Quiet,
            failures: 0,
            error: None,
            leaving: false,
            repeat: false,
        });
        let changed = entry.number != update.number || entry.desired != update.counts;
        entry.number = update.number;
        entry.desired = update.counts;
        entry.leaving = false;
        match entry.phase {
            Phase::Sending => {}
            Phase::Due(at) if entry.arrived() => {
                entry.phase = Phase::Quiet;
                self.due.remove(&(at, update.mailbox));
            }
            // A target that answers may accept the new state. A target that does not answer is not retried earlier
            // because of a change.
            Phase::Due(at) if changed && entry.answered() => self.schedule(update.mailbox, at.min(now)),
            Phase::Quiet if !entry.arrived() => self.schedule(update.mailbox, now),
            Phase::Due(_) | Phase::Quiet => {}
        }
    }

    /// Removes a mailbox: its MWI is cleared, then its entry is removed.
    pub fn remove(&mut self, mailbox: MailboxId, now: BootInstant) {
        let Some(entry) = self.entries.get(&mailbox) else { return };
        let (number, counts) = (entry.number.clone(), MessageCounts::default());
        self.want(MwiUpdate { mailbox, number, counts }, now);
        if let Some(entry) = self.entries.get_mut(&mailbox) {
            entry.leaving = true;
        }
        self.forget_if_done(mailbox);
    }

    /// Marks the state of all mailboxes, or of one, as not sent: the target may have lost it. It is sent again within the
    /// same limits as after a take-over. A send in progress may have reached the target before it lost its state, hence
    /// is repeated. Returns the number of states.
    pub fn resync(&mut self, mailbox: Option<MailboxId>, now: BootInstant) -> usize {
        let mailboxes: Vec<_> = match mailbox {
            Some(mailbox) => self.entries.contains_key(&mailbox).then_some(mailbox).into_iter().collect(),
            None => self.mailboxes(),
        };
        for mailbox in &mailboxes {
            let Some(entry) = self.entries.get_mut(mailbox) else { continue };
            entry.sent = None;
            match entry.phase {
                Phase::Sending => entry.repeat = true,
                Phase::Due(at) => self.schedule(*mailbox, at.min(now)),
                Phase::Quiet => self.schedule(*mailbox, now),
            }
        }
        mailboxes.len()
    }

    /// Mailboxes on the queue.
    pub fn mailboxes(&self) -> Vec<MailboxId> {
        self.entries.keys().copied().collect()
    }

    /// Next state to send, if a send is allowed now. Report [`Self::finished`] for each.
    pub fn next(&mut self, now: BootInstant) -> Option<MwiUpdate> {
        let &(at, mailbox) = self.due.first()?;
        if at > now || now < self.not_before || self.sending >= self.policy.concurrency.max(1) {
            return None;
        }
        self.due.remove(&(at, mailbox));
        let entry = self.entries.get_mut(&mailbox)?;
        entry.phase = Phase::Sending;
        self.sending += 1;
        self.not_before = match self.away {
            true => now + self.policy.first_retry,
            // A state that waited for its turn is sent a little late, because timers are: the next is not to be later too.
            false if at <= self.not_before => self.not_before.max(now - self.policy.pace) + self.policy.pace,
            false => now + self.policy.pace,
        };
        Some(MwiUpdate { mailbox, number: entry.number.clone(), counts: entry.desired })
    }

    /// Earliest time at which [`Self::next`] may return a state; `None`: not before a change.
    pub fn wake(&self) -> Option<BootInstant> {
        let (at, _) = self.due.first()?;
        (self.sending < self.policy.concurrency.max(1)).then(|| (*at).max(self.not_before))
    }

    /// Records the result of a send. `chance` is any number: it spreads retries.
    pub fn finished(&mut self, update: &MwiUpdate, result: Result<(), SendError>, now: BootInstant, chance: u64) {
        self.sending = self.sending.saturating_sub(1);
        match result {
            Ok(()) | Err(SendError::Refused(_) | SendError::Incomplete(_)) => self.is_back(now),
            Err(SendError::Unreachable(_)) => self.away = true,
            Err(SendError::NotHolder) => {}
        }
        let Some(entry) = self.entries.get_mut(&update.mailbox) else { return };
        let repeat = std::mem::take(&mut entry.repeat);
        let superseded = repeat || entry.number != update.number || entry.desired != update.counts;
        entry.phase = Phase::Quiet;
        let at = match result {
            Ok(()) => {
                entry.sent = (!repeat).then(|| (update.number.clone(), update.counts));
                entry.failures = 0;
                entry.error = None;
                superseded.then_some(now)
            }
            Err(error) => {
                // The receiver's present state is unknown: the same state is sent again even if it was delivered
                // before.
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
            self.schedule(update.mailbox, at);
        }
        self.forget_if_done(update.mailbox);
    }

    /// The target answered. If it did not answer before, missed states are sent now.
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

    /// Present state of all entries.
    pub fn snapshot(&self) -> Vec<MwiState> {
        self.entries
            .iter()
            .map(|(mailbox, entry)| MwiState {
                target: self.target.clone(),
                mailbox: *mailbox,
                number: entry.number.clone(),
                desired: entry.desired,
                sent: entry.sent.as_ref().map(|(_, counts)| *counts),
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

/// Wait after this number of failures.
fn backoff(policy: &Policy, failures: u32) -> Duration {
    let factor = 2u32.checked_pow(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    policy.first_retry.saturating_mul(factor).min(policy.longest_retry)
}

/// Wait reduced by a random part of up to one quarter.
fn jitter(wait: Duration, chance: u64) -> Duration {
    let quarter = wait / 4;
    let part = u32::try_from(chance % 1_000).unwrap_or_default();
    wait - quarter * part / 1_000
}
