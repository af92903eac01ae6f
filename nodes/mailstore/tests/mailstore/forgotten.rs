//! Records of recordings go when nothing can come of them any more (rule D3).

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::{Incarnation, MailboxId, MessageId, RecordingId, Timestamp};
use twinbox_mailbox::{
    purge,
    schema::{MESSAGE, RECORDING, message_key, recording_key},
};
use twinbox_mailstore::{
    MailError,
    rows::{forget_recording, is_forgettable, note_purged},
};
use twinbox_replication_core::{Edit, Key, Table};
use twinbox_replication_store::{Draft, Filled, Removal};
use twinbox_store_kit::{Node, audio, eventually, name, speak};

const DAY: u64 = 86_400_000;

fn in_days(days: u64) -> Timestamp {
    Timestamp(wall().0 + days * DAY)
}

async fn edit(node: &Node, change: impl FnOnce(&mut Draft<'_>) -> Result<(), MailError> + Send + 'static) {
    node.mailstore.commit(change).await.expect("a commit");
}

fn is_forgettable_in(node: &Node, key: &Key, days: u64) -> bool {
    let record = node.store.get(key).expect("a read").expect("a record");
    is_forgettable(&node.store, key, &record, in_days(days)).expect("a decision")
}

/// Removes the deleted rows of a table, as the purge does; their number.
async fn remove_rows(node: &Node, table: Table) -> u64 {
    let rows = node.store.deleted_rows(table, None, 100).expect("rows");
    let rows = rows.into_iter().map(|row| (row, Removal::Whole)).collect();
    node.store.purge(rows).await.expect("a purge").whole
}

/// Purges a message, with the note of that in the record of its recording.
async fn purge_message(node: &Node, mailbox: MailboxId, id: MessageId) {
    edit(node, move |draft| {
        let key = message_key(mailbox, id);
        draft.edit(key.clone(), vec![Edit::Delete])?;
        note_purged(draft, id)?;
        let record = draft.get(&key)?.unwrap_or_default();
        Ok(draft.edit(key, purge(&record))?)
    })
    .await;
}

#[tokio::test]
async fn record_of_a_recording_goes_thirty_days_after_a_message_that_is_gone() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let id = node.leave(mailbox, &audio(2_000)).await.message;
    let key = recording_key(RecordingId(id.0));

    assert!(!is_forgettable_in(&node, &key, 400), "its message is there");
    purge_message(&node, mailbox, id).await;
    assert!(!is_forgettable_in(&node, &key, 400), "the row of its message is there");
    assert_eq!(remove_rows(&node, MESSAGE).await, 1);
    assert!(!is_forgettable_in(&node, &key, 29), "something may come of it");
    assert!(is_forgettable_in(&node, &key, 31));

    let forget = |days| {
        let key = key.clone();
        edit(&node, move |draft| forget_recording(draft, key, in_days(days)))
    };
    forget(29).await;
    assert_eq!(remove_rows(&node, RECORDING).await, 0);
    forget(31).await;
    let changes = node.store.log_changes();
    forget(31).await;
    assert_eq!(node.store.log_changes(), changes, "a second time changes nothing");
    assert!(is_forgettable_in(&node, &key, 31), "a deleted record is read as before");
    assert_eq!(remove_rows(&node, RECORDING).await, 1);
    assert_eq!(node.store.get(&key).expect("a read"), None);
}

#[tokio::test]
async fn record_of_a_discarded_recording_goes_too() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let (live, discarded) = (node.begin(mailbox).await, node.begin(mailbox).await);
    for recording in [&live, &discarded] {
        speak(recording, 0, &audio(2_000));
    }
    discarded.discard().await.expect("it is discarded");
    for (recording, goes) in [(&live, false), (&discarded, true)] {
        let key = recording_key(RecordingId(recording.message().0));
        assert_eq!(is_forgettable_in(&node, &key, 31), goes);
    }
}

#[tokio::test]
async fn late_audio_of_a_recording_whose_record_is_gone_is_discarded() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    let (old, young) = (RecordingId::at(Timestamp(wall().0 - 31 * DAY)), RecordingId::at(wall()));
    for id in [old, young] {
        node.store.recordings().insert(id, 1, 0, audio(2_000).into()).expect("a chunk");
    }
    let open = || node.store.recordings().open().into_iter().map(|(id, _, _)| id).collect::<Vec<_>>();
    eventually("the chunks are there", async || open().len() == 2).await;
    let look = async || {
        let filed = node.mailstore.file_orphans_of(&name("b"), Some(Incarnation::random())).await;
        assert!(filed.expect("a look").is_empty());
    };
    look().await;
    assert_eq!(open().len(), 2, "the record may come with the rest of the cluster's data");
    node.store.set_filled(Filled::Records).await.expect("it is filled");
    look().await;
    assert_eq!(open().len(), 2, "the purge has not come so far: the wall clock may be wrong");
    node.store.set_purge_clock(wall()).await.expect("the clock of the purge");
    look().await;
    eventually("the old one is discarded", async || open() == [young]).await;
}
