//! MWI subscriptions (RFC 6665, RFC 3842). This node answers a SUBSCRIBE immediately, from its own store, with the full
//! state (rule E2). The notifier sends changes through [`SipServer::notify_subscribers`].
//!
//! An answer from a lagging store would stay wrong: the notifier sent that change earlier and does not know the new
//! subscriber. Therefore, while the last NOTIFY in a dialog came from the store, the answer is repeated in full when
//! the store has caught up. The store never corrects the notifier's last NOTIFY.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::MessageCounts;
use twinbox_sip::{
    Method, Request, addr,
    dialog::Dialog,
    mwi::{self, Summary},
    strict,
    transaction::Guard,
    uri::Uri,
};

use crate::{
    access::Trunk,
    dialogs::DialogKey,
    notify::{NotifyError, Subscription, SubscriptionId, with_summary},
    outgoing::SendError,
    sip_server::{IncomingRequest, SipServer, lock},
    stats::count,
    subscription_table::{Answer, Changed, Entry, LastNotify, NotifySource, ends_subscription},
    wire::Flow,
};

/// Default expiry, if the subscriber requests none (RFC 3842 section 3.4 allows any), in seconds.
const DEFAULT_EXPIRES: u32 = 3_600;
const MAX_EXPIRES: u32 = 86_400;
const MIN_EXPIRES: u32 = 60;

/// Maximum wait of the notifier for the answers of all subscribers to a mailbox.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Poll interval for expired subscriptions and answers to repeat.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A NOTIFY to send.
struct PendingNotify {
    counts: MessageCounts,
    source: NotifySource,
    epoch: String,
    guard: Option<Guard>,
    /// The subscription ends with this NOTIFY.
    last: bool,
}

/// Handles a SUBSCRIBE outside of a dialog.
pub(crate) async fn handle_new(server: Arc<SipServer>, incoming: IncomingRequest) {
    let request = &incoming.request;
    let refuse = |response| {
        count(&server.stats.refused_subscription);
        server.respond(&incoming.id, response);
    };
    let Some(event) = event(request) else {
        return refuse(request.respond(489).with("Allow-Events", mwi::EVENT));
    };
    let acceptable = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        [mwi::CONTENT_TYPE, "application/*", "*/*"].iter().any(|k| k.eq_ignore_ascii_case(kind))
    };
    // Bounds the parsing of repeated Accept headers.
    if request.headers.get("Accept").is_some() && !request.headers.list("Accept").take(64).any(acceptable) {
        return refuse(request.respond(406).with("Accept", mwi::CONTENT_TYPE));
    }
    let seconds = match expires(request) {
        Ok(seconds) => seconds,
        Err(min) => return refuse(request.respond(423).with("Min-Expires", min.to_string())),
    };
    let number = Uri::parse(&request.uri).and_then(|u| u.number());
    let mailbox = match &number {
        Some(number) => server.deps.mailstore.find_by_number(number).await,
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
    let tag = lock(&server.layer).tag(request);
    let Some(dialog) = Dialog::accept(request, &tag) else { return refuse(request.respond(400)) };
    let key = (dialog.call_id.clone(), dialog.local_tag.clone());
    let (flow, trunk) = (incoming.flow.clone(), incoming.trunk.clone());
    let until = BootInstant::now() + Duration::from_secs(u64::from(seconds));
    let (notifies, last, last_message, unanswered) = (0, None, incoming.at, None);
    let entry =
        Entry { mailbox, number, event, dialog, flow, trunk, until, notifies, last, last_message, unanswered };
    let Some(id) = server.subscriptions.add(key, entry) else {
        return refuse(request.respond(503).with("Retry-After", "60"));
    };
    answer(&server, &incoming, id, seconds).await;
}

/// Handles a request in the dialog of a subscription: a refresh, or its end.
pub(crate) fn handle_in_dialog(server: &Arc<SipServer>, incoming: IncomingRequest, key: &DialogKey) {
    let request = &incoming.request;
    let trusted = incoming.is_from_trunk();
    let found = {
        let mut table = lock(&server.subscriptions.table);
        let id = table.by_dialog.get(key).copied();
        let entry = id.and_then(|id| table.by_id.get_mut(&id).map(|entry| (id, entry)));
        entry.map(|(id, entry)| {
            let from_peer = request.headers.tag("From") == Some(entry.dialog.remote_tag.as_str());
            let accepted = from_peer && entry.dialog.received(request);
            if accepted {
                entry.dialog.retarget(&request.method, &request.headers, trusted);
            }
            (id, accepted)
        })
    };
    let refused = match (found, &request.method) {
        (None, _) => Some(request.respond(481)),
        (Some((_, false)), _) => Some(request.respond(500)),
        (Some(_), Method::Subscribe) => None,
        (Some(_), _) => Some(request.respond(405).with("Allow", "SUBSCRIBE")),
    };
    let seconds = expires(request);
    match (refused, seconds, found) {
        (Some(response), ..) => server.respond(&incoming.id, response),
        (None, Err(min), _) => {
            server.respond(&incoming.id, request.respond(423).with("Min-Expires", min.to_string()))
        }
        (None, Ok(seconds), Some((id, _))) => {
            let until = BootInstant::now() + Duration::from_secs(u64::from(seconds));
            if let Some(entry) = lock(&server.subscriptions.table).by_id.get_mut(&id) {
                entry.until = until;
                entry.last_message = BootInstant::now();
                entry.unanswered = None;
                if trusted {
                    entry.flow = incoming.flow.clone();
                }
            }
            let server = server.clone();
            server.tasks.clone().spawn(async move { answer(&server, &incoming, id, seconds).await });
        }
        (None, Ok(_), None) => {}
    }
}

/// The Event header for the NOTIFYs of this subscription: the package, and the `id` if the SUBSCRIBE has one. `None` for another
/// package, or an `id` that is no token.
fn event(request: &Request) -> Option<String> {
    let (package, rest) = {
        let event = request.headers.get("Event")?;
        event.split_once(';').unwrap_or((event, ""))
    };
    if !package.trim().eq_ignore_ascii_case(mwi::EVENT) {
        return None;
    }
    match addr::params(rest).find(|(name, _)| name.eq_ignore_ascii_case("id")) {
        None => Some(mwi::EVENT.to_owned()),
        Some((_, id)) => id
            .filter(|id| !id.is_empty() && id.bytes().all(strict::is_token))
            .map(|id| format!("{};id={id}", mwi::EVENT)),
    }
}

/// The requested expiry; as an error the minimum, if the request is below it.
fn expires(request: &Request) -> Result<u32, u32> {
    let wanted = request.headers.get("Expires").and_then(|v| v.trim().parse().ok()).unwrap_or(DEFAULT_EXPIRES);
    match wanted {
        0 => Ok(0),
        1..MIN_EXPIRES => Err(MIN_EXPIRES),
        _ => Ok(wanted.min(MAX_EXPIRES)),
    }
}

/// Sends the `200`, and immediately the full state: after every SUBSCRIBE, whatever was sent before.
async fn answer(server: &Arc<SipServer>, incoming: &IncomingRequest, id: SubscriptionId, seconds: u32) {
    let request = &incoming.request;
    let mut response = request.respond(200);
    for route in request.headers.all("Record-Route") {
        response.headers.push("Record-Route", route);
    }
    let response = response.with("Contact", server.contact(&incoming.flow)).with("Expires", seconds.to_string());
    server.respond(&incoming.id, response);
    if let Err(error) = server.notify_state(id, seconds == 0).await {
        tracing::info!(%error, subscription = %id, "subscriber did not accept the NOTIFY with the full state");
    }
}

/// Ends expired subscriptions, and repeats answers given before the store had caught up; until the SIP server stops.
pub(crate) fn maintain(server: Arc<SipServer>) -> impl Future<Output = ()> {
    // Subscribed to changes before the first answer is given.
    let mut changes = server.deps.mailstore.watch_counts();
    async move {
        let mut interval = tokio::time::interval(POLL_INTERVAL);
        // A change waits one to two intervals: the notifier's NOTIFY has priority.
        let (mut fresh, mut ripe) = (Changed::default(), Changed::default());
        loop {
            tokio::select! {
                Some(change) = changes.next() => {
                    fresh.add(change);
                    continue;
                }
                _ = interval.tick() => {}
                () = server.stop.cancelled() => return,
            }
            for id in server.subscriptions.expired(BootInstant::now()) {
                let ending = server.clone();
                server.tasks.spawn(async move { ending.notify_state(id, true).await });
            }
            for id in server.subscriptions.answered_by_store(&ripe) {
                let correcting = server.clone();
                server.tasks.spawn(async move { correcting.correct(id).await });
            }
            ripe = std::mem::take(&mut fresh);
        }
    }
}

impl SipServer {
    /// Sends the state in this node's own store. `last`: the subscription ends with it.
    async fn notify_state(self: &Arc<Self>, id: SubscriptionId, last: bool) -> Result<(), NotifyError> {
        let (mailbox, number, notifies, shown) = {
            let table = lock(&self.subscriptions.table);
            let entry = table.by_id.get(&id).ok_or(NotifyError::Ended(id))?;
            (entry.mailbox, entry.number.clone(), entry.notifies, entry.last.as_ref().map(|last| last.counts))
        };
        // The mailbox got another number: who subscribes again is told of the one that has this number now.
        let found = self.deps.mailstore.find_by_number(&number).await;
        let moved = found.is_ok_and(|found| found.is_none_or(|found| found.id != mailbox));
        let last = last || moved;
        let counts = match (self.deps.mailstore.message_counts(mailbox).await, shown) {
            _ if moved => MessageCounts::default(),
            (Ok(counts), _) => counts,
            // The last sent counts are better than none; a subscriber that got none subscribes again.
            (Err(error), Some(shown)) => {
                tracing::error!(%error, %mailbox, "messages cannot be counted; the last MWI state is sent again");
                shown
            }
            (Err(error), None) => {
                tracing::error!(%error, %mailbox, "messages cannot be counted; the MWI subscription ends");
                self.subscriptions.remove(id);
                return Err(NotifyError::Uncounted);
            }
        };
        let (source, epoch) = (NotifySource::Store { notifies }, String::new());
        self.notify(id, PendingNotify { counts, source, epoch, guard: None, last }).await
    }

    /// Repeats the answer to a SUBSCRIBE if the store has a new state and the notifier has sent nothing since.
    async fn correct(self: &Arc<Self>, id: SubscriptionId) {
        let (mailbox, sent_counts, notifies) = {
            let table = lock(&self.subscriptions.table);
            let Some(entry) = table.by_id.get(&id) else { return };
            let Some(last) = entry.last.as_ref().filter(|last| last.source != NotifySource::Notifier) else {
                return;
            };
            (entry.mailbox, last.counts, entry.notifies)
        };
        let Ok(counts) = self.deps.mailstore.message_counts(mailbox).await else { return };
        if counts != sent_counts {
            let (source, epoch) = (NotifySource::Store { notifies }, String::new());
            // `notify` accounts for a failure.
            let _ = self.notify(id, PendingNotify { counts, source, epoch, guard: None, last: false }).await;
        }
    }

    /// Sends the notifier's state to all subscribers of a mailbox, except those that already have it.
    pub(crate) async fn notify_subscribers(
        self: &Arc<Self>,
        mailbox: MailboxId,
        counts: MessageCounts,
        epoch: &str,
        guard: Guard,
    ) -> Result<(), NotifyError> {
        let notify = |subscription: Subscription| {
            let (server, id) = (self.clone(), subscription.id);
            let (epoch, guard) = (epoch.to_owned(), Some(guard.clone()));
            async move {
                if let Some(outcome) = server.subscriptions.adopt(id, counts) {
                    return outcome;
                }
                server
                    .notify(id, PendingNotify { counts, source: NotifySource::Notifier, epoch, guard, last: false })
                    .await
            }
        };
        // One task each, run to its end even after the timeout: a silent subscriber is removed by its task.
        let tasks: Vec<_> =
            self.subscriptions.of(mailbox).into_iter().map(|s| self.tasks.spawn(notify(s))).collect();
        let all = async {
            let mut outcome = Ok(());
            for task in tasks {
                match task.await {
                    // A subscriber without this dialog does not need the state.
                    Ok(Ok(()) | Err(NotifyError::Ended(_))) => {}
                    Ok(Err(NotifyError::Refused(code))) if ends_subscription(code) => {}
                    // Other errors replace a refusal: they are worth a retry soon.
                    Ok(Err(error)) if !matches!(error, NotifyError::Refused(_)) || outcome.is_ok() => {
                        outcome = Err(error);
                    }
                    Ok(Err(_)) => {}
                    Err(_) => outcome = Err(NotifyError::Timeout),
                }
            }
            outcome
        };
        tokio::time::timeout(ANSWER_TIMEOUT, all).await.unwrap_or(Err(NotifyError::Timeout))
    }

    async fn notify(self: &Arc<Self>, id: SubscriptionId, pending: PendingNotify) -> Result<(), NotifyError> {
        let PendingNotify { mut counts, mut source, epoch, guard, last } = pending;
        let began = BootInstant::now();
        let (request, hop, near, trunk, number) = {
            let mut table = lock(&self.subscriptions.table);
            let entry = table.by_id.get_mut(&id).ok_or(NotifyError::Ended(id))?;
            // Number and content of the request belong together: older content never gets a higher number. If the
            // notifier sent a NOTIFY while the store was read, its content is repeated.
            if let (
                NotifySource::Store { notifies },
                Some(LastNotify { counts: newer, source: NotifySource::Notifier, .. }),
            ) = (source, &entry.last)
                && entry.notifies > notifies
            {
                (counts, source) = (*newer, NotifySource::Notifier);
            }
            entry.notifies += 1;
            entry.last = Some(LastNotify { counts, source, answer: Answer::Awaited });
            let mut request = entry.dialog.request(Method::Notify);
            let left = entry.until.since(began).as_secs();
            let state = match last {
                true => "terminated;reason=timeout".to_owned(),
                false => format!("active;expires={left}"),
            };
            request.headers.push("Subscription-State", state);
            let account = Some(format!("sip:{}@{}", entry.number, entry.flow.advertised()));
            let body = Summary { account, new: counts.new, old: counts.saved }.body();
            let request = with_summary(request, &entry.event, &body, &epoch);
            (request, entry.dialog.next_hop().to_owned(), entry.flow.clone(), entry.trunk.clone(), entry.notifies)
        };
        let ended = if last { self.subscriptions.remove(id) } else { None };
        let left = Arc::new(AtomicBool::new(guard.is_none()));
        let guard = guard.map(|guard| {
            let left = left.clone();
            Guard(Arc::new(move || {
                let may = (guard.0)();
                left.fetch_or(may, Ordering::Relaxed);
                may
            }))
        });
        let sent = self.send_notify((id, ended), request, &hop, &near, &trunk, guard).await;
        self.subscriptions.settle(id, number, began, left.load(Ordering::Relaxed), &sent);
        self.outcome(sent)
    }

    /// Sends a NOTIFY of a subscription. `ended` is the dialog of one that ends with this NOTIFY: the table has it no more.
    async fn send_notify(
        self: &Arc<Self>,
        (id, mut ended): (SubscriptionId, Option<Dialog>),
        mut request: Request,
        hop: &str,
        near: &Flow,
        trunk: &Trunk,
        guard: Option<Guard>,
    ) -> Result<u16, SendError> {
        let flow = self.route(hop, Some(near)).await?;
        request.headers.push("Contact", self.contact(&flow));
        let renumber = |request: &mut Request| match ended.as_mut() {
            Some(dialog) => dialog.renumber(request),
            None => {
                if let Some(entry) = lock(&self.subscriptions.table).by_id.get_mut(&id) {
                    entry.dialog.renumber(request);
                }
            }
        };
        let credentials = trunk.credentials_for(&flow);
        let sent = self.send_request(request, &flow, credentials, guard, &mut { renumber }).await?;
        Ok(sent.response.code)
    }
}
