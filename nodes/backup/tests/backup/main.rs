//! Backups of real stores in process: made, verified, pruned, restored, damaged and interrupted.

mod buckets;
mod concurrent;
mod mailboxes;
mod outages;
mod prunes;
mod restores;
mod support;

use std::{
    fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use support::{Fixture, OLD, shift, silent};
use tempfile::TempDir;
use twinbox_backup::{BackupError, BackupFolder, EntryState, Observer, Phase, Progress, create, prune, verify};
use twinbox_disk::{Disk, Transaction};
use twinbox_replication_store::codec;
use twinbox_store_kit::{Node, audio};

fn keep(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("not zero")
}

#[tokio::test]
async fn second_backup_copies_only_new_audio_and_both_are_whole() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    let first = fixture.create().await;
    assert_eq!((first.manifest.audio.count, first.manifest.audio.copied), (1, 1));
    assert_eq!((first.manifest.mailboxes(), first.manifest.messages()), (1, 1));
    assert!(first.manifest.audio.missing.is_empty());

    fixture.node.leave(mailbox.id, &audio(3_000)).await;
    let second = fixture.create().await;
    assert_eq!((second.manifest.audio.count, second.manifest.audio.copied), (2, 1));
    let third = fixture.create().await;
    assert_eq!((third.manifest.audio.count, third.manifest.audio.copied), (2, 0));
    assert!(first.name < second.name && second.name < third.name, "names sort by time");

    let verified = verify(&fixture.folder, &fixture.backups(), &silent()).expect("verified");
    assert_eq!(verified.len(), 3);
    assert!(verified.iter().all(|verified| verified.is_whole()), "{verified:?}");
}

#[tokio::test]
async fn verify_names_each_damaged_file() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    let made = fixture.create().await;
    let faults = || {
        let verified = verify(&fixture.folder, &fixture.backups(), &silent()).expect("verified");
        verified.into_iter().flat_map(|verified| verified.faults).collect::<Vec<_>>()
    };
    let made_dir = Path::new(&made.location);
    let files = [fixture.audio_files().remove(0), made_dir.join("rows"), made_dir.join("audio.list")];
    for file in files {
        let right = fs::read(&file).expect("a file");
        let mut wrong = right.clone();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        fs::write(&file, &wrong).expect("written");
        let found = faults();
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(found.iter().any(|fault| fault.contains(&name)), "{name}: {found:?}");
        fs::write(&file, &right[..right.len() - 1]).expect("written");
        assert!(!faults().is_empty(), "{name} is cut");
        fs::write(&file, &right).expect("written");
        assert_eq!(faults(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn interrupted_backup_does_not_count_and_is_removed_by_prune() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    // Dropped at its first wait.
    {
        let work = fixture.node.mailstore.clone();
        let folder = fixture.folder.clone();
        let told = silent();
        let making = tokio::spawn(async move { create(&work, &folder, "test", &told).await.map(|made| made.name) });
        making.abort();
        let _ = making.await;
    }
    let made = fixture.create().await;
    let interrupted = fixture.dir().join("backups/20260101T000000.000Z-a");
    fs::create_dir(&interrupted).expect("a folder");
    fs::write(interrupted.join("rows"), b"TWINBOX ROWS 1\n").expect("written");
    let aside = fixture.audio_files().remove(0).with_extension("0123.part");
    fs::write(&aside, b"half").expect("written");
    let states: Vec<_> = fixture.folder.entries().expect("entries").into_iter().map(|entry| entry.state).collect();
    assert!(states.iter().any(|state| matches!(state, EntryState::Unfinished)));
    let newest = fixture.folder.find(None, None).expect("a backup");
    assert_eq!(newest.name, made.name);

    let pruned = prune(&fixture.folder, keep(5), None).expect("pruned");
    assert_eq!((pruned.removed, pruned.kept), (vec![], vec![made.name]));
    assert!(pruned.unfinished.contains(&"20260101T000000.000Z-a".to_owned()));
    assert!(!interrupted.exists() && !aside.exists());
    assert_eq!(fixture.audio_files().len(), 1);
}

/// Five bytes of audio that no backup has.
fn stray_audio(fixture: &Fixture) -> PathBuf {
    let folder = fixture.dir().join("audio/ab");
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("ab".repeat(32));
    fs::write(&file, b"audio").expect("written");
    file
}

#[tokio::test]
async fn prune_keeps_the_audio_of_the_backups_that_stay() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    fixture.create().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    fixture.create().await;
    let last = fixture.create().await;
    let stray = stray_audio(&fixture);
    assert_eq!(fixture.audio_files().len(), 3);
    let pruned = prune(&fixture.folder, keep(1), None).expect("pruned");
    assert_eq!((pruned.removed.len(), pruned.audio, pruned.bytes), (2, 1, 5), "the newest needs two: {pruned:?}");
    assert!(!stray.exists());
    assert_eq!(fixture.audio_files().len(), 2);
    let verified = verify(&fixture.folder, &fixture.backups(), &silent()).expect("verified");
    assert!(verified[0].is_whole() && verified[0].name == last.name);

    // A backup that cannot tell its audio keeps all of it.
    let stray = stray_audio(&fixture);
    fs::write(Path::new(&last.location).join("manifest.json"), b"{}").expect("written");
    let pruned = prune(&fixture.folder, keep(1), None).expect("pruned");
    assert!(pruned.audio_stays.is_some() && pruned.audio == 0, "{pruned:?}");
    assert!(stray.exists());
    assert_eq!(fixture.audio_files().len(), 3);
}

#[tokio::test]
async fn prune_leaves_folders_and_files_of_other_names() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    let made = fixture.create().await;
    let (backups, pool) = (fixture.dir().join("backups"), fixture.dir().join("audio"));
    let hash = "ab".repeat(32);
    let foreign = [
        backups.join("mysql/dump"),
        backups.join("20260101T000000.000Z/file"),
        backups.join("2026-01-01T00:00:00Z-a/file"),
        pool.join("music").join(&hash),
        pool.join(&hash),
        pool.join("ab/song.part"),
        pool.join("ab").join(format!("{hash}.wav")),
    ];
    for file in &foreign {
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, b"other").expect("written");
    }
    let elsewhere = fixture.dir().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    fs::write(elsewhere.join("rows"), b"other").expect("written");
    std::os::unix::fs::symlink(&elsewhere, backups.join("20260101T000000.000Z-a")).expect("a link");
    fs::write(elsewhere.join(&hash), b"other").expect("written");
    let free = (0..=u8::MAX).map(|first| pool.join(format!("{first:02x}"))).find(|folder| !folder.exists());
    std::os::unix::fs::symlink(&elsewhere, free.expect("a free name")).expect("a link");

    let names: Vec<_> = fixture.folder.entries().expect("entries").into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, std::slice::from_ref(&made.name));
    let pruned = prune(&fixture.folder, keep(1), None).expect("pruned");
    assert_eq!((pruned.kept, pruned.audio), (vec![made.name], 0));
    assert!(pruned.removed.is_empty() && pruned.unfinished.is_empty());
    for file in foreign.iter().chain(&[elsewhere.join("rows"), elsewhere.join(&hash)]) {
        assert!(file.exists(), "{}", file.display());
    }
}

#[tokio::test]
async fn audio_that_no_node_has_is_named_in_the_manifest() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    let other = Fixture::new();
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    // The records without their audio, as in a fill.
    let changes = fixture.node.store.changes_after(&other.node.store.vector(), usize::MAX).expect("changes");
    other.node.store.apply(changes).await.expect("applied");
    let made = other.create().await;
    assert_eq!((made.manifest.audio.count, made.manifest.audio.missing.len()), (0, 1));
    let verified = verify(&other.folder, &other.backups(), &silent()).expect("verified");
    assert!(verified[0].faults.is_empty() && verified[0].missing == 1, "{verified:?}");
}

#[tokio::test]
async fn audio_that_the_store_cannot_read_is_named_in_the_manifest() {
    let (mut fixture, dir) = (Fixture::new(), TempDir::new().expect("a directory"));
    let hash = {
        let node = Node::alone(dir.path(), "a");
        let mailbox = node.mailbox().await;
        node.leave(mailbox.id, &audio(2_000)).await;
        let messages = node.mailstore.messages(mailbox.id).await.expect("messages");
        messages[0].audio.as_ref().expect("audio").blob.hash
    };
    {
        // The places of its bytes are no longer as they were written.
        let disk = Disk::open(&dir.path().join("db")).expect("a disk");
        let write = move |rows: &mut Transaction<'_>| rows.put(codec::keys::blob(&hash), [codec::FORMAT]);
        disk.transact_blocking(write).expect("written");
    }
    fixture.node = Node::alone(dir.path(), "a");
    let made = fixture.create().await;
    let [missing] = &made.manifest.audio.missing[..] else { panic!("{:?}", made.manifest.audio) };
    assert!(missing.reason.contains("cannot be read"), "{}", missing.reason);
    assert_eq!(made.manifest.audio.count, 0);
}

#[tokio::test]
async fn backup_whose_records_were_removed_meanwhile_fails_and_leaves_nothing() {
    let fixture = Fixture::new();
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    fixture.create().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    let dir = fixture.dir().join("backups");
    let folders = move || fs::read_dir(&dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let first: Vec<_> = folders().collect();
    let (known, own) = (first.clone(), folders.clone());
    // As by a person who tidies up.
    let observer: Observer = Arc::new(move |progress: Progress| {
        if progress.phase == Phase::Sync {
            own().filter(|dir| !known.contains(dir)).for_each(|dir| fs::remove_dir_all(dir).expect("removed"));
        }
    });
    let failed = create(&fixture.node.mailstore, &fixture.folder, "test", &observer).await;
    assert!(matches!(failed, Err(BackupError::Vanished(_))), "{failed:?}");
    assert_eq!(folders().collect::<Vec<_>>(), first);
    // On the data disk of the node, what only this one copied takes no space.
    assert_eq!(fixture.audio_files().len(), 1);
    assert!(verify(&fixture.folder, &fixture.backups(), &silent()).expect("verified")[0].is_whole());
}

#[tokio::test]
async fn backup_on_the_data_disk_leaves_the_reserve_of_the_node_free() {
    let (mut fixture, dir) = (Fixture::new(), TempDir::new().expect("a directory"));
    Node::alone(dir.path(), "a").store.set_cluster_id(OLD).await.expect("a cluster");
    // Others may make room on the disk meanwhile.
    let reserve = fixture.node.store.space().expect("space").free * 2;
    fixture.node = Node::with(dir.path(), "a", 1, reserve, |_| {});
    let refused = create(&fixture.node.mailstore, &fixture.folder, "test", &silent()).await;
    assert!(matches!(refused, Err(BackupError::NoRoom { .. })), "{refused:?}");
    assert!(fixture.folder.entries().expect("entries").is_empty());
}

#[tokio::test]
async fn commands_that_add_or_read_wait_for_the_end_of_a_prune() {
    let fixture = Fixture::new();
    fixture.create().await;
    let lock = || {
        let lock = fs::File::open(fixture.dir().join("lock")).expect("a file");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("no other uses it");
        lock
    };
    let held = lock();
    let refused = create(&fixture.node.mailstore, &fixture.folder, "test", &silent()).await;
    assert!(matches!(refused, Err(BackupError::Busy(_))), "{refused:?}");
    drop(held);
    // Ends the prune that holds the lock when the command waits for it.
    let ends = |held: fs::File| -> Observer {
        let held = Mutex::new(Some(held));
        Arc::new(move |progress: Progress| {
            if progress.phase == Phase::Wait {
                held.lock().expect("a lock").take();
            }
        })
    };
    let patient = fixture.folder.clone().with_patience(Duration::from_secs(5));
    create(&fixture.node.mailstore, &patient, "test", &ends(lock())).await.expect("made");
    assert_eq!(verify(&patient, &fixture.backups(), &ends(lock())).expect("verified").len(), 2);
}

#[tokio::test]
async fn backup_of_a_node_without_all_records_is_used_only_by_its_name() {
    let fixture = Fixture::new();
    fixture.node.store.set_cluster_id(OLD).await.expect("a cluster");
    let partial = create(&fixture.node.mailstore, &fixture.folder, "test", &silent()).await.expect("made");
    let found = |name| fixture.folder.find(name, None).map(|found| found.name);
    let refused = found(None).expect_err("it lacks records").to_string();
    assert!(refused.contains("--backup"), "{refused}");
    assert_eq!(found(Some(&partial.name)).ok(), Some(partial.name.clone()));
    let whole = fixture.create().await;
    shift(&partial, |began| began + 60_000);
    assert_eq!(found(None).ok(), Some(whole.name));
    // An earlier release did not note it.
    let file = Path::new(&partial.location).join("manifest.json");
    let text = fs::read_to_string(&file).expect("a manifest").replace("\"has_all_records\":false,", "");
    fs::write(&file, text).expect("written");
    assert_eq!(found(None).ok(), Some(partial.name));
}

#[tokio::test]
async fn relative_folder_is_refused() {
    let fixture = Fixture::new();
    let folder = BackupFolder::at("backups");
    let refused = create(&fixture.node.mailstore, &folder, "test", &silent()).await;
    assert!(matches!(refused, Err(BackupError::Relative(_))), "{refused:?}");
}

#[tokio::test]
async fn folder_inside_the_data_folder_of_the_node_is_refused() {
    let fixture = Fixture::new();
    fixture.node.store.set_cluster_id(OLD).await.expect("a cluster");
    let dir = TempDir::new().expect("a directory");
    let data_dir = dir.path().join("data");
    fs::create_dir(&data_dir).expect("a folder");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&data_dir, &link).expect("a link");
    let create_at = async |folder: PathBuf| {
        let folder = BackupFolder::at(folder).outside(&data_dir);
        create(&fixture.node.mailstore, &folder, "test", &silent()).await
    };
    for inside in [data_dir.clone(), data_dir.join("new/backups"), link.join("backups")] {
        let refused = create_at(inside.clone()).await.expect_err("inside the data folder").to_string();
        let both = format!("{} is inside {}, ", inside.display(), data_dir.display());
        assert!(refused.starts_with(&both) && refused.contains("give a folder outside of it"), "{refused}");
    }
    assert_eq!(fs::read_dir(&data_dir).expect("a folder").count(), 0, "nothing is written there");
    create_at(dir.path().join("data-backups")).await.expect("a backup");
}
