//! Holds as two nodes see them: they apply wherever the duty runs, and a flush on either node ends them.

use tempfile::TempDir;
use tokio::task::JoinSet;
use twinbox_clock::wall;
use twinbox_devices::{Device, DeviceChange, KindName};
use twinbox_ids::{DeviceId, LocationId, Pii, Timestamp};
use twinbox_locations::schema::location_key;
use twinbox_mailstore::{EffectOutcome, HoldError, OutboxChange};
use twinbox_outbox::{Cause, Destination, Effect, MAX_HOLDS};
use twinbox_replication_core::{Edit, Value};
use twinbox_store_kit::{Node, audio};

fn destination(text: &str) -> Destination {
    text.parse().expect("a destination")
}

/// A node with one effect to anna@example.com.
async fn with_effect(dir: &TempDir) -> (Node, Effect) {
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let address = DeviceChange::Address(Pii::new("Anna@Example.com".to_owned()));
    let device = Device::new(mailbox, DeviceId::random(), "office", KindName::Mail, &[address]).unwrap();
    node.mailstore.add_device(device).await.unwrap();
    node.leave(mailbox, &audio(1_500)).await;
    let effect = node.mailstore.effects().await.unwrap().remove(0);
    (node, effect)
}

/// The text of the destination whose hold keeps an effect.
fn kept_by(node: &Node, effect: &Effect) -> Option<String> {
    let hold = node.mailstore.hold_of(effect).unwrap();
    hold.map(|hold| hold.destination.reveal().to_owned())
}

#[tokio::test]
async fn hold_applies_on_each_node_and_a_flush_on_the_other_makes_due_what_waits() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, effect) = with_effect(&dirs[0]).await;
    let b = Node::alone(dirs[1].path(), "b");
    let later = Timestamp(wall().0 + 3_600_000);
    a.mailstore
        .end_attempt(effect.id, EffectOutcome::Failed("deferred".to_owned(), later), Vec::new())
        .await
        .unwrap();
    assert_eq!(kept_by(&a, &effect), None);
    a.mailstore.hold(destination("example.com"), "rebuilt").await.unwrap();
    assert_eq!(kept_by(&a, &effect).as_deref(), Some("example.com"));

    let mut changes = b.mailstore.watch_outbox();
    assert_eq!(kept_by(&b, &effect), None, "it is not here yet");
    a.hand_over(&b).await;
    assert_eq!(kept_by(&b, &effect).as_deref(), Some("example.com"));
    while changes.next().await.expect("the store is open") != OutboxChange::Holds {}

    // The hold of another destination stays, and an administrator is told so.
    b.mailstore.hold(destination("mail"), "").await.unwrap();
    let flushed = b.mailstore.flush(&destination("EXAMPLE.com")).await.unwrap();
    assert_eq!((flushed.released, flushed.waiting, flushed.held), (true, 1, 1));
    let due = b.mailstore.effect(effect.id).unwrap().expect("still there");
    assert!(due.due() <= wall(), "{due:?}");
    assert_eq!(due.failure.map(|(_, failure)| failure.text).as_deref(), Some("deferred"));
    assert_eq!(kept_by(&b, &effect).as_deref(), Some("mail"));
    let flushed = b.mailstore.flush(&destination("mail")).await.unwrap();
    assert_eq!((flushed.released, flushed.waiting, flushed.held), (true, 1, 0));
    let again = b.mailstore.flush(&destination("mail")).await.unwrap();
    assert!(!again.released);
    b.hand_over(&a).await;
    assert_eq!((kept_by(&a, &effect), kept_by(&b, &effect)), (None, None));
}

#[tokio::test]
async fn watch_reports_effects_devices_and_locations() {
    let dir = TempDir::new().unwrap();
    let (node, effect) = with_effect(&dir).await;
    let mut changes = node.mailstore.watch_outbox();
    node.mailstore.drop_effect(effect.id).await.unwrap();
    assert_eq!(changes.next().await, Some(OutboxChange::Effect(effect.id)));
    let Cause { mailbox, .. } = effect.new.cause;
    node.mailstore.remove_device(mailbox, effect.new.target).await.unwrap();
    assert_eq!(changes.next().await, Some(OutboxChange::Device(effect.new.target)));
    let (key, edits) = (location_key(LocationId(7)), vec![Edit::Set(1, Value::Bytes(vec![]))]);
    node.mailstore.commit(move |draft| Ok(draft.edit(key, edits)?)).await.unwrap();
    assert_eq!(changes.next().await, Some(OutboxChange::Device(DeviceId(7))));
}

#[tokio::test]
async fn hold_made_again_keeps_its_beginning_and_takes_the_new_reason() {
    let dir = TempDir::new().unwrap();
    let (node, _) = with_effect(&dir).await;
    let held = || node.mailstore.holds().unwrap().in_force().next().cloned().expect("a hold");
    node.mailstore.hold(destination("mail"), "first").await.unwrap();
    let first = held();
    node.mailstore.hold(destination("mail"), "second").await.unwrap();
    assert_eq!((held().since, held().reason.as_str()), (first.since, "second"));
    // A hold after a release is another one.
    node.mailstore.flush(&destination("mail")).await.unwrap();
    node.mailstore.hold(destination("mail"), "third").await.unwrap();
    assert_eq!((held().released, held().reason.as_str()), (None, "third"));
}

#[tokio::test]
async fn number_of_holds_is_limited_and_a_released_one_makes_room() {
    let dir = TempDir::new().unwrap();
    let (node, _) = with_effect(&dir).await;
    let mut holds = JoinSet::new();
    for n in 0..MAX_HOLDS {
        let mailstore = node.mailstore.clone();
        holds.spawn(async move { mailstore.hold(destination(&format!("host{n}.example")), "").await.map(drop) });
    }
    assert!(holds.join_all().await.iter().all(Result::is_ok));
    let beyond = node.mailstore.hold(destination("mail"), "").await;
    assert!(matches!(beyond, Err(HoldError::TooMany)), "{beyond:?}");
    node.mailstore.hold(destination("host0.example"), "it is held already").await.unwrap();
    node.mailstore.flush(&destination("host0.example")).await.unwrap();
    node.mailstore.hold(destination("mail"), "").await.unwrap();
}
