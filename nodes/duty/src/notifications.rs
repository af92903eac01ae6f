//! Notifications of devices, for every channel that carries them: whether one is still wanted, when, with which content,
//! and which effects follow from its outcome.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::tz::TimeZone;
use tokio::time::sleep;
use twinbox_clock::wall;
use twinbox_devices::{
    Attempt, Device, MessageFacts, MessageText, Next, Notification, NotificationOutcome, Templates, after, digest,
    first, still_wanted,
};
use twinbox_ids::{DeviceId, EffectId, MessageId, Timestamp};
use twinbox_mailstore::{
    MailError, Mailbox, Mailstore, Message, NOTIFICATION_LIFE_MS, Rule, channel_of, facts_of, time, zone_of,
};
use twinbox_outbox::{Cause, Effect, EffectState, MOST_GATHERED, NewEffect, Transition};

use crate::{Prepared, outbox_loop::READ_AGAIN};

/// An hour, in milliseconds.
const HOUR_MS: u64 = 3_600 * 1_000;
/// Pause when the store cannot be read, in milliseconds.
const STORE_PAUSE_MS: u64 = 5_000;
/// Pauses while the message of an effect is still to arrive by replication, in milliseconds.
const SHORTEST_WAIT_MS: u64 = 100;
const LONGEST_WAIT_MS: u64 = 30_000;
/// Pause while another notification of a device with a limit is under way, in milliseconds.
const TURN_PAUSE_MS: u64 = 1_000;

/// A notification that is wanted now.
#[derive(Debug)]
pub struct DueNotification {
    /// The device.
    pub device: Device,
    /// The mailbox.
    pub mailbox: Mailbox,
    /// The message; `None` for the test of a device.
    pub message: Option<Message>,
    /// Content of the texts.
    pub content: Notification,
    /// Zone of the texts.
    pub zone: TimeZone,
    /// Whether audio may leave the cluster, by the mailbox's class of service.
    pub audio_allowed: bool,
    /// Other effects of the device that this notification covers.
    gathered: Vec<Effect>,
    /// Of a device with a limit.
    _turn: Option<DeviceTurn>,
}

/// An effect that a notification covers.
struct Beside {
    effect: Effect,
    /// Its message, to be in the texts.
    message: Option<Message>,
}

/// The right to notify a device with a limit, until it is dropped. One notification is under way at a time, so that
/// others wait to be gathered into it and the limit counts it.
#[derive(Debug)]
struct DeviceTurn {
    device: DeviceId,
    taken: Arc<Mutex<HashSet<DeviceId>>>,
}

impl DeviceTurn {
    /// The right, unless another notification has it.
    fn take(device: DeviceId, taken: &Arc<Mutex<HashSet<DeviceId>>>) -> Option<Self> {
        let new = taken.lock().unwrap_or_else(PoisonError::into_inner).insert(device);
        new.then(|| Self { device, taken: taken.clone() })
    }
}

impl Drop for DeviceTurn {
    fn drop(&mut self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.device);
    }
}

impl DueNotification {
    /// Language of the texts.
    pub fn language(&self) -> &str {
        self.device.language.as_deref().unwrap_or(&self.mailbox.language)
    }

    /// Other effects of the device that this notification covers.
    pub fn covers(&self) -> Vec<EffectId> {
        self.gathered.iter().map(|effect| effect.id).collect()
    }
}

/// Source of notifications. Cheap to clone.
#[derive(Clone)]
pub struct Notifications {
    mailstore: Mailstore,
    templates: Arc<Templates>,
    /// Notifications of the last hour of devices with a limit, as the outbox has them.
    sent: Arc<Mutex<HashMap<DeviceId, Sent>>>,
    /// Devices with a limit whose notification is under way.
    turns: Arc<Mutex<HashSet<DeviceId>>>,
}

/// Notifications that a device got within the last hour.
#[derive(Debug, Default)]
struct Sent {
    /// True once those of the outbox are in `times`, since the beginning of the epoch. Done effects stay in the outbox for
    /// a day.
    read: bool,
    times: HashMap<EffectId, Timestamp>,
}

impl Sent {
    fn add(&mut self, effect: EffectId, at: Timestamp) {
        self.times.insert(effect, at);
        let now = wall().0;
        self.times.retain(|_, at| at.0 + HOUR_MS > now);
    }
}

impl Notifications {
    /// Notifications of this store, with these texts.
    pub fn new(mailstore: Mailstore, templates: Arc<Templates>) -> Self {
        Self { mailstore, templates, sent: Arc::default(), turns: Arc::default() }
    }

    /// At the beginning of an epoch: has the outbox read again, because another node may have sent notifications since the
    /// last one.
    pub fn begin(&self) {
        let now = wall().0;
        self.sent().retain(|_, sent| {
            sent.read = false;
            sent.times.retain(|_, at| at.0 + HOUR_MS > now);
            !sent.times.is_empty()
        });
    }

    /// The store.
    pub fn mailstore(&self) -> &Mailstore {
        &self.mailstore
    }

    /// The texts.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Prepares the notification of an effect.
    pub async fn prepare(&self, effect: &Effect) -> Prepared<DueNotification> {
        match self.try_prepare(effect).await {
            Ok(prepared) => prepared,
            Err(error) => Prepared::Later(Timestamp(wall().0 + STORE_PAUSE_MS), error.to_string()),
        }
    }

    async fn try_prepare(&self, effect: &Effect) -> Result<Prepared<DueNotification>, MailError> {
        let Cause { mailbox, message, transition } = effect.new.cause;
        if !self.mailstore.has_cause_of(effect)? {
            // Soon at first: a message follows its effect within milliseconds, unless its node has died.
            let pause =
                (wall().0.saturating_sub(effect.new.created.0) / 4).clamp(SHORTEST_WAIT_MS, LONGEST_WAIT_MS);
            let reason = "its message has not arrived on this node yet".to_owned();
            return Ok(Prepared::Later(Timestamp(wall().0 + pause), reason));
        }
        let unwanted = |reason: &str| Ok(Prepared::Unwanted(reason.to_owned()));
        let Some(device) = self.mailstore.device(mailbox, effect.new.target)? else {
            return unwanted("the device was removed");
        };
        let Some(mailbox) = self.mailstore.get(mailbox).await? else { return unwanted("the mailbox was removed") };
        if mailbox.disabled {
            return unwanted("the user is disabled");
        }
        let zone = zone_of(&mailbox);
        if transition == Transition::Test {
            return Ok(Prepared::Act(self.due(device, mailbox, None, Vec::new(), zone, None).await?));
        }
        let Some(message) = self.mailstore.message(mailbox.id, message).await? else {
            return unwanted("the message was deleted");
        };
        let facts = facts_of(&message);
        if !still_wanted(&device, &facts) {
            return unwanted(match (device.enabled, facts.deleted) {
                (false, _) => "the device is disabled",
                (_, true) => "the message was deleted",
                _ => "the message was heard",
            });
        }
        if let Some(schedule) = &device.schedule {
            let now = time(wall());
            if !schedule.open_at(now, &zone) {
                return Ok(match schedule.next_open(now, &zone) {
                    Some(open) => Prepared::Later(milliseconds(open), "outside the hours of the device".to_owned()),
                    None => Prepared::Unwanted("the hours of the device never come".to_owned()),
                });
            }
        }
        let (mut others, mut turn) = (Vec::new(), None);
        if effect.is_fixed() {
            others = self.covered(effect, &device).await?;
        }
        if device.per_hour > 0 {
            turn = DeviceTurn::take(device.id, &self.turns);
            if turn.is_none() {
                let reason = "another notification of the device is under way".to_owned();
                return Ok(Prepared::Later(Timestamp(wall().0 + TURN_PAUSE_MS), reason));
            }
            if let Some(until) = digest(&device, &self.sent_of(device.id).await?, time(wall())) {
                return Ok(Prepared::Later(milliseconds(until), "over the device's limit for an hour".to_owned()));
            }
            if !effect.is_fixed() {
                others = self.waiting_beside(effect, &device).await?;
            }
        }
        Ok(Prepared::Act(self.due(device, mailbox, Some(message), others, zone, turn).await?))
    }

    /// The effects that an effect covers since its first attempt. Those whose message is not wanted any more share its
    /// outcome, and are not in its texts.
    async fn covered(&self, effect: &Effect, device: &Device) -> Result<Vec<Beside>, MailError> {
        let mut others = Vec::new();
        for id in &effect.covers {
            if let Some(other) = self.mailstore.effect(*id)?.filter(|other| effect.gathers(other)) {
                let message = self.wanted(&other, device).await?;
                others.push(Beside { effect: other, message });
            }
        }
        Ok(others)
    }

    /// Other notifications of the same device whose time has come, no later reminders than this one: a first notification
    /// gathers first ones. Those that pause after a failure which left nothing with the receiver are among them.
    async fn waiting_beside(&self, effect: &Effect, device: &Device) -> Result<Vec<Beside>, MailError> {
        let now = wall();
        let same = |other: &Effect| {
            other.id != effect.id
                && other.new.cause.mailbox == effect.new.cause.mailbox
                && other.new.cause.transition == Transition::Filed
                && other.new.repeat <= effect.new.repeat
                && other.state() < EffectState::Dead
                && !other.is_fixed()
                && other.covers.is_empty()
                && other.new.not_before <= now
        };
        let mut others = Vec::new();
        for other in self.mailstore.effects_of(effect.new.target).await?.into_iter().filter(same) {
            if others.len() == MOST_GATHERED {
                break;
            }
            if let Some(message) = self.wanted(&other, device).await? {
                others.push(Beside { effect: other, message: Some(message) });
            }
        }
        Ok(others)
    }

    /// The message of an effect, if the device is still to notify of it.
    async fn wanted(&self, effect: &Effect, device: &Device) -> Result<Option<Message>, MailError> {
        let Cause { mailbox, message, .. } = effect.new.cause;
        let message = self.mailstore.message(mailbox, message).await?;
        Ok(message.filter(|message| still_wanted(device, &facts_of(message))))
    }

    async fn due(
        &self,
        device: Device,
        mailbox: Mailbox,
        message: Option<Message>,
        others: Vec<Beside>,
        zone: TimeZone,
        turn: Option<DeviceTurn>,
    ) -> Result<DueNotification, MailError> {
        let new_messages = u64::from(self.mailstore.message_counts(mailbox.id).await?.new);
        let audio_allowed = self.mailstore.rules(&mailbox)?.allows(Rule::AudioOut, true);
        let content = Notification {
            number: mailbox.number.clone(),
            name: mailbox.name.clone(),
            new_messages,
            latest: message.as_ref().map_or_else(sample, text_of),
            earlier: others.iter().filter_map(|other| other.message.as_ref()).map(text_of).collect(),
        };
        let gathered = others.into_iter().map(|other| other.effect).collect();
        Ok(DueNotification { device, mailbox, message, content, zone, audio_allowed, gathered, _turn: turn })
    }

    /// The effects that follow when the receiver has the notification, for each message in it.
    pub async fn delivered(&self, effect: &Effect, due: &DueNotification) -> Vec<NewEffect> {
        if due.device.per_hour > 0 {
            self.sent().entry(due.device.id).or_default().add(effect.id, wall());
        }
        self.following(effect, &due.gathered, &due.device, NotificationOutcome::Delivered).await
    }

    /// The effects that follow when the receiver may have the notification, which is not repeated, for each message in it.
    pub async fn given_up(&self, effect: &Effect, due: &DueNotification) -> Vec<NewEffect> {
        self.following(effect, &due.gathered, &due.device, NotificationOutcome::Failed).await
    }

    /// The effects that follow when the receiver refused the notification for good. Those that it
    /// covered are attempted alone.
    pub async fn refused(&self, effect: &Effect, device: &Device) -> Vec<NewEffect> {
        self.following(effect, &[], device, NotificationOutcome::Failed).await
    }

    /// The effects that follow when a notification is given up without the outcome of an attempt. Messages that it covers are
    /// given up with it if its receiver may have them and could not tell a repeat; the others are attempted alone.
    pub async fn abandoned(&self, effect: &Effect) -> Result<Vec<NewEffect>, MailError> {
        let NewEffect { cause, channel, target, .. } = effect.new;
        if cause.transition != Transition::Filed {
            return Ok(Vec::new());
        }
        let device = match self.mailstore.device(cause.mailbox, target) {
            // Changed by a newer release.
            Err(MailError::View(_)) => None,
            device => device?,
        };
        let Some(device) = device else { return Ok(Vec::new()) };
        // Its message may be on its way still: what follows is decided by it.
        if !self.mailstore.has_cause_of(effect)? && wall().0 < effect.new.expires.0.saturating_add(HOUR_MS) {
            return Err(MailError::LacksRecords);
        }
        let mut covered = Vec::new();
        if channel.at_most_once() && effect.attempts() > effect.not_taken {
            for id in &effect.covers {
                covered.extend(self.mailstore.effect(*id)?.filter(|other| effect.gathers(other)));
            }
        }
        self.following_all(effect, &covered, &device, NotificationOutcome::Failed).await
    }

    /// Whether a mail with its recording replaces the message of an effect, by the device and the class of service. A part of a
    /// recording does not: the rest may still come.
    pub async fn deletes_message(&self, effect: &Effect) -> Result<bool, MailError> {
        let Cause { mailbox, message, transition } = effect.new.cause;
        if transition != Transition::Filed {
            return Ok(false);
        }
        let device = match self.mailstore.device(mailbox, effect.new.target) {
            // Changed by a newer release: the message stays.
            Err(MailError::View(_)) => None,
            device => device?,
        };
        if !device.is_some_and(|device| device.deletes_after()) {
            return Ok(false);
        }
        let message = self.mailstore.message(mailbox, message).await?;
        if message.and_then(|message| message.audio).is_some_and(|audio| audio.partial) {
            return Ok(false);
        }
        let Some(mailbox) = self.mailstore.get(mailbox).await? else { return Ok(false) };
        Ok(self.mailstore.rules(&mailbox)?.allows(Rule::AudioOut, true))
    }

    /// As [`Self::following_all`]; waits until the store can be read. Without the duty the caller is ended.
    async fn following(
        &self,
        effect: &Effect,
        covered: &[Effect],
        device: &Device,
        outcome: NotificationOutcome,
    ) -> Vec<NewEffect> {
        loop {
            match self.following_all(effect, covered, device, outcome).await {
                Ok(next) => return next,
                Err(error) => {
                    tracing::warn!(effect = %effect.id, %error, "outcome waits for the store: what follows cannot be read");
                    sleep(READ_AGAIN).await;
                }
            }
        }
    }

    /// The effects that follow for an effect and those that it covers.
    async fn following_all(
        &self,
        effect: &Effect,
        covered: &[Effect],
        device: &Device,
        outcome: NotificationOutcome,
    ) -> Result<Vec<NewEffect>, MailError> {
        let mut next = Vec::new();
        for effect in std::iter::once(effect).chain(covered) {
            if effect.new.cause.transition == Transition::Test {
                continue;
            }
            match self.try_following(effect, device, outcome).await {
                Ok(following) => next.extend(following),
                // Of a newer release: no wait makes it readable here.
                Err(MailError::View(error)) => {
                    tracing::warn!(effect = %effect.id, %error, "no repeat and no fallback follow");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(next)
    }

    async fn try_following(
        &self,
        effect: &Effect,
        device: &Device,
        outcome: NotificationOutcome,
    ) -> Result<Option<NewEffect>, MailError> {
        let Cause { mailbox, message, .. } = effect.new.cause;
        let Some(owner) = self.mailstore.get(mailbox).await? else { return Ok(None) };
        let Some(facts) = self.facts(&owner, message).await? else { return Ok(None) };
        let (now, zone) = (wall(), zone_of(&owner));
        let follows = |target: &Device, repeat, not_before| NewEffect {
            channel: channel_of(target),
            target: target.id,
            repeat,
            retry: 0,
            created: now,
            not_before,
            expires: Timestamp(now.0.max(not_before.0).saturating_add(NOTIFICATION_LIFE_MS)),
            ..effect.new
        };
        let mut before = Vec::new();
        for other in self.mailstore.devices(mailbox).await? {
            let first = follows(&other, 0, now).id();
            if other.id != device.id && self.mailstore.effect(first)?.is_some() {
                before.push(other.id);
            }
        }
        let attempt = Attempt { repeat: effect.new.repeat, before };
        Ok(match after(device, outcome, &facts, &attempt, time(now), &zone) {
            Next::Nothing => None,
            Next::Repeat { number, not_before } => Some(follows(device, number, milliseconds(not_before.0))),
            Next::Fallback { device, not_before } => {
                let Some(target) = self.mailstore.device(mailbox, device)? else { return Ok(None) };
                let begins = first(&target, &facts, not_before.0, &zone);
                begins.map(|begins| follows(&target, 0, milliseconds(begins.0)))
            }
        })
    }

    async fn facts(&self, mailbox: &Mailbox, message: MessageId) -> Result<Option<MessageFacts>, MailError> {
        Ok(self.mailstore.message(mailbox.id, message).await?.as_ref().map(facts_of))
    }

    /// Times of a device's notifications within the last hour: read from the outbox once in an epoch, so that the limit
    /// holds across a move of the duty.
    async fn sent_of(&self, device: DeviceId) -> Result<Vec<jiff::Timestamp>, MailError> {
        if !self.sent().get(&device).is_some_and(|sent| sent.read) {
            let effects = self.mailstore.effects_of(device).await?;
            let mut sent = self.sent();
            let entry = sent.entry(device).or_default();
            for effect in &effects {
                if let Some(at) = effect.sent_at() {
                    entry.add(effect.id, at);
                }
            }
            entry.read = true;
        }
        let sent = self.sent();
        let times = sent.get(&device).into_iter().flat_map(|sent| sent.times.values());
        Ok(times.map(|at| time(*at)).collect())
    }

    fn sent(&self) -> MutexGuard<'_, HashMap<DeviceId, Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text_of(message: &Message) -> MessageText {
    MessageText {
        caller: message.caller.clone(),
        caller_name: message.caller_name.clone(),
        received: time(message.received),
        seconds: message.length_ms.div_ceil(1_000),
        urgent: message.urgent,
    }
}

/// The message of a test.
fn sample() -> MessageText {
    MessageText {
        caller: None,
        caller_name: Some("Twinbox test".to_owned().into()),
        received: time(wall()),
        seconds: 0,
        urgent: false,
    }
}

fn milliseconds(at: jiff::Timestamp) -> Timestamp {
    Timestamp(u64::try_from(at.as_millisecond()).unwrap_or_default())
}
