//! The used share of a mailbox.

use tempfile::TempDir;
use twinbox_mailstore::{NewMailbox, Rule};
use twinbox_store_kit::{Node, audio};

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
