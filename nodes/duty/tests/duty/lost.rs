//! The duty or the store is lost in the middle of an attempt.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use twinbox_duty::Prepared;
use twinbox_outbox::{Channel, Effect, EffectState, schema};
use twinbox_replication_store::Filled;
use twinbox_store_kit::Away;

use crate::support::{Desk, Node, due, epoch, eventually, taken};

#[tokio::test]
async fn duty_lost_before_the_attempt_leaves_no_trace() {
    let node = Node::alone().await;
    let effect = due(Channel::Webhook, 1);
    let (gate, first) = (node.gate.clone(), AtomicBool::new(true));
    let prepare = move |_: &Effect| {
        if first.swap(false, SeqCst) {
            gate.close();
        }
        Prepared::Act(())
    };
    let desk = Desk::new(prepare, |_| taken());
    let _duty = node.duty(desk.clone());
    node.add(&[effect]).await;
    node.hold(1);
    eventually("it is prepared", async || desk.log().prepared.len() == 1).await;
    node.hold(2);
    let done = node.until(effect.id(), EffectState::Done).await;
    // Of the first epoch there is none.
    assert_eq!(done.attempt.map(|it| (it.number, it.epoch)), Some((1, epoch(2).to_string())));
    assert_eq!((done.failure, desk.acts()), (None, vec![effect.id()]));
}

#[tokio::test]
async fn duty_lost_between_attempt_and_act_is_recorded_as_a_failure_that_is_due() {
    let node = Node::alone().await;
    let effect = due(Channel::Webhook, 1);
    let (gate, first) = (node.gate.clone(), AtomicBool::new(true));
    node.store.observe(move |change| {
        let attempt = change.key.table == schema::OUTBOX && change.delta.bytes(schema::ATTEMPT).is_some();
        if attempt && first.swap(false, SeqCst) {
            gate.close();
        }
    });
    let desk = Desk::answering(|_| taken());
    let _duty = node.duty(desk.clone());
    node.add(&[effect]).await;
    node.hold(1);
    let failed = node.until(effect.id(), EffectState::Failed).await;
    let (number, failure) = failed.failure.expect("a failure");
    assert_eq!((number, failure.text.as_str()), (1, "the duty was lost before anything left"));
    assert!(desk.acts().is_empty());
    // No pause: the next holder attempts it now.
    node.hold(2);
    let done = node.until(effect.id(), EffectState::Done).await;
    assert_eq!((done.attempts(), desk.acts(), done.deaths), (2, vec![effect.id()], None));
    assert!(desk.log().early.is_empty());
}

#[tokio::test]
async fn outcome_is_recorded_after_the_duty_was_lost() {
    let node = Node::alone().await;
    let (effect, last) = (due(Channel::Webhook, 1), due(Channel::Webhook, 2));
    let desk = Desk::answering(|_| taken());
    desk.keep([effect.id()]);
    let _duty = node.duty(desk.clone());
    node.add(&[effect]).await;
    node.hold(1);
    desk.under_way(&[effect.id()]).await;
    assert!(node.gate.is_busy(), "the duty is not released during an attempt");
    node.gate.close();
    desk.release(effect.id());
    node.until(effect.id(), EffectState::Done).await;
    node.gate.idle().await;
    node.add(&[last]).await;
    node.hold(2);
    node.until(last.id(), EffectState::Done).await;
    assert_eq!(desk.acts(), [effect.id(), last.id()]);
}

#[tokio::test]
async fn success_that_the_store_refuses_is_recorded_later_and_not_repeated() {
    let node = Node::alone().await;
    let effect = due(Channel::Webhook, 1);
    let desk = Desk::answering(|_| taken());
    desk.keep([effect.id()]);
    let _duty = node.duty(desk.clone());
    node.add(&[effect]).await;
    node.hold(1);
    desk.under_way(&[effect.id()]).await;
    // Free space is unknown while the folder has another name: the store refuses to write.
    let away = Away::take(&node.dir.path().join("store")).await;
    desk.release(effect.id());
    desk.under_way(&[]).await;
    node.commits().await;
    assert!(node.store.probe().await.is_err(), "it refuses");
    assert_eq!(node.effect(effect.id()).state(), EffectState::Pending);
    assert!(node.gate.is_busy(), "the duty is not released before the outcome is durable");
    away.put_back();
    node.until(effect.id(), EffectState::Done).await;
    node.gate.close();
    node.gate.idle().await;
    assert_eq!((desk.acts(), node.effect(effect.id()).attempts()), (vec![effect.id()], 1));
}

#[tokio::test]
async fn outbox_of_a_store_without_all_records_is_not_worked_on() {
    let node = Node::without_records().await;
    let effect = due(Channel::Webhook, 1);
    node.add(&[effect]).await;
    let desk = Desk::answering(|_| taken());
    let duty = node.duty(desk.clone());
    node.hold(1);
    node.commits().await;
    assert!(desk.log().prepared.is_empty() && duty.still_for().is_some());
    assert_eq!(node.effect(effect.id()).attempts(), 0);
    node.store.set_filled(Filled::Records).await.expect("a mark");
    node.until(effect.id(), EffectState::Done).await;
    duty.stop();
    assert_eq!(duty.still_for(), None);
}

/// The service is restarted by the health check: the process lives, and nothing died of the effect.
#[tokio::test]
async fn attempt_that_a_restart_of_the_service_ends_is_no_death() {
    let node = Node::alone().await;
    let [mail, text] = [due(Channel::Mail, 1), due(Channel::SmsHttp, 2)];
    let desk = Desk::answering(|_| taken());
    desk.keep([mail.id()]);
    let duty = node.duty(desk.clone());
    node.add(&[mail]).await;
    node.hold(1);
    desk.under_way(&[mail.id()]).await;
    // A text message of unknown result.
    node.mailstore.add_effects(vec![text]).await.expect("added");
    node.until(text.id(), EffectState::Failed).await;
    node.mailstore.begin_attempt(text.id(), Vec::new(), &epoch(1)).await.expect("written").expect("an attempt");
    duty.restart();
    eventually("it is attempted again", async || desk.acts().len() == 2).await;
    desk.release(mail.id());
    let done = node.until(mail.id(), EffectState::Done).await;
    assert_eq!((done.attempts(), done.deaths), (2, None));
    node.until(text.id(), EffectState::Dead).await;
    assert_eq!(desk.acts(), [mail.id(), mail.id()], "the text message never leaves");
}
