//! Attempts whose process died (rules E1 and R11).

use std::sync::{Arc, atomic::Ordering::Relaxed};

use twinbox_clock::wall;
use twinbox_duty::{ActOutcome, Channels, Prepared};
use twinbox_gate::Permit;
use twinbox_ids::Timestamp;
use twinbox_mailstore::{EffectOutcome, MailError, ReturnedMessage};
use twinbox_outbox::{Channel, Effect, EffectState, NewEffect};

use crate::support::{DEAD, Desk, Node, THIRD, due, epoch, eventually, taken};

#[tokio::test]
async fn effect_of_a_dead_process_is_attempted_alone_and_is_a_dead_letter_at_the_second_death() {
    let node = Node::alone().await;
    let suspect = due(Channel::Mail, 1);
    let others: Vec<NewEffect> = (2..=6).map(|number| due(Channel::Webhook, number)).collect();
    let late = due(Channel::Webhook, 7);
    node.add(&[suspect]).await;
    node.process(DEAD)
        .begin_attempt(suspect.id(), Vec::new(), &epoch(1))
        .await
        .expect("written")
        .expect("an attempt");
    node.add(&others).await;

    let desk = Desk::answering(|_| taken());
    desk.keep([suspect.id()]);
    let duty = node.duty(desk.clone());
    node.hold(2);
    desk.under_way(&[suspect.id()]).await;
    // The loop begins what it may before it counts what waits.
    node.add(&[late]).await;
    let all = others.len() as u64 + 2;
    eventually("the loop knows all", async || duty.counts().waiting.load(Relaxed) == all).await;
    assert_eq!(desk.acts(), [suspect.id()], "no other beside it");
    assert_eq!(node.effect(suspect.id()).deaths, Some((1, 1)));

    // The process dies of it again.
    duty.stop();
    desk.under_way(&[]).await;
    node.gate.close();
    let next = Desk::answering(|_| taken());
    let duty = node.start(node.process(THIRD), next.clone());
    node.hold(3);
    let dead = node.until(suspect.id(), EffectState::Dead).await;
    assert!(dead.dead.is_some_and(|dead| dead.text.starts_with("2 processes ended")));
    assert!(node.dead_letter(Channel::Mail).await.contains(&suspect.id().to_string()));
    for effect in others.iter().chain([&late]) {
        let done = node.until(effect.id(), EffectState::Done).await;
        assert_eq!((done.attempts(), done.deaths), (1, None), "an innocent one");
    }
    assert!(!next.acts().contains(&suspect.id()));
    assert_eq!(duty.counts().dead.load(Relaxed), 1);
}

#[tokio::test]
async fn effects_under_way_at_a_death_are_attempted_one_after_the_other_and_are_done() {
    let node = Node::alone().await;
    let effects: Vec<NewEffect> = (1..=8).map(|number| due(Channel::Mail, number)).collect();
    node.add(&effects).await;
    let dead = node.process(DEAD);
    for effect in &effects[..6] {
        dead.begin_attempt(effect.id(), Vec::new(), &epoch(1)).await.expect("written").expect("an attempt");
    }
    let desk = Desk::answering(|_| taken());
    let _duty = node.duty(desk.clone());
    node.hold(2);
    for effect in &effects {
        node.until(effect.id(), EffectState::Done).await;
    }
    let suspects: Vec<_> = effects[..6].iter().map(NewEffect::id).collect();
    for (id, others) in &desk.log().beside {
        let alone = !suspects.contains(id) && others.iter().all(|other| !suspects.contains(other));
        assert!(others.is_empty() || alone, "{id} beside {others:?}");
    }
    assert_eq!(desk.acts().len(), effects.len());
    assert!(node.has_no_alarm());
}

#[tokio::test]
async fn unknown_result_is_not_repeated_where_the_receiver_cannot_tell() {
    let node = Node::alone().await;
    let (text, hook) = (due(Channel::SmsHttp, 1), due(Channel::Webhook, 2));
    node.add(&[text, hook]).await;
    node.process(DEAD).begin_attempt(text.id(), Vec::new(), &epoch(1)).await.expect("written").expect("an attempt");
    let desk = Desk::answering(|_| taken());
    let _duty = node.duty(desk.clone());
    node.hold(2);
    let dead = node.until(text.id(), EffectState::Dead).await;
    assert!(dead.dead.is_some_and(|dead| dead.text.contains("unknown")));
    node.dead_letter(Channel::SmsHttp).await;
    node.until(hook.id(), EffectState::Done).await;
    assert_eq!(desk.acts(), [hook.id()]);
}

/// A duty whose dead letters cannot be returned to their senders.
struct Unreturnable(Desk);

impl Channels for Unreturnable {
    type Work = ();

    fn serves(&self, channel: Channel) -> bool {
        self.0.serves(channel)
    }

    async fn prepare(&self, effect: &Effect) -> Prepared<()> {
        self.0.prepare(effect).await
    }

    fn route(&self, effect: &Effect, work: &()) -> String {
        self.0.route(effect, work)
    }

    async fn act(&self, effect: &Effect, work: (), permit: Arc<Permit>) -> ActOutcome {
        self.0.act(effect, work, permit).await
    }

    async fn returned(&self, _: &Effect, _: &str) -> Result<Option<ReturnedMessage>, MailError> {
        Err(MailError::LacksRecords)
    }
}

#[tokio::test]
async fn effect_that_cannot_be_given_up_now_holds_up_no_other() {
    let node = Node::alone().await;
    let (text, hook) = (due(Channel::SmsHttp, 1), due(Channel::Webhook, 2));
    node.add(&[text, hook]).await;
    node.process(DEAD).begin_attempt(text.id(), Vec::new(), &epoch(1)).await.expect("written").expect("an attempt");
    let desk = Desk::answering(|_| taken());
    let _duty = node.duty(Unreturnable(desk.clone()));
    node.hold(2);
    node.until(hook.id(), EffectState::Done).await;
    assert_eq!((node.effect(text.id()).state(), desk.acts()), (EffectState::Pending, vec![hook.id()]));
}

/// Replication may bring the record of an attempt after the next holder has begun.
#[tokio::test]
async fn attempt_of_a_dead_process_that_arrives_late_counts_too() {
    let node = Node::alone().await;
    // As many of one mailbox as are attempted at a time: the others of the mailbox wait.
    let of_one = |repeat| NewEffect { repeat, ..due(Channel::Webhook, 1) };
    let first: Vec<NewEffect> = (0..4).map(of_one).collect();
    let (hook, text) = (of_one(4), NewEffect { channel: Channel::SmsHttp, ..of_one(5) });
    let ids: Vec<_> = first.iter().map(NewEffect::id).collect();
    let desk = Desk::answering(|_| taken());
    desk.keep(ids.clone());
    let duty = node.duty(desk.clone());
    node.hold(2);
    node.add(&first).await;
    desk.under_way(&ids).await;
    node.add(&[hook, text]).await;
    eventually("the loop knows all", async || duty.counts().waiting.load(Relaxed) == 6).await;
    let dead = node.process(DEAD);
    for effect in [hook, text] {
        dead.begin_attempt(effect.id(), Vec::new(), &epoch(1)).await.expect("written").expect("an attempt");
    }
    ids.iter().for_each(|id| desk.release(*id));
    let done = node.until(hook.id(), EffectState::Done).await;
    assert_eq!((done.attempts(), done.deaths), (2, Some((1, 1))));
    node.until(text.id(), EffectState::Dead).await;
    let log = desk.log();
    assert!(log.acts.iter().all(|(id, _)| *id != text.id()), "it may have arrived");
    let (_, beside) = log.beside.iter().find(|(id, _)| *id == hook.id()).expect("an act");
    assert!(beside.is_empty(), "{beside:?}");
}

#[tokio::test]
async fn late_failure_of_the_former_holder_does_not_end_the_attempt_of_the_next() {
    let node = Node::alone().await;
    let effect = due(Channel::Webhook, 1);
    node.add(&[effect]).await;
    let former = node.process(DEAD);
    former.begin_attempt(effect.id(), Vec::new(), &epoch(1)).await.expect("written").expect("an attempt");
    let desk = Desk::answering(|_| taken());
    desk.keep([effect.id()]);
    let _duty = node.duty(desk.clone());
    node.hold(2);
    desk.under_way(&[effect.id()]).await;
    let again = due(Channel::Webhook, 1).not_before;
    let failed = EffectOutcome::Failed("the connection was reset".to_owned(), again);
    former.end_attempt(effect.id(), failed, Vec::new()).await.expect("written");
    let under_way = node.effect(effect.id());
    assert_eq!(under_way.unfinished().map(|attempt| attempt.number), Some(2), "its death would not count");
    desk.release(effect.id());
    node.until(effect.id(), EffectState::Done).await;
    assert_eq!(desk.acts(), [effect.id()]);
}

/// The next holder does not know their routes: with the first success it finds out.
#[tokio::test]
async fn effects_that_the_former_holder_left_pausing_are_tried_soon_after_one_gets_through() {
    let node = Node::alone().await;
    let pausing: Vec<NewEffect> = (1..=5).map(|number| due(Channel::Mail, number)).collect();
    node.add(&pausing).await;
    let former = node.process(DEAD);
    let hour = Timestamp(wall().0 + 3_600_000);
    for effect in &pausing {
        former.begin_attempt(effect.id(), Vec::new(), &epoch(1)).await.expect("written").expect("an attempt");
        let failed = EffectOutcome::Failed("connection refused".to_owned(), hour);
        former.end_attempt(effect.id(), failed, Vec::new()).await.expect("written");
    }
    let desk = Desk::answering(|_| taken());
    let duty = node.duty(desk.clone());
    node.hold(2);
    eventually("the loop knows all", async || duty.counts().waiting.load(Relaxed) == 5).await;
    node.commits().await;
    assert!(desk.acts().is_empty(), "they pause");
    node.add(&[due(Channel::Mail, 9)]).await;
    for effect in &pausing {
        node.until(effect.id(), EffectState::Done).await;
    }
}
