//! The outbox as another node sees it, where a message arrives after its effect.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tempfile::TempDir;
use tokio::task::JoinSet;
use twinbox_devices::{Device, DeviceChange, KindName};
use twinbox_ids::{DeviceId, MailboxId, MessageId, Pii, Timestamp};
use twinbox_mailbox::schema::message_key;
use twinbox_mailstore::{EffectOutcome, Mark};
use twinbox_outbox::{
    Cause, Channel, EffectState, NewEffect, Transition,
    schema::{DONE, effect_key},
};
use twinbox_store_kit::{Node, audio};

#[tokio::test]
async fn effect_lacks_its_cause_until_the_message_arrives_and_keeps_it_after_a_delete() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, b) = (Node::alone(dirs[0].path(), "a"), Node::alone(dirs[1].path(), "b"));
    let mailbox = a.mailbox().await.id;
    let address = DeviceChange::Address(Pii::new("anna@example.com".to_owned()));
    let device = Device::new(mailbox, DeviceId::random(), "office", KindName::Mail, &[address]).unwrap();
    a.mailstore.add_device(device.clone()).await.unwrap();
    let message = a.leave(mailbox, &audio(1_500)).await.message;

    // A change that names audio waits for it; the others go on without it.
    let mut changes = a.store.changes_after(&b.store.vector(), usize::MAX).unwrap();
    changes.retain(|change| change.delta.blobs().next().is_none());
    b.store.apply(changes).await.unwrap();
    let effects = b.mailstore.effects().await.unwrap();
    let [effect] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((effect.new.cause.message, effect.new.target), (message, device.id));
    assert!(!b.mailstore.has_cause_of(effect).unwrap());

    a.hand_over(&b).await;
    assert!(b.mailstore.has_cause_of(effect).unwrap());
    b.mailstore.mark(mailbox, message, Mark::Deleted).await.unwrap();
    b.mailstore.remove_device(mailbox, device.id).await.unwrap();
    assert!(b.mailstore.has_cause_of(effect).unwrap(), "removed is not missing");
}

/// A mail for message `n`, to that device.
fn effect(n: u128, device: u128) -> NewEffect {
    NewEffect {
        cause: Cause { mailbox: MailboxId(1), message: MessageId(n), transition: Transition::Filed },
        channel: Channel::Mail,
        target: DeviceId(device),
        repeat: 0,
        retry: 0,
        created: Timestamp(1 + n as u64),
        not_before: Timestamp(1),
        expires: Timestamp(u64::MAX),
    }
}

#[tokio::test]
async fn effects_of_a_device_are_found_as_they_come_change_and_go_on_either_node() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, b) = (Node::alone(dirs[0].path(), "a"), Node::alone(dirs[1].path(), "b"));
    let found = async |node: &Node, device| {
        let effects = node.mailstore.effects_of(DeviceId(device)).await.unwrap();
        effects.into_iter().map(|effect| (effect.new.cause.message.0, effect.state())).collect::<Vec<_>>()
    };
    use EffectState::{Done, Pending};
    a.mailstore.add_effects(vec![effect(1, 7), effect(2, 8)]).await.unwrap();
    assert_eq!(found(&a, 7).await, [(1, Pending)], "from before the first search");
    a.mailstore.add_effects(vec![effect(4, 7), effect(3, 7)]).await.unwrap();
    let done = EffectOutcome::Done("taken".to_owned());
    a.mailstore.end_attempt(effect(1, 7).id(), done, Vec::new()).await.unwrap();
    assert_eq!(found(&a, 7).await, [(1, Done), (3, Pending), (4, Pending)], "in their order");
    assert_eq!(found(&b, 7).await, []);
    a.hand_over(&b).await;
    assert_eq!(found(&b, 7).await.len(), 3, "from the other node");
    a.mailstore.remove_done_effects(Timestamp(u64::MAX)).await.unwrap();
    assert_eq!(found(&a, 7).await, [(3, Pending), (4, Pending)], "without the removed one");
    assert_eq!(found(&a, 8).await, [(2, Pending)]);
    assert_eq!(found(&a, 9).await, []);
}

#[tokio::test]
async fn all_effects_that_were_done_are_removed_however_many_there_are() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let effects: Vec<NewEffect> = (0..1_200).map(|n| effect(n, 1)).collect();
    let (waits, done) = effects.split_first().unwrap();
    node.mailstore.add_effects(effects.clone()).await.unwrap();
    let mut ends = JoinSet::new();
    for id in done.iter().map(NewEffect::id) {
        let mailstore = node.mailstore.clone();
        let outcome = EffectOutcome::Done("taken".to_owned());
        ends.spawn(async move { mailstore.end_attempt(id, outcome, Vec::new()).await.unwrap() });
    }
    ends.join_all().await;
    assert_eq!(node.mailstore.remove_done_effects(Timestamp(u64::MAX)).await.unwrap(), done.len());
    let left: Vec<_> = node.mailstore.effects().await.unwrap().into_iter().map(|effect| effect.id).collect();
    assert_eq!(left, [waits.id()]);
}

/// A process may end after any commit: one that has recorded the success has deleted the message, too.
#[tokio::test]
async fn success_that_deletes_the_message_is_one_commit_and_counts_once() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let message = node.leave(mailbox, &audio(1_500)).await.message;
    let cause = Cause { mailbox, message, transition: Transition::Filed };
    let [sent, other] = [0, 1].map(|repeat| NewEffect { cause, repeat, ..effect(1, 7) });
    node.mailstore.add_effects(vec![sent, other]).await.unwrap();
    let deleted = async || node.mailstore.message(mailbox, message).await.unwrap().unwrap().deleted;
    // The observer runs once the commit is durable: what else is in it can be read then.
    let (key, together) = (message_key(mailbox, message), Arc::new(AtomicBool::new(false)));
    let (store, seen, before) = (node.store.clone(), together.clone(), node.store.get(&key).unwrap());
    node.store.observe(move |change| {
        if change.key == effect_key(sent.id()) && change.delta.bytes(DONE).is_some() {
            seen.store(store.get(&key).unwrap() != before, Relaxed);
        }
    });
    let end = async || {
        let done = EffectOutcome::DoneDeleting("taken".to_owned());
        node.mailstore.end_attempt(sent.id(), done, Vec::new()).await.unwrap();
    };
    end().await;
    assert!(deleted().await && together.load(Relaxed), "one commit");
    // The outcome of an effect at its end changes nothing any more.
    node.mailstore.mark(mailbox, message, Mark::Undeleted).await.unwrap();
    end().await;
    assert!(!deleted().await);
    // Of a message that is not there, nothing is deleted.
    let gone = effect(9, 7);
    node.mailstore.add_effects(vec![gone]).await.unwrap();
    let done = EffectOutcome::DoneDeleting("taken".to_owned());
    node.mailstore.end_attempt(gone.id(), done, Vec::new()).await.unwrap();
    assert_eq!(node.mailstore.effect(gone.id()).unwrap().unwrap().state(), EffectState::Done);
}
