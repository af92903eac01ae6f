//! Ageing of messages by class of service, and the used share of a mailbox.

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::Timestamp;
use twinbox_mailstore::{Aged, Mark, MessageCounts, NewMailbox, Rule};
use twinbox_store_kit::{Node, audio};

const DAY_MS: u64 = 24 * 3_600 * 1_000;

#[tokio::test]
async fn messages_age_by_the_rules_of_their_class() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let store = &node.mailstore;
    let mailbox = node.mailbox().await.id;
    let [new, heard, saved] = [
        node.leave(mailbox, &audio(1_500)).await.message,
        node.leave(mailbox, &audio(1_600)).await.message,
        node.leave(mailbox, &audio(1_700)).await.message,
    ];
    store.mark(mailbox, heard, Mark::Heard).await.unwrap();
    store.mark(mailbox, saved, Mark::Saved).await.unwrap();
    let later = |days: u64| Timestamp(wall().0 + days * DAY_MS);
    let aged = |deleted, purged| Aged { deleted, purged };
    assert_eq!(store.age_messages(mailbox, later(36_000), || true).await.unwrap(), aged(0, 0), "without rules");

    let rules = [(Rule::RetentionDays, 7), (Rule::NewDays, 30), (Rule::SavedDays, 60), (Rule::DeletedDays, 10)];
    let rules = rules.map(|(rule, days)| (rule, Some(days)));
    store.change_class("default", rules.to_vec()).await.unwrap();
    assert_eq!(store.age_messages(mailbox, later(6), || true).await.unwrap(), aged(0, 0));
    assert_eq!(store.age_messages(mailbox, later(8), || false).await.unwrap(), aged(0, 0), "it may not go on");
    assert_eq!(store.age_messages(mailbox, later(8), || true).await.unwrap(), aged(1, 0));
    assert_eq!(store.message_counts(mailbox).await.unwrap(), MessageCounts { new: 1, saved: 1 });
    assert!(store.message(mailbox, heard).await.unwrap().unwrap().deleted);

    // A message that its owner takes back has its whole time again.
    store.mark(mailbox, heard, Mark::Undeleted).await.unwrap();
    assert_eq!(store.age_messages(mailbox, later(6), || true).await.unwrap(), aged(0, 0));
    assert_eq!(store.age_messages(mailbox, later(8), || true).await.unwrap(), aged(1, 0));
    assert_eq!(store.age_messages(mailbox, later(31), || true).await.unwrap(), aged(1, 1));
    assert!(store.message(mailbox, heard).await.unwrap().is_none(), "its content is gone");
    assert!(store.message(mailbox, new).await.unwrap().unwrap().deleted);
    assert_eq!(store.age_messages(mailbox, later(61), || true).await.unwrap(), aged(1, 1));
    assert_eq!(store.message_counts(mailbox).await.unwrap(), MessageCounts::default());
    assert!(store.message(mailbox, saved).await.unwrap().unwrap().deleted);
}

#[tokio::test]
async fn used_share_counts_messages_and_minutes() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let store = &node.mailstore;
    let mailbox = store.create(NewMailbox::new("1001", "2580")).await.unwrap().0;
    for _ in 0..2 {
        node.leave(mailbox.id, &audio(6_000)).await;
    }
    store.change_class("default", vec![(Rule::Messages, Some(4))]).await.unwrap();
    assert_eq!(store.used_percent(&mailbox).await.unwrap(), 50);
    store.change_class("default", vec![(Rule::Messages, Some(1)), (Rule::TotalMinutes, Some(1))]).await.unwrap();
    assert_eq!(store.used_percent(&mailbox).await.unwrap(), 200);
    store.change_class("default", vec![(Rule::Messages, Some(100))]).await.unwrap();
    assert_eq!(store.used_percent(&mailbox).await.unwrap(), 20);
}
