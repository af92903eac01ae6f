//! One mailbox restored into a running cluster.

use std::fs;

use tempfile::TempDir;
use twinbox_backup::{BackupError, MailboxRestore, restore_mailbox};
use twinbox_mailbox::{Number, claim, schema};
use twinbox_mailstore::{MailError, Mark, MessageCounts, NewMailbox};
use twinbox_replication_core::{Edit, Value};
use twinbox_store_kit::{audio, open};

use crate::support::{Fixture, NEW, heard, silent};

fn order(to: Option<&str>) -> MailboxRestore {
    MailboxRestore { number: "1001".to_owned(), to: to.map(str::to_owned) }
}

#[tokio::test]
async fn deleted_messages_come_back_once_and_present_ones_are_left_alone() {
    let fixture = Fixture::new();
    let (node, mailbox) = (&fixture.node, fixture.node.mailbox().await);
    for ms in [1_000, 2_000] {
        node.leave(mailbox.id, &audio(ms)).await;
    }
    let before = heard(node, mailbox.id).await;
    let deleted = &before[1];
    fixture.create().await;
    node.mailstore.mark(mailbox.id, deleted.0.id, Mark::Deleted).await.expect("deleted");
    let backup = fixture.backups().remove(0);
    let restore = async || {
        let restored = restore_mailbox(&node.mailstore, &fixture.folder, &backup, &order(None), &silent()).await;
        restored.expect("restored")
    };
    let first = restore().await;
    assert_eq!((first.restored.len(), first.present, first.lost.len()), (1, 1, 0));
    let (from, id) = first.restored[0];
    assert!(from == deleted.0.id && id != from);
    let found = heard(node, mailbox.id).await;
    let (message, sound) = found.iter().find(|(message, _)| message.id == id).expect("the restored message");
    assert_eq!(*sound, deleted.1);
    assert_eq!((message.received, message.deleted), (deleted.0.received, false));
    assert!(before.iter().all(|(before, _)| before.uid < message.uid), "a new UID");
    let MessageCounts { new, .. } = node.mailstore.usage_now(mailbox.id).expect("counts").counts;
    assert_eq!(new, 2);

    let again = restore().await;
    assert_eq!((again.restored.len(), again.present), (0, 2), "restored messages are left alone");
    node.mailstore.mark(mailbox.id, id, Mark::Deleted).await.expect("deleted");
    assert_eq!(restore().await.restored.len(), 1, "it was deleted again");
}

/// A claim may stay behind a mailbox that both sides of a split renumbered.
#[tokio::test]
async fn number_in_a_backup_leads_to_the_mailbox_that_has_it_not_to_an_earlier_claimant() {
    let fixture = Fixture::new();
    let (node, earlier) = (&fixture.node, fixture.node.mailbox().await.id);
    let number = Number::normalise("1002").expect("a number");
    let claimed = node.store.commit(move |draft| {
        draft.edit(schema::number_key(&number), claim(earlier))?;
        Ok::<_, MailError>(())
    });
    claimed.await.expect("committed");
    let mailbox = node.mailstore.create(NewMailbox::new("1002", "2580")).await.expect("a mailbox").0.id;
    let message = node.leave(mailbox, &audio(1_000)).await.message;
    fixture.create().await;
    node.mailstore.mark(mailbox, message, Mark::Deleted).await.expect("deleted");
    let backup = fixture.backups().remove(0);
    let order = MailboxRestore { number: "1002".to_owned(), to: None };
    let restored = restore_mailbox(&node.mailstore, &fixture.folder, &backup, &order, &silent()).await;
    assert_eq!(restored.expect("restored").restored.len(), 1);
}

#[tokio::test]
async fn number_of_another_user_is_refused_without_its_name() {
    let fixture = Fixture::new();
    let (node, mailbox) = (&fixture.node, fixture.node.mailbox().await);
    node.leave(mailbox.id, &audio(1_000)).await;
    fixture.create().await;
    let backup = fixture.backups().remove(0);
    let restore = async |to: Option<&'static str>| {
        restore_mailbox(&node.mailstore, &fixture.folder, &backup, &order(to), &silent()).await
    };
    node.mailstore.remove(mailbox.id).await.expect("removed");
    assert!(matches!(restore(None).await, Err(BackupError::NoMailbox(_))));
    let other = node.mailstore.create(NewMailbox::new("1001", "2580")).await.expect("a mailbox").0;
    assert!(matches!(restore(None).await, Err(BackupError::OtherMailbox(_))));
    let restored = restore(Some("1001")).await.expect("restored");
    assert_eq!(restored.restored.len(), 1);
    assert_eq!(heard(node, other.id).await.len(), 1);
    let unknown = MailboxRestore { number: "4711".to_owned(), to: None };
    let refused = restore_mailbox(&node.mailstore, &fixture.folder, &backup, &unknown, &silent()).await;
    assert!(matches!(refused, Err(BackupError::NoMailboxInBackup { .. })), "{refused:?}");
}

#[tokio::test]
async fn part_of_a_message_comes_back_when_its_whole_audio_is_lost() {
    let fixture = Fixture::new();
    let (node, mailbox) = (&fixture.node, fixture.node.mailbox().await);
    node.leave(mailbox.id, &audio(2_000)).await;
    let before = heard(node, mailbox.id).await;
    let (message, whole) = &before[0];
    // The part that another node filed before the recording node came back.
    let part = node.store.blobs().put(whole[..8_000].to_vec().into()).await.expect("stored");
    let edit = Edit::Set(schema::message::RECOVERED_AUDIO, Value::Blob(part));
    let key = schema::message_key(mailbox.id, message.id);
    let write = move |draft: &mut twinbox_replication_store::Draft<'_>| draft.edit(key, vec![edit]);
    node.store.commit(write).await.expect("written");
    fixture.create().await;
    let lost = message.audio.as_ref().expect("audio").blob.hash;
    let mut files = fixture.audio_files();
    files.retain(|file| file.ends_with(lost.to_string()));
    fs::remove_file(&files[0]).expect("removed");

    node.mailstore.mark(mailbox.id, message.id, Mark::Deleted).await.expect("deleted");
    let backup = fixture.backups().remove(0);
    let restored = restore_mailbox(&node.mailstore, &fixture.folder, &backup, &order(None), &silent()).await;
    let restored = restored.expect("restored");
    assert_eq!((restored.restored.len(), &restored.lost[..]), (1, &[][..]));
    let after = heard(node, mailbox.id).await;
    let (message, sound) = after.iter().find(|(found, _)| found.id == restored.restored[0].1).expect("a message");
    assert!(message.is_partial() && sound[..] == whole[..8_000]);

    // A whole restore notes what is lost, so that the node offers the part.
    let dir = TempDir::new().expect("a directory");
    assert_eq!(fixture.restore(dir.path(), NEW).await.expect("restored").missing.len(), 1);
    let noted = open(&dir.path().join("store"), "a", 0).lost_blobs().expect("notes");
    assert_eq!(noted.iter().map(|blob| blob.hash).collect::<Vec<_>>(), [lost]);
}
