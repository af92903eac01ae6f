//! Attempts and their outcomes, while the node holds the duty.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use twinbox_clock::wall;
use twinbox_duty::{ActOutcome, Prepared};
use twinbox_ids::Timestamp;
use twinbox_outbox::{Channel, Effect, EffectState, NewEffect, schema};

use crate::support::{Desk, HOUR, Node, OWN, due, epoch, eventually, taken};

#[tokio::test]
async fn due_effect_is_attempted_once_in_the_epoch_of_the_duty() {
    let node = Node::alone().await;
    let (mail, pager) = (due(Channel::Mail, 1), due(Channel::Pager, 2));
    node.add(&[mail, pager]).await;
    let desk = Desk::answering(|_| taken());
    let duty = node.duty(desk.clone());
    node.commits().await;
    assert!(desk.acts().is_empty(), "without the duty");

    node.hold(7);
    let effect = node.until(mail.id(), EffectState::Done).await;
    let attempt = effect.attempt.expect("an attempt");
    assert_eq!((attempt.number, attempt.incarnation, attempt.epoch), (1, OWN, epoch(7).to_string()));
    assert_eq!(effect.done.map(|done| done.text).as_deref(), Some("taken"));
    // A later one, too; and the first is not attempted again.
    let later = due(Channel::Webhook, 3);
    node.add(&[later]).await;
    node.until(later.id(), EffectState::Done).await;
    assert_eq!(desk.acts(), [mail.id(), later.id()]);
    assert_eq!(node.effect(pager.id()).attempts(), 0, "it belongs to another duty");
    eventually("both are counted", async || duty.counts().done.load(Relaxed) == 2).await;
    assert!(node.has_no_alarm());
}

/// Many, because a change that comes with the end of an attempt must not queue the effect at its former time.
#[tokio::test]
async fn failed_attempts_are_due_again_after_their_pause_and_not_before() {
    let node = Node::alone().await;
    let failing: Vec<NewEffect> = (1..=40).map(|number| due(Channel::Mail, number)).collect();
    let last = due(Channel::Mail, 99);
    let success = last.id();
    let desk = Desk::answering(move |effect| match effect.id == success {
        true => taken(),
        false => ActOutcome::Failed("no answer".to_owned()),
    });
    let _duty = node.duty(desk.clone());
    let before = wall().0;
    node.add(&failing).await;
    node.hold(1);
    for effect in &failing {
        node.until(effect.id(), EffectState::Failed).await;
    }
    let after = wall().0;
    node.add(&[last]).await;
    node.until(last.id(), EffectState::Done).await;
    assert!(desk.log().early.is_empty(), "attempted before they were due");
    for effect in failing.iter().map(|new| node.effect(new.id())).filter(|effect| effect.attempts() == 1) {
        let (number, failure) = effect.failure.expect("a failure");
        assert_eq!((number, failure.text.as_str()), (1, "no answer"));
        assert!((before + 7_500..=after + 12_500).contains(&failure.at.0), "a first pause: {failure:?}");
    }
}

/// As after an outage of the smarthost: the first mail that gets through takes the others along.
#[tokio::test]
async fn effects_whose_route_failed_are_attempted_again_as_soon_as_one_gets_through() {
    let node = Node::alone().await;
    let cut_off: Vec<NewEffect> = (1..=20).map(|number| due(Channel::Mail, number)).collect();
    let [deferred, hook] = [due(Channel::Mail, 50), due(Channel::Webhook, 60)];
    let [refused, other] = [deferred.id(), hook.id()];
    let works = Arc::new(AtomicBool::new(false));
    let answers = works.clone();
    let desk = Desk::answering(move |effect| match effect.id {
        id if id == refused => ActOutcome::Failed("mailbox busy".to_owned()),
        id if id == other || answers.load(Relaxed) => taken(),
        _ => ActOutcome::Unreachable("connection refused".to_owned()),
    });
    let _duty = node.duty(desk.clone());
    node.add(&cut_off).await;
    node.hold(1);
    let mut paused = HashMap::new();
    for id in cut_off.iter().map(NewEffect::id) {
        paused.insert(id, node.until(id, EffectState::Failed).await.due());
    }
    // Another route works: that says nothing.
    node.add(&[hook]).await;
    node.until(other, EffectState::Done).await;
    works.store(true, Relaxed);
    // A receiver's own refusal shows that the route works; it is not repeated early itself.
    node.add(&[deferred]).await;
    node.until(refused, EffectState::Failed).await;
    let mut cut_short = 0;
    for (id, before) in paused {
        let done = node.until(id, EffectState::Done).await;
        let (_, failure) = done.failure.clone().expect("a failure");
        // On a very slow machine the pause of some may have ended before.
        cut_short += usize::from(done.attempts() == 2 && failure.at < before);
    }
    assert!(cut_short > 0, "they waited for the end of their pauses");
    assert_eq!(node.effect(refused).attempts(), 1);
    assert!(desk.log().early.is_empty());
}

/// As a webhook of many users whose host drops packets.
#[tokio::test]
async fn receiver_that_hangs_leaves_attempts_to_others() {
    let node = Node::alone().await;
    let hooks: Vec<NewEffect> = (1..=40).map(|number| due(Channel::Webhook, number)).collect();
    let mail = due(Channel::Mail, 99);
    let desk = Desk::answering(|_| taken());
    desk.keep(hooks.iter().map(NewEffect::id));
    let _duty = node.duty(desk.clone());
    node.add(&hooks).await;
    node.hold(1);
    eventually("most of the attempts hang", async || desk.log().active.len() == 28).await;
    node.add(&[mail]).await;
    node.until(mail.id(), EffectState::Done).await;
    assert_eq!(desk.log().active.len(), 28);
    // Those that waited for the route follow as attempts over it end.
    for hook in &hooks {
        desk.release(hook.id());
    }
    for hook in &hooks {
        node.until(hook.id(), EffectState::Done).await;
    }
    assert_eq!(desk.acts().len(), 41);
    let beside = desk.log().beside.iter().map(|(_, others)| others.len()).max();
    assert!(beside.is_some_and(|most| most <= 28), "{beside:?}");
}

#[tokio::test]
async fn destination_that_takes_nothing_is_an_alarm_until_a_success_or_until_nothing_waits_or_the_duty_is_lost() {
    let node = Node::alone().await;
    let works = Arc::new(AtomicBool::new(false));
    let answers = works.clone();
    let desk = Desk::impatient(move |_| match answers.load(Relaxed) {
        true => taken(),
        false => ActOutcome::Failed("no answer".to_owned()),
    });
    let _duty = node.duty(desk.clone());
    node.hold(1);
    let [first, second, third, last] = [1, 2, 3, 4].map(|number| due(Channel::Webhook, number));
    node.add(&[first]).await;
    assert!(node.silent("webhook webhook", true).await.ends_with("no answer"));
    works.store(true, Relaxed);
    node.add(&[second]).await;
    node.silent("webhook webhook", false).await;

    works.store(false, Relaxed);
    node.add(&[third]).await;
    node.silent("webhook webhook", true).await;
    // The first may have failed again meanwhile.
    for effect in [first, third] {
        if !node.effect(effect.id()).state().is_end() {
            node.mailstore.drop_effect(effect.id()).await.expect("dropped");
        }
    }
    node.silent("webhook webhook", false).await;

    node.add(&[last]).await;
    node.silent("webhook webhook", true).await;
    node.gate.close();
    node.silent("webhook webhook", false).await;
}

#[tokio::test]
async fn refused_effect_is_a_dead_letter_with_an_alarm_and_what_follows() {
    let node = Node::alone().await;
    let (refused, next) = (due(Channel::Mail, 1), due(Channel::Webhook, 2));
    let id = refused.id();
    let desk = Desk::answering(move |effect| match effect.id == id {
        true => ActOutcome::Refused("no such address".to_owned(), vec![next]),
        false => taken(),
    });
    let duty = node.duty(desk.clone());
    node.hold(1);
    node.add(&[refused]).await;
    node.until(next.id(), EffectState::Done).await;
    let dead = node.effect(id);
    assert_eq!(dead.state(), EffectState::Dead);
    assert_eq!(dead.dead.map(|dead| dead.text).as_deref(), Some("no such address"));
    assert!(node.dead_letter(Channel::Mail).await.ends_with("no such address"));
    assert_eq!(desk.acts(), [id, next.id()]);
    assert_eq!(duty.counts().dead.load(Relaxed), 1);
}

#[tokio::test]
async fn attempt_that_panics_has_failed_and_pauses_like_any_other() {
    let node = Node::alone().await;
    let (hook, last) = (due(Channel::Webhook, 1), due(Channel::Mail, 2));
    let id = hook.id();
    let desk = Desk::answering(move |effect| match effect.id == id {
        true => panic!("a channel that panics"),
        false => taken(),
    });
    let duty = node.duty(desk.clone());
    let before = wall().0;
    node.hold(1);
    node.add(&[hook]).await;
    let failed = node.until(id, EffectState::Failed).await;
    assert_eq!(failed.attempts(), 1);
    let (number, failure) = failed.failure.expect("a failure");
    assert_eq!(number, 1);
    assert!(failure.at.0 >= before + 7_500 && failure.text.contains("error in the program"), "{failure:?}");
    assert_eq!(duty.counts().failed.load(Relaxed), 1);
    node.add(&[last]).await;
    node.until(last.id(), EffectState::Done).await;
}

#[tokio::test]
async fn preparation_decides_before_anything_is_recorded_as_attempted() {
    let node = Node::alone().await;
    let [later, unwanted, impossible, next, last] = [1, 2, 3, 4, 5].map(|number| due(Channel::Webhook, number));
    let ids = [later.id(), unwanted.id(), impossible.id()];
    let prepare = move |effect: &Effect| match effect.id {
        id if id == ids[0] => {
            let hour = u64::try_from(HOUR.as_millis()).expect("small");
            Prepared::Later(Timestamp(wall().0 + hour), "outside the hours".to_owned())
        }
        id if id == ids[1] => Prepared::Unwanted("it was heard".to_owned()),
        id if id == ids[2] => Prepared::Impossible("no address".to_owned(), vec![next]),
        _ => Prepared::Act(()),
    };
    let desk = Desk::new(prepare, |_| taken());
    let _duty = node.duty(desk.clone());
    node.hold(1);
    node.add(&[later, unwanted, impossible]).await;
    node.until(next.id(), EffectState::Done).await;
    let [later, unwanted, impossible] = ids;
    let done = node.until(unwanted, EffectState::Done).await.done;
    assert_eq!(done.map(|done| done.text).as_deref(), Some("it was heard"));
    node.until(impossible, EffectState::Dead).await;
    assert!(node.dead_letter(Channel::Webhook).await.ends_with("no address"));
    eventually("all are prepared", async || ids.iter().all(|id| desk.log().prepared.contains(id))).await;
    node.add(&[last]).await;
    node.until(last.id(), EffectState::Done).await;
    assert_eq!(node.effect(later).state(), EffectState::Pending);
    assert!(ids.iter().all(|id| node.effect(*id).attempts() == 0));
    assert_eq!(desk.acts(), [next.id(), last.id()]);
    // Twice if it was both read at the start and told as a change.
    let prepared = desk.log().prepared.iter().filter(|id| **id == later).count();
    assert!(prepared <= 2, "not before its time: prepared {prepared} times");
}

#[tokio::test]
async fn effect_whose_receiver_cannot_tell_a_repeat_waits_for_a_second_node() {
    let node = Node::alone().await;
    let (text, hook) = (due(Channel::SmsHttp, 1), due(Channel::Webhook, 2));
    let desk = Desk::answering(|_| taken());
    let _duty = node.duty(desk.clone());
    node.hold(1);
    node.add(&[text, hook]).await;
    let effect = node.until(text.id(), EffectState::Failed).await;
    assert_eq!(effect.attempts(), 1);
    assert!(effect.failure.is_some_and(|(_, failure)| failure.text.contains("second node")));
    node.until(hook.id(), EffectState::Done).await;
    assert_eq!(desk.acts(), [hook.id()]);

    let [node, other] = Node::pair().await;
    let desk = Desk::answering(|_| taken());
    let _duty = node.duty(desk.clone());
    node.hold(1);
    node.add(&[text]).await;
    node.until(text.id(), EffectState::Done).await;
    assert_eq!(desk.acts(), [text.id()]);
    other.until(text.id(), EffectState::Done).await;
}

/// With three nodes, an attempt may be on the two that are away.
#[tokio::test]
async fn effect_whose_receiver_cannot_tell_a_repeat_waits_for_the_answer_of_all_nodes_but_one() {
    let [node, second, third] = Node::cluster(["a", "b", "c"]).await;
    let [text, late, hook] = [due(Channel::SmsHttp, 1), due(Channel::SmsHttp, 2), due(Channel::Webhook, 3)];
    let desk = Desk::answering(|_| taken());
    let duty = node.duty(desk.clone());
    third.leave().await;
    node.add(&[text]).await;
    node.hold(1);
    node.until(text.id(), EffectState::Done).await;
    second.until(text.id(), EffectState::Done).await;

    // The next epoch begins with a question that no other node answers.
    node.gate.close();
    second.leave().await;
    eventually("the duty is not held", async || duty.counts().waiting.load(Relaxed) == 0).await;
    node.hold(2);
    node.add(&[late, hook]).await;
    node.until(hook.id(), EffectState::Done).await;
    let asked = || node.store.get(&schema::effect_key(late.id())).expect("readable").expect("a record");
    eventually("it asks", async || asked().bytes(schema::ASKED).is_some()).await;
    node.commits().await;
    assert_eq!((node.effect(late.id()).attempts(), desk.acts()), (0, vec![text.id(), hook.id()]));
}

#[tokio::test]
async fn retried_dead_letter_shows_its_receiver_the_same_id() {
    let node = Node::alone().await;
    let first = due(Channel::Mail, 1);
    let desk = Desk::answering(|effect| match effect.new.retry {
        0 => ActOutcome::Refused("mailbox full".to_owned(), Vec::new()),
        _ => taken(),
    });
    let _duty = node.duty(desk.clone());
    node.hold(1);
    node.add(&[first]).await;
    node.until(first.id(), EffectState::Dead).await;
    let again = node.mailstore.retry_effect(first.id()).await.expect("retried");
    assert_ne!(again, first.id());
    node.until(again, EffectState::Done).await;
    assert_eq!(desk.log().acts, [(first.id(), first.id()), (again, first.id())], "one id at the receiver");
    let former = node.effect(first.id());
    assert_eq!(former.state(), EffectState::Done);
    assert!(former.done.is_some_and(|done| done.text.contains(&again.to_string())));
}
