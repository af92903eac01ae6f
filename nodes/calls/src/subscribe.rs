//! MWI subscriptions (RFC 6665, RFC 3842). This node answers a SUBSCRIBE immediately, from its own store, with the full
//! state (rule E2). The notifier sends changes through [`Door::tell_subscribers`].
//!
//! An answer from a lagging store would stay wrong: the notifier sent that change earlier and does not know the new
//! subscriber. Therefore, while the last NOTIFY in a dialog came from the store, the answer is repeated in full when
//! the store has caught up. The store never corrects the notifier's last NOTIFY.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::{Lights, LightsChange};
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

/// Default expiry, if the subscriber requests none (RFC 3842 section 3.4 allows any), in seconds.
const USUAL: u32 = 3_600;
const LONGEST: u32 = 86_400;
const SHORTEST: u32 = 60;

/// A subscriber without an answer for this time is removed: a little less than a transaction lasts (timer F).
const GONE_AFTER: Duration = Duration::from_secs(31);
/// Maximum wait of the notifier for the answers of all subscribers to a mailbox.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Poll interval for expired subscriptions and answers to repeat.
const LOOK: Duration = Duration::from_secs(1);

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
    /// Number of NOTIFYs sent.
    words: u64,
    /// Content of the latest NOTIFY.
    last: Option<Word>,
    /// Time of the subscriber's last message.
    heard: BootInstant,
    /// Time of the first NOTIFY since the subscriber's last answer; `None` if none is unanswered.
    unanswered: Option<BootInstant>,
}

/// The latest NOTIFY in a dialog.
struct Word {
    lights: Lights,
    by: Speaker,
    answer: Answer,
}

/// Source of a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    /// This node's store, read when `words` NOTIFYs had been sent.
    Store {
        words: u64,
    },
    Notifier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Accepted,
    Failed,
}

/// A NOTIFY to send.
struct Saying {
    lights: Lights,
    by: Speaker,
    epoch: String,
    guard: Option<Guard>,
    /// The subscription ends with this NOTIFY.
    last: bool,
}

/// Mailboxes whose MWI changed.
#[derive(Default)]
struct Changed {
    everything: bool,
    mailboxes: BTreeSet<MailboxId>,
}

impl Changed {
    fn add(&mut self, change: LightsChange) {
        match change {
            LightsChange::Everything => self.everything = true,
            LightsChange::Mailbox(mailbox) => {
                self.mailboxes.insert(mailbox);
            }
        }
    }

    fn covers(&self, mailbox: MailboxId) -> bool {
        self.everything || self.mailboxes.contains(&mailbox)
    }
}

impl Subscriptions {
    pub(crate) fn new(most: usize) -> Self {
        Self { held: Mutex::default(), most }
    }

    pub(crate) fn has_dialog(&self, key: &DialogKey) -> bool {
        lock(&self.held).by_dialog.contains_key(key)
    }

    /// The trunk of the subscription with this dialog, by Call-ID and both tags.
    pub(crate) fn trunk_of(&self, key: &DialogKey, remote_tag: Option<&str>) -> Option<Arc<Trunk>> {
        let held = lock(&self.held);
        let entry = held.by_id.get(held.by_dialog.get(key)?)?;
        (remote_tag == Some(entry.dialog.remote_tag.as_str())).then(|| entry.trunk.clone())
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.held).by_id.len()
    }

    /// The subscriptions to a mailbox.
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

    /// The changed subscriptions whose last NOTIFY came from the store.
    fn answered_early(&self, changed: &Changed) -> Vec<SubscriptionId> {
        let store = |e: &Entry| e.last.as_ref().is_some_and(|word| matches!(word.by, Speaker::Store { .. }));
        let held = lock(&self.held);
        held.by_id.iter().filter(|(_, e)| changed.covers(e.mailbox) && store(e)).map(|(id, _)| *id).collect()
    }

    /// Adopts the latest NOTIFY as the notifier's, if it has this content and did not fail.
    fn has(&self, id: SubscriptionId, lights: Lights) -> Option<Result<(), NotifyError>> {
        let mut held = lock(&self.held);
        let Some(entry) = held.by_id.get_mut(&id) else { return Some(Err(NotifyError::Ended(id))) };
        let word = entry.last.as_mut().filter(|word| word.lights == lights && word.answer != Answer::Failed)?;
        word.by = Speaker::Notifier;
        Some(if word.answer == Answer::Accepted { Ok(()) } else { Err(NotifyError::Timeout) })
    }

    /// Registers the outcome of the NOTIFY with this number, created at `began`. `left`: a datagram was sent.
    fn settle(
        &self,
        id: SubscriptionId,
        number: u64,
        began: BootInstant,
        left: bool,
        sent: &Result<u16, SendError>,
    ) {
        let now = BootInstant::now();
        let mut held = lock(&self.held);
        let Some(entry) = held.by_id.get_mut(&id) else { return };
        if let Some(word) = entry.last.as_mut().filter(|_| entry.words == number) {
            word.answer = if matches!(sent, Ok(200..=299)) { Answer::Accepted } else { Answer::Failed };
        }
        let gone = match sent {
            Ok(code) => {
                entry.heard = now;
                entry.unanswered = None;
                ends_subscription(*code)
            }
            Err(SendError::Withdrawn) if !left => false,
            // A NOTIFY withdrawn because the right to send ended is also unanswered, and its time counts.
            Err(_) => {
                let since = *entry.unanswered.get_or_insert(began);
                now.since(since.max(entry.heard)) >= GONE_AFTER
            }
        };
        drop(held);
        if gone {
            self.remove(id);
        }
    }

    fn expired(&self, now: BootInstant) -> Vec<SubscriptionId> {
        lock(&self.held).by_id.iter().filter(|(_, e)| e.until <= now).map(|(id, _)| *id).collect()
    }
}

/// Handles a SUBSCRIBE outside of a dialog.
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
    let (words, last, heard, unanswered) = (0, None, arrival.at, None);
    let entry = Entry { mailbox, number, dialog, flow, trunk, until, words, last, heard, unanswered };
    let Some(id) = door.subscriptions.add(key, entry) else {
        return refuse(request.respond(503).with("Retry-After", "60"));
    };
    answer(&door, &arrival, id, seconds).await;
}

/// Handles a request in the dialog of a subscription: a refresh, or its end.
pub(crate) fn within(door: &Arc<Door>, arrival: Arrival, key: &DialogKey) {
    let request = &arrival.request;
    let trusted = door.of_a_trunk(&arrival.flow);
    let found = {
        let mut held = lock(&door.subscriptions.held);
        let id = held.by_dialog.get(key).copied();
        let entry = id.and_then(|id| held.by_id.get_mut(&id).map(|entry| (id, entry)));
        entry.map(|(id, entry)| {
            let theirs = request.headers.tag("From") == Some(entry.dialog.remote_tag.as_str());
            let taken = theirs && entry.dialog.received(request);
            if taken {
                entry.dialog.retarget(&request.method, &request.headers, trusted);
            }
            (id, taken)
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
                entry.heard = BootInstant::now();
                entry.unanswered = None;
                if trusted {
                    entry.flow = arrival.flow.clone();
                }
            }
            let door = door.clone();
            door.tasks.clone().spawn(async move { answer(&door, &arrival, id, seconds).await });
        }
        (None, Ok(_), None) => {}
    }
}

/// The requested expiry; as an error the minimum, if the request is below it.
fn expires(request: &Request) -> Result<u32, u32> {
    let wanted = request.headers.get("Expires").and_then(|v| v.trim().parse().ok()).unwrap_or(USUAL);
    match wanted {
        0 => Ok(0),
        1..SHORTEST => Err(SHORTEST),
        _ => Ok(wanted.min(LONGEST)),
    }
}

/// Sends the `200`, and immediately the full state: after every SUBSCRIBE, whatever was sent before.
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

/// Whether this answer to a NOTIFY ends the subscription (RFC 5057 section 5.1, RFC 6665 section 4.2.2).
fn ends_subscription(code: u16) -> bool {
    matches!(code, 404 | 405 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604)
}

/// Ends expired subscriptions, and repeats answers given before the store had caught up; until the SIP server stops.
pub(crate) fn look_after(door: Arc<Door>) -> impl Future<Output = ()> {
    // Subscribed to changes before the first answer is given.
    let mut changes = door.deps.mailstore.watch_lights();
    async move {
        let mut interval = tokio::time::interval(LOOK);
        // A change waits one to two intervals: the notifier's NOTIFY has priority.
        let (mut fresh, mut ripe) = (Changed::default(), Changed::default());
        loop {
            tokio::select! {
                Some(change) = changes.next() => {
                    fresh.add(change);
                    continue;
                }
                _ = interval.tick() => {}
                () = door.stop.cancelled() => return,
            }
            for id in door.subscriptions.expired(BootInstant::now()) {
                let ending = door.clone();
                door.tasks.spawn(async move { ending.notify_state(id, true).await });
            }
            for id in door.subscriptions.answered_early(&ripe) {
                let correcting = door.clone();
                door.tasks.spawn(async move { correcting.correct(id).await });
            }
            ripe = std::mem::take(&mut fresh);
        }
    }
}

impl Door {
    /// Sends the state in this node's own store. `last`: the subscription ends with it.
    async fn notify_state(self: &Arc<Self>, id: SubscriptionId, last: bool) -> Result<(), NotifyError> {
        let (mailbox, words) = {
            let held = lock(&self.subscriptions.held);
            let entry = held.by_id.get(&id).ok_or(NotifyError::Ended(id))?;
            (entry.mailbox, entry.words)
        };
        let lights = self.deps.mailstore.lights(mailbox).await.unwrap_or_else(|error| {
            tracing::error!(%error, %mailbox, "a message light cannot be counted");
            Default::default()
        });
        let (by, epoch) = (Speaker::Store { words }, String::new());
        self.notify(id, Saying { lights, by, epoch, guard: None, last }).await
    }

    /// Repeats the answer to a SUBSCRIBE if the store has a new state and the notifier has sent nothing since.
    async fn correct(self: &Arc<Self>, id: SubscriptionId) {
        let (mailbox, told, words) = {
            let held = lock(&self.subscriptions.held);
            let Some(entry) = held.by_id.get(&id) else { return };
            let Some(word) = entry.last.as_ref().filter(|word| word.by != Speaker::Notifier) else { return };
            (entry.mailbox, word.lights, entry.words)
        };
        let Ok(lights) = self.deps.mailstore.lights(mailbox).await else { return };
        if lights != told {
            let (by, epoch) = (Speaker::Store { words }, String::new());
            // `notify` accounts for a failure.
            let _ = self.notify(id, Saying { lights, by, epoch, guard: None, last: false }).await;
        }
    }

    /// Sends the notifier's state to all subscribers of a mailbox, except those that already have it.
    pub(crate) async fn tell_subscribers(
        self: &Arc<Self>,
        mailbox: MailboxId,
        lights: Lights,
        epoch: &str,
        guard: Guard,
    ) -> Result<(), NotifyError> {
        let tell = |subscription: Subscription| {
            let (door, id) = (self.clone(), subscription.id);
            let (epoch, guard) = (epoch.to_owned(), Some(guard.clone()));
            async move {
                if let Some(outcome) = door.subscriptions.has(id, lights) {
                    return outcome;
                }
                door.notify(id, Saying { lights, by: Speaker::Notifier, epoch, guard, last: false }).await
            }
        };
        // One task each, run to its end even after the timeout: a silent subscriber is removed by its task.
        let told: Vec<_> = self.subscriptions.of(mailbox).into_iter().map(|s| self.tasks.spawn(tell(s))).collect();
        let all = async {
            let mut outcome = Ok(());
            for told in told {
                match told.await {
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
        tokio::time::timeout(ANSWER_WITHIN, all).await.unwrap_or(Err(NotifyError::Timeout))
    }

    async fn notify(self: &Arc<Self>, id: SubscriptionId, saying: Saying) -> Result<(), NotifyError> {
        let Saying { mut lights, mut by, epoch, guard, last } = saying;
        let began = BootInstant::now();
        let (request, hop, near, trunk, word) = {
            let mut held = lock(&self.subscriptions.held);
            let entry = held.by_id.get_mut(&id).ok_or(NotifyError::Ended(id))?;
            // Number and content of the request belong together: older content never gets a higher number. If the
            // notifier sent a NOTIFY while the store was read, its content is repeated.
            if let (Speaker::Store { words }, Some(Word { lights: newer, by: Speaker::Notifier, .. })) =
                (by, &entry.last)
                && entry.words > words
            {
                (lights, by) = (*newer, Speaker::Notifier);
            }
            entry.words += 1;
            entry.last = Some(Word { lights, by, answer: Answer::Awaited });
            let mut request = entry.dialog.request(Method::Notify);
            let left = entry.until.since(began).as_secs();
            let state = match last {
                true => "terminated;reason=timeout".to_owned(),
                false => format!("active;expires={left}"),
            };
            request.headers.push("Subscription-State", state);
            let account = Some(format!("sip:{}@{}", entry.number, entry.flow.advertised()));
            let body = Summary { account, new: lights.new, old: lights.saved }.body();
            let request = with_summary(request, &body, &epoch);
            (request, entry.dialog.next_hop().to_owned(), entry.flow.clone(), entry.trunk.clone(), entry.words)
        };
        if last {
            self.subscriptions.remove(id);
        }
        let left = Arc::new(AtomicBool::new(guard.is_none()));
        let guard = guard.map(|guard| {
            let left = left.clone();
            Guard(Arc::new(move || {
                let may = (guard.0)();
                left.fetch_or(may, Ordering::Relaxed);
                may
            }))
        });
        let sent = self.send_notify(id, request, &hop, &near, &trunk, guard).await;
        self.subscriptions.settle(id, word, began, left.load(Ordering::Relaxed), &sent);
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
        let sent = self.send_request(request, &flow, credentials, guard, &mut { renumber }).await?;
        Ok(sent.response.code)
    }
}
