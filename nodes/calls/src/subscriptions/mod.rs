//! MWI subscriptions (RFC 6665, RFC 3842). This node answers a SUBSCRIBE immediately, from its own store, with the full
//! state (rule E2). The notifier sends changes through [`Subscriptions::notify_all`].
//!
//! An answer from a lagging store would stay wrong: the notifier sent that change earlier and does not know the new
//! subscriber. Therefore, while the last NOTIFY in a dialog came from the store, the answer is repeated in full when
//! the store has caught up. The store never corrects the notifier's last NOTIFY.
//!
//! The answer to a SUBSCRIBE leaves immediately. The other NOTIFYs can be thousands at a time: they begin in turn ([`in_turn`]), and
//! each waits for room in the queue of its connection.

mod in_turn;
mod notifies;
mod table;

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_clock::BootClock;
use twinbox_ids::MailboxId;
use twinbox_mailstore::Mailstore;
use twinbox_sip::{Method, dialog::Dialog, mwi, uri::Uri};

use crate::{
    access::{IncomingRequest, Trunk},
    dialogs::DialogKey,
    notify::SubscriptionId,
    outgoing::Outgoing,
    stats::{Stats, count},
};
use in_turn::in_turn;
use table::{Changed, Entry, SubscriptionTable};

/// Poll interval for expired subscriptions and answers to repeat.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The MWI subscriptions whose dialogs this node holds.
pub(crate) struct Subscriptions {
    table: SubscriptionTable,
    mailstore: Mailstore,
    outgoing: Arc<Outgoing>,
    stats: Arc<Stats>,
    tasks: TaskTracker,
    stop: CancellationToken,
    clock: BootClock,
}

impl Subscriptions {
    /// No subscription yet, and at most `max`.
    pub(crate) fn new(
        max: usize,
        mailstore: Mailstore,
        outgoing: Arc<Outgoing>,
        stats: Arc<Stats>,
        tasks: TaskTracker,
        stop: CancellationToken,
        clock: BootClock,
    ) -> Self {
        Self { table: SubscriptionTable::new(max), mailstore, outgoing, stats, tasks, stop, clock }
    }

    pub(crate) fn has_dialog(&self, key: &DialogKey) -> bool {
        self.table.has_dialog(key)
    }

    /// The trunk of the subscription with this dialog, by Call-ID and both tags.
    pub(crate) fn trunk_of(&self, key: &DialogKey, remote_tag: Option<&str>) -> Option<Arc<Trunk>> {
        self.table.trunk_of(key, remote_tag)
    }

    pub(crate) fn count(&self) -> usize {
        self.table.count()
    }

    pub(crate) fn mailboxes(&self) -> Vec<MailboxId> {
        self.table.mailboxes()
    }

    /// Handles a SUBSCRIBE outside of a dialog.
    pub(crate) async fn accept(self: Arc<Self>, incoming: IncomingRequest) {
        let request = &incoming.request;
        let refuse = |response| {
            count(&self.stats.refused_subscription);
            self.outgoing.transactions.respond(&incoming.id, response);
        };
        let Some(event) = mwi::event(request) else {
            return refuse(request.respond(489).with("Allow-Events", mwi::EVENT));
        };
        if !mwi::accepts_summary(request) {
            return refuse(request.respond(406).with("Accept", mwi::CONTENT_TYPE));
        }
        let seconds = match mwi::expires(request) {
            Ok(seconds) => seconds,
            Err(min) => return refuse(request.respond(423).with("Min-Expires", min.to_string())),
        };
        let number = Uri::parse(&request.uri).and_then(|u| u.number());
        let mailbox = match &number {
            Some(number) => self.mailstore.find_by_number(number).await,
            None => Ok(None),
        };
        let (mailbox, number) = match mailbox {
            Ok(Some(mailbox)) => (mailbox.id, mailbox.number),
            Ok(None) => return refuse(request.respond(404)),
            Err(error) => {
                tracing::error!(%error, "mailbox lookup failed; SUBSCRIBE is refused with 500");
                return refuse(request.respond(500));
            }
        };
        let tag = self.outgoing.transactions.tag(request);
        let Some(dialog) = Dialog::accept(request, &tag) else { return refuse(request.respond(400)) };
        let (flow, trunk) = (incoming.flow.clone(), incoming.trunk.clone());
        let until = self.clock.now() + Duration::from_secs(u64::from(seconds));
        let entry = Entry {
            mailbox,
            number,
            event,
            dialog,
            flow,
            trunk,
            until,
            notifies: 0,
            last: None,
            wanted: None,
            last_message: incoming.at,
            unanswered: None,
        };
        let Some(id) = self.table.add(entry) else {
            return refuse(request.respond(503).with("Retry-After", "60"));
        };
        self.answer(&incoming, id, seconds).await;
    }

    /// Handles a request in the dialog of a subscription: a refresh, or its end.
    pub(crate) fn handle_in_dialog(self: &Arc<Self>, incoming: IncomingRequest, key: &DialogKey) {
        let request = &incoming.request;
        let trusted = incoming.is_from_trunk();
        let found = self.table.received(key, request, trusted);
        let refused = match (found, &request.method) {
            (None, _) => Some(request.respond(481)),
            (Some((_, false)), _) => Some(request.respond(500)),
            (Some(_), Method::Subscribe) => None,
            (Some(_), _) => Some(request.respond(405).with("Allow", "SUBSCRIBE")),
        };
        let seconds = mwi::expires(request);
        let respond = |response| self.outgoing.transactions.respond(&incoming.id, response);
        match (refused, seconds, found) {
            (Some(response), ..) => respond(response),
            (None, Err(min), _) => respond(request.respond(423).with("Min-Expires", min.to_string())),
            (None, Ok(seconds), Some((id, _))) => {
                let now = self.clock.now();
                let _ = self.table.with(id, |entry| {
                    entry.until = now + Duration::from_secs(u64::from(seconds));
                    entry.last_message = now;
                    entry.unanswered = None;
                    if trusted {
                        entry.flow = incoming.flow.clone();
                    }
                });
                let subscriptions = self.clone();
                self.tasks.spawn(async move { subscriptions.answer(&incoming, id, seconds).await });
            }
            (None, Ok(_), None) => {}
        }
    }

    /// Sends the `200`, and immediately the full state: after every SUBSCRIBE, whatever was sent before.
    async fn answer(&self, incoming: &IncomingRequest, id: SubscriptionId, seconds: u32) {
        let request = &incoming.request;
        let mut response = request.respond(200);
        for route in request.headers.all("Record-Route") {
            response.headers.push("Record-Route", route);
        }
        let contact = self.outgoing.contact(&incoming.flow);
        let response = response.with("Contact", contact).with("Expires", seconds.to_string());
        self.outgoing.transactions.respond(&incoming.id, response);
        if let Err(error) = self.notify_state(id, seconds == 0).await {
            tracing::info!(%error, subscription = %id, "subscriber did not accept the NOTIFY with the full state");
        }
    }

    /// Ends expired subscriptions, and repeats answers given before the store had caught up; until the SIP server stops.
    pub(crate) fn maintain(self: Arc<Self>) -> impl Future<Output = ()> {
        // Subscribed to changes before the first answer is given.
        let mut changes = self.mailstore.watch_counts();
        async move {
            let mut interval = tokio::time::interval(POLL_INTERVAL);
            // Two passes at once, after a pause of the process, would not give the notifier its time.
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // A change waits one to two intervals: the notifier's NOTIFY has priority.
            let (mut fresh, mut ripe) = (Changed::default(), Changed::default());
            loop {
                tokio::select! {
                    Some(change) = changes.next() => {
                        fresh.add(change);
                        continue;
                    }
                    _ = interval.tick() => {}
                    () = self.stop.cancelled() => return,
                }
                let (expired, outdated) =
                    (self.table.take_expired(self.clock.now()), self.table.answered_by_store(&ripe));
                let (ending, repeating) = (self.clone(), self.clone());
                let ends = expired.into_iter().map(move |entry| ending.clone().end(entry).boxed());
                let repeats = outdated.into_iter().map(move |id| repeating.clone().repeat(id).boxed());
                let work = in_turn(ends.chain(repeats), (), |(), ()| ());
                self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(work));
                ripe = std::mem::take(&mut fresh);
            }
        }
    }
}
