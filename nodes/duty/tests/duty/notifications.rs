//! Notifications of devices: whether, when, with which messages, and what follows them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use jiff::tz::TimeZone;
use twinbox_clock::wall;
use twinbox_devices::{Device, DeviceChange, KindName, Repeat, Schedule, Templates};
use twinbox_duty::{ActOutcome, Channels, DueNotification, Notifications, Prepared};
use twinbox_gate::Permit;
use twinbox_ids::{CallId, DeviceId, EffectId, MailboxId, MessageId, Pii, Timestamp};
use twinbox_mailstore::{
    Codec, EffectOutcome, LiveRecording, MailError, Mark, NewMailbox, RecordingMeta, Rule, time,
};
use twinbox_outbox::{Channel, Effect, EffectState, NewEffect};
use twinbox_store_kit::Away;

use crate::support::{DEAD, Node, epoch, eventually};

const HOUR_MS: u64 = 3_600 * 1_000;

/// A mailbox on a node.
pub struct User {
    pub node: Node,
    pub mailbox: MailboxId,
    pub notifications: Notifications,
}

/// Sends notifications, and remembers their effects with the number of gathered messages.
struct Receiver {
    notifications: Notifications,
    got: Arc<Mutex<Vec<(EffectId, usize)>>>,
}

impl Channels for Receiver {
    type Work = DueNotification;

    fn serves(&self, _: Channel) -> bool {
        true
    }

    async fn prepare(&self, effect: &Effect) -> Prepared<DueNotification> {
        self.notifications.prepare(effect).await
    }

    fn route(&self, _: &Effect, _: &DueNotification) -> String {
        String::new()
    }

    fn covers(&self, due: &DueNotification) -> Vec<EffectId> {
        due.covers()
    }

    async fn act(&self, effect: &Effect, due: DueNotification, _permit: Arc<Permit>) -> ActOutcome {
        self.got.lock().expect("no panic").push((effect.id, due.content.earlier.len()));
        let next = self.notifications.delivered(effect, &due).await;
        ActOutcome::Done("taken".to_owned(), next)
    }

    async fn abandoned(&self, effect: &Effect) -> Result<Vec<NewEffect>, MailError> {
        self.notifications.abandoned(effect).await
    }

    async fn deletes_message(&self, effect: &Effect) -> Result<bool, MailError> {
        self.notifications.deletes_message(effect).await
    }
}

impl User {
    async fn new() -> Self {
        Self::on(Node::alone().await).await
    }

    /// A user on this node.
    pub async fn on(node: Node) -> Self {
        let new = NewMailbox { pin: None, ..NewMailbox::new("1001", "") };
        let mailbox = node.mailstore.create(new).await.expect("a mailbox").0.id;
        let templates = Templates::with_overrides(&BTreeMap::new()).expect("the built-in texts");
        let notifications = Notifications::new(node.mailstore.clone(), Arc::new(templates));
        Self { node, mailbox, notifications }
    }

    /// Adds a device.
    pub async fn device(&self, name: &str, kind: KindName, changes: &[DeviceChange]) -> Device {
        let target = match kind {
            KindName::Webhook => vec![
                DeviceChange::Url(Pii::new("https://hooks.example.com/1".to_owned())),
                DeviceChange::Secret(Pii::new("0123456789abcdef".to_owned())),
            ],
            KindName::SmsHttp => vec![DeviceChange::Number(Pii::new("+4915112345".to_owned()))],
            _ => vec![DeviceChange::Address(Pii::new("anna@example.com".to_owned()))],
        };
        let changes = [target, changes.to_vec()].concat();
        let device = Device::new(self.mailbox, DeviceId::random(), name, kind, &changes).expect("a device");
        self.node.mailstore.add_device(device.clone()).await.expect("added");
        device
    }

    /// Leaves a message of 1.5 seconds.
    pub async fn leave(&self) -> MessageId {
        let live = self.begin_recording().await;
        live.append(0, Bytes::from(vec![7; 12_000])).expect("taken");
        live.file().await.expect("filed").message
    }

    /// Leaves a message whose end the disk lost.
    async fn leave_part(&self) -> MessageId {
        let live = self.begin_recording().await;
        live.append(0, Bytes::from(vec![7; 12_000])).expect("taken");
        self.node.store.recordings().written().await.expect("written");
        let away = Away::take(&self.node.dir.path().join("store")).await;
        live.append(12_000, Bytes::from(vec![7; 2_000])).expect("taken");
        self.node.store.recordings().written().await.expect("tried");
        away.put_back();
        let filed = live.file().await.expect("filed");
        assert!(!filed.whole);
        filed.message
    }

    async fn begin_recording(&self) -> LiveRecording {
        let meta = RecordingMeta {
            mailbox: self.mailbox,
            caller: None,
            caller_name: None,
            codec: Codec::Pcmu,
            call: CallId::random(),
        };
        self.node.mailstore.begin_recording(meta).await.expect("a recording")
    }

    /// The only effect of a message.
    pub async fn effect(&self, message: MessageId) -> Effect {
        let mut effects = self.node.mailstore.effects().await.expect("readable");
        effects.retain(|effect| effect.new.cause.message == message);
        let [effect] = effects.as_slice() else { panic!("{effects:?}") };
        effect.clone()
    }

    pub async fn mark(&self, message: MessageId, mark: Mark) {
        self.node.mailstore.mark(self.mailbox, message, mark).await.expect("marked");
    }

    /// The notification of an effect, which is due.
    pub async fn due(&self, effect: &Effect) -> DueNotification {
        match self.notifications.prepare(effect).await {
            Prepared::Act(due) => due,
            other => panic!("{other:?}"),
        }
    }

    async fn unwanted(&self, effect: &Effect) -> String {
        match self.notifications.prepare(effect).await {
            Prepared::Unwanted(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn later(&self, effect: &Effect) -> Timestamp {
        match self.notifications.prepare(effect).await {
            Prepared::Later(at, _) => at,
            other => panic!("{other:?}"),
        }
    }

    /// Writes the effects that follow, and returns the only one as it is stored.
    async fn follow(&self, next: Vec<NewEffect>) -> Effect {
        let [new] = next.as_slice() else { panic!("{next:?}") };
        self.node.add(&next).await;
        self.node.effect(new.id())
    }
}

#[tokio::test]
async fn message_that_was_heard_before_the_delay_was_over_is_not_notified() {
    let user = User::new().await;
    let device = user.device("hook", KindName::Webhook, &[DeviceChange::Delay(60)]).await;
    let before = wall().0;
    let [heard, deleted, kept] = [user.leave().await, user.leave().await, user.leave().await];
    let effect = user.effect(heard).await;
    assert!((before + 60_000..=wall().0 + 60_000).contains(&effect.due().0), "{effect:?}");
    user.due(&effect).await;
    user.mark(heard, Mark::Heard).await;
    assert_eq!(user.unwanted(&effect).await, "the message was heard");
    user.mark(deleted, Mark::Deleted).await;
    assert_eq!(user.unwanted(&user.effect(deleted).await).await, "the message was deleted");
    let effect = user.effect(kept).await;
    let mailstore = &user.node.mailstore;
    mailstore.change_device(user.mailbox, device.id, vec![DeviceChange::Enabled(false)]).await.expect("changed");
    assert_eq!(user.unwanted(&effect).await, "the device is disabled");
    mailstore.remove_device(user.mailbox, device.id).await.expect("removed");
    assert_eq!(user.unwanted(&effect).await, "the device was removed");
}

#[tokio::test]
async fn notification_waits_for_the_hours_of_its_device() {
    let user = User::new().await;
    // Two days from now, so that the hours are not now, whatever the time.
    let today = time(wall()).to_zoned(TimeZone::UTC).date().weekday().to_monday_zero_offset();
    let day = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][(today as usize + 2) % 7];
    let schedule: Schedule = format!("{day} 10:00-11:00").parse().expect("hours");
    user.device("hook", KindName::Webhook, &[DeviceChange::When(Some(schedule.clone()))]).await;
    let message = user.leave().await;
    let effect = user.effect(message).await;
    assert!(schedule.open_at(time(effect.due()), &TimeZone::UTC), "first due when they begin");
    // An administrator's retry comes before its hours.
    user.node.mailstore.retry_effect(effect.id).await.expect("due");
    let effect = user.effect(message).await;
    assert!(effect.due() <= wall());
    let at = user.later(&effect).await;
    assert!(at > wall() && schedule.open_at(time(at), &TimeZone::UTC), "{at:?}");
}

#[tokio::test]
async fn messages_beyond_the_limit_of_an_hour_are_gathered_into_one_notification() {
    let user = User::new().await;
    user.device("hook", KindName::Webhook, &[DeviceChange::PerHour(1)]).await;
    let mut effects = Vec::new();
    for _ in 0..3 {
        let message = user.leave().await;
        effects.push(user.effect(message).await.id);
    }
    let got = Arc::new(Mutex::new(Vec::new()));
    let receiver = Receiver { notifications: user.notifications.clone(), got: got.clone() };
    let _duty = user.node.duty(receiver);
    let before = wall().0;
    user.node.hold(1);
    for id in &effects {
        user.node.until(*id, EffectState::Done).await;
    }
    let [(sent, 2)] = got.lock().expect("no panic").clone()[..] else { panic!("{got:?}") };
    for id in effects.iter().filter(|id| **id != sent) {
        let done = user.node.effect(*id).done.expect("done");
        assert_eq!(done.text, format!("gathered into {sent}"));
    }
    // The limit is reached: the next one waits until the first is an hour old.
    let message = user.leave().await;
    let effect = user.effect(message).await;
    eventually("it is put off", async || {
        matches!(user.notifications.prepare(&effect).await, Prepared::Later(at, _)
            if (before + HOUR_MS..=wall().0 + HOUR_MS).contains(&at.0))
    })
    .await;
    assert_eq!(got.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn digest_lists_no_message_that_was_heard_or_deleted_and_no_reminder() {
    let user = User::new().await;
    let repeat = DeviceChange::Repeat(Some(Repeat { every_s: 900, most: 2 }));
    user.device("hook", KindName::Webhook, &[DeviceChange::PerHour(9), repeat]).await;
    let [notified, heard, deleted, reminded] =
        [user.leave().await, user.leave().await, user.leave().await, user.leave().await];
    let (first, reminded) = (user.effect(notified).await, user.effect(reminded).await);
    let earlier = async || user.due(&first).await.content.earlier.len();
    assert_eq!(earlier().await, 3);
    user.mark(heard, Mark::Heard).await;
    user.mark(deleted, Mark::Deleted).await;
    assert_eq!(earlier().await, 1);
    let taken = EffectOutcome::Done("taken".to_owned());
    let reminder = NewEffect { repeat: 1, not_before: wall(), ..reminded.new };
    user.node.mailstore.end_attempt(reminded.id, taken, vec![reminder]).await.expect("written");
    assert_eq!(earlier().await, 0, "a reminder joins no first notification");
    assert!(user.due(&first).await.covers().is_empty());
    // Reminders of a gathered message follow as of any other, and are gathered, too.
    let reminder = user.node.effect(reminder.id());
    let due = user.due(&reminder).await;
    assert_eq!(due.covers(), [first.id]);
    let next = user.notifications.delivered(&reminder, &due).await;
    let next: Vec<_> = next.iter().map(|next| (next.cause.message, next.repeat)).collect();
    assert_eq!(next, [(reminder.new.cause.message, 2), (notified, 1)]);
}

#[tokio::test]
async fn fallback_follows_a_refusal_and_devices_that_name_each_other_end() {
    let user = User::new().await;
    let second = user.device("mail", KindName::Mail, &[DeviceChange::Delay(30)]).await;
    let first = user.device("hook", KindName::Webhook, &[DeviceChange::Fallback(Some(second.id))]).await;
    let message = user.leave().await;
    let effect = user.effect(message).await;
    assert_eq!(effect.new.target, first.id, "the fallback alone sends nothing");
    let before = wall().0;
    let next = user.notifications.refused(&effect, &first).await;
    let next = user.follow(next).await;
    assert_eq!((next.new.target, next.new.channel, next.new.repeat), (second.id, Channel::Mail, 0));
    assert_eq!(next.new.cause, effect.new.cause);
    assert!((before + 30_000..=wall().0 + 30_000).contains(&next.due().0), "its delay counts from the refusal");
    // The second names the first, too, after a split.
    let second = Device { fallback: Some(first.id), ..second };
    assert!(user.notifications.refused(&next, &second).await.is_empty());
}

#[tokio::test]
async fn fallback_follows_a_notification_that_expired_or_whose_result_stays_unknown() {
    let user = User::new().await;
    let mail = user.device("mail", KindName::Mail, &[]).await;
    let next = [DeviceChange::Fallback(Some(mail.id))];
    for kind in [KindName::Webhook, KindName::SmsHttp] {
        user.device(kind.word(), kind, &next).await;
    }
    let message = user.leave().await;
    let of = async |channel| {
        let effects = user.node.mailstore.effects().await.expect("readable");
        effects.into_iter().find(|effect| effect.new.channel == channel && effect.new.cause.message == message)
    };
    // The text message may have left before its process died; no other node was there.
    let text = of(Channel::SmsHttp).await.expect("an effect").id;
    let dead = user.node.process(DEAD);
    dead.begin_attempt(text, Vec::new(), &epoch(1)).await.expect("written").expect("an attempt");
    assert!(of(Channel::Mail).await.is_none());
    let (notifications, got) = (user.notifications.clone(), Arc::default());
    let _duty = user.node.duty(Receiver { notifications, got });
    user.node.hold(2);
    user.node.until(text, EffectState::Dead).await;
    eventually("the mail follows", async || of(Channel::Mail).await.is_some()).await;

    let message = user.leave().await;
    let of = async |channel| {
        let effects = user.node.mailstore.effects().await.expect("readable");
        effects.into_iter().find(|effect| effect.new.channel == channel && effect.new.cause.message == message)
    };
    let hook = of(Channel::Webhook).await.expect("an effect");
    // Until it has ended, it takes others of its device with it.
    user.node.until(hook.id, EffectState::Done).await;
    let expired = NewEffect { retry: 1, expires: Timestamp(wall().0 - 1), ..hook.new };
    user.node.add(&[expired]).await;
    user.node.until(expired.id(), EffectState::Dead).await;
    eventually("the mail follows", async || of(Channel::Mail).await.is_some()).await;
}

/// The node that records has died; the rest comes when it is back.
#[tokio::test]
async fn part_of_a_message_is_not_deleted_after_its_mail() {
    let user = User::new().await;
    user.device("mail", KindName::Mail, &[DeviceChange::Audio(true), DeviceChange::DeleteAfter(true)]).await;
    let whole = user.effect(user.leave().await).await;
    assert!(user.notifications.deletes_message(&whole).await.expect("readable"));
    let part = user.effect(user.leave_part().await).await;
    assert!(!user.notifications.deletes_message(&part).await.expect("readable"));
}

#[tokio::test]
async fn reminders_follow_until_the_message_is_heard_and_then_none() {
    let user = User::new().await;
    let repeat = DeviceChange::Repeat(Some(Repeat { every_s: 900, most: 2 }));
    user.device("hook", KindName::Webhook, &[repeat]).await;
    let [ignored, heard] = [user.leave().await, user.leave().await];
    let mut effect = user.effect(ignored).await;
    for number in [1, 2] {
        let (due, before) = (user.due(&effect).await, wall().0);
        let next = user.notifications.delivered(&effect, &due).await;
        let next = user.follow(next).await;
        assert_eq!((next.new.repeat, next.new.target), (number, effect.new.target));
        assert!((before + 900_000..=wall().0 + 900_000).contains(&next.due().0), "{next:?}");
        assert_ne!(next.receiver_id(), effect.receiver_id(), "a reminder is another one for its receiver");
        effect = next;
    }
    let due = user.due(&effect).await;
    assert!(user.notifications.delivered(&effect, &due).await.is_empty(), "it was the last");

    let effect = user.effect(heard).await;
    let due = user.due(&effect).await;
    user.mark(heard, Mark::Heard).await;
    assert!(user.notifications.delivered(&effect, &due).await.is_empty());
}

#[tokio::test]
async fn message_is_deleted_once_the_mail_with_its_recording_is_delivered() {
    let user = User::new().await;
    let settings = [DeviceChange::Audio(true), DeviceChange::DeleteAfter(true)];
    user.device("mail", KindName::Mail, &settings).await;
    let message = user.leave().await;
    let effect = user.effect(message).await;
    let deleted = async || {
        let message = user.node.mailstore.message(user.mailbox, message).await.expect("readable");
        message.expect("present").deleted
    };
    user.due(&effect).await;
    assert!(!deleted().await);
    let (notifications, got) = (user.notifications.clone(), Arc::default());
    let _duty = user.node.duty(Receiver { notifications, got });
    user.node.hold(1);
    user.node.until(effect.id, EffectState::Done).await;
    assert!(deleted().await, "in the commit of the success");

    // A mail without the recording replaces nothing.
    user.node.mailstore.change_class("default", vec![(Rule::AudioOut, Some(0))]).await.expect("changed");
    let kept = user.leave().await;
    let effect = user.effect(kept).await;
    user.node.until(effect.id, EffectState::Done).await;
    let message = user.node.mailstore.message(user.mailbox, kept).await.expect("readable");
    assert!(!message.expect("present").deleted);
}
