//! MWI: the counts, and notices of mailboxes whose counts may have changed.

use twinbox_ids::{MailboxId, RecordingId};
use twinbox_mailbox::{
    Mailbox, MessageCounts, Number, Quota, Recording, Rule,
    counts::{Counting, Look, MailboxUsage},
    schema,
};
use twinbox_replication_core::Change;
use twinbox_replication_store::{LiveError, LiveReader};

use crate::{MailError, Mailstore, work::blocking};

/// Maximum number of attempts to adjust the counts of a mailbox that changes meanwhile; then all of its messages are counted again.
const ADJUSTMENTS: usize = 4;

/// A notice that counts may have changed. Reading them again is cheap, and they may turn out to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountsChange {
    /// The counts of this mailbox.
    Mailbox(MailboxId),
    /// The counts of any mailbox: changes were missed, or a number moved.
    Everything,
}

/// Reports changes, made here or by a peer, from its creation on.
pub struct CountsWatch {
    mailstore: Mailstore,
    changes: LiveReader,
}

impl Mailstore {
    /// The MWI counts of a mailbox; zero if it does not exist.
    pub async fn message_counts(&self, mailbox: MailboxId) -> Result<MessageCounts, MailError> {
        Ok(self.usage(mailbox).await?.counts)
    }

    /// Number of messages read since the start to count them. A list of users reads none, unless they changed.
    pub fn messages_counted(&self) -> u64 {
        self.inner.counts.read()
    }

    /// Counts the messages of every mailbox, until `stop` returns true, so that later reads are cached. For the start,
    /// on a thread that may block.
    pub fn count_all(&self, stop: impl Fn() -> bool) -> Result<(), MailError> {
        let mut mailboxes = self.listed().take_while(|_| !stop());
        mailboxes.try_for_each(|mailbox| self.usage_now(mailbox?.id).map(drop))
    }

    async fn usage(&self, mailbox: MailboxId) -> Result<MailboxUsage, MailError> {
        if let Look::Known(usage) = self.inner.counts.look(mailbox) {
            return Ok(usage);
        }
        let store = self.clone();
        blocking(move || store.usage_now(mailbox)).await?
    }

    /// Counts and space of a mailbox; zero if it does not exist. For a thread that may block: reads the messages that changed
    /// since the last count, or all present ones of the mailbox.
    pub fn usage_now(&self, mailbox: MailboxId) -> Result<MailboxUsage, MailError> {
        let counts = &self.inner.counts;
        for _ in 0..ADJUSTMENTS {
            match counts.look(mailbox) {
                Look::Known(usage) => return Ok(usage),
                Look::Changed(adjusting) => {
                    let found = self.read_these(mailbox, &adjusting.changed)?;
                    if let Some(usage) = counts.adjust(mailbox, &adjusting, &found) {
                        return Ok(usage);
                    }
                }
                Look::Unknown => break,
            }
        }
        let begun = counts.begin(mailbox);
        let mut counting = Counting::default();
        // One at a time: a count of a large mailbox needs memory for one.
        for row in self.store().present_rows(&mailbox.to_bytes()) {
            self.readable(mailbox, &row?)?.iter().for_each(|message| counting.add(message));
        }
        Ok(counts.end(mailbox, begun, counting))
    }

    /// Whether no more messages fit into a mailbox.
    pub async fn is_full(&self, mailbox: &Mailbox) -> Result<bool, MailError> {
        let (rules, usage) = (self.rules(mailbox)?, self.usage(mailbox.id).await?);
        let max_messages = rules.get(Rule::Messages).unwrap_or(mailbox.quota.max_messages);
        let quota = Quota { max_messages, ..mailbox.quota };
        let too_long = |minutes: u64| usage.total_ms >= minutes.saturating_mul(60_000);
        Ok(quota.is_full(usage.counts) || rules.get(Rule::TotalMinutes).is_some_and(too_long))
    }

    /// The used share of a mailbox's capacity, in percent; above 100 when there is more in it than fits.
    pub async fn used_percent(&self, mailbox: &Mailbox) -> Result<u64, MailError> {
        let (rules, usage) = (self.rules(mailbox)?, self.usage(mailbox.id).await?);
        let share = |used: u64, most: u64| used.saturating_mul(100) / most.max(1);
        let messages = u64::from(usage.counts.new) + u64::from(usage.counts.saved);
        let max_messages = rules.get(Rule::Messages).unwrap_or(mailbox.quota.max_messages);
        let of_minutes = |minutes: u64| share(usage.total_ms, minutes.saturating_mul(60_000));
        Ok(share(messages, max_messages).max(rules.get(Rule::TotalMinutes).map_or(0, of_minutes)))
    }

    /// Watches for changes of counts. Begin watching before reading the counts, so that no change is missed.
    pub fn watch_counts(&self) -> CountsWatch {
        CountsWatch { mailstore: self.clone(), changes: self.store().live(|change| Subject::of(change).is_some()) }
    }
}

/// Subject of a change that may change counts.
enum Subject {
    Mailbox(MailboxId),
    /// A claim of a number: its record names the mailboxes.
    Number,
    /// A recording that may not count as a message any more.
    Recording(RecordingId),
}

impl Subject {
    fn of(Change { key, delta, .. }: &Change) -> Option<Self> {
        match key.table {
            schema::MESSAGE => Some(Self::Mailbox(schema::message_of(key)?.0)),
            schema::MAILBOX => schema::mailbox_of(key).map(Self::Mailbox),
            schema::NUMBER => Some(Self::Number),
            schema::RECORDING if Recording::withdraws(delta) => schema::recording_of(key).map(Self::Recording),
            _ => None,
        }
    }
}

impl CountsWatch {
    /// The next change; `None` when the store is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<CountsChange> {
        loop {
            match self.changes.recv().await {
                Ok(change) => {
                    if let Some(change) = self.meaning(&change) {
                        return Some(change);
                    }
                }
                Err(LiveError::Lagged) => return Some(CountsChange::Everything),
                Err(LiveError::Closed) => return None,
            }
        }
    }

    /// A change that has already come.
    pub fn try_next(&mut self) -> Option<CountsChange> {
        loop {
            match self.changes.try_recv() {
                Ok(Some(change)) => {
                    if let Some(change) = self.meaning(&change) {
                        return Some(change);
                    }
                }
                Err(LiveError::Lagged) => return Some(CountsChange::Everything),
                Ok(None) | Err(LiveError::Closed) => return None,
            }
        }
    }

    fn meaning(&self, change: &Change) -> Option<CountsChange> {
        let mailbox = match Subject::of(change)? {
            Subject::Mailbox(mailbox) => Some(mailbox),
            Subject::Number => self.new_holder(change),
            Subject::Recording(id) => match self.mailstore.recording(id) {
                Ok(recording) => Some(recording?.mailbox),
                Err(_) => None,
            },
        };
        Some(mailbox.map_or(CountsChange::Everything, CountsChange::Mailbox))
    }

    /// The mailbox that claimed a number which no other mailbox claims: then no other MWI is affected. Thousands of new
    /// users must not each trigger a read of all mailboxes.
    fn new_holder(&self, change: &Change) -> Option<MailboxId> {
        let mailbox = *Number::claimants(&change.delta).first()?;
        let record = self.mailstore.store().get(&change.key).ok()??;
        (Number::claimants(&record) == [mailbox]).then_some(mailbox)
    }
}
