//! The table of MWI subscriptions: their dialogs, expiry, and the last NOTIFY of each.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::{CountsChange, MessageCounts};
use twinbox_sip::dialog::Dialog;

use crate::{
    access::Trunk,
    dialogs::DialogKey,
    notify::{NotifyError, Subscription, SubscriptionId},
    outgoing::SendError,
    sip_server::lock,
    wire::Flow,
};

/// A subscriber without an answer for this time is removed: a little less than a transaction lasts (timer F).
const SUBSCRIBER_TIMEOUT: Duration = Duration::from_secs(31);

/// The subscriptions whose dialogs this node holds.
pub(crate) struct Subscriptions {
    pub(crate) table: Mutex<SubscriptionTable>,
    max: usize,
}

/// Subscriptions by ID, with an index by dialog.
#[derive(Default)]
pub(crate) struct SubscriptionTable {
    next: u64,
    pub(crate) by_id: HashMap<SubscriptionId, Entry>,
    pub(crate) by_dialog: HashMap<DialogKey, SubscriptionId>,
}

/// State of one subscription.
pub(crate) struct Entry {
    pub(crate) mailbox: MailboxId,
    pub(crate) number: String,
    /// The Event header of its NOTIFYs: with the `id` of the SUBSCRIBE, if it has one (RFC 6665 section 8.2.1).
    pub(crate) event: String,
    pub(crate) dialog: Dialog,
    pub(crate) flow: Flow,
    pub(crate) trunk: Arc<Trunk>,
    pub(crate) until: BootInstant,
    /// Number of NOTIFYs sent.
    pub(crate) notifies: u64,
    /// Content of the latest NOTIFY.
    pub(crate) last: Option<LastNotify>,
    /// Time of the subscriber's last message.
    pub(crate) last_message: BootInstant,
    /// Time of the first NOTIFY since the subscriber's last answer; `None` if none is unanswered.
    pub(crate) unanswered: Option<BootInstant>,
}

/// The latest NOTIFY in a dialog.
pub(crate) struct LastNotify {
    pub(crate) counts: MessageCounts,
    pub(crate) source: NotifySource,
    pub(crate) answer: Answer,
}

/// Source of a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotifySource {
    /// This node's store, read when `notifies` NOTIFYs had been sent.
    Store {
        notifies: u64,
    },
    Notifier,
}

/// State of the subscriber's answer to a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Awaited,
    Accepted,
    Failed,
}

/// Mailboxes whose MWI changed.
#[derive(Default)]
pub(crate) struct Changed {
    everything: bool,
    mailboxes: BTreeSet<MailboxId>,
}

impl Changed {
    pub(crate) fn add(&mut self, change: CountsChange) {
        match change {
            CountsChange::Everything => self.everything = true,
            CountsChange::Mailbox(mailbox) => {
                self.mailboxes.insert(mailbox);
            }
        }
    }

    fn covers(&self, mailbox: MailboxId) -> bool {
        self.everything || self.mailboxes.contains(&mailbox)
    }
}

impl Subscriptions {
    pub(crate) fn new(max: usize) -> Self {
        Self { table: Mutex::default(), max }
    }

    pub(crate) fn has_dialog(&self, key: &DialogKey) -> bool {
        lock(&self.table).by_dialog.contains_key(key)
    }

    /// The trunk of the subscription with this dialog, by Call-ID and both tags.
    pub(crate) fn trunk_of(&self, key: &DialogKey, remote_tag: Option<&str>) -> Option<Arc<Trunk>> {
        let table = lock(&self.table);
        let entry = table.by_id.get(table.by_dialog.get(key)?)?;
        (remote_tag == Some(entry.dialog.remote_tag.as_str())).then(|| entry.trunk.clone())
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.table).by_id.len()
    }

    /// The subscriptions to a mailbox.
    pub(crate) fn of(&self, mailbox: MailboxId) -> Vec<Subscription> {
        self.list(|entry| entry.mailbox == mailbox)
    }

    fn list(&self, which: impl Fn(&Entry) -> bool) -> Vec<Subscription> {
        let now = BootInstant::now();
        let table = lock(&self.table);
        let chosen = table.by_id.iter().filter(|(_, entry)| which(entry));
        chosen
            .map(|(id, entry)| Subscription { id: *id, mailbox: entry.mailbox, expires: entry.until.since(now) })
            .collect()
    }

    pub(crate) fn add(&self, key: DialogKey, entry: Entry) -> Option<SubscriptionId> {
        let mut table = lock(&self.table);
        if table.by_id.len() >= self.max {
            return None;
        }
        table.next += 1;
        let id = SubscriptionId(table.next);
        table.by_id.insert(id, entry);
        table.by_dialog.insert(key, id);
        Some(id)
    }

    /// Ends a subscription. Returns its dialog, in which the last NOTIFY is sent.
    pub(crate) fn remove(&self, id: SubscriptionId) -> Option<Dialog> {
        let mut table = lock(&self.table);
        let ended = table.by_id.remove(&id);
        table.by_dialog.retain(|_, other| *other != id);
        ended.map(|entry| entry.dialog)
    }

    /// The changed subscriptions whose last NOTIFY came from the store.
    pub(crate) fn answered_by_store(&self, changed: &Changed) -> Vec<SubscriptionId> {
        let store =
            |e: &Entry| e.last.as_ref().is_some_and(|last| matches!(last.source, NotifySource::Store { .. }));
        let table = lock(&self.table);
        table.by_id.iter().filter(|(_, e)| changed.covers(e.mailbox) && store(e)).map(|(id, _)| *id).collect()
    }

    /// Adopts the latest NOTIFY as the notifier's, if it has this content and did not fail.
    pub(crate) fn adopt(&self, id: SubscriptionId, counts: MessageCounts) -> Option<Result<(), NotifyError>> {
        let mut table = lock(&self.table);
        let Some(entry) = table.by_id.get_mut(&id) else { return Some(Err(NotifyError::Ended(id))) };
        let last = entry.last.as_mut().filter(|last| last.counts == counts && last.answer != Answer::Failed)?;
        last.source = NotifySource::Notifier;
        Some(if last.answer == Answer::Accepted { Ok(()) } else { Err(NotifyError::Timeout) })
    }

    /// Registers the outcome of the NOTIFY with this number, created at `began`. `left`: a datagram was sent.
    pub(crate) fn settle(
        &self,
        id: SubscriptionId,
        number: u64,
        began: BootInstant,
        left: bool,
        sent: &Result<u16, SendError>,
    ) {
        let now = BootInstant::now();
        let mut table = lock(&self.table);
        let Some(entry) = table.by_id.get_mut(&id) else { return };
        if let Some(last) = entry.last.as_mut().filter(|_| entry.notifies == number) {
            last.answer = if matches!(sent, Ok(200..=299)) { Answer::Accepted } else { Answer::Failed };
        }
        let removed = match sent {
            Ok(code) => {
                entry.last_message = now;
                entry.unanswered = None;
                ends_subscription(*code)
            }
            Err(SendError::Withdrawn) if !left => false,
            // A NOTIFY withdrawn because the right to send ended is also unanswered, and its time counts.
            Err(_) => {
                let since = *entry.unanswered.get_or_insert(began);
                now.since(since.max(entry.last_message)) >= SUBSCRIBER_TIMEOUT
            }
        };
        drop(table);
        if removed {
            self.remove(id);
        }
    }

    pub(crate) fn expired(&self, now: BootInstant) -> Vec<SubscriptionId> {
        lock(&self.table).by_id.iter().filter(|(_, e)| e.until <= now).map(|(id, _)| *id).collect()
    }
}

/// Whether this answer to a NOTIFY ends the subscription (RFC 5057 section 5.1, RFC 6665 section 4.2.2).
pub(crate) fn ends_subscription(code: u16) -> bool {
    matches!(code, 404 | 405 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604)
}
