//! Locations, and messages to several recipients: all in one commit, and back to the sender once.

use std::sync::Arc;

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::{LocationId, MailboxId, Pii, Timestamp};
use twinbox_locations::{Location, LocationChange};
use twinbox_mailbox::{directory::Supplied, schema::mailbox_key};
use twinbox_mailstore::{
    Audio, Codec, EffectOutcome, MailError, Mailbox, Mark, NewMailbox, OutgoingRecord, Returns, SendOrder, SendTo,
};
use twinbox_outbox::{Channel, Effect, EffectState};
use twinbox_prompts::Prompts;
use twinbox_replication_core::CommitPart;
use twinbox_replication_store::Draft;
use twinbox_store_kit::{Node, audio};

fn location(name: &str, settings: &[&str]) -> Location {
    let changes: Vec<_> = settings.iter().map(|text| LocationChange::parse(text).expect(text)).collect();
    Location::new(LocationId::random(), name, &changes, wall()).expect("a location")
}

async fn berlin(node: &Node) -> LocationId {
    let berlin = location("berlin", &["dial-id=7", "domain=vm.berlin.example"]);
    node.mailstore.add_location(berlin.clone()).await.expect("added");
    berlin.id
}

fn order(id: u128, sender: &Mailbox, to: Vec<SendTo>) -> SendOrder {
    SendOrder {
        id,
        sender: sender.id,
        audio: Audio { codec: Codec::Pcmu, bytes: audio(1_500).into() },
        subject: Pii::new("Hello".to_owned()),
        urgent: true,
        private: true,
        to,
    }
}

fn there(location: LocationId) -> SendTo {
    SendTo::Location { location, number: Pii::new("2002".to_owned()) }
}

fn returns(node: &Node) -> Returns {
    Returns::new(node.mailstore.clone(), Arc::new(Prompts::load(None, "en").expect("the embedded prompts")))
}

async fn only_effect(node: &Node) -> Effect {
    let effects = node.mailstore.effects().await.expect("readable");
    let [effect] = effects.as_slice() else { panic!("{effects:?}") };
    effect.clone()
}

#[tokio::test]
async fn dial_id_is_free_once_the_mailbox_with_such_a_number_was_removed_in_a_split() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, b) = (Node::alone(dirs[0].path(), "a"), Node::alone(dirs[1].path(), "b"));
    let removed = a.mailbox().await.id;
    a.hand_over(&b).await;
    b.mailstore.renumber(removed, "7001").await.unwrap();
    b.hand_over(&a).await;
    let berlin = location("berlin", &["dial-id=7", "domain=vm.berlin.example"]);
    let refused = a.mailstore.add_location(berlin.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("number 7001"), "{refused}");
    // Node b renumbers it again before it hears of the removal.
    a.mailstore.remove(removed).await.unwrap();
    b.mailstore.renumber(removed, "7002").await.unwrap();
    b.hand_over(&a).await;
    a.mailstore.add_location(berlin).await.unwrap();
}

#[tokio::test]
async fn location_with_a_name_dial_id_or_domain_in_use_is_refused() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    node.mailbox().await;
    let id = berlin(&node).await;
    let domain = "domain=vm.paris.example";
    for (name, settings, part) in [
        ("Berlin", ["dial-id=8", domain], "location 'berlin' already exists"),
        ("paris", ["dial-id=7", domain], "in use by location 'berlin'"),
        ("paris", ["dial-id=8", "domain=vm.Berlin.example"], "in use by location 'berlin'"),
        ("paris", ["dial-id=10", domain], "number 1001"),
        ("paris", ["dial-id=1001", domain], "number 1001"),
    ] {
        let refused = node.mailstore.add_location(location(name, &settings)).await.unwrap_err().to_string();
        assert!(refused.contains(part), "{name} {settings:?}: {refused}");
    }
    // A longer dial id that begins like another is no conflict.
    node.mailstore.add_location(location("paris", &["dial-id=71", domain])).await.unwrap();
    let changed =
        async |text: &str| node.mailstore.change_location(id, vec![LocationChange::parse(text).unwrap()]).await;
    assert!(changed("dial-id=71").await.unwrap_err().to_string().contains("'paris'"));
    changed("enabled=no").await.unwrap();
    assert!(!node.mailstore.location(id).unwrap().unwrap().enabled);
    node.mailstore.remove_location(id).await.unwrap();
    assert_eq!(node.mailstore.location(id).unwrap(), None);
    assert!(node.mailstore.remove_location(id).await.is_err());
    node.mailstore.add_location(location("berlin", &["dial-id=7", "domain=vm.berlin.example"])).await.unwrap();
    let names: Vec<_> = node.mailstore.locations().unwrap().into_iter().map(|location| location.name).collect();
    assert_eq!(names, ["berlin", "paris"]);
}

#[tokio::test]
async fn message_goes_to_all_recipients_or_to_none_and_the_same_order_sends_nothing_twice() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let sender = node.mailbox().await;
    let bert = node.mailstore.create(NewMailbox::new("1002", "2580")).await.unwrap().0;
    let location = berlin(&node).await;

    let unknown = vec![SendTo::Mailbox(bert.id), there(location), SendTo::Mailbox(MailboxId(9))];
    let refused = node.mailstore.send_message(order(1, &sender, unknown)).await.unwrap_err();
    assert!(matches!(refused, MailError::NoMailbox(MailboxId(9))), "{refused}");
    assert!(node.mailstore.messages(bert.id).await.unwrap().is_empty());
    assert!(node.mailstore.effects().await.unwrap().is_empty());

    let to = vec![SendTo::Mailbox(bert.id), there(location)];
    let (sent, _) = node.mailstore.send_message(order(1, &sender, to.clone())).await.unwrap();
    for again in [1, 1, 2] {
        let (repeated, _) = node.mailstore.send_message(order(again, &sender, to.clone())).await.unwrap();
        assert_eq!(repeated == sent, again == 1);
        let messages = node.mailstore.messages(bert.id).await.unwrap();
        assert_eq!(messages.len(), again as usize);
        assert_eq!(node.mailstore.effects().await.unwrap().len(), again as usize);
    }
    let message = node.mailstore.message(bert.id, sent[0].id).await.unwrap().unwrap();
    assert_eq!(message.caller.as_ref().map(|caller| caller.reveal().as_str()), Some("1001"));
    assert!(message.urgent && message.private);
    assert_eq!(message.mail.as_ref().map(|mail| mail.subject.reveal().as_str()), Some("Hello"));
    assert_eq!(node.mailstore.audio(&message).await.unwrap().bytes, audio(1_500));

    let effect = node.mailstore.effect(sent[1].effect.unwrap()).unwrap().unwrap();
    assert_eq!((effect.new.channel, effect.state()), (Channel::Vpim, EffectState::Pending));
    assert_eq!(node.mailstore.location_of(&effect).unwrap().map(|location| location.id), Some(location));
    let outgoing = node.mailstore.outgoing(sent[1].id).unwrap();
    let OutgoingRecord::Here(outgoing) = outgoing else { panic!("{outgoing:?}") };
    assert_eq!((outgoing.number.reveal().as_str(), outgoing.codec), ("2002", Codec::Pcmu));
    assert_eq!(node.mailstore.blob(&outgoing.audio.hash).await.unwrap(), audio(1_500));
}

#[tokio::test]
async fn repeated_order_is_known_when_its_recipient_was_disabled_since() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let sender = node.mailbox().await;
    let bert = node.mailstore.create(NewMailbox::new("1002", "2580")).await.unwrap().0;
    let to = vec![SendTo::Mailbox(bert.id), there(berlin(&node).await)];
    let known = |order: u128| to.iter().all(|to| node.mailstore.is_sent(order, sender.id, to).unwrap());
    assert!(!known(1));
    let (sent, _) = node.mailstore.send_message(order(1, &sender, to.clone())).await.unwrap();
    node.mailstore.mark(bert.id, sent[0].id, Mark::Deleted).await.unwrap();
    let disabled =
        move |draft: &mut Draft<'_>| draft.edit(mailbox_key(bert.id), Supplied::disable_local(true)).map(drop);
    node.store.commit(disabled).await.unwrap();
    let (again, _) = node.mailstore.send_message(order(1, &sender, to.clone())).await.unwrap();
    assert!(again == sent && known(1) && !known(2));
    let refused = node.mailstore.send_message(order(2, &sender, to.clone())).await.unwrap_err();
    assert!(matches!(refused, MailError::Disabled { .. }), "{refused}");
    assert!(!known(2));
}

#[tokio::test]
async fn undelivered_message_comes_back_once_with_the_reason_before_it() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let (sender, returns) = (node.mailbox().await, returns(&node));
    let location = berlin(&node).await;
    node.mailstore.send_message(order(1, &sender, vec![there(location)])).await.unwrap();
    let effect = only_effect(&node).await;
    let give_up = async |effect: &Effect, reason: &str| {
        let returned = returns.of(effect, reason).await.unwrap();
        assert!(returned.is_some());
        let dead = EffectOutcome::Dead(reason.to_owned());
        node.mailstore.end_attempt_returning(effect.id, dead, Vec::new(), returned).await.unwrap();
    };
    give_up(&effect, "vm.berlin.example refused the recipient: 550 5.1.1 mailbox unknown").await;
    assert_eq!(only_effect(&node).await.state(), EffectState::Dead);
    let back = async || {
        let messages = node.mailstore.messages(sender.id).await.unwrap();
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        message.clone()
    };
    let message = back().await;
    assert_eq!(message.caller.as_ref().map(|caller| caller.reveal().as_str()), Some("72002"));
    let origin = message.mail.clone().unwrap();
    assert_eq!(origin.subject.reveal(), "Undelivered: Hello");
    assert!(origin.text.reveal().contains("550 5.1.1"));
    let heard = node.mailstore.audio(&message).await.unwrap().bytes;
    let prompts = Prompts::load(None, "en").unwrap();
    let reason = prompts.say(["twinbox/number-unknown-there", "twinbox/message-follows"], Codec::Pcmu);
    let spoken = &heard[..heard.len() - audio(1_500).len() - 4_000];
    assert!(heard.ends_with(&audio(1_500)) && spoken.ends_with(&reason));

    // An administrator's retry that fails too, and a report after it, bring nothing more.
    let retried = node.mailstore.retry_effect(effect.id).await.unwrap();
    let retried = node.mailstore.effect(retried).unwrap().unwrap();
    give_up(&retried, "552 5.2.2 full").await;
    let returned = returns.of(&effect, "5.2.2").await.unwrap();
    assert!(node.mailstore.note_bounce(effect.id, "5.2.2", returned.clone()).await.unwrap());
    assert!(!node.mailstore.note_bounce(effect.id, "5.2.2", returned).await.unwrap());
    assert_eq!(back().await.id, message.id);

    // The last effect takes the outgoing message with it; a report comes up to six days later.
    let outgoing = effect.new.cause.message;
    let sweep = async |days: u64| {
        let before = Timestamp(wall().0 + days * 86_400_000);
        let done = node.mailstore.done_effects(before, |_| true).await.unwrap();
        node.mailstore.remove_if_stable(&done).await.unwrap().expect("stable")
    };
    assert_eq!(sweep(5).await, 0);
    assert!(matches!(node.mailstore.outgoing(outgoing).unwrap(), OutgoingRecord::Here(_)));
    assert_eq!((sweep(7).await, sweep(7).await), (1, 1), "the retry before the effect that was retried");
    assert_eq!(node.mailstore.outgoing(outgoing).unwrap(), OutgoingRecord::Removed);
    assert!(node.mailstore.effects().await.unwrap().is_empty());
    assert!(returns.of(&effect, "5.1.1").await.unwrap().is_none());
}

#[tokio::test]
async fn report_of_a_delivered_message_brings_it_back_with_its_effect_still_done() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let (sender, returns) = (node.mailbox().await, returns(&node));
    let location = berlin(&node).await;
    node.mailstore.send_message(order(1, &sender, vec![there(location)])).await.unwrap();
    let effect = only_effect(&node).await;
    let done = EffectOutcome::Done("250 queued".to_owned());
    node.mailstore.end_attempt(effect.id, done, Vec::new()).await.unwrap();
    let returned = returns.of(&effect, "5.4.1 no answer").await.unwrap();
    assert!(node.mailstore.note_bounce(effect.id, "no answer", returned).await.unwrap());
    assert_eq!(node.mailstore.messages(sender.id).await.unwrap().len(), 1);
    assert_eq!(only_effect(&node).await.state(), EffectState::Done);
}

#[tokio::test]
async fn message_on_its_way_is_missing_on_the_other_node_until_its_audio_arrives() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, b) = (Node::alone(dirs[0].path(), "a"), Node::alone(dirs[1].path(), "b"));
    let sender = a.mailbox().await;
    let location = berlin(&a).await;
    let (sent, _) = a.mailstore.send_message(order(1, &sender, vec![there(location)])).await.unwrap();
    // Rows that come one by one, as in a repair: the one that names audio waits for it.
    let mut changes = a.store.changes_after(&b.store.vector(), usize::MAX).unwrap();
    changes.retain(|change| change.delta.blobs().next().is_none());
    changes.iter_mut().for_each(|change| change.part = CommitPart::default());
    b.store.apply(changes).await.unwrap();
    assert!(b.mailstore.effect(sent[0].effect.unwrap()).unwrap().is_some());
    assert_eq!(b.mailstore.outgoing(sent[0].id).unwrap(), OutgoingRecord::Missing);
    a.hand_over(&b).await;
    assert!(matches!(b.mailstore.outgoing(sent[0].id).unwrap(), OutgoingRecord::Here(_)));
}
