//! Subscriptions to message lights (RFC 6665, RFC 3842): answered at once by this node, from its own store, with the
//! full state (rule E2); changes are told by the notifier through [`Door::notify_in_dialog`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_sip::{
    Method, Request,
    dialog::Dialog,
    mwi::{self, Summary},
    transaction::Guard,
    uri::Uri,
};

use crate::{
    access::Trunk,
    door::{Arrival, DialogKey, Door, lock},
    notify::{NotifyError, Subscription, SubscriptionId, with_summary},
    outgoing::SendError,
    stats::count,
    wire::Flow,
};

/// Asked for when nothing is said (RFC 3842 section 3.4 leaves it to us), in seconds.
const USUAL: u32 = 3_600;
const LONGEST: u32 = 86_400;
const SHORTEST: u32 = 60;

/// The subscriptions whose dialogs this node holds.
pub(crate) struct Subscriptions {
    held: Mutex<Held>,
    most: usize,
}

#[derive(Default)]
struct Held {
    next: u64,
    by_id: HashMap<SubscriptionId, Entry>,
    by_dialog: HashMap<DialogKey, SubscriptionId>,
}

struct Entry {
    mailbox: MailboxId,
    number: String,
    dialog: Dialog,
    flow: Flow,
    trunk: Arc<Trunk>,
    until: BootInstant,
}

impl Subscriptions {
    pub(crate) fn new(most: usize) -> Self {
        Self { held: Mutex::default(), most }
    }

    pub(crate) fn has_dialog(&self, key: &DialogKey) -> bool {
        lock(&self.held).by_dialog.contains_key(key)
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.held).by_id.len()
    }

    /// The subscriptions to the light of a mailbox.
    pub(crate) fn of(&self, mailbox: MailboxId) -> Vec<Subscription> {
        self.list(|entry| entry.mailbox == mailbox)
    }

    /// All subscriptions.
    pub(crate) fn all(&self) -> Vec<Subscription> {
        self.list(|_| true)
    }

    fn list(&self, which: impl Fn(&Entry) -> bool) -> Vec<Subscription> {
        let now = BootInstant::now();
        let held = lock(&self.held);
        let chosen = held.by_id.iter().filter(|(_, entry)| which(entry));
        chosen
            .map(|(id, entry)| Subscription { id: *id, mailbox: entry.mailbox, expires: entry.until.since(now) })
            .collect()
    }

    fn add(&self, key: DialogKey, entry: Entry) -> Option<SubscriptionId> {
        let mut held = lock(&self.held);
        if held.by_id.len() >= self.most {
            return None;
        }
        held.next += 1;
        let id = SubscriptionId(held.next);
        held.by_id.insert(id, entry);
        held.by_dialog.insert(key, id);
        Some(id)
    }

    fn remove(&self, id: SubscriptionId) {
        let mut held = lock(&self.held);
        held.by_id.remove(&id);
        held.by_dialog.retain(|_, held| *held != id);
    }

    fn expired(&self, now: BootInstant) -> Vec<SubscriptionId> {
        lock(&self.held).by_id.iter().filter(|(_, e)| e.until <= now).map(|(id, _)| *id).collect()
    }
}

/// A SUBSCRIBE outside a dialog.
pub(crate) async fn begin(door: Arc<Door>, arrival: Arrival) {
    let request = &arrival.request;
    let refuse = |response| {
        count(&door.stats.refused_subscription);
        door.respond(&arrival.id, response);
    };
    let event = request.headers.get("Event").and_then(|e| e.split(';').next()).unwrap_or_default();
    if !event.trim().eq_ignore_ascii_case(mwi::EVENT) {
        return refuse(request.respond(489).with("Allow-Events", mwi::EVENT));
    }
    let acceptable = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        [mwi::CONTENT_TYPE, "application/*", "*/*"].iter().any(|k| k.eq_ignore_ascii_case(kind))
    };
    // However often Accept is repeated, no more of it is read than makes sense.
    if request.headers.get("Accept").is_some() && !request.headers.list("Accept").take(64).any(acceptable) {
        return refuse(request.respond(406).with("Accept", mwi::CONTENT_TYPE));
    }
    let seconds = match expires(request) {
        Ok(seconds) => seconds,
        Err(min) => return refuse(request.respond(423).with("Min-Expires", min.to_string())),
    };
    let number = Uri::parse(&request.uri).and_then(|u| u.number());
    let mailbox = match &number {
        Some(number) => door.deps.mailstore.find_by_number(number).await,
        None => Ok(None),
    };
    let (mailbox, number) = match mailbox {
        Ok(Some(mailbox)) => (mailbox.id, mailbox.number),
        Ok(None) => return refuse(request.respond(404)),
        Err(error) => {
            tracing::error!(%error, "the store does not answer");
            return refuse(request.respond(500));
        }
    };
    let tag = lock(&door.layer).tag(request);
    let Some(dialog) = Dialog::accept(request, &tag) else { return refuse(request.respond(400)) };
    let key = (dialog.call_id.clone(), dialog.local_tag.clone());
    let (flow, trunk) = (arrival.flow.clone(), arrival.trunk.clone());
    let until = BootInstant::now() + Duration::from_secs(u64::from(seconds));
    let entry = Entry { mailbox, number, dialog, flow, trunk, until };
    let Some(id) = door.subscriptions.add(key, entry) else {
        return refuse(request.respond(503).with("Retry-After", "60"));
    };
    answer(&door, &arrival, id, seconds).await;
}

/// A request in the dialog of a subscription: a refresh, or its end.
pub(crate) fn within(door: &Arc<Door>, arrival: Arrival, key: &DialogKey) {
    let request = &arrival.request;
    let found = {
        let mut held = lock(&door.subscriptions.held);
        let id = held.by_dialog.get(key).copied();
        let entry = id.and_then(|id| held.by_id.get_mut(&id).map(|entry| (id, entry)));
        entry.map(|(id, entry)| {
            let theirs = request.headers.tag("From") == Some(entry.dialog.remote_tag.as_str());
            (id, theirs && entry.dialog.received(request))
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
        (Some(response), ..) => door.respond(&arrival.id, response),
        (None, Err(min), _) => door.respond(&arrival.id, request.respond(423).with("Min-Expires", min.to_string())),
        (None, Ok(seconds), Some((id, _))) => {
            let until = BootInstant::now() + Duration::from_secs(u64::from(seconds));
            if let Some(entry) = lock(&door.subscriptions.held).by_id.get_mut(&id) {
                entry.until = until;
                entry.flow = arrival.flow.clone();
            }
            let door = door.clone();
            door.tasks.clone().spawn(async move { answer(&door, &arrival, id, seconds).await });
        }
        (None, Ok(_), None) => {}
    }
}

/// How long is asked for; the least that we accept when that is too short.
fn expires(request: &Request) -> Result<u32, u32> {
    let wanted = request.headers.get("Expires").and_then(|v| v.trim().parse().ok()).unwrap_or(USUAL);
    match wanted {
        0 => Ok(0),
        1..SHORTEST => Err(SHORTEST),
        _ => Ok(wanted.min(LONGEST)),
    }
}

/// The `200`, and at once the full state: after every SUBSCRIBE, whatever was told before.
async fn answer(door: &Arc<Door>, arrival: &Arrival, id: SubscriptionId, seconds: u32) {
    let request = &arrival.request;
    let mut response = request.respond(200);
    for route in request.headers.all("Record-Route") {
        response.headers.push("Record-Route", route);
    }
    let response = response.with("Contact", door.contact(&arrival.flow)).with("Expires", seconds.to_string());
    door.respond(&arrival.id, response);
    if let Err(error) = door.notify_state(id, seconds == 0).await {
        tracing::info!(%error, subscription = %id, "the state could not be told");
    }
}

/// Ends what is not refreshed, until told to stop.
pub(crate) async fn expire(door: Arc<Door>) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = door.stop.cancelled() => return,
        }
        for id in door.subscriptions.expired(BootInstant::now()) {
            let ending = door.clone();
            door.tasks.spawn(async move { ending.notify_state(id, true).await });
        }
    }
}

impl Door {
    /// Tells the state of the light as this node's own store has it. `last`: the subscription ends with it.
    async fn notify_state(self: &Arc<Self>, id: SubscriptionId, last: bool) -> Result<(), NotifyError> {
        let (mailbox, number, near) = {
            let held = lock(&self.subscriptions.held);
            let entry = held.by_id.get(&id).ok_or(NotifyError::Ended(id))?;
            (entry.mailbox, entry.number.clone(), entry.flow.clone())
        };
        let lights = self.deps.mailstore.lights(mailbox).await.unwrap_or_else(|error| {
            tracing::error!(%error, %mailbox, "a message light cannot be counted");
            Default::default()
        });
        let account = Some(format!("sip:{number}@{}", near.advertised()));
        let body = Summary { account, new: lights.new, old: lights.saved }.body();
        self.notify(id, &body, "", None, last).await
    }

    /// Sends a NOTIFY decided by the notifier.
    pub(crate) async fn notify_in_dialog(
        self: &Arc<Self>,
        id: SubscriptionId,
        body: &str,
        epoch: &str,
        guard: Guard,
    ) -> Result<(), NotifyError> {
        self.notify(id, body, epoch, Some(guard), false).await
    }

    async fn notify(
        self: &Arc<Self>,
        id: SubscriptionId,
        body: &str,
        epoch: &str,
        guard: Option<Guard>,
        last: bool,
    ) -> Result<(), NotifyError> {
        let (mut request, hop, near, trunk) = {
            let mut held = lock(&self.subscriptions.held);
            let entry = held.by_id.get_mut(&id).ok_or(NotifyError::Ended(id))?;
            let mut request = entry.dialog.request(Method::Notify);
            let left = entry.until.since(BootInstant::now()).as_secs();
            let state = match last {
                true => "terminated;reason=timeout".to_owned(),
                false => format!("active;expires={left}"),
            };
            request.headers.push("Subscription-State", state);
            (request, entry.dialog.next_hop().to_owned(), entry.flow.clone(), entry.trunk.clone())
        };
        if last {
            self.subscriptions.remove(id);
        }
        request = with_summary(request, body, epoch);
        let sent = self.send_notify(id, request, &hop, &near, &trunk, guard).await;
        // Whoever does not know the subscription, or does not answer, has none (RFC 6665 section 4.2.2).
        if matches!(sent, Ok(481 | 408 | 404 | 410 | 489) | Err(SendError::TimedOut)) {
            self.subscriptions.remove(id);
        }
        self.outcome(sent)
    }

    async fn send_notify(
        self: &Arc<Self>,
        id: SubscriptionId,
        mut request: Request,
        hop: &str,
        near: &Flow,
        trunk: &Trunk,
        guard: Option<Guard>,
    ) -> Result<u16, SendError> {
        let flow = self.route(hop, Some(near)).await?;
        request.headers.push("Contact", self.contact(&flow));
        let renumber = |request: &mut Request| {
            if let Some(entry) = lock(&self.subscriptions.held).by_id.get_mut(&id) {
                entry.dialog.renumber(request);
            }
        };
        let credentials = trunk.credentials_for(&flow);
        let response = self.send_request(request, &flow, credentials, guard, &mut { renumber }).await?;
        Ok(response.code)
    }
}
