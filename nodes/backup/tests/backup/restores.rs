//! A backup restored into the store of a new cluster.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;
use twinbox_backup::{BackupError, UnfinishedRestore, refuse_unfinished};
use twinbox_ids::{DeviceId, MessageId, Timestamp};
use twinbox_mailbox::{by_epoch, schema};
use twinbox_mailstore::{Mark, rows::mailbox_in};
use twinbox_outbox::{Cause, Channel, Effect, EffectState, NewEffect, Transition, schema as outbox};
use twinbox_replication_core::{Edit, Key, Table, Value};
use twinbox_replication_store::StoreError;
use twinbox_store_kit::{Node, audio, open};

use crate::support::{Fixture, NEW, OLD, heard};

/// A table of no release so far.
const UNKNOWN: Table = Table(50_000);

/// Name of the backup whose restore into this folder has not ended.
fn unfinished(dir: &Path) -> Option<String> {
    match refuse_unfinished(dir) {
        Err(UnfinishedRestore::Begun { backup, .. }) => Some(backup),
        _ => None,
    }
}

#[test]
fn data_folder_that_cannot_be_read_is_not_called_restored_in_part() {
    let dir = TempDir::new().expect("a directory");
    // Reads of what is below a file fail, as those of a folder of another user do.
    let file = dir.path().join("data");
    fs::write(&file, "no folder").expect("written");
    let refused = refuse_unfinished(&file);
    assert!(matches!(refused, Err(UnfinishedRestore::Unknown { .. })), "{refused:?}");
    assert!(refused.is_err_and(|error| !error.to_string().contains("restore")));
}

#[tokio::test]
async fn all_messages_come_back_with_their_audio_state_and_numbers() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    for ms in [1_000, 2_000, 3_000] {
        fixture.node.leave(mailbox.id, &audio(ms)).await;
    }
    let before = heard(&fixture.node, mailbox.id).await;
    fixture.node.mailstore.mark(mailbox.id, before[0].0.id, Mark::Saved).await.expect("saved");
    fixture.node.mailstore.mark(mailbox.id, before[1].0.id, Mark::Deleted).await.expect("deleted");
    let before = heard(&fixture.node, mailbox.id).await;
    let unknown = Key::new(UNKNOWN, *b"row");
    let (key, value) = (unknown.clone(), Value::Bytes(b"value".to_vec()));
    let write = move |draft: &mut twinbox_replication_store::Draft<'_>| draft.edit(key, vec![Edit::Set(9, value)]);
    fixture.node.store.commit(write).await.expect("written");
    fixture.create().await;

    let dir = TempDir::new().expect("a directory");
    let restored = fixture.restore(dir.path(), NEW).await.expect("restored");
    assert_eq!((restored.audio, restored.unreadable, restored.missing.len()), (3, 0, 0));
    let store = fs::metadata(dir.path().join("store")).expect("a folder");
    assert_eq!(store.permissions().mode() & 0o777, 0o700);
    let node = Node::alone(&dir.path().join("store"), "a");
    assert_eq!(node.store.cluster_id(), Some(NEW));
    let found = node.mailstore.find_by_number("1001").await.expect("read").expect("a mailbox");
    assert_eq!(found.id, mailbox.id);
    let after = heard(&node, mailbox.id).await;
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
    assert!(node.store.get(&unknown).expect("read").is_some(), "an unknown table is carried");
    // Numbers go on above those given.
    let highest = after.iter().filter_map(|(message, _)| message.uid).max();
    node.leave(mailbox.id, &audio(1_500)).await;
    let messages = node.mailstore.messages(mailbox.id).await.expect("messages");
    let uids: Vec<_> = messages.iter().filter_map(|message| message.uid).collect();
    assert!(uids.iter().max().copied() > highest, "{uids:?}");
}

#[tokio::test]
async fn audio_that_cannot_be_read_is_counted_and_the_rest_comes_back() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    for ms in [1_000, 2_000] {
        fixture.node.leave(mailbox.id, &audio(ms)).await;
    }
    fixture.create().await;
    // Reads of a directory fail, as those of a bad sector do.
    let file = fixture.audio_files().remove(0);
    fs::remove_file(&file).expect("removed");
    fs::create_dir(&file).expect("a folder");
    let dir = TempDir::new().expect("a directory");
    let restored = fixture.restore(dir.path(), NEW).await.expect("restored");
    assert_eq!((restored.audio, restored.missing.len()), (1, 1));
    assert!(restored.missing[0].contains(&file.display().to_string()), "{:?}", restored.missing);
    assert_eq!(unfinished(dir.path()), None);
}

#[tokio::test]
async fn effects_under_way_are_expired_and_done_ones_stay_done() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    let effect = |message: u128| NewEffect {
        cause: Cause { mailbox: mailbox.id, message: MessageId(message), transition: Transition::Filed },
        channel: Channel::Mail,
        target: DeviceId(1),
        repeat: 0,
        retry: 0,
        created: Timestamp(1),
        not_before: Timestamp(1),
        expires: Timestamp(u64::MAX),
    };
    let (pending, done) = (outbox::effect_key(effect(1).id()), outbox::effect_key(effect(2).id()));
    let (first, second) = (pending.clone(), done.clone());
    let (one, two) = (effect(1).edits(None), effect(2).edits(None));
    fixture
        .node
        .store
        .commit(move |draft| {
            draft.edit(first, one)?;
            draft.edit(second.clone(), two)?;
            draft.edit(second, twinbox_outbox::done(Timestamp(5), "sent"))
        })
        .await
        .expect("written");
    fixture.create().await;
    let dir = TempDir::new().expect("a directory");
    let restored = fixture.restore(dir.path(), NEW).await.expect("restored");
    assert_eq!(restored.expired, 1);
    let store = open(&dir.path().join("store"), "a", 0);
    let state = |key: &Key| {
        let record = store.get(key).expect("read").expect("an effect");
        Effect::read(key, &record).expect("readable").expect("present").state()
    };
    assert_eq!((state(&pending), state(&done)), (EffectState::Dead, EffectState::Done));
}

#[tokio::test]
async fn values_of_old_epochs_do_not_win_over_those_of_the_new_cluster() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    let key = schema::mailbox_key(mailbox.id);
    let epoch = |number| {
        by_epoch::Author::Duty(twinbox_ids::Epoch { generation: 0, number, node: twinbox_store_kit::name("a") })
    };
    let (row, author) = (key.clone(), epoch(90));
    let write = move |draft: &mut twinbox_replication_store::Draft<'_>| {
        let record = draft.get(&row)?.unwrap_or_default();
        let edit = by_epoch::put(&record, &author, Timestamp(1_000), b"old").expect("no other epoch");
        draft.edit(row, vec![edit])
    };
    fixture.node.store.commit(write).await.expect("written");
    fixture.create().await;
    let dir = TempDir::new().expect("a directory");
    fixture.restore(dir.path(), NEW).await.expect("restored");
    let store = open(&dir.path().join("store"), "a", 0);
    let record = store.get(&key).expect("read").expect("a mailbox");
    assert_eq!(by_epoch::newest(&record).expect("a value").value, b"old");
    assert!(by_epoch::put(&record, &epoch(1), Timestamp(2_000), b"new").is_ok());
}

#[tokio::test]
async fn store_in_use_and_the_same_cluster_are_refused() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    fixture.create().await;
    let dir = TempDir::new().expect("a directory");
    assert!(matches!(fixture.restore(dir.path(), OLD).await, Err(BackupError::SameCluster(OLD))));
    {
        let node = Node::alone(&dir.path().join("store"), "a");
        node.mailbox().await;
        let locked = fixture.restore(dir.path(), NEW).await;
        assert!(matches!(locked, Err(BackupError::Store(StoreError::Disk(_)))), "{locked:?}");
    }
    let used = fixture.restore(dir.path(), NEW).await;
    assert!(matches!(used, Err(BackupError::NotEmpty { users: 1, messages: 0, .. })), "{used:?}");
    assert_eq!(unfinished(dir.path()), None);
}

#[tokio::test]
async fn interrupted_restore_is_run_again_and_only_with_the_same_backup() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    let made = fixture.create().await;
    let dir = TempDir::new().expect("a directory");
    // As after a kill: the mark, and a part of the records.
    fixture.restore(dir.path(), NEW).await.expect("restored");
    fs::write(dir.path().join("restore-unfinished"), format!("{}\n", made.name)).expect("written");
    assert_eq!(unfinished(dir.path()), Some(made.name.clone()));
    let vector = {
        let store = open(&dir.path().join("store"), "a", 0);
        store.vector()
    };
    fixture.restore(dir.path(), NEW).await.expect("restored again");
    assert_eq!(unfinished(dir.path()), None);
    let node = Node::alone(&dir.path().join("store"), "a");
    assert_eq!(node.store.vector().total(), vector.total(), "nothing is written twice");
    let id = mailbox.id;
    node.store.commit(move |draft| mailbox_in(draft, id).map(|_| ())).await.expect("a mailbox");
    drop(node);

    fs::write(dir.path().join("restore-unfinished"), "another\n").expect("written");
    let other = fixture.restore(dir.path(), NEW).await;
    assert!(matches!(other, Err(BackupError::OtherUnfinished { .. })), "{other:?}");
    // A mark that is no text.
    fs::write(dir.path().join("restore-unfinished"), [0xff, 0xfe]).expect("written");
    assert!(unfinished(dir.path()).is_some_and(|name| name.starts_with("of unknown name (")));
    let unknown = fixture.restore(dir.path(), NEW).await;
    assert!(matches!(unknown, Err(BackupError::OtherUnfinished { .. })), "{unknown:?}");
}
