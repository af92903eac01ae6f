//! Tries of PINs leave the disk when they count no longer, and messages when their mailbox was removed.

use twinbox_ids::Pii;
use twinbox_mailbox::pin::{Subject, begin};
use twinbox_mailstore::PinCheck;
use twinbox_store_kit::{Node, audio, speak};

use super::*;

const HOUR: u64 = 3_600_000;

#[tokio::test]
async fn tries_of_pins_are_deleted_three_windows_later_and_purged_without_a_grace() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    let (mailbox, mailstore) = (node.mailbox().await.id, &node.mailstore);
    let rows = || node.store.rows_between(schema::PIN_ATTEMPTS, &[], &[u8::MAX; 17]).count();
    let deleted = || node.store.deleted_rows(schema::PIN_ATTEMPTS, None, STEP).expect("rows");
    let wrong = mailstore.check_pin(mailbox, &Pii::new("0000".to_owned()), "5550100").await.expect("checked");
    assert_eq!((wrong, rows()), (PinCheck::Wrong, 2), "of the mailbox and of the source");
    let (key, _) =
        node.store.rows_between(schema::PIN_ATTEMPTS, &[], &[u8::MAX; 17]).next().expect("one").expect("read");
    let (_, window) = schema::attempts_of(&key).expect("tries");
    let at = |hours: u64| Timestamp((window + hours) * HOUR);
    for (hours, count) in [(2, 0), (3, 2), (4, 2)] {
        let next = forget_tries(mailstore, Vec::new(), at(hours)).await.expect("a look");
        assert!(next.is_empty(), "all were looked at");
        assert_eq!(deleted().len(), count, "after {hours} hours");
    }
    assert_eq!((purge_tries(&node.store, wall()).await, rows()), (2, 0));
    // A later try counts as the first one.
    mailstore.check_pin(mailbox, &Pii::new("0000".to_owned()), "").await.expect("checked");
    assert_eq!(rows(), 1);
}

/// Removes the deleted tries that can go; returns their number.
async fn purge_tries(store: &Store, now: Timestamp) -> u64 {
    let deleted = store.deleted_rows(schema::PIN_ATTEMPTS, None, STEP).expect("rows").into_iter();
    let removal = |row: &DeletedRow| policy::removal(&row.key, &row.record, false, row.seen, now, HOUR);
    let due = deleted.filter_map(|row| removal(&row).map(|removal| (row, removal)));
    store.purge(due.collect()).await.expect("purged").whole
}

#[tokio::test]
async fn mailbox_under_attack_has_tries_of_three_windows_on_disk() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    for hour in 1..50 {
        let (now, key) = (Timestamp(hour * HOUR), schema::attempts_key(Subject::Mailbox(MailboxId(1)), 0, hour));
        let count = move |draft: &mut Draft<'_>| draft.edit(key, begin(now));
        node.store.commit(count).await.expect("a try");
        forget_tries(&node.mailstore, Vec::new(), now).await.expect("a look");
        purge_tries(&node.store, now).await;
        let rows = node.store.rows_between(schema::PIN_ATTEMPTS, &[], &[u8::MAX; 17]).count();
        assert_eq!(rows as u64, hour.min(3));
    }
}

/// Two nodes that both know a mailbox. While they are separated, it is removed on the first one.
async fn split(dir: &tempfile::TempDir) -> (Node, Node, MailboxId) {
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let mailbox = a.mailbox().await.id;
    a.hand_over(&b).await;
    a.mailstore.remove(mailbox).await.expect("removed");
    (a, b, mailbox)
}

/// Findings of a round this many hours later; the grace is an hour.
fn look_in(node: &Node, hours: u64) -> Found {
    find(&node.store, &BTreeMap::new(), Timestamp(wall().0 + hours * HOUR), HOUR).expect("a look")
}

/// Number of mailboxes among the found records that can go.
fn removable_mailboxes(node: &Node, mut rows: Vec<(DeletedRow, Removal)>) -> usize {
    rows.retain(|(row, _)| row.key.table == schema::MAILBOX);
    still_removable(&node.store, rows).expect("a look").len()
}

#[tokio::test]
async fn message_from_the_other_side_of_a_split_is_deleted_after_the_grace_of_its_removed_mailbox() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let (a, b, mailbox) = split(&dir).await;
    let message = b.leave(mailbox, &audio(1_500)).await.message;
    let found = look_in(&a, 2);
    assert!(found.left.is_empty());
    // The split ends between the two phases.
    b.hand_over(&a).await;
    assert_eq!(removable_mailboxes(&a, found.removable), 0, "a message has come");
    assert!(look_in(&a, 0).left.is_empty(), "in the grace");
    let found = look_in(&a, 2);
    assert_eq!((&found.left[..], removable_mailboxes(&a, found.removable)), (&[(mailbox, message)][..], 0));

    delete_left(&a.mailstore, &found.left).await.expect("deleted");
    assert!(a.mailstore.message(mailbox, message).await.expect("read").expect("a message").deleted);
    let found = look_in(&a, 2);
    assert!(found.left.is_empty());
    assert!(found.deleted.iter().any(|(_, id, _)| *id == message), "it is purged as others");
    assert_eq!(removable_mailboxes(&a, found.removable), 1);
    // The other node may have done it before.
    let changes = a.store.log_changes();
    delete_left(&a.mailstore, &[(mailbox, message)]).await.expect("nothing to do");
    assert_eq!(a.store.log_changes(), changes);
}

#[tokio::test]
async fn message_in_a_removed_mailbox_that_got_another_number_elsewhere_is_deleted_too() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let (a, b, mailbox) = split(&dir).await;
    b.mailstore.renumber(mailbox, "1002").await.expect("renumbered");
    let message = b.leave(mailbox, &audio(1_500)).await.message;
    b.hand_over(&a).await;
    assert_eq!(look_in(&a, 2).left, [(mailbox, message)]);
}

#[tokio::test]
async fn removed_mailbox_is_looked_at_until_the_recordings_for_it_have_ended() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let live = node.begin(mailbox).await;
    speak(&live, 0, &audio(1_500));
    node.mailstore.remove(mailbox).await.expect("removed");
    let found = look_in(&node, 2);
    assert_eq!(found.removable.len(), 1);
    assert_eq!(removable_mailboxes(&node, found.removable), 0);
    let message = live.file().await.expect("filed").message;
    assert_eq!(look_in(&node, 2).left, [(mailbox, message)]);
}
