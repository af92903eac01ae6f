//! The watch of changes that need a look.

use tempfile::TempDir;
use twinbox_ids::DirectoryId;
use twinbox_mailbox::{
    Number, UserAddress,
    directory::{EntryId, schema as directory_schema},
    schema::{self as mailbox_schema, BY_EPOCH},
};
use twinbox_mailbox_sync_store::{MailboxSyncWatch, SyncChange};
use twinbox_mailstore::Mark;
use twinbox_replication_core::{Edit, Value};
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

/// Each row changes alone, as when it comes from a peer in a commit of its own.
#[tokio::test]
async fn watch_reports_names_bindings_and_withdrawn_recordings() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    node.leave(id, &audio(1_500)).await;
    let recordings = node.store.scan(mailbox_schema::RECORDING, &[]).expect("readable");
    let [(recording, _)] = &recordings[..] else { panic!("{} recordings", recordings.len()) };
    let address = UserAddress::address("anna@example.com").expect("an address");
    let binding = directory_schema::binding_key(DirectoryId(1), EntryId(2));
    let (number, second) = (Number::normalise("1001").expect("a number"), 2_u64.to_be_bytes());
    let mut watch = store.watch();
    for (what, key, tag, value, expected) in [
        ("a number", mailbox_schema::number_key(&number), 1, [0; 8], SyncChange::Settings),
        ("an address", mailbox_schema::address_key(&address), 1, [0; 8], SyncChange::Settings),
        ("a binding", binding, BY_EPOCH, [0; 8], SyncChange::Settings),
        ("another take", recording.clone(), mailbox_schema::recording::TAKE, second, SyncChange::Mailbox(id)),
    ] {
        let edits = vec![Edit::Set(tag, Value::Bytes(value.to_vec()))];
        node.mailstore.commit(move |draft| Ok(draft.edit(key, edits)?)).await.expect("changed");
        assert_eq!(next(&mut watch).await, expected, "{what}");
    }
}
