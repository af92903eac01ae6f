//! The watch of changes that need a look.

use tempfile::TempDir;
use twinbox_mailbox_sync_store::{MailboxSyncWatch, SyncChange};
use twinbox_mailstore::Mark;
use twinbox_store_kit::audio;

use crate::{MAIL, account, account_changes, at, bound, epoch, readdress, server_changes, with_account, write};

async fn next(watch: &mut MailboxSyncWatch) -> SyncChange {
    let next = tokio::time::timeout(std::time::Duration::from_secs(10), watch.next());
    next.await.expect("a change within ten seconds").expect("the store is open")
}

#[tokio::test]
async fn watch_reports_messages_and_settings_and_no_states() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let anna = account(&store, id).await;
    let mut watch = store.watch();
    let message = node.leave(id, &audio(1_500)).await.message;
    assert_eq!(next(&mut watch).await, SyncChange::Mailbox(id));
    write(&store, &anna, vec![(message, Some(bound(1)))], Some(at(2)), &epoch(1, "a")).await.unwrap();
    node.mailstore.unlock(id).await.unwrap();
    node.mailstore.mark(id, message, Mark::Heard).await.unwrap();
    assert_eq!(next(&mut watch).await, SyncChange::Mailbox(id), "states and sign-ins are not reported");

    store.set_account(id, None, account_changes(&["folder=Voice"])).await.unwrap();
    store.change_server(MAIL, server_changes(&["poll=120"])).await.unwrap();
    readdress(&node, id, "anna.l@example.com").await;
    node.mailstore.mark(id, message, Mark::Saved).await.unwrap();
    assert_eq!(next(&mut watch).await, SyncChange::Settings);
    assert_eq!(next(&mut watch).await, SyncChange::Mailbox(id), "changes of settings that came together are one");
}
