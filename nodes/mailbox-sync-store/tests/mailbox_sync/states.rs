//! States of messages by epoch, and marks for what was seen in the mail account.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;
use twinbox_ids::MessageId;
use twinbox_mailbox_sync::{AccountState, Link, LocalState, MessageState};
use twinbox_mailbox_sync_store::{MailboxSyncError, MailboxSyncStore, MarkedHere};
use twinbox_mailstore::{Folder, MailError, Mark};
use twinbox_store_kit::audio;

use crate::{
    MAIL, account, account_changes, at, bound, disable, epoch, founder, readdress, server_changes, with_account,
    write,
};

fn is_stale<T>(result: &Result<T, MailboxSyncError>) -> bool {
    matches!(result, Err(MailboxSyncError::Mail(MailError::StaleEpoch(_))))
}

#[tokio::test]
async fn stale_epoch_is_refused_and_a_newer_one_wins_in_both_orders_of_merge() {
    let dir = TempDir::new().unwrap();
    let (a, on_a, id) = with_account(&dir, "a").await;
    let b = founder(&dir, "b").await;
    let on_b = MailboxSyncStore::of(&b.mailstore);
    let message = a.leave(id, &audio(1_500)).await.message;
    a.hand_over(&b).await;
    let anna = account(&on_a, id).await;
    assert_eq!(account(&on_b, id).await, anna);
    write(&on_b, &anna, vec![(message, Some(bound(20)))], Some(at(21)), &epoch(2, "b")).await.unwrap();
    // Node a writes last, and in the older epoch.
    write(&on_a, &anna, vec![(message, Some(bound(10)))], Some(at(11)), &epoch(1, "a")).await.unwrap();
    assert_eq!(on_a.rows(id).await.unwrap(), BTreeMap::from([(message, bound(10))]));
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for store in [&on_a, &on_b] {
        assert_eq!(store.rows(id).await.unwrap(), BTreeMap::from([(message, bound(20))]));
        assert_eq!(store.effective().await.unwrap().accounts, [(anna.clone(), at(21))]);
        let row = write(store, &anna, vec![(message, None)], None, &epoch(1, "a")).await;
        assert!(is_stale(&row), "{row:?}");
        let state = write(store, &anna, vec![], Some(at(30)), &epoch(1, "a")).await;
        assert!(is_stale(&state), "{state:?}");
        // A row that the newer epoch has not written is no exception.
        let new = write(store, &anna, vec![(MessageId(9), Some(bound(3)))], None, &epoch(1, "a")).await;
        assert!(is_stale(&new), "{new:?}");
        let marked = MarkedHere {
            message,
            expected: bound(1).local,
            partial: false,
            marks: vec![Mark::Heard],
            then: bound(20),
        };
        let marked = store.mark_here(&anna, marked, &epoch(1, "a"), || Some(())).await;
        assert!(is_stale(&marked), "{marked:?}");
    }
    write(&on_a, &anna, vec![(message, None)], Some(at(40)), &epoch(3, "a")).await.unwrap();
    assert!(on_a.rows(id).await.unwrap().is_empty());
    a.hand_over(&b).await;
    assert!(on_b.rows(id).await.unwrap().is_empty());
}

#[tokio::test]
async fn marks_are_made_once_and_not_after_a_change_in_between() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let message = node.leave(id, &audio(1_500)).await.message;
    let anna = account(&store, id).await;
    let local = |folder, deleted| LocalState { folder, deleted };
    let mark = async |expected, marks: &[Mark], then: LocalState| {
        let then = MessageState { local: then, ..bound(1) };
        let marked = MarkedHere { message, expected, partial: false, marks: marks.to_vec(), then };
        store.mark_here(&anna, marked, &epoch(1, "a"), || Some(())).await
    };
    let state = async || {
        let found = node.mailstore.message(id, message).await.unwrap().expect("a message");
        let row = store.rows(id).await.unwrap().get(&message).map(|row| row.local);
        (local(found.folder, found.deleted), row)
    };
    let (new, heard, saved) = (local(Folder::New, false), local(Folder::Heard, false), local(Folder::Saved, false));
    assert!(mark(new, &[Mark::Heard], heard).await.unwrap());
    assert_eq!(state().await, (heard, Some(heard)));
    assert!(!mark(new, &[Mark::Heard], heard).await.unwrap(), "it is heard already");

    node.mailstore.mark(id, message, Mark::Saved).await.unwrap();
    let written = node.store.vector();
    let deleted = local(Folder::Heard, true);
    assert!(!mark(heard, &[Mark::Deleted], deleted).await.unwrap(), "it was saved meanwhile");
    assert_eq!((state().await, node.store.vector()), ((saved, Some(heard)), written));
    assert!(mark(saved, &[Mark::New, Mark::Deleted], local(Folder::New, true)).await.unwrap());
    assert_eq!(state().await.0, local(Folder::New, true));
    assert!(mark(local(Folder::New, true), &[Mark::Undeleted], new).await.unwrap());
    assert_eq!(state().await, (new, Some(new)));

    let lost = MarkedHere { message, expected: new, partial: false, marks: vec![Mark::Heard], then: bound(1) };
    let lost = store.mark_here(&anna, lost, &epoch(1, "a"), || None::<()>).await;
    assert!(matches!(lost, Err(MailboxSyncError::Mail(MailError::DutyLost))), "{lost:?}");
    disable(&node, id, true).await;
    let left_out = mark(new, &[Mark::Heard], heard).await;
    assert!(matches!(left_out, Err(MailboxSyncError::AccountChanged)), "{left_out:?}");
    assert_eq!(state().await.0, new);
}

#[tokio::test]
async fn rows_beyond_one_commit_are_written_under_permits_and_the_state_last() {
    let dir = TempDir::new().unwrap();
    let (_node, store, id) = with_account(&dir, "a").await;
    let anna = account(&store, id).await;
    let rows = || (1..=300_u32).map(|n| (MessageId(u128::from(n)), Some(bound(n)))).collect::<Vec<_>>();
    let permits = AtomicUsize::new(0);
    let permit = || (permits.fetch_add(1, Ordering::SeqCst) < 2).then_some(());
    let lost = store.write(&anna, rows(), Some(at(301)), &epoch(1, "a"), permit).await;
    assert!(matches!(lost, Err(MailboxSyncError::Mail(MailError::DutyLost))), "{lost:?}");
    assert_eq!(store.rows(id).await.unwrap().len(), 256);
    assert_eq!(store.effective().await.unwrap().accounts, [(anna.clone(), AccountState::default())]);
    write(&store, &anna, rows(), Some(at(301)), &epoch(1, "a")).await.unwrap();
    assert_eq!(store.rows(id).await.unwrap().len(), 300);
    assert_eq!(store.effective().await.unwrap().accounts, [(anna, at(301))]);
}

#[tokio::test]
async fn states_of_another_folder_account_or_host_do_not_count() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let (first, second) = (MessageId(1), MessageId(2));
    let mut stored = account(&store, id).await;
    write(&store, &stored, vec![(first, Some(bound(1)))], Some(at(2)), &epoch(1, "a")).await.unwrap();
    for change in ["folder", "address", "host"] {
        match change {
            "folder" => drop(store.set_account(id, None, account_changes(&["folder=Voice"])).await.unwrap()),
            "address" => readdress(&node, id, "anna.l@example.com").await,
            _ => drop(store.change_server(MAIL, server_changes(&["host=other.example.com"])).await.unwrap()),
        }
        assert!(store.rows(id).await.unwrap().is_empty(), "{change}");
        let now = account(&store, id).await;
        assert_eq!(store.effective().await.unwrap().accounts, [(now.clone(), AccountState::default())], "{change}");
        if now != stored {
            let late = write(&store, &stored, vec![(first, Some(bound(5)))], None, &epoch(1, "a")).await;
            assert!(matches!(late, Err(MailboxSyncError::AccountChanged)), "{change}: {late:?}");
        }
        write(&store, &now, vec![(second, Some(bound(1)))], None, &epoch(1, "a")).await.unwrap();
        let rows = store.rows(id).await.unwrap();
        assert_eq!(rows, BTreeMap::from([(second, bound(1))]), "{change}: the rows before are gone");
        write(&store, &now, vec![(first, Some(bound(1))), (second, None)], Some(at(2)), &epoch(1, "a"))
            .await
            .unwrap();
        stored = now;
    }
}

#[tokio::test]
async fn states_that_the_other_side_of_a_split_wrote_for_another_folder_do_not_count() {
    let dir = TempDir::new().unwrap();
    let (a, on_a, id) = with_account(&dir, "a").await;
    let b = founder(&dir, "b").await;
    let on_b = MailboxSyncStore::of(&b.mailstore);
    let (first, second) = (MessageId(1), MessageId(2));
    a.hand_over(&b).await;
    // One side goes on in the old folder, and the account gets another one on the other side.
    let old = account(&on_b, id).await;
    write(&on_b, &old, vec![(first, Some(bound(20)))], Some(at(21)), &epoch(2, "b")).await.unwrap();
    on_a.set_account(id, None, account_changes(&["folder=Voice"])).await.unwrap();
    let new = account(&on_a, id).await;
    write(&on_a, &new, vec![(second, Some(bound(1)))], Some(at(2)), &epoch(3, "a")).await.unwrap();
    b.hand_over(&a).await;
    a.hand_over(&b).await;
    for store in [&on_a, &on_b] {
        assert_eq!(store.rows(id).await.unwrap(), BTreeMap::from([(second, bound(1))]));
        assert_eq!(store.effective().await.unwrap().accounts, [(new.clone(), at(2))]);
    }
}

#[tokio::test]
async fn deletion_of_a_part_is_not_made_once_the_message_is_whole() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let message = node.leave(id, &audio(1_500)).await.message;
    let anna = account(&store, id).await;
    let local = LocalState { folder: Folder::New, deleted: false };
    let then = MessageState { local: LocalState { deleted: true, ..local }, link: Link::Gone, ..bound(1) };
    let of_part = |partial| MarkedHere { message, expected: local, partial, marks: vec![Mark::Deleted], then };
    let marked = store.mark_here(&anna, of_part(true), &epoch(1, "a"), || Some(())).await;
    assert!(!marked.unwrap(), "the plan saw a part");
    assert!(!node.mailstore.message(id, message).await.unwrap().expect("a message").deleted);
    assert!(store.mark_here(&anna, of_part(false), &epoch(1, "a"), || Some(())).await.unwrap());
}
