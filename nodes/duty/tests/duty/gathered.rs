//! Notifications of several messages: what becomes of each when the process dies or the result is unknown (rule E1).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use twinbox_clock::wall;
use twinbox_devices::{DeviceChange, KindName, Repeat};
use twinbox_duty::{ActOutcome, Channels, DueNotification, Notifications, Prepared};
use twinbox_gate::Permit;
use twinbox_ids::EffectId;
use twinbox_mailstore::{EffectOutcome, Mark};
use twinbox_outbox::{Channel, Effect, EffectState};

use crate::{
    notifications::User,
    support::{DEAD, Node, OWN, THIRD, epoch, eventually},
};

/// Answer of the receiver to one request.
#[derive(Clone, Copy)]
enum Answer {
    Taken,
    Unclear,
    NotTaken,
    Refused,
    /// None while the process lives.
    Never,
}

/// A request: id that the receiver sees, the effect, the covered ones.
type Request = (EffectId, EffectId, Vec<EffectId>);

/// A receiver that answers in this order, then takes all.
#[derive(Clone)]
struct Receiver {
    notifications: Notifications,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sorted(mut ids: Vec<EffectId>) -> Vec<EffectId> {
    ids.sort_unstable();
    ids
}

impl Receiver {
    fn new(user: &User, answers: &[Answer]) -> Self {
        let answers = Arc::new(Mutex::new(answers.iter().copied().collect()));
        Self { notifications: user.notifications.clone(), answers, requests: Arc::default() }
    }

    fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    async fn has(&self, requests: usize) {
        eventually(&format!("{requests} requests"), async || lock(&self.requests).len() >= requests).await;
    }
}

impl Channels for Receiver {
    type Work = DueNotification;

    fn serves(&self, _: Channel) -> bool {
        true
    }

    async fn prepare(&self, effect: &Effect) -> Prepared<DueNotification> {
        self.notifications.prepare(effect).await
    }

    fn covers(&self, due: &DueNotification) -> Vec<EffectId> {
        due.covers()
    }

    fn route(&self, _: &Effect, _: &DueNotification) -> String {
        String::new()
    }

    async fn act(&self, effect: &Effect, due: DueNotification, _permit: Arc<Permit>) -> ActOutcome {
        assert!(due.content.earlier.len() <= due.covers().len(), "texts are those of covered messages");
        lock(&self.requests).push((effect.receiver_id(), effect.id, sorted(due.covers())));
        let answer = lock(&self.answers).pop_front().unwrap_or(Answer::Taken);
        let reason = "as the test wants it".to_owned();
        match answer {
            Answer::Taken => ActOutcome::Done("taken".to_owned(), self.notifications.delivered(effect, &due).await),
            Answer::Unclear if effect.new.channel.at_most_once() => {
                ActOutcome::GivenUp(reason, self.notifications.given_up(effect, &due).await)
            }
            Answer::Unclear => ActOutcome::Unclear(reason),
            Answer::NotTaken => ActOutcome::Failed(reason),
            Answer::Refused => ActOutcome::Refused(reason, self.notifications.refused(effect, &due.device).await),
            Answer::Never => std::future::pending().await,
        }
    }
}

/// A user with these settings of a device, and `messages` new messages: their effects.
async fn user(node: Node, kind: KindName, settings: &[DeviceChange], messages: usize) -> (User, Vec<Effect>) {
    let user = User::on(node).await;
    user.device("device", kind, settings).await;
    let mut effects = Vec::new();
    for _ in 0..messages {
        let message = user.leave().await;
        effects.push(user.effect(message).await);
    }
    (user, effects)
}

fn ids(effects: &[Effect]) -> Vec<EffectId> {
    sorted(effects.iter().map(|effect| effect.id).collect())
}

fn others(effects: &[Effect], leader: EffectId) -> Vec<EffectId> {
    ids(effects).into_iter().filter(|id| *id != leader).collect()
}

#[tokio::test]
async fn digest_by_text_message_is_not_repeated_after_the_death_of_its_process() {
    let [node, _peer] = Node::pair().await;
    let (user, effects) = user(node, KindName::SmsHttp, &[DeviceChange::PerHour(1)], 3).await;
    let first = Receiver::new(&user, &[Answer::Never]);
    let duty = user.node.duty(first.clone());
    user.node.hold(1);
    first.has(1).await;
    let (_, leader, covered) = first.requests().remove(0);
    assert_eq!(covered, others(&effects, leader));
    for id in &covered {
        let effect = user.node.effect(*id);
        assert_eq!((effect.attempts(), effect.gathered.map(|it| it.into)), (1, Some(leader)), "{effect:?}");
    }
    // Its process is replaced.
    duty.stop();
    user.node.gate.close();
    let next = Receiver::new(&user, &[]);
    let duty = user.node.start(user.node.process(THIRD), next.clone());
    user.node.hold(2);
    let dead = user.node.until(leader, EffectState::Dead).await;
    assert!(dead.dead.is_some_and(|dead| dead.text.contains("unknown")));
    for id in &covered {
        let done = user.node.until(*id, EffectState::Done).await;
        assert_eq!(done.done.expect("done").text, format!("in the digest of {leader}, result unknown"));
    }
    assert_eq!(duty.counts().dead.load(std::sync::atomic::Ordering::Relaxed), 1, "one dead letter");
    user.node.dead_letter(Channel::SmsHttp).await;
    assert!(next.requests().is_empty(), "it may have arrived");
}

#[tokio::test]
async fn digest_by_text_message_of_unknown_result_is_not_repeated_and_falls_back_for_each_message() {
    let [node, _peer] = Node::pair().await;
    let (user, _) = user(node, KindName::Mail, &[DeviceChange::Delay(3_600)], 0).await;
    let mail = user.node.mailstore.devices(user.mailbox).await.expect("readable").remove(0);
    let fallback = [DeviceChange::PerHour(1), DeviceChange::Fallback(Some(mail.id))];
    let text = user.device("text", KindName::SmsHttp, &fallback).await;
    let messages = [user.leave().await, user.leave().await];
    let effects = user.node.mailstore.effects_of(text.id).await.expect("readable");
    assert_eq!(effects.len(), messages.len());
    let receiver = Receiver::new(&user, &[Answer::Unclear]);
    let _duty = user.node.duty(receiver.clone());
    user.node.hold(1);
    receiver.has(1).await;
    let (_, leader, covered) = receiver.requests().remove(0);
    assert_eq!(covered, others(&effects, leader));
    user.node.until(leader, EffectState::Dead).await;
    user.node.until(covered[0], EffectState::Done).await;
    let by_mail = user.node.mailstore.effects_of(mail.id).await.expect("readable");
    assert_eq!(by_mail.len(), messages.len(), "{by_mail:?}");
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn repeat_of_a_digest_has_the_same_messages_and_a_later_one_gets_its_own() {
    let limit = [DeviceChange::PerHour(2)];
    let (user, mut effects) = user(Node::alone().await, KindName::Webhook, &limit, 3).await;
    let receiver = Receiver::new(&user, &[Answer::Unclear]);
    let _duty = user.node.duty(receiver.clone());
    user.node.hold(1);
    receiver.has(1).await;
    let (id, leader, covered) = receiver.requests().remove(0);
    assert_eq!(covered, others(&effects, leader));
    user.node.until(leader, EffectState::Failed).await;
    // One is heard meanwhile, which changes the texts alone.
    user.mark(user.node.effect(covered[0]).new.cause.message, Mark::Heard).await;
    let message = user.leave().await;
    let fourth = user.effect(message).await;
    effects.push(fourth.clone());
    user.node.until(fourth.id, EffectState::Done).await;
    assert_eq!(receiver.requests()[1..], [(fourth.receiver_id(), fourth.id, Vec::new())]);
    // The covered ones wait for the leader, also when an administrator wants one of them now.
    user.node.mailstore.retry_effect(covered[1]).await.expect("due");
    user.node.mailstore.retry_effect(leader).await.expect("due");
    user.node.until(leader, EffectState::Done).await;
    assert_eq!(receiver.requests()[2..], [(id, leader, covered.clone())]);
    for id in &covered {
        let done = user.node.until(*id, EffectState::Done).await;
        assert_eq!(done.done.as_ref().map(|done| done.text.clone()), Some(format!("gathered into {leader}")));
        assert_eq!(done.sent_at(), None, "the limit of an hour counts the leader alone");
    }
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test]
async fn digest_that_left_nothing_takes_later_messages_along() {
    let limit = [DeviceChange::PerHour(1)];
    let (user, mut effects) = user(Node::alone().await, KindName::Webhook, &limit, 2).await;
    let receiver = Receiver::new(&user, &[Answer::NotTaken]);
    let _duty = user.node.duty(receiver.clone());
    user.node.hold(1);
    receiver.has(1).await;
    for effect in &effects {
        let failed = user.node.until(effect.id, EffectState::Failed).await;
        assert!(!failed.is_fixed() && failed.covers.is_empty() && failed.due() > wall(), "{failed:?}");
    }
    let message = user.leave().await;
    let third = user.effect(message).await;
    effects.push(third.clone());
    for effect in &effects {
        user.node.until(effect.id, EffectState::Done).await;
    }
    assert_eq!(receiver.requests()[1..], [(third.receiver_id(), third.id, others(&effects, third.id))]);
}

#[tokio::test]
async fn messages_of_a_refused_or_heard_digest_are_notified_alone() {
    for answer in [Answer::Refused, Answer::Unclear] {
        let limit = [DeviceChange::PerHour(9)];
        let (user, effects) = user(Node::alone().await, KindName::Webhook, &limit, 3).await;
        let receiver = Receiver::new(&user, &[answer]);
        let _duty = user.node.duty(receiver.clone());
        user.node.hold(1);
        receiver.has(1).await;
        let (_, leader, covered) = receiver.requests().remove(0);
        assert_eq!(covered, others(&effects, leader));
        if matches!(answer, Answer::Unclear) {
            // The receiver may not have it: the others must not end with a leader that is not needed any more.
            user.node.until(leader, EffectState::Failed).await;
            user.mark(user.node.effect(leader).new.cause.message, Mark::Heard).await;
            user.node.mailstore.retry_effect(leader).await.expect("due");
            let done = user.node.until(leader, EffectState::Done).await;
            assert_eq!(done.done.map(|done| done.text).as_deref(), Some("the message was heard"));
        } else {
            user.node.until(leader, EffectState::Dead).await;
        }
        for id in &covered {
            user.node.until(*id, EffectState::Done).await;
        }
        let alone: Vec<_> = receiver.requests()[1..].iter().map(|(_, id, with)| (*id, with.len())).collect();
        let expected: Vec<_> = covered.iter().map(|id| (*id, 0)).collect();
        assert_eq!(alone.len(), expected.len());
        assert!(expected.iter().all(|one| alone.contains(one)), "{alone:?}");
    }
}

/// Deaths count for the leader alone.
#[tokio::test]
async fn digest_by_webhook_goes_on_with_the_same_messages_after_the_death_of_its_process() {
    let repeat = DeviceChange::Repeat(Some(Repeat { every_s: 900, most: 1 }));
    let limit = [DeviceChange::PerHour(1), repeat];
    let (user, effects) = user(Node::alone().await, KindName::Webhook, &limit, 3).await;
    let (leader, covered) = (effects[0].id, others(&effects, effects[0].id));
    let dead = user.node.process(DEAD);
    dead.begin_attempt(leader, covered.clone(), &epoch(1)).await.expect("written").expect("an attempt");
    assert!(
        dead.begin_attempt(covered[0], Vec::new(), &epoch(1)).await.expect("written").is_none(),
        "it is covered"
    );
    let receiver = Receiver::new(&user, &[]);
    let _duty = user.node.duty(receiver.clone());
    user.node.hold(2);
    user.node.until(leader, EffectState::Done).await;
    for id in &covered {
        let done = user.node.until(*id, EffectState::Done).await;
        assert_eq!((done.attempts(), done.deaths), (2, None), "with the leader");
    }
    assert_eq!(user.node.effect(leader).deaths, Some((1, 1)));
    assert_eq!(receiver.requests(), [(leader, leader, covered)]);
    // A reminder follows for each message.
    let reminders = user.node.mailstore.open_effects().await.expect("readable");
    assert_eq!(reminders.iter().map(|effect| effect.new.repeat).collect::<Vec<_>>(), [1, 1, 1]);
    assert!(user.node.has_no_alarm());
}

#[tokio::test]
async fn administrator_who_drops_a_digest_drops_its_message_alone() {
    let limit = [DeviceChange::PerHour(2)];
    let (user, effects) = user(Node::alone().await, KindName::Webhook, &limit, 2).await;
    let (leader, other) = (effects[0].id, effects[1].id);
    let mailstore = &user.node.process(OWN);
    mailstore.begin_attempt(leader, vec![other], &epoch(1)).await.expect("written").expect("an attempt");
    let failed = EffectOutcome::Failed("no answer".to_owned(), wall());
    mailstore.end_attempt(leader, failed, Vec::new()).await.expect("written");
    assert!(mailstore.is_gathered(&user.node.effect(other)).expect("readable"));
    mailstore.drop_effect(leader).await.expect("dropped");
    let free = user.node.effect(other);
    assert!(!mailstore.is_gathered(&free).expect("readable") && free.unfinished().is_none(), "{free:?}");
    let receiver = Receiver::new(&user, &[]);
    let _duty = user.node.duty(receiver.clone());
    user.node.hold(2);
    user.node.until(other, EffectState::Done).await;
    assert_eq!(receiver.requests(), [(other, other, Vec::new())]);
}
