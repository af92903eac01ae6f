//! Notification devices: their fallbacks, and the life of their notifications.

use jiff::tz::TimeZone;
use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_devices::{Device, DeviceChange, KindName, Schedule};
use twinbox_ids::{DeviceId, MailboxId, MessageId, Pii};
use twinbox_mailstore::{EffectOutcome, MailedMessage, NOTIFICATION_LIFE_MS, time};
use twinbox_outbox::Effect;
use twinbox_store_kit::{Node, audio};

use crate::two_nodes::mail;

fn device(mailbox: MailboxId, name: &str, changes: &[DeviceChange]) -> Device {
    let address = DeviceChange::Address(Pii::new("anna@example.com".to_owned()));
    let changes = [&[address][..], changes].concat();
    Device::new(mailbox, DeviceId::random(), name, KindName::Mail, &changes).expect("a device")
}

/// An hour of the week, that many days from now.
fn weekly(days: usize) -> Schedule {
    let today = time(wall()).to_zoned(TimeZone::UTC).date().weekday().to_monday_zero_offset();
    let today = usize::try_from(today).expect("from 0 to 6");
    let day = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][(today + days) % 7];
    format!("{day} 10:00-11:00").parse().expect("hours")
}

async fn effects(node: &Node) -> Vec<Effect> {
    node.mailstore.effects().await.expect("readable")
}

#[tokio::test]
async fn notification_lives_on_after_the_opening_of_a_weekly_window() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let office = device(mailbox, "office", &[DeviceChange::When(Some(weekly(5)))]);
    node.mailstore.add_device(office.clone()).await.unwrap();
    node.leave(mailbox, &audio(1_500)).await;
    let [effect] = effects(&node).await.try_into().expect("one effect");
    assert!(effect.new.not_before.0 > wall().0 + NOTIFICATION_LIFE_MS, "{effect:?}");
    assert_eq!(effect.new.expires.0, effect.new.not_before.0 + NOTIFICATION_LIFE_MS);

    // It is given up, and an administrator wants it again: the retry waits for the window, and is alive then.
    node.mailstore.end_attempt(effect.id, EffectOutcome::Dead("refused".to_owned()), Vec::new()).await.unwrap();
    let retried = node.mailstore.retry_effect(effect.id).await.unwrap();
    let again = node.mailstore.effect(retried).unwrap().expect("the retry");
    let window = (effect.new.not_before, effect.new.expires);
    assert_eq!((again.new.not_before, again.new.expires), window, "the same window");
    // Without hours the life of the next one begins now.
    node.mailstore.change_device(mailbox, office.id, vec![DeviceChange::When(None)]).await.unwrap();
    node.mailstore.end_attempt(retried, EffectOutcome::Dead("refused".to_owned()), Vec::new()).await.unwrap();
    let retried = node.mailstore.retry_effect(retried).await.unwrap();
    let again = node.mailstore.effect(retried).unwrap().expect("the retry");
    assert!(again.new.expires > wall() && again.new.expires < effect.new.expires, "{again:?}");
}

/// Two mailboxes that notify each other by mail would never end.
#[tokio::test]
async fn automatic_mail_is_a_new_message_that_no_device_notifies_of() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    node.mailstore.add_device(device(mailbox, "office", &[])).await.unwrap();
    for (id, is_automatic, notifications) in [(1, true, 0), (2, false, 1)] {
        let mail = MailedMessage { is_automatic, ..mail(mailbox, MessageId(id)) };
        node.mailstore.receive_mail(mail).await.unwrap();
        assert_eq!(u128::from(node.mailstore.message_counts(mailbox).await.unwrap().new), id);
        assert_eq!(effects(&node).await.len(), notifications);
    }
}

#[tokio::test]
async fn fallbacks_that_go_in_a_circle_are_refused() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let office = device(mailbox, "office", &[]);
    node.mailstore.add_device(office.clone()).await.unwrap();
    let mobile = device(mailbox, "mobile", &[DeviceChange::Fallback(Some(office.id))]);
    node.mailstore.add_device(mobile.clone()).await.unwrap();
    let back = vec![DeviceChange::Fallback(Some(mobile.id))];
    let refused = node.mailstore.change_device(mailbox, office.id, back).await.unwrap_err().to_string();
    assert!(refused.contains("office → mobile → office"), "{refused}");
    assert_eq!(node.mailstore.device(mailbox, office.id).unwrap(), Some(office));
}

/// Each side of a split may add one half of a circle.
#[tokio::test]
async fn message_is_notified_although_a_split_made_a_circle_of_fallbacks() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let a = Node::alone(dirs[0].path(), "a");
    let b = Node::alone(dirs[1].path(), "b");
    let mailbox = a.mailbox().await.id;
    let [office, mobile] = ["office", "mobile"].map(|name| device(mailbox, name, &[]));
    for device in [&office, &mobile] {
        a.mailstore.add_device(device.clone()).await.unwrap();
    }
    a.hand_over(&b).await;
    let to = |id| vec![DeviceChange::Fallback(Some(id))];
    a.mailstore.change_device(mailbox, office.id, to(mobile.id)).await.unwrap();
    b.mailstore.change_device(mailbox, mobile.id, to(office.id)).await.unwrap();
    b.hand_over(&a).await;
    // Other settings can still be changed.
    a.mailstore.change_device(mailbox, office.id, vec![DeviceChange::Delay(5)]).await.unwrap();
    a.leave(mailbox, &audio(1_500)).await;
    let [effect] = effects(&a).await.try_into().expect("one effect");
    assert_eq!(effect.new.target, office.id.min(mobile.id));
}
