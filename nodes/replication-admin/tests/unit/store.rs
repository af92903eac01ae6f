//! The check of a store whose audio is not all there.

use tempfile::TempDir;
use twinbox_ids::{BlobHash, MessageId};
use twinbox_mailbox::schema;
use twinbox_replication_core::{BlobRef, Edit, Value};
use twinbox_store_kit::{Node, audio};

use super::*;

#[tokio::test]
async fn recordings_that_a_node_still_receives_are_awaited_and_afterwards_missing_with_their_owners() {
    let (first, second) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let (a, b) = (Node::alone(first.path(), "a"), Node::alone(second.path(), "b"));
    let mailbox = a.mailbox().await;
    let filed = a.leave(mailbox.id, &audio(2_000)).await;
    let here = check(&a.store, true).await.expect("a check");
    assert_eq!((here.audio, here.missing, here.damaged, here.awaited), (1, 0, 0, 0), "{here:?}");

    // The records come before the audio.
    b.store.apply(a.store.changes_after(&b.store.vector(), 1_000).expect("changes")).await.expect("applied");
    b.store.set_filled(Filled::Records).await.expect("set");
    let filling = check(&b.store, true).await.expect("a check");
    assert_eq!((filling.awaited, filling.missing), (1, 0), "{filling:?}");
    assert!(filling.missing_audio.is_empty() && filling.owners.is_empty(), "{filling:?}");
    b.store.set_filled(Filled::Complete).await.expect("set");
    let lost = check(&b.store, false).await.expect("a check");
    assert_eq!((lost.awaited, lost.missing, lost.missing_audio.len()), (0, 1, 1), "{lost:?}");
    let owner = format!("message {} of mailbox {}", filed.message, mailbox.id);
    assert_eq!((&lost.owners[0].audio, &lost.owners[0].rows[..]), (&lost.missing_audio[0], &[owner][..]));
}

#[tokio::test]
async fn large_damage_is_counted_and_its_first_recordings_are_listed() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    let (mailbox, all) = (node.mailbox().await.id, LISTED + 5);
    node.mailstore
        .commit(move |draft| {
            for number in 0..all {
                let mut hash = [0; 32];
                hash[..8].copy_from_slice(&number.to_be_bytes());
                let blob = BlobRef { hash: BlobHash(hash), length: 10, recording: None };
                let row = schema::message_key(mailbox, MessageId(number as u128));
                draft.edit(row, vec![Edit::Set(1, Value::Blob(blob))])?;
            }
            Ok(())
        })
        .await
        .expect("a commit");
    node.store.set_filled(Filled::Complete).await.expect("set");
    let reply = check(&node.store, false).await.expect("a check");
    assert_eq!((reply.missing, reply.missing_audio.len(), reply.owners.len()), (all as u64, LISTED, LISTED));
}
