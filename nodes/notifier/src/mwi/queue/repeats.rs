//! States that a take-over or a resync repeats: those of all mailboxes, of which few may have subscribers at a node.
//!
//! They wait until the node has listed the mailboxes with subscribers, and only those are sent, in batches. The others count as
//! delivered: a later subscriber gets its first state from the store of that node, which also corrects it (rule E2). A list
//! decides only on states that waited when it was requested, and of which none was sent since. A state that changes is no
//! repeat: it is sent alone, whatever a list says.

use std::{collections::BTreeSet, mem, sync::Arc};

use twinbox_clock::BootInstant;
use twinbox_ids::Backoff;

use super::{Entry, MwiQueue, Phase, jitter};
use crate::mwi::{MwiUpdate, Receivers, SendError, Target};

/// Maximum number of states in one send. So few are sent without a list.
pub const MAX_BATCH: usize = 32;

/// Accounts of the entries that wait for a list.
#[derive(Debug)]
pub(super) struct WaitingRepeats {
    /// They wait for the next list: one that is requested already may be older than their wait.
    fresh: BTreeSet<Arc<str>>,
    /// They wait for the list that is requested.
    asked: Option<BTreeSet<Arc<str>>>,
    /// No list is requested before this time.
    not_before: BootInstant,
    /// Number of requests that failed since the last list.
    failures: u32,
}

impl Default for WaitingRepeats {
    fn default() -> Self {
        Self { fresh: BTreeSet::new(), asked: None, not_before: BootInstant::from_nanos(0), failures: 0 }
    }
}

impl WaitingRepeats {
    /// Removes an entry that is sent without a list.
    pub(super) fn remove(&mut self, account: &Arc<str>) {
        self.fresh.remove(account);
        if let Some(asked) = &mut self.asked {
            asked.remove(account);
        }
    }
}

impl MwiQueue {
    /// Has a state sent that is not known to be delivered: now, or when a list has its mailbox.
    pub(super) fn begin(&mut self, account: &Arc<str>, now: BootInstant) {
        let has_list = matches!(self.target, Target::Subscribers(_));
        match self.entries.get_mut(account) {
            Some(entry) if has_list && !entry.changed => {
                entry.phase = Phase::Waiting;
                self.waiting.fresh.insert(account.clone());
            }
            _ => self.schedule(account, now),
        }
    }

    /// Begins a list of the mailboxes with receivers for the states that wait. True: request it, and report [`Self::listed`]
    /// for it. If few states wait, they become due without a list.
    pub fn begin_list(&mut self, now: BootInstant) -> bool {
        if self.waiting.fresh.len() <= MAX_BATCH {
            for account in mem::take(&mut self.waiting.fresh) {
                self.schedule(&account, now);
            }
            return false;
        }
        if self.waiting.asked.is_some() || now < self.waiting.not_before {
            return false;
        }
        self.waiting.asked = Some(mem::take(&mut self.waiting.fresh));
        true
    }

    /// Records the requested list, or the failure of its request. `chance` is any number: it spreads retries.
    pub fn listed(&mut self, list: Result<Receivers, SendError>, now: BootInstant, chance: u64) {
        let asked = self.waiting.asked.take().unwrap_or_default();
        let Ok(list) = list else {
            self.waiting.failures = self.waiting.failures.saturating_add(1);
            let retry = Backoff::new(self.policy.first_retry, self.policy.longest_retry);
            self.waiting.not_before = now + jitter(retry.after(self.waiting.failures), chance);
            self.waiting.fresh.extend(asked);
            return;
        };
        self.waiting.failures = 0;
        self.waiting.not_before = now + self.policy.first_retry;
        for account in asked {
            match self.entries.get_mut(&account) {
                Some(entry) if !list.may_include(entry.mailbox) => {
                    entry.sent = Some(entry.desired);
                    entry.phase = Phase::Quiet;
                    self.forget_if_done(&account);
                }
                _ => self.schedule(&account, now),
            }
        }
    }

    /// States for the next send, if one is allowed now; none otherwise. Report [`Self::finished`] for each. A state that changed,
    /// or that failed before, is alone: no silent subscriber of another mailbox delays its outcome.
    pub fn next_batch(&mut self, now: BootInstant) -> Vec<MwiUpdate> {
        let Some(first) = self.next(now) else { return Vec::new() };
        let leader = self.entries.get(&self.account(first.mailbox, &first.number));
        let takes_more = matches!(self.target, Target::Subscribers(_)) && leader.is_some_and(Entry::may_share);
        let mut batch = vec![first];
        while takes_more && !self.away && batch.len() < MAX_BATCH {
            let Some(update) = self.next_rider(now) else { break };
            batch.push(update);
            // As many states in a second as one by one.
            self.not_before = self.not_before + self.policy.pace;
        }
        batch
    }

    fn next_rider(&mut self, now: BootInstant) -> Option<MwiUpdate> {
        let (at, account) = self.due.repeated.first().cloned()?;
        let entry = self.entries.get_mut(&account).filter(|entry| at <= now && entry.may_share())?;
        self.due.repeated.pop_first();
        entry.phase = Phase::Sending;
        entry.rides = true;
        Some(entry.update())
    }
}

impl Entry {
    /// Whether it may be sent together with others.
    fn may_share(&self) -> bool {
        !self.changed && self.failures == 0
    }
}
