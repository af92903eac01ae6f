//! Subscriptions to message lights (RFC 6665, RFC 3842): answered at once by this node, from its own store, with the
//! full state (rule E2); changes are told by the notifier through [`Door::tell_subscribers`].
//!
//! An answer out of a store that lags behind would stay wrong: the notifier told that change before, and does not
//! know of the new subscriber. So, as long as the store's word is the last one in a dialog, the answer is given again,
//! in full, when the store has caught up. What the notifier said last is never corrected by the store.

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

/// Asked for when nothing is said (RFC 3842 section 3.4 leaves it to us), in seconds.
const USUAL: u32 = 3_600;
const LONGEST: u32 = 86_400;
const SHORTEST: u32 = 60;

/// Whoever answers nothing for so long is gone: a little less than a transaction lasts (timer F).
const GONE_AFTER: Duration = Duration::from_secs(31);
/// How long the notifier is kept waiting for the answers of all subscribers to a light.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often what has expired, or was answered too early, is looked for.
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
    /// How many NOTIFYs there were.
    words: u64,
    /// What the latest of them said.
    last: Option<Word>,
    /// When it was last heard of.
    heard: BootInstant,
    /// When the first NOTIFY left that it has not answered, nor any after it.
    unanswered: Option<BootInstant>,
}

/// The latest that was said in a dialog.
struct Word {
    lights: Lights,
    by: Speaker,
    answer: Answer,
}

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    /// This node's store, as it was when there had been so many words.
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

/// Something to be said.
struct Saying {
    lights: Lights,
    by: Speaker,
    epoch: String,
    guard: Option<Guard>,
    /// The subscription ends with it.
    last: bool,
}

/// Whose lights changed.
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

    /// The trunk of the subscription in whose dialog this request is, by Call-ID and both tags.
    pub(crate) fn trunk_of(&self, key: &DialogKey, remote_tag: Option<&str>) -> Option<Arc<Trunk>> {
        let held = lock(&self.held);
        let entry = held.by_id.get(held.by_dialog.get(key)?)?;
        (remote_tag == Some(entry.dialog.remote_tag.as_str())).then(|| entry.trunk.clone())
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

    /// Those that the store spoke to last, among the changed ones.
    fn answered_early(&self, changed: &Changed) -> Vec<SubscriptionId> {
        let store = |e: &Entry| e.last.as_ref().is_some_and(|word| matches!(word.by, Speaker::Store { .. }));
        let held = lock(&self.held);
        held.by_id.iter().filter(|(_, e)| changed.covers(e.mailbox) && store(e)).map(|(id, _)| *id).collect()
    }

    /// Takes the notifier's word for a light, if the subscriber has it already or is being told.
    fn has(&self, id: SubscriptionId, lights: Lights) -> Option<Result<(), NotifyError>> {
        let mut held = lock(&self.held);
        let Some(entry) = held.by_id.get_mut(&id) else { return Some(Err(NotifyError::Ended(id))) };
        let word = entry.last.as_mut().filter(|word| word.lights == lights && word.answer != Answer::Failed)?;
        word.by = Speaker::Notifier;
        Some(if word.answer == Answer::Accepted { Ok(()) } else { Err(NotifyError::Timeout) })
    }

    /// Notes what became of the NOTIFY with this number, made at `began`. `left`: a datagram was sent.
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
            // Withdrawn early because the right to send it ended, it is silence all the same, and adds up.
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
    let (words, last, heard, unanswered) = (0, None, arrival.at, None);
    let entry = Entry { mailbox, number, dialog, flow, trunk, until, words, last, heard, unanswered };
    let Some(id) = door.subscriptions.add(key, entry) else {
        return refuse(request.respond(503).with("Retry-After", "60"));
    };
    answer(&door, &arrival, id, seconds).await;
}

/// A request in the dialog of a subscription: a refresh, or its end.
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

/// Whether whoever answers a NOTIFY so has no subscription any more (RFC 5057 section 5.1, RFC 6665 section 4.2.2).
fn ends_subscription(code: u16) -> bool {
    matches!(code, 404 | 405 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604)
}

/// Ends what is not refreshed, and answers again what was answered before the store had caught up; until told to stop.
pub(crate) fn look_after(door: Arc<Door>) -> impl Future<Output = ()> {
    // Watched before anything is answered.
    let mut changes = door.deps.mailstore.watch_lights();
    async move {
        let mut interval = tokio::time::interval(LOOK);
        // Between one look and two old: time for the notifier, whose word is preferred.
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
    /// Tells the state of the light as this node's own store has it. `last`: the subscription ends with it.
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

    /// Answers a SUBSCRIBE again, if the store has another answer by now and the notifier has said nothing since.
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
            // What does not arrive is accounted for there.
            let _ = self.notify(id, Saying { lights, by, epoch, guard: None, last: false }).await;
        }
    }

    /// Tells all subscribers to a light what the notifier decided; who has been told is not told again.
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
        // Each on its own, and to its end even when nobody waits for it any more: who is silent is removed by that.
        let told: Vec<_> = self.subscriptions.of(mailbox).into_iter().map(|s| self.tasks.spawn(tell(s))).collect();
        let all = async {
            let mut outcome = Ok(());
            for told in told {
                match told.await {
                    // Who does not know the dialog any more is not waiting for a light.
                    Ok(Ok(()) | Err(NotifyError::Ended(_))) => {}
                    Ok(Err(NotifyError::Refused(code))) if ends_subscription(code) => {}
                    // A refusal tells least: others are worth another try soon.
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
            // The number of the request and what it says are one: nothing older gets a higher number. So when the
            // notifier spoke while the store was read, its word is repeated.
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
