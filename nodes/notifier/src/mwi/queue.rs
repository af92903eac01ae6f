//! Desired and sent MWI state for one target: schedules the sends. Pure; time and random numbers are parameters.

mod repeats;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use twinbox_clock::BootInstant;
use twinbox_ids::{Backoff, MailboxId};
use twinbox_mailstore::MessageCounts;

use super::{MwiUpdate, SendError, Target};
pub use repeats::MAX_BATCH;
use repeats::WaitingRepeats;

/// Limits and waits of the sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MwiPolicy {
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

impl Default for MwiPolicy {
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

/// Desired and sent MWI state of all mailboxes, for one target, by account (RFC 3842, `Message-Account`). An account of a trunk is a
/// number: one that a mailbox gives up shows the state of the mailbox that has it now, or none. An account of subscribers is a mailbox,
/// whatever its number.
#[derive(Debug)]
pub struct MwiQueue {
    target: Target,
    policy: MwiPolicy,
    entries: BTreeMap<Arc<str>, Entry>,
    accounts: BTreeMap<MailboxId, Arc<str>>,
    due: DueEntries,
    waiting: WaitingRepeats,
    /// Number of sends in progress: of one state each, or of a batch.
    sending: usize,
    not_before: BootInstant,
    /// The target did not answer the last attempt: attempts are rare until it answers.
    away: bool,
}

/// Due entries, by time. A take-over or a resync sends the states of all mailboxes, for minutes where there are many: what changes
/// meanwhile does not wait for that.
#[derive(Debug, Default)]
struct DueEntries {
    changed: BTreeSet<(BootInstant, Arc<str>)>,
    repeated: BTreeSet<(BootInstant, Arc<str>)>,
}

impl DueEntries {
    fn of(&mut self, changed: bool) -> &mut BTreeSet<(BootInstant, Arc<str>)> {
        if changed { &mut self.changed } else { &mut self.repeated }
    }

    /// Takes the earliest entry that is due at `now`, a changed one first.
    fn pop(&mut self, now: BootInstant) -> Option<(BootInstant, Arc<str>)> {
        let mut sets = [&mut self.changed, &mut self.repeated].into_iter();
        sets.find(|set| set.first().is_some_and(|(at, _)| *at <= now))?.pop_first()
    }

    fn earliest(&self) -> Option<BootInstant> {
        [&self.changed, &self.repeated].into_iter().filter_map(|set| set.first()).map(|(at, _)| *at).min()
    }
}

#[derive(Debug)]
struct Entry {
    /// The mailbox of the account, or the latest one.
    mailbox: MailboxId,
    number: Arc<str>,
    desired: MessageCounts,
    sent: Option<MessageCounts>,
    phase: Phase,
    failures: u32,
    error: Option<SendError>,
    /// The state changed since the last delivery: it is sent before those that are only repeated.
    changed: bool,
    /// To be removed after its last state was delivered.
    leaving: bool,
    /// To be sent once more after the send in progress.
    repeat: bool,
    /// The send in progress is that of another state of its batch.
    rides: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No send is due.
    Quiet,
    /// To be repeated if the mailbox has receivers behind the target.
    Waiting,
    /// Due, not before this time.
    Due(BootInstant),
    Sending,
}

impl Entry {
    fn update(&self) -> MwiUpdate {
        MwiUpdate { mailbox: self.mailbox, number: self.number.to_string(), counts: self.desired }
    }

    fn arrived(&self) -> bool {
        self.sent == Some(self.desired)
    }

    /// Whether the last attempt failed although the target answered.
    fn answered(&self) -> bool {
        matches!(self.error, Some(SendError::Refused(_) | SendError::Incomplete(_)))
    }
}

impl MwiQueue {
    /// An empty queue.
    pub fn new(target: Target, policy: MwiPolicy) -> Self {
        let (entries, accounts, due) = (BTreeMap::new(), BTreeMap::new(), DueEntries::default());
        Self {
            target,
            policy,
            entries,
            accounts,
            due,
            waiting: WaitingRepeats::default(),
            sending: 0,
            not_before: BootInstant::from_nanos(0),
            away: false,
        }
    }

    /// Sets the desired state. While a send is in progress or waits for a retry, only the latest state is kept. The account
    /// that the mailbox had before is cleared, unless another mailbox has it. A state that differs from the last desired one is
    /// sent before those that a take-over or a resync repeats.
    pub fn want(&mut self, update: MwiUpdate, now: BootInstant) {
        self.want_with(update, false, now);
    }

    /// As [`Self::want`], for a mailbox whose messages just changed: unless it is empty, its state is sent first even if none was
    /// known here.
    pub fn want_first(&mut self, update: MwiUpdate, now: BootInstant) {
        // Thousands of new mailboxes are empty, too.
        let has_messages = update.counts != MessageCounts::default();
        self.want_with(update, has_messages, now);
    }

    fn want_with(&mut self, update: MwiUpdate, changed: bool, now: BootInstant) {
        let MwiUpdate { mailbox, number, counts } = update;
        let account = self.account(mailbox, &number);
        if let Some(before) = self.accounts.insert(mailbox, account.clone()).filter(|before| *before != account) {
            self.clear(mailbox, &before, now);
        }
        self.set(mailbox, &account, counts, changed, now);
        if let Some(entry) = self.entries.get_mut(&account) {
            entry.number = number.into();
        }
    }

    /// Removes a mailbox: its MWI is cleared, unless another mailbox has its number, then its entry is removed.
    pub fn remove(&mut self, mailbox: MailboxId, now: BootInstant) {
        if let Some(account) = self.accounts.remove(&mailbox) {
            self.clear(mailbox, &account, now);
        }
    }

    fn account(&self, mailbox: MailboxId, number: &str) -> Arc<str> {
        match self.target {
            Target::Trunk(_) => number.into(),
            Target::Subscribers(_) => mailbox.to_string().into(),
        }
    }

    fn clear(&mut self, mailbox: MailboxId, account: &Arc<str>, now: BootInstant) {
        if self.entries.get(account).is_none_or(|entry| entry.mailbox != mailbox) {
            return;
        }
        self.set(mailbox, account, MessageCounts::default(), false, now);
        if let Some(entry) = self.entries.get_mut(account) {
            entry.leaving = true;
        }
        self.forget_if_done(account);
    }

    fn set(
        &mut self,
        mailbox: MailboxId,
        account: &Arc<str>,
        counts: MessageCounts,
        changed: bool,
        now: BootInstant,
    ) {
        let entry = match self.entries.entry(account.clone()) {
            btree_map::Entry::Occupied(entry) => entry.into_mut(),
            btree_map::Entry::Vacant(entry) => entry.insert(Entry {
                mailbox,
                number: Arc::default(),
                desired: counts,
                sent: None,
                phase: Phase::Quiet,
                failures: 0,
                error: None,
                changed: false,
                leaving: false,
                repeat: false,
                rides: false,
            }),
        };
        let differs = entry.desired != counts;
        entry.mailbox = mailbox;
        entry.desired = counts;
        entry.leaving = false;
        let was_changed = entry.changed;
        entry.changed = !entry.arrived() && (was_changed || differs || changed);
        match entry.phase {
            Phase::Sending => {}
            Phase::Due(at) => {
                self.due.of(was_changed).remove(&(at, account.clone()));
                if entry.arrived() {
                    entry.phase = Phase::Quiet;
                    return;
                }
                // A target that answers may accept the new state. A target that does not answer is not retried earlier
                // because of a change.
                let at = if differs && entry.answered() { at.min(now) } else { at };
                self.schedule(account, at);
            }
            Phase::Waiting if entry.changed => self.schedule(account, now),
            Phase::Quiet if !entry.arrived() => self.begin(account, now),
            Phase::Waiting | Phase::Quiet => {}
        }
    }

    /// Marks the state of all mailboxes, or of one, as not sent: the target may have lost it. It is sent again within the
    /// same limits as after a take-over. A send in progress may have reached the target before it lost its state, hence
    /// is repeated. Returns the number of states.
    pub fn resync(&mut self, mailbox: Option<MailboxId>, now: BootInstant) -> usize {
        let accounts: Vec<_> = match mailbox {
            Some(mailbox) => self.accounts.get(&mailbox).cloned().into_iter().collect(),
            None => self.entries.keys().cloned().collect(),
        };
        for account in &accounts {
            let Some(entry) = self.entries.get_mut(account) else { continue };
            entry.sent = None;
            match entry.phase {
                Phase::Sending => entry.repeat = true,
                Phase::Due(at) => self.schedule(account, at.min(now)),
                Phase::Quiet => self.begin(account, now),
                Phase::Waiting => {}
            }
        }
        accounts.len()
    }

    /// Mailboxes on the queue.
    pub fn mailboxes(&self) -> Vec<MailboxId> {
        self.accounts.keys().copied().collect()
    }

    /// Next state to send, if a send is allowed now. Report [`Self::finished`] for it.
    pub fn next(&mut self, now: BootInstant) -> Option<MwiUpdate> {
        if now < self.not_before || self.sending >= self.policy.concurrency.max(1) {
            return None;
        }
        let (at, account) = self.due.pop(now)?;
        let entry = self.entries.get_mut(&account)?;
        entry.phase = Phase::Sending;
        self.sending += 1;
        self.not_before = match self.away {
            true => now + self.policy.first_retry,
            // A state that waited for its turn is sent a little late, because timers are: the next is not to be later too.
            false if at <= self.not_before => self.not_before.max(now - self.policy.pace) + self.policy.pace,
            false => now + self.policy.pace,
        };
        Some(entry.update())
    }

    /// Earliest time at which [`Self::next`] may return a state; `None`: not before a change.
    pub fn wake(&self) -> Option<BootInstant> {
        let at = self.due.earliest()?;
        (self.sending < self.policy.concurrency.max(1)).then(|| at.max(self.not_before))
    }

    /// Records the result of a send. `chance` is any number: it spreads retries.
    pub fn finished(&mut self, update: &MwiUpdate, result: Result<(), SendError>, now: BootInstant, chance: u64) {
        let account = self.account(update.mailbox, &update.number);
        if !self.entries.get_mut(&account).is_some_and(|entry| std::mem::take(&mut entry.rides)) {
            self.sending = self.sending.saturating_sub(1);
        }
        match result {
            Ok(()) | Err(SendError::Refused(_) | SendError::Incomplete(_)) => self.is_back(now),
            Err(SendError::Unreachable(_)) => self.away = true,
            Err(SendError::NotHolder) => {}
        }
        let Some(entry) = self.entries.get_mut(&account) else { return };
        let repeat = std::mem::take(&mut entry.repeat);
        let superseded = repeat || entry.desired != update.counts;
        entry.phase = Phase::Quiet;
        let at = match result {
            Ok(()) => {
                entry.sent = (!repeat).then_some(update.counts);
                entry.failures = 0;
                entry.error = None;
                entry.changed = entry.desired != update.counts;
                superseded.then_some(now)
            }
            Err(error) => {
                // The receiver's present state is unknown: the same state is sent again even if it was delivered
                // before.
                entry.sent = None;
                entry.failures = entry.failures.saturating_add(1);
                let retry = Backoff::new(self.policy.first_retry, self.policy.longest_retry);
                let wait = match &error {
                    SendError::Refused(_) | SendError::Incomplete(_) if superseded => Duration::ZERO,
                    SendError::Refused(_) => self.policy.after_refusal,
                    _ => retry.after(entry.failures),
                };
                entry.error = Some(error);
                Some(now + jitter(wait, chance))
            }
        };
        if let Some(at) = at {
            self.schedule(&account, at);
        }
        self.forget_if_done(&account);
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
        let missed: Vec<_> =
            self.entries.iter().filter(|(_, e)| missed(e)).map(|(account, _)| account.clone()).collect();
        missed.iter().for_each(|account| self.schedule(account, now));
    }

    /// Present state of all entries.
    pub fn snapshot(&self) -> Vec<MwiState> {
        self.entries
            .values()
            .map(|entry| MwiState {
                target: self.target.clone(),
                mailbox: entry.mailbox,
                number: entry.number.to_string(),
                desired: entry.desired,
                sent: entry.sent,
                sending: entry.phase == Phase::Sending,
                failures: entry.failures,
                error: entry.error.as_ref().map(ToString::to_string),
            })
            .collect()
    }

    fn schedule(&mut self, account: &Arc<str>, at: BootInstant) {
        let Some(entry) = self.entries.get_mut(account) else { return };
        match entry.phase {
            Phase::Due(before) => {
                self.due.of(entry.changed).remove(&(before, account.clone()));
            }
            Phase::Waiting => self.waiting.remove(account),
            Phase::Quiet | Phase::Sending => {}
        }
        entry.phase = Phase::Due(at);
        self.due.of(entry.changed).insert((at, account.clone()));
    }

    fn forget_if_done(&mut self, account: &Arc<str>) {
        let done = |entry: &Entry| entry.leaving && entry.phase == Phase::Quiet && entry.arrived();
        if self.entries.get(account).is_some_and(done) {
            self.entries.remove(account);
        }
    }
}

/// Wait reduced by a random part of up to one quarter.
fn jitter(wait: Duration, chance: u64) -> Duration {
    let part = u32::try_from(chance % 1_000).unwrap_or_default();
    Backoff::spread(wait, 0.75..=1.0, 1.0 - f64::from(part) / 1_000.0)
}
