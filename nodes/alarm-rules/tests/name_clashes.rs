//! Clashes of names after a split, as an administrator is told of them.

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use twinbox_alarm_rules::{NameClash, NameClashWatch, NameKind};
use twinbox_ids::MailboxId;
use twinbox_mailstore::{NewMailbox, UserAddress, UserAddresses};
use twinbox_store_kit::Node;

async fn create(node: &Node, number: &str, alias: &str) -> MailboxId {
    let addresses =
        UserAddresses { aliases: [UserAddress::alias(alias).unwrap()].into(), ..UserAddresses::default() };
    let new = NewMailbox { pin: None, addresses, ..NewMailbox::new(number, "") };
    node.mailstore.create(new).await.unwrap().0.id
}

async fn next(watch: &mut NameClashWatch) -> NameClash {
    timeout(Duration::from_secs(20), watch.next()).await.expect("a clash").expect("the store is open")
}

#[tokio::test]
async fn number_and_address_given_on_both_sides_of_a_split_are_reported_on_both_nodes() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let mut watches = [
        NameClashWatch::new(a.mailstore.clone()).await.unwrap(),
        NameClashWatch::new(b.mailstore.clone()).await.unwrap(),
    ];
    create(&a, "1001", "anna").await;
    a.wait_past_stamps().await;
    let number = create(&b, "1001", "bert").await;
    create(&a, "1002", "clara").await;
    a.wait_past_stamps().await;
    let address = create(&b, "1003", "clara").await;
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    let clashes = [
        NameClash { mailbox: number, kind: NameKind::Number },
        NameClash { mailbox: address, kind: NameKind::Address },
    ];
    for watch in &mut watches {
        let mut found = [next(watch).await, next(watch).await];
        found.sort_by_key(|clash| clash.kind);
        assert_eq!(found, clashes);
    }
    // A watch that begins later finds them, too.
    let mut later = NameClashWatch::new(a.mailstore.clone()).await.unwrap();
    let mut found = [next(&mut later).await, next(&mut later).await];
    found.sort_by_key(|clash| clash.kind);
    assert_eq!(found, clashes);
    // One that was resolved is none any more.
    a.mailstore.remove(number).await.unwrap();
    let mut rest = NameClashWatch::new(a.mailstore.clone()).await.unwrap();
    assert_eq!(next(&mut rest).await, clashes[1]);
}
