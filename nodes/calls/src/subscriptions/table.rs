//! The table of MWI subscriptions: their dialogs, expiry, and the last NOTIFY of each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::{CountsChange, MessageCounts};
use twinbox_sip::{
    Method, Request,
    dialog::Dialog,
    mwi::{Summary, ends_subscription},
};
use twinbox_sip_transport::Flow;

use crate::{
    access::Trunk,
    dialogs::DialogKey,
    lock,
    notify::{NotifyError, SubscriptionId, with_summary},
    transactions::SendError,
};

/// A subscriber without an answer for this time is removed: a little less than a transaction lasts (timer F).
const SUBSCRIBER_TIMEOUT: Duration = Duration::from_secs(31);

/// The subscriptions whose dialogs this node holds.
pub(super) struct SubscriptionTable {
    rows: Mutex<Rows>,
    max: usize,
}

/// Subscriptions by ID, in the order of their beginning, with indexes by dialog and mailbox.
#[derive(Default)]
struct Rows {
    next: u64,
    by_id: BTreeMap<SubscriptionId, Entry>,
    by_dialog: HashMap<DialogKey, SubscriptionId>,
    /// A resend of MWI looks for the subscriptions of thousands of mailboxes.
    by_mailbox: BTreeSet<(MailboxId, SubscriptionId)>,
}

/// State of one subscription.
pub(super) struct Entry {
    pub(super) mailbox: MailboxId,
    pub(super) number: String,
    /// The Event header of its NOTIFYs: with the `id` of the SUBSCRIBE, if it has one (RFC 6665 section 8.2.1).
    pub(super) event: String,
    pub(super) dialog: Dialog,
    pub(super) flow: Flow,
    pub(super) trunk: Arc<Trunk>,
    pub(super) until: BootInstant,
    /// Number of NOTIFYs sent.
    pub(super) notifies: u64,
    /// Content of the latest NOTIFY.
    pub(super) last: Option<LastNotify>,
    /// The notifier's latest state, whether it was sent or waits for its turn.
    pub(super) wanted: Option<MessageCounts>,
    /// Time of the subscriber's last message.
    pub(super) last_message: BootInstant,
    /// Time of the first NOTIFY since the subscriber's last answer; `None` if none is unanswered.
    pub(super) unanswered: Option<BootInstant>,
}

/// A subscription at the moment when the store is read for it.
pub(super) struct Snapshot {
    pub(super) mailbox: MailboxId,
    pub(super) number: String,
    /// Counts of the last NOTIFY.
    pub(super) shown: Option<MessageCounts>,
    /// Number of NOTIFYs sent.
    pub(super) notifies: u64,
}

/// The latest NOTIFY in a dialog.
pub(super) struct LastNotify {
    counts: MessageCounts,
    source: NotifySource,
    answer: Answer,
}

/// Source of a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotifySource {
    /// This node's store, read when `notifies` NOTIFYs had been sent.
    Store {
        notifies: u64,
    },
    Notifier,
}

/// State of the subscriber's answer to a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Accepted,
    Failed,
}

/// Mailboxes whose MWI changed.
#[derive(Default)]
pub(super) struct Changed {
    everything: bool,
    mailboxes: BTreeSet<MailboxId>,
}

impl Changed {
    pub(super) fn add(&mut self, change: CountsChange) {
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

impl SubscriptionTable {
    pub(super) fn new(max: usize) -> Self {
        Self { rows: Mutex::default(), max }
    }

    pub(super) fn has_dialog(&self, key: &DialogKey) -> bool {
        lock(&self.rows).by_dialog.contains_key(key)
    }

    /// The trunk of the subscription with this dialog, by Call-ID and both tags.
    pub(super) fn trunk_of(&self, key: &DialogKey, remote_tag: Option<&str>) -> Option<Arc<Trunk>> {
        let rows = lock(&self.rows);
        let entry = rows.by_id.get(rows.by_dialog.get(key)?)?;
        (remote_tag == Some(entry.dialog.remote_tag.as_str())).then(|| entry.trunk.clone())
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.rows).by_id.len()
    }

    /// The subscriptions to a mailbox.
    pub(super) fn of(&self, mailbox: MailboxId) -> Vec<SubscriptionId> {
        let all = (mailbox, SubscriptionId(0))..=(mailbox, SubscriptionId(u64::MAX));
        lock(&self.rows).by_mailbox.range(all).map(|(_, id)| *id).collect()
    }

    /// The mailboxes with subscriptions, in ascending order.
    pub(super) fn mailboxes(&self) -> Vec<MailboxId> {
        let mut mailboxes: Vec<_> = lock(&self.rows).by_mailbox.iter().map(|(mailbox, _)| *mailbox).collect();
        mailboxes.dedup();
        mailboxes
    }

    /// The changed subscriptions whose last NOTIFY came from the store.
    pub(super) fn answered_by_store(&self, changed: &Changed) -> Vec<SubscriptionId> {
        let which = |entry: &Entry| changed.covers(entry.mailbox) && entry.answer_of_store().is_some();
        lock(&self.rows).by_id.iter().filter(|(_, entry)| which(entry)).map(|(id, _)| *id).collect()
    }

    /// Adds a subscription; `None`: there are too many.
    pub(super) fn add(&self, entry: Entry) -> Option<SubscriptionId> {
        let mut rows = lock(&self.rows);
        if rows.by_id.len() >= self.max {
            return None;
        }
        rows.next += 1;
        let id = SubscriptionId(rows.next);
        rows.by_dialog.insert(entry.key(), id);
        rows.by_mailbox.insert((entry.mailbox, id));
        rows.by_id.insert(id, entry);
        Some(id)
    }

    /// Ends a subscription.
    pub(super) fn remove(&self, id: SubscriptionId) -> Option<Entry> {
        lock(&self.rows).remove(id)
    }

    /// Ends the expired subscriptions, and returns them in the order of their expiry.
    pub(super) fn take_expired(&self, now: BootInstant) -> Vec<Entry> {
        let mut rows = lock(&self.rows);
        let expired = rows.by_id.iter().filter(|(_, entry)| entry.until <= now);
        let mut expired: Vec<_> = expired.map(|(id, entry)| (entry.until, *id)).collect();
        expired.sort_unstable();
        expired.into_iter().filter_map(|(_, id)| rows.remove(id)).collect()
    }

    /// Reads or changes a subscription.
    pub(super) fn with<T>(
        &self,
        id: SubscriptionId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Result<T, NotifyError> {
        lock(&self.rows).by_id.get_mut(&id).map(change).ok_or(NotifyError::Ended(id))
    }

    /// Registers a request in the dialog of a subscription: its ID, and whether the subscriber sent the request, and none later.
    pub(super) fn received(
        &self,
        key: &DialogKey,
        request: &Request,
        trusted: bool,
    ) -> Option<(SubscriptionId, bool)> {
        let mut rows = lock(&self.rows);
        let id = *rows.by_dialog.get(key)?;
        let dialog = &mut rows.by_id.get_mut(&id)?.dialog;
        let from_peer = request.headers.tag("From") == Some(dialog.remote_tag.as_str());
        let accepted = from_peer && dialog.received(request);
        if accepted {
            dialog.retarget(&request.method, &request.headers, trusted);
        }
        Some((id, accepted))
    }

    /// Registers the outcome of a NOTIFY, as [`Entry::settle`], and ends a subscription that is over by it.
    pub(super) fn settle(&self, id: SubscriptionId, settle: impl FnOnce(&mut Entry) -> bool) {
        let mut rows = lock(&self.rows);
        if rows.by_id.get_mut(&id).is_some_and(settle) {
            rows.remove(id);
        }
    }
}

impl Rows {
    fn remove(&mut self, id: SubscriptionId) -> Option<Entry> {
        let entry = self.by_id.remove(&id)?;
        self.by_mailbox.remove(&(entry.mailbox, id));
        let key = entry.key();
        if self.by_dialog.get(&key) == Some(&id) {
            self.by_dialog.remove(&key);
        }
        Some(entry)
    }
}

impl Entry {
    fn key(&self) -> DialogKey {
        (self.dialog.call_id.clone(), self.dialog.local_tag.clone())
    }

    /// Next hop of its NOTIFYs, and its present flow.
    pub(super) fn hop(&self) -> (String, Flow) {
        (self.dialog.next_hop().to_owned(), self.flow.clone())
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let shown = self.last.as_ref().map(|last| last.counts);
        Snapshot { mailbox: self.mailbox, number: self.number.clone(), shown, notifies: self.notifies }
    }

    /// Counts of the last NOTIFY, if it came from the store.
    pub(super) fn answer_of_store(&self) -> Option<MessageCounts> {
        self.last.as_ref().filter(|last| last.source != NotifySource::Notifier).map(|last| last.counts)
    }

    /// Registers a state of the notifier. `Some`: it is not to be sent, as [`Self::adopt`].
    pub(super) fn want(&mut self, counts: MessageCounts) -> Option<Result<(), NotifyError>> {
        self.wanted = Some(counts);
        self.adopt(counts)
    }

    /// Adopts the latest NOTIFY as the notifier's, if it has this content and did not fail: its outcome so far. Refuses a state
    /// that the notifier has replaced by another one while it waited for its turn: the subscriber may have that already.
    pub(super) fn adopt(&mut self, counts: MessageCounts) -> Option<Result<(), NotifyError>> {
        if self.wanted.is_some_and(|wanted| wanted != counts) {
            return Some(Err(NotifyError::Timeout));
        }
        let last = self.last.as_mut().filter(|last| last.counts == counts && last.answer != Answer::Failed)?;
        last.source = NotifySource::Notifier;
        Some(if last.answer == Answer::Accepted { Ok(()) } else { Err(NotifyError::Timeout) })
    }

    /// The next NOTIFY; `last`: the subscription ends with it. Number and content belong together: older content never gets a
    /// higher number. If the notifier sent a NOTIFY while the store was read, its content is repeated.
    pub(super) fn notify(
        &mut self,
        mut counts: MessageCounts,
        mut source: NotifySource,
        epoch: &str,
        last: bool,
        now: BootInstant,
    ) -> Request {
        if let (NotifySource::Store { notifies }, Some(newer)) = (source, &self.last)
            && newer.source == NotifySource::Notifier
            && self.notifies > notifies
        {
            (counts, source) = (newer.counts, NotifySource::Notifier);
        }
        self.notifies += 1;
        self.last = Some(LastNotify { counts, source, answer: Answer::Awaited });
        let mut request = self.dialog.request(Method::Notify);
        let state = match last {
            true => "terminated;reason=timeout".to_owned(),
            false => format!("active;expires={}", self.until.since(now).as_secs()),
        };
        request.headers.push("Subscription-State", state);
        let account = Some(format!("sip:{}@{}", self.number, self.flow.advertised()));
        let body = Summary { account, new: counts.new, old: counts.saved }.body();
        with_summary(request, &self.event, &body, epoch)
    }

    /// Registers the outcome of the NOTIFY with this number, created at `began`. `left`: a datagram was sent. Returns whether the
    /// subscription is over.
    pub(super) fn settle(
        &mut self,
        number: u64,
        began: BootInstant,
        left: bool,
        sent: &Result<u16, SendError>,
        now: BootInstant,
    ) -> bool {
        if let Some(last) = self.last.as_mut().filter(|_| self.notifies == number) {
            last.answer = if matches!(sent, Ok(200..=299)) { Answer::Accepted } else { Answer::Failed };
        }
        match sent {
            Ok(code) => {
                self.last_message = now;
                self.unanswered = None;
                ends_subscription(*code)
            }
            Err(SendError::Withdrawn) if !left => false,
            // A NOTIFY withdrawn because the right to send ended is also unanswered, and its time counts.
            Err(_) => {
                let since = *self.unanswered.get_or_insert(began);
                now.since(since.max(self.last_message)) >= SUBSCRIBER_TIMEOUT
            }
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/subscription_table.rs"]
mod tests;
