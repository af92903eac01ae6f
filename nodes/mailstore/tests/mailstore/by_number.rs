//! Lists of mailboxes by number.

use tempfile::TempDir;
use twinbox_ids::{MailboxId, Pii};
use twinbox_mailstore::{Mailbox, MailboxChange, Mailstore, NewMailbox};
use twinbox_store_kit::Node;

/// A store with mailboxes of these numbers.
async fn with(dir: &TempDir, name: &str, numbers: &[&str]) -> Node {
    let node = Node::alone(&dir.path().join(name), name);
    for number in numbers {
        create(&node.mailstore, number).await;
    }
    node
}

async fn create(mailstore: &Mailstore, number: &str) -> Mailbox {
    let new = NewMailbox { pin: None, ..NewMailbox::new(number, "") };
    mailstore.create(new).await.expect("it is created").0
}

/// All mailboxes, this many at a time: each part begins behind the place of the last one of the part before.
fn listed(mailstore: &Mailstore, at_a_time: usize) -> Vec<Mailbox> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let part: Vec<_> = mailstore.by_number(&after).unwrap().take(at_a_time).map(Result::unwrap).collect();
        let Some((last, _)) = part.last() else { return all };
        after.clone_from(last);
        all.extend(part.into_iter().map(|(_, mailbox)| mailbox));
    }
}

fn ids(mailboxes: &[Mailbox]) -> Vec<MailboxId> {
    mailboxes.iter().map(|mailbox| mailbox.id).collect()
}

fn numbers(mailstore: &Mailstore) -> Vec<String> {
    let all = listed(mailstore, 2);
    assert_eq!(ids(&all), ids(&listed(mailstore, 1_000)), "in parts, and as a whole");
    all.into_iter().map(|mailbox| mailbox.number).collect()
}

#[tokio::test]
async fn list_in_parts_follows_the_changes() {
    let dir = TempDir::new().unwrap();
    let node = with(&dir, "a", &["20", "1000", "3"]).await;
    let store = &node.mailstore;
    assert_eq!(numbers(store), ["3", "20", "1000"]);
    let made = create(store, "100").await;
    store.change(made.id, MailboxChange::Name(Pii::new("Ada".to_owned()))).await.unwrap();
    assert_eq!(numbers(store), ["3", "20", "100", "1000"]);
    assert_eq!(listed(store, 3)[2].name.reveal(), "Ada");
    let twenty = store.find_by_number("20").await.unwrap().unwrap();
    store.remove(twenty.id).await.unwrap();
    assert_eq!(numbers(store), ["3", "100", "1000"]);
    create(store, "20").await;
    assert_eq!(numbers(store), ["3", "20", "100", "1000"]);
}

#[tokio::test]
async fn mailbox_that_changes_during_a_list_does_not_disturb_it() {
    let dir = TempDir::new().unwrap();
    let node = with(&dir, "a", &["11", "12", "13"]).await;
    let store = &node.mailstore;
    let mut list = store.by_number("").unwrap();
    assert_eq!(list.next().unwrap().unwrap().1.number, "11");
    store.remove(store.find_by_number("12").await.unwrap().unwrap().id).await.unwrap();
    let rest: Vec<_> = list.map(|row| row.unwrap().1.number).collect();
    assert_eq!(rest, ["13"]);
}

#[tokio::test]
async fn number_that_two_mailboxes_have_is_listed_twice_on_both_nodes() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (with(&dir, "a", &["11", "12"]).await, with(&dir, "b", &["12", "13"]).await);
    // The lists are kept from before the nodes see each other.
    assert_eq!((numbers(&a.mailstore).len(), numbers(&b.mailstore).len()), (2, 2));
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        assert_eq!(numbers(&node.mailstore), ["11", "12", "12", "13"]);
        let lost = listed(&node.mailstore, 3).into_iter().filter(|mailbox| mailbox.number_lost);
        assert_eq!(lost.map(|mailbox| mailbox.number).collect::<Vec<_>>(), ["12"]);
    }
    assert_eq!(ids(&listed(&a.mailstore, 1)), ids(&listed(&b.mailstore, 1)));
}
