//! Ageing of messages by class of service.

use tempfile::TempDir;
use twinbox_ageing::{Aged, age_messages};
use twinbox_clock::wall;
use twinbox_ids::Timestamp;
use twinbox_mailstore::{Mark, MessageCounts, Rule};
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
    let aged = |deleted| Aged { deleted };
    assert_eq!(age_messages(store, mailbox, later(36_000), || true).await.unwrap(), aged(0), "without rules");

    let rules = [(Rule::RetentionDays, 7), (Rule::NewDays, 30), (Rule::SavedDays, 60), (Rule::DeletedDays, 10)];
    let rules = rules.map(|(rule, days)| (rule, Some(days)));
    store.change_class("default", rules.to_vec()).await.unwrap();
    assert_eq!(age_messages(store, mailbox, later(6), || true).await.unwrap(), aged(0));
    assert_eq!(age_messages(store, mailbox, later(8), || false).await.unwrap(), aged(0), "it may not go on");
    assert_eq!(age_messages(store, mailbox, later(8), || true).await.unwrap(), aged(1));
    assert_eq!(store.message_counts(mailbox).await.unwrap(), MessageCounts { new: 1, saved: 1 });
    assert!(store.message(mailbox, heard).await.unwrap().unwrap().deleted);

    // A message that its owner takes back has its whole time again.
    store.mark(mailbox, heard, Mark::Undeleted).await.unwrap();
    assert_eq!(age_messages(store, mailbox, later(6), || true).await.unwrap(), aged(0));
    assert_eq!(age_messages(store, mailbox, later(8), || true).await.unwrap(), aged(1));
    assert_eq!(age_messages(store, mailbox, later(31), || true).await.unwrap(), aged(1));
    assert!(store.message(mailbox, heard).await.unwrap().unwrap().deleted, "ageing purges nothing");
    assert!(store.message(mailbox, new).await.unwrap().unwrap().deleted);
    assert_eq!(age_messages(store, mailbox, later(61), || true).await.unwrap(), aged(1));
    assert_eq!(store.message_counts(mailbox).await.unwrap(), MessageCounts::default());
    assert!(store.message(mailbox, saved).await.unwrap().unwrap().deleted);
}
