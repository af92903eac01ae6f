//! Prunes after a clock was wrong, and of backups of nodes without all records.

use std::{fs, num::NonZeroU32, path::Path};

use twinbox_backup::{BackupError, create, prune, verify};
use twinbox_store_kit::audio;

use crate::support::{Fixture, OLD, shift, silent};

/// Milliseconds of an hour.
const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn backup_of_the_future_refuses_prune_and_is_named() {
    let fixture = Fixture::new();
    let wrong = fixture.create().await;
    fixture.create().await;
    shift(&wrong, |began| began + 25 * HOUR_MS);
    let refused = prune(&fixture.folder, NonZeroU32::MIN, None);
    assert!(matches!(refused, Err(BackupError::FromFuture(_))), "{refused:?}");
    assert!(refused.is_err_and(|error| error.to_string().contains(&wrong.name)));
    assert_eq!(fixture.backups().len(), 2);
}

#[tokio::test]
async fn backup_that_was_just_made_stays_although_others_seem_newer() {
    let fixture = Fixture::new();
    let ahead = fixture.create().await;
    shift(&ahead, |began| began + 23 * HOUR_MS);
    let made = fixture.create().await;
    let pruned = prune(&fixture.folder, NonZeroU32::MIN, Some(&made.name)).expect("pruned");
    assert_eq!((pruned.kept, pruned.removed), (vec![made.name, ahead.name], vec![]));
}

#[tokio::test]
async fn backup_of_a_node_without_all_records_does_not_count() {
    let fixture = Fixture::new();
    fixture.node.store.set_cluster_id(OLD).await.expect("a cluster");
    let partial = create(&fixture.node.mailstore, &fixture.folder, "test", &silent()).await.expect("made");
    let whole = fixture.create().await;
    shift(&partial, |began| began + HOUR_MS);
    let pruned = prune(&fixture.folder, NonZeroU32::MIN, None).expect("pruned");
    assert_eq!((pruned.kept, pruned.removed), (vec![whole.name.clone(), partial.name.clone()], vec![]));
    // It goes when enough newer ones are there that count.
    let listed = fixture.backups();
    let next = fixture.create().await;
    shift(&next, |began| began + 2 * HOUR_MS);
    let pruned = prune(&fixture.folder, NonZeroU32::MIN, None).expect("pruned");
    assert_eq!((pruned.kept, pruned.removed), (vec![next.name], vec![whole.name, partial.name]));
    // A backup that a prune removed since it was listed has no faults.
    assert!(verify(&fixture.folder, &listed, &silent()).expect("verified").is_empty());
}

#[tokio::test]
async fn backup_whose_list_of_audio_is_damaged_pushes_no_whole_one_out() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    let [old, whole, damaged] = [fixture.create().await, fixture.create().await, fixture.create().await];
    fs::write(Path::new(&damaged.location).join("audio.list"), b"damaged").expect("written");
    let pruned = prune(&fixture.folder, NonZeroU32::MIN, None).expect("pruned");
    assert_eq!((pruned.kept, pruned.removed), (vec![whole.name.clone(), damaged.name], vec![old.name]));
    assert!(pruned.audio_stays.is_some() && pruned.audio == 0);
    let verified = verify(&fixture.folder, &fixture.backups(), &silent()).expect("verified");
    assert!(verified.iter().any(|backup| backup.name == whole.name && backup.is_whole()), "{verified:?}");
}
