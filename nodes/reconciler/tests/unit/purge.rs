//! Tries of PINs leave the disk when they count no longer.

use twinbox_ids::Pii;
use twinbox_mailstore::PinCheck;
use twinbox_store_kit::Node;

use super::*;

const HOUR: u64 = 3_600_000;

#[tokio::test]
async fn tries_of_pins_are_deleted_three_windows_later_and_purged_after_the_grace() {
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
    let purge = async |now: Timestamp| {
        let due = |row: &DeletedRow| policy::removal(&row.key, &row.record, false, row.seen, now, HOUR);
        let due: Vec<_> = deleted().into_iter().filter_map(|row| due(&row).map(|removal| (row, removal))).collect();
        node.store.purge(due).await.expect("purged").whole
    };
    assert_eq!((purge(wall()).await, rows()), (0, 2), "in the grace");
    assert_eq!((purge(at(5)).await, rows()), (2, 0));
    // A later try counts as the first one.
    mailstore.check_pin(mailbox, &Pii::new("0000".to_owned()), "").await.expect("checked");
    assert_eq!(rows(), 1);
}
