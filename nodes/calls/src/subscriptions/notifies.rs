//! The NOTIFYs of subscriptions: their content, their path, and their outcome.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use twinbox_ids::MailboxId;
use twinbox_mailstore::MessageCounts;
use twinbox_sip::{Request, mwi::ends_subscription, transaction::Guard};
use twinbox_sip_transport::{Flow, Room};

use super::{
    Subscriptions, in_turn,
    table::{Entry, NotifySource, Snapshot},
};
use crate::{
    access::Trunk,
    notify::{NotifyError, SubscriptionId, note_outcome},
    outgoing::{Renumber, RequestTerms},
    transactions::SendError,
};

/// Maximum wait of the notifier for the answers of all subscribers to a mailbox.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum wait of a NOTIFY for a connection with room in its queue: as long as for an answer (timer F).
const ROOM_TIMEOUT: Duration = Duration::from_secs(32);

/// The flow of a NOTIFY, with its room there, or the reason why it has none.
type NotifyPath = Result<(Flow, Room), SendError>;

/// Content of a NOTIFY, and the right to send it.
struct PendingNotify {
    counts: MessageCounts,
    source: NotifySource,
    epoch: String,
    guard: Option<Guard>,
}

impl PendingNotify {
    /// Counts of this node's own store, read when `notifies` NOTIFYs had been sent.
    fn of_store(counts: MessageCounts, notifies: u64) -> Self {
        Self { counts, source: NotifySource::Store { notifies }, epoch: String::new(), guard: None }
    }
}

impl Subscriptions {
    /// Sends the notifier's state to all subscribers of a mailbox, except those that already have it.
    pub(crate) async fn notify_all(
        self: &Arc<Self>,
        mailbox: MailboxId,
        counts: MessageCounts,
        epoch: &str,
        guard: Guard,
    ) -> Result<(), NotifyError> {
        let (mut known, mut missing) = (Ok(()), Vec::new());
        for id in self.table.of(mailbox) {
            match self.table.with(id, |entry| entry.want(counts)) {
                Ok(Some(outcome)) => known = combined(known, outcome),
                Ok(None) => missing.push(id),
                // It has just ended.
                Err(_) => {}
            }
        }
        let (subscriptions, epoch) = (self.clone(), epoch.to_owned());
        let notify = move |id| {
            let (subscriptions, epoch, guard) = (subscriptions.clone(), epoch.clone(), Some(guard.clone()));
            let pending = PendingNotify { counts, source: NotifySource::Notifier, epoch, guard };
            async move { subscriptions.notify_change(id, pending).await }
        };
        // A task that runs to its end even after the timeout: it removes silent subscribers.
        let work = in_turn(missing.into_iter().map(notify), known, combined);
        let task = self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(work));
        match timeout(ANSWER_TIMEOUT, task).await {
            Ok(Ok(Some(outcome))) => outcome,
            _ => Err(NotifyError::Timeout),
        }
    }

    /// Sends the notifier's state in its turn.
    async fn notify_change(&self, id: SubscriptionId, pending: PendingNotify) -> Result<(), NotifyError> {
        let path = self.path_in_turn(self.table.with(id, |entry| entry.hop())?).await;
        self.notify(id, path, pending).await
    }

    /// Sends the state in this node's own store, without waiting for a turn. `last`: the subscription ends with it.
    pub(super) async fn notify_state(&self, id: SubscriptionId, last: bool) -> Result<(), NotifyError> {
        let path = self.path(&self.table.with(id, |entry| entry.hop())?).await;
        let Some((pending, moved)) = self.read(self.table.with(id, |entry| entry.snapshot())?).await else {
            self.table.remove(id);
            return Err(NotifyError::Uncounted);
        };
        match last || moved {
            true => self.notify_last(self.table.remove(id).ok_or(NotifyError::Ended(id))?, path, pending).await,
            false => self.notify(id, path, pending).await,
        }
    }

    /// Sends the last NOTIFY of a subscription that has expired and is no longer in the table.
    pub(super) async fn end(self: Arc<Self>, entry: Entry) {
        let path = self.path_in_turn(entry.hop()).await;
        if let Some((pending, _)) = self.read(entry.snapshot()).await {
            // The outcome is counted there.
            let _ = self.notify_last(entry, path, pending).await;
        }
    }

    /// Repeats the answer to a SUBSCRIBE if the store has a new state and the notifier has sent nothing since.
    pub(super) async fn repeat(self: Arc<Self>, id: SubscriptionId) {
        if self.outdated(id).await.is_none() {
            return;
        }
        let Ok(hop) = self.table.with(id, |entry| entry.hop()) else { return };
        let path = self.path_in_turn(hop).await;
        // The state may have changed while this NOTIFY waited for its turn.
        if let Some(pending) = self.outdated(id).await {
            // `notify` accounts for a failure.
            let _ = self.notify(id, path, pending).await;
        }
    }

    /// The state in the store, if the last NOTIFY came from the store and has another one.
    async fn outdated(&self, id: SubscriptionId) -> Option<PendingNotify> {
        let read = |entry: &mut Entry| Some((entry.mailbox, entry.answer_of_store()?, entry.notifies));
        let (mailbox, sent_counts, notifies) = self.table.with(id, read).ok()??;
        let counts = self.mailstore.message_counts(mailbox).await.ok()?;
        (counts != sent_counts).then(|| PendingNotify::of_store(counts, notifies))
    }

    /// The state in the store, and whether the mailbox has got another number: then the subscription ends, and a new SUBSCRIBE
    /// gets the state of the mailbox that now has this number. `None`: there is nothing to show, and the subscription ends.
    async fn read(&self, of: Snapshot) -> Option<(PendingNotify, bool)> {
        let Snapshot { mailbox, number, shown, notifies } = of;
        let found = self.mailstore.find_by_number(&number).await;
        let moved = found.is_ok_and(|found| found.is_none_or(|found| found.id != mailbox));
        let counts = match (self.mailstore.message_counts(mailbox).await, shown) {
            _ if moved => MessageCounts::default(),
            (Ok(counts), _) => counts,
            // The last sent counts are better than none; a subscriber that got none subscribes again.
            (Err(error), Some(shown)) => {
                tracing::error!(%error, %mailbox, "messages cannot be counted; the last MWI state is sent again");
                shown
            }
            (Err(error), None) => {
                tracing::error!(%error, %mailbox, "messages cannot be counted; the MWI subscription ends");
                return None;
            }
        };
        Some((PendingNotify::of_store(counts, notifies), moved))
    }

    /// The path of a NOTIFY to its next hop.
    async fn path(&self, (hop, near): &(String, Flow)) -> NotifyPath {
        Ok((self.outgoing.route(hop, Some(near)).await?, None))
    }

    /// The path of a NOTIFY that waits for room there. If the connection is closed meanwhile, the path is sought again.
    async fn path_in_turn(&self, hop: (String, Flow)) -> NotifyPath {
        let path = async {
            loop {
                let (flow, _) = self.path(&hop).await?;
                if let Some(room) = flow.room().await {
                    return NotifyPath::Ok((flow, room));
                }
            }
        };
        timeout(ROOM_TIMEOUT, path).await.unwrap_or(Err(SendError::TimedOut))
    }

    /// Sends a NOTIFY in the dialog of a subscription.
    async fn notify(
        &self,
        id: SubscriptionId,
        path: NotifyPath,
        pending: PendingNotify,
    ) -> Result<(), NotifyError> {
        let PendingNotify { counts, source, epoch, guard } = pending;
        let began = self.clock.now();
        let begun = self.table.with(id, |entry| {
            // While a state of the notifier waited for its turn, it may have been sent, or another one has replaced it.
            if source == NotifySource::Notifier
                && let Some(outcome) = entry.adopt(counts)
            {
                return Err(outcome);
            }
            let request = entry.notify(counts, source, &epoch, false, began);
            Ok((request, entry.notifies, entry.trunk.clone()))
        })?;
        let (request, number, trunk) = match begun {
            Ok(begun) => begun,
            Err(outcome) => return outcome,
        };
        let left = Arc::new(AtomicBool::new(guard.is_none()));
        let guard = guard.map(|guard| {
            let left = left.clone();
            Guard(Arc::new(move || {
                let may = (guard.0)();
                left.fetch_or(may, Ordering::Relaxed);
                may
            }))
        });
        let mut renumber = |request: &mut Request| {
            let _ = self.table.with(id, |entry| entry.dialog.renumber(request));
        };
        let sent = self.send(request, path, &trunk, guard, &mut renumber).await;
        let left = left.load(Ordering::Relaxed);
        self.table.settle(id, |entry| entry.settle(number, began, left, &sent, self.clock.now()));
        note_outcome(&self.stats, sent)
    }

    /// Sends the last NOTIFY of a subscription that is no longer in the table.
    async fn notify_last(
        &self,
        mut entry: Entry,
        path: NotifyPath,
        pending: PendingNotify,
    ) -> Result<(), NotifyError> {
        let request = entry.notify(pending.counts, pending.source, "", true, self.clock.now());
        let mut renumber = |request: &mut Request| entry.dialog.renumber(request);
        note_outcome(&self.stats, self.send(request, path, &entry.trunk, None, &mut renumber).await)
    }

    async fn send(
        &self,
        mut request: Request,
        path: NotifyPath,
        trunk: &Trunk,
        guard: Option<Guard>,
        renumber: Renumber<'_>,
    ) -> Result<u16, SendError> {
        let (flow, room) = path?;
        request.headers.push("Contact", self.outgoing.contact(&flow));
        let credentials = trunk.credentials_for(&flow);
        let terms = RequestTerms { credentials, guard, room, ..RequestTerms::default() };
        Ok(self.outgoing.send_request(request, &flow, terms, renumber).await?.response.code)
    }
}

/// Outcome of a state that goes to several subscribers, with that of one more.
fn combined(all: Result<(), NotifyError>, one: Result<(), NotifyError>) -> Result<(), NotifyError> {
    match one {
        // A subscriber without this dialog does not need the state.
        Ok(()) | Err(NotifyError::Ended(_)) => all,
        Err(NotifyError::Refused(code)) if ends_subscription(code) => all,
        // Other errors replace a refusal: they are worth a retry soon.
        Err(error) if !matches!(error, NotifyError::Refused(_)) || all.is_ok() => Err(error),
        Err(_) => all,
    }
}
