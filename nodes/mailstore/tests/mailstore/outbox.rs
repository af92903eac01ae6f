//! The outbox as another node sees it, where a message arrives after its effect.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tempfile::TempDir;
use tokio::task::JoinSet;
use twinbox_devices::{Device, DeviceChange, KindName};
use twinbox_ids::{DeviceId, Epoch, MailboxId, MessageId, Pii, Timestamp};
use twinbox_mailbox::schema::message_key;
use twinbox_mailstore::{EffectOutcome, Mark};
use twinbox_outbox::{
    Cause, Channel, Effect, EffectState, NewEffect, Phase, Transition,
    schema::{DONE, effect_key},
};
use twinbox_replication_core::CommitPart;
use twinbox_store_kit::{Node, audio, eventually, name, pair};

#[tokio::test]
async fn effect_lacks_its_cause_until_the_message_arrives_and_keeps_it_after_a_delete() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, b) = (Node::alone(dirs[0].path(), "a"), Node::alone(dirs[1].path(), "b"));
    let mailbox = a.mailbox().await.id;
    let address = DeviceChange::Address(Pii::new("anna@example.com".to_owned()));
    let device = Device::new(mailbox, DeviceId::random(), "office", KindName::Mail, &[address]).unwrap();
    a.mailstore.add_device(device.clone()).await.unwrap();
    let message = a.leave(mailbox, &audio(1_500)).await.message;

    // Rows that come one by one, as in a repair: the one that names audio waits for it.
    let mut changes = a.store.changes_after(&b.store.vector(), usize::MAX).unwrap();
    changes.retain(|change| change.delta.blobs().next().is_none());
    changes.iter_mut().for_each(|change| change.part = CommitPart::default());
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

/// Removes what was done before that time; there is no other member.
async fn sweep(node: &Node, before: Timestamp) -> usize {
    let done = node.mailstore.done_effects(before, |_| true).await.unwrap();
    node.mailstore.remove_if_stable(&done).await.unwrap().expect("stable")
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
    sweep(&a, Timestamp(u64::MAX)).await;
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
    assert_eq!(sweep(&node, Timestamp(u64::MAX)).await, done.len());
    let left: Vec<_> = node.mailstore.effects().await.unwrap().into_iter().map(|effect| effect.id).collect();
    assert_eq!(left, [waits.id()]);
}

#[tokio::test]
async fn done_effect_stays_while_another_member_may_lack_its_success() {
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let [first, second] = [effect(1, 7), effect(2, 7)];
    a.mailstore.add_effects(vec![first, second]).await.unwrap();
    let done = async |id| {
        a.mailstore.end_attempt(id, EffectOutcome::Done("taken".to_owned()), Vec::new()).await.unwrap();
        a.mailstore.done_effects(Timestamp(u64::MAX), |_| true).await.unwrap()
    };
    let found = done(first.id()).await;
    eventually("b has it", async || a.mailstore.remove_if_stable(&found).await.unwrap() == Some(1)).await;
    eventually("b removes it, too", async || b.mailstore.effect(first.id()).unwrap().is_none()).await;
    b.peers.shutdown().await;
    drop(b);
    let found = done(second.id()).await;
    assert!(!found.is_empty());
    assert_eq!(a.mailstore.remove_if_stable(&found).await.unwrap(), None);
    assert_eq!(a.mailstore.effect(second.id()).unwrap().unwrap().state(), EffectState::Done);
}

#[tokio::test]
async fn effect_that_was_retried_stays_until_its_retry_is_removed() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let first = effect(1, 7);
    node.mailstore.add_effects(vec![first]).await.unwrap();
    node.mailstore.end_attempt(first.id(), EffectOutcome::Dead("full".to_owned()), Vec::new()).await.unwrap();
    let retry = node.mailstore.retry_effect(first.id()).await.unwrap();
    assert_eq!(sweep(&node, Timestamp(u64::MAX)).await, 0, "the retry may need its content");
    node.mailstore.end_attempt(retry, EffectOutcome::Done("taken".to_owned()), Vec::new()).await.unwrap();
    assert_eq!(sweep(&node, Timestamp(u64::MAX)).await, 1);
    assert_eq!(sweep(&node, Timestamp(u64::MAX)).await, 1);
    assert!(node.mailstore.effects().await.unwrap().is_empty());
}

#[tokio::test]
async fn effects_are_found_by_age_and_by_the_beginning_of_their_ids_on_either_node() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, b) = (Node::alone(dirs[0].path(), "a"), Node::alone(dirs[1].path(), "b"));
    let effects: Vec<NewEffect> = (0..300).map(|n| effect(n, 1)).collect();
    a.mailstore.add_effects(effects.clone()).await.unwrap();
    let ids = |found: Vec<Effect>| found.into_iter().map(|effect| effect.id).collect::<Vec<_>>();
    let newest = async |node: &Node, after: Option<usize>| {
        let after = after.map(|at| (effects[at].created, effects[at].id()));
        ids(node.mailstore.newest_effects(&[Phase::Open], after, 2).await.unwrap())
    };
    assert_eq!(newest(&a, None).await, [effects[299].id(), effects[298].id()]);
    let done = EffectOutcome::Done("taken".to_owned());
    a.mailstore.end_attempt(effects[299].id(), done, Vec::new()).await.unwrap();
    assert_eq!(newest(&a, None).await, [effects[298].id(), effects[297].id()], "the change is known");
    assert_eq!(newest(&a, Some(1)).await, [effects[0].id()], "behind the last but one");
    let open = ids(a.mailstore.open_effects().await.unwrap());
    assert_eq!((open.len(), open.first()), (299, Some(&effects[0].id())), "oldest first");
    assert!(newest(&b, None).await.is_empty());
    a.hand_over(&b).await;
    assert_eq!(newest(&b, None).await, [effects[298].id(), effects[297].id()], "from the other node");
    let id = effects[5].id().to_string();
    assert_eq!(ids(b.mailstore.effects_beginning(&id[..20], 9).await.unwrap()), [effects[5].id()]);
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

/// The attempt of an earlier holder may arrive while the next one is prepared.
#[tokio::test]
async fn attempt_of_unknown_result_is_followed_by_none_where_the_receiver_cannot_tell_a_repeat() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let epoch = Epoch { generation: 0, number: 1, node: name("a") };
    for (channel, repeats) in [(Channel::SmsHttp, false), (Channel::Mail, true)] {
        let effect = NewEffect { channel, ..effect(1, 7) };
        node.mailstore.add_effects(vec![effect]).await.unwrap();
        let begin = async || node.mailstore.begin_attempt(effect.id(), Vec::new(), &epoch).await.unwrap().is_some();
        assert!(begin().await);
        assert_eq!(begin().await, repeats, "{channel}");
        let failed = EffectOutcome::NotTaken("not connected".to_owned(), Timestamp(0));
        node.mailstore.end_attempt(effect.id(), failed, Vec::new()).await.unwrap();
        assert!(begin().await, "the receiver has nothing of it");
    }
}

/// A process may end after any commit: no covered effect is left behind its leader, not by the removal either.
#[tokio::test]
async fn digest_and_its_covered_effects_begin_and_end_in_one_commit_each() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let [leader, first, second] = [1, 2, 3].map(|message| effect(message, 7));
    node.mailstore.add_effects(vec![leader, first, second]).await.unwrap();
    let (store, ends) = (node.store.clone(), Arc::new(AtomicBool::new(false)));
    let seen = ends.clone();
    node.store.observe(move |change| {
        if change.key == effect_key(leader.id()) && change.delta.bytes(DONE).is_some() {
            let others = [first, second].map(|other| store.get(&effect_key(other.id())).unwrap().unwrap());
            seen.store(others.iter().all(|record| record.bytes(DONE).is_some()), Relaxed);
        }
    });
    let epoch = Epoch { generation: 0, number: 1, node: name("a") };
    let covered = vec![first.id(), second.id()];
    node.mailstore.begin_attempt(leader.id(), covered.clone(), &epoch).await.unwrap().unwrap();
    for id in &covered {
        let effect = node.mailstore.effect(*id).unwrap().unwrap();
        assert!(effect.unfinished().is_some() && node.mailstore.is_gathered(&effect).unwrap(), "{effect:?}");
    }
    // Another set does not replace that of an attempt which may have arrived.
    let failed = EffectOutcome::Failed("no answer".to_owned(), Timestamp(0));
    node.mailstore.end_attempt(leader.id(), failed, Vec::new()).await.unwrap();
    node.mailstore.begin_attempt(leader.id(), vec![first.id()], &epoch).await.unwrap().unwrap();
    assert_eq!(node.mailstore.effect(leader.id()).unwrap().unwrap().covers, covered);
    let done = EffectOutcome::Done("taken".to_owned());
    node.mailstore.end_attempt(leader.id(), done, Vec::new()).await.unwrap();
    assert!(ends.load(Relaxed), "one commit");
    assert_eq!(sweep(&node, Timestamp(u64::MAX)).await, 3);
    assert!(node.mailstore.effects().await.unwrap().is_empty());
}
