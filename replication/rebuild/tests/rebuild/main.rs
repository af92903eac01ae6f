//! Stores that are damaged and built again, on real files.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tempfile::TempDir;
use twinbox_disk::{Disk, DiskError, Transaction};
use twinbox_ids::{ClusterId, RecordingId};
use twinbox_rebuild::{RebuildError, find, open, overwrite};
use twinbox_replication_core::{BlobRef, Edit, Key, Record, Table, Value};
use twinbox_replication_store::{Filled, Store, StoreConfig, StoreError};

const TABLE: Table = Table(7);
/// Records that both nodes have.
const SHARED: usize = 40;

fn config(dir: &Path, node: &str) -> StoreConfig {
    StoreConfig { dir: dir.to_owned(), node: node.parse().expect("a name"), reserve_bytes: 1 }
}

fn key(id: &str) -> Key {
    Key::new(TABLE, id)
}

async fn write(store: &Store, id: &str, value: Value) {
    let key = key(id);
    let committed = store.commit(move |draft| draft.edit(key, vec![Edit::Set(1, value)])).await;
    committed.map(drop).expect("a commit");
}

fn records(store: &Store) -> Vec<(Key, Record)> {
    store.scan(TABLE, b"").expect("a scan")
}

/// Audio without repetition.
fn audio(seed: u32, length: u32) -> Vec<u8> {
    (0..length).map(|n| ((n ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Records audio in chunks and files it under `id`, as a call does.
async fn deposit(store: &Store, id: &str, audio: &[u8]) -> BlobRef {
    let recording = RecordingId::random();
    store.recordings().begin(recording, 1).await.expect("a take");
    for (n, chunk) in audio.chunks(2_000).enumerate() {
        let chunk = Bytes::copy_from_slice(chunk);
        store.recordings().append(recording, 1, 2_000 * n as u64, chunk).expect("a chunk");
    }
    let blob = store.recordings().seal(recording, 1).await.expect("a blob").blob;
    write(store, id, Value::Blob(blob)).await;
    blob
}

/// Gives `to` what it says it lacks, as a stream does in a fill.
async fn hand_over(from: &Store, to: &Store) {
    let changes = from.changes_after(&to.vector(), usize::MAX).expect("changes");
    to.apply(changes).await.expect("applied");
}

/// Fetches the audio that is missing from another store; returns the number of pieces.
async fn fetch(from: &Store, to: &Store) -> usize {
    let missing = to.missing_audio(false, None).expect("a list").blobs;
    for blob in &missing {
        let bytes = from.blobs().read(&blob.hash).await.expect("the other node has it");
        to.blobs().put_as(blob.hash, bytes).await.expect("stored");
    }
    missing.len()
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("a write");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file() && fs::metadata(path).is_ok_and(|file| file.len() > 0));
    files.sort();
    files
}

/// Damages the index so that it cannot be opened: every opening reads its newest snapshot.
fn spoil_index(dir: &Path) {
    let index = files(&dir.join("db/index"));
    let snapshot = index.iter().rfind(|path| path.to_string_lossy().contains("/snap.")).expect("a snapshot");
    flip(snapshot, fs::metadata(snapshot).expect("a snapshot").len() / 2);
    let error = Store::open(config(dir, "a")).err().expect("a refusal");
    assert!(error.is_damage(), "{error}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), &to).expect("a copy")),
        }
    }
}

/// A store that was used by several processes, and another node that has what it had before the last deposit. Both are
/// complete; the first one is closed.
async fn pair() -> (TempDir, Store, TempDir, BlobRef) {
    let (dir, other_dir) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let other = open(config(other_dir.path(), "b")).await.expect("a store");
    let store = open(config(dir.path(), "a")).await.expect("a store");
    for store in [&store, &other] {
        store.set_filled(Filled::Complete).await.expect("the mark");
    }
    for n in 0..SHARED {
        write(&store, &format!("shared {n:03}"), Value::Bytes(vec![n as u8; 500])).await;
    }
    for n in 0..3 {
        deposit(&store, &format!("message {n}"), &audio(n, 30_000)).await;
    }
    hand_over(&store, &other).await;
    fetch(&store, &other).await;
    drop(store);
    let store = open(config(dir.path(), "a")).await.expect("a store");
    write(&other, "of b", Value::Bytes(vec![1; 100])).await;
    hand_over(&other, &store).await;
    // Acknowledged alone: the other node has neither the record nor the audio.
    let alone = deposit(&store, "alone", &audio(9, 50_000)).await;
    drop(store);
    (dir, other, other_dir, alone)
}

#[tokio::test(flavor = "multi_thread")]
async fn store_with_an_unreadable_index_is_built_again_and_loses_nothing() {
    let (dir, other, _other_dir, alone) = pair().await;
    spoil_index(dir.path());
    let store = open(config(dir.path(), "a")).await.expect("it is built again");

    // The store claims no data that it does not have (rules D1, D13).
    assert_eq!(store.filled(), Filled::Partly);
    assert_eq!(store.own_origins(), [store.origin()], "a new store");
    assert!(store.fill_missed().is_empty());
    for (origin, upto) in store.vector().iter() {
        assert!((1..=upto).all(|seq| store.has(origin, seq)), "{origin} to {upto}");
    }
    let set_aside = find(&dir.path().join("db")).expect("the folders");
    assert_eq!(set_aside.len(), 1);
    let taken_over = set_aside[0].taken_over.clone().expect("a note");
    assert!(
        taken_over.contains("changes taken over") && set_aside[0].folder.join("index").is_dir(),
        "{taken_over}"
    );

    // Changes that only this store had reach the other node, with their audio (rule D2).
    hand_over(&store, &other).await;
    assert_eq!(fetch(&store, &other).await, 1, "the audio of the deposit alone");
    assert_eq!(other.blobs().read(&alone.hash).await.expect("audio"), audio(9, 50_000));
    // Changes that it lacks come back.
    hand_over(&other, &store).await;
    assert_eq!(records(&store), records(&other));
    assert_eq!(records(&store).len(), SHARED + 5);
    assert_eq!(fetch(&other, &store).await, 0, "all audio was found in the packs");

    // The next start finds it as it is.
    let vector = store.vector();
    drop(store);
    let store = open(config(dir.path(), "a")).await.expect("a store");
    assert_eq!((store.vector(), records(&store)), (vector, records(&other)));
    assert_eq!(find(&dir.path().join("db")).expect("the folders"), set_aside, "nothing is taken over twice");
}

/// A bit in each kind of file, at several places: the store opens, or is built again, and after the exchange with the other
/// node it has everything that either had. The change that only this node had may be lost with the batch that is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_anywhere_are_repaired_from_the_other_node() {
    let (original, other, _other_dir, _) = pair().await;
    let (mut rebuilt, mut opened, mut runs) = (0, 0, 0);
    for folder in ["db/index", "db/journal", "db/runs", "audio"] {
        for file in files(&original.path().join(folder)) {
            let length = fs::metadata(&file).expect("a file").len();
            let middle = if folder == "audio" { 40_000 } else { length / 2 };
            // A pack is zeros behind its frames, a segment behind its batches, and a run behind its blocks, here the first bytes.
            let more: &[u64] = if folder == "db/runs" { &[150, 400, 1_000] } else { &[] };
            for at in [0, 30, 4_200, 9_000, 20_000, middle, length - 1].into_iter().chain(more.iter().copied()) {
                let at = at.min(length - 1);
                let dir = TempDir::new().expect("a folder");
                copy(original.path(), dir.path());
                let name = format!("{folder}/{}", file.file_name().expect("a name").to_string_lossy());
                flip(&dir.path().join(&name), at);
                let place = format!("{name}, byte {at}");
                let store = open(config(dir.path(), "a")).await.unwrap_or_else(|error| panic!("{place}: {error}"));
                let was_rebuilt = !find(&dir.path().join("db")).expect("the folders").is_empty();
                if was_rebuilt {
                    assert_eq!(store.filled(), Filled::Partly, "{place}");
                    rebuilt += 1;
                    runs += u32::from(folder == "db/runs");
                } else {
                    opened += 1;
                }
                hand_over(&other, &store).await;
                fetch(&other, &store).await;
                for (key, record) in records(&other) {
                    assert_eq!(store.get(&key), Ok(Some(record.clone())), "{place}");
                    for blob in record.blobs() {
                        // Damaged audio is told, and replaced by the other node's.
                        if let Err(error) = store.blobs().read(&blob.hash).await {
                            assert_eq!(error, StoreError::Corrupt(blob.hash), "{place}");
                            let bytes = other.blobs().read(&blob.hash).await.expect("audio");
                            store.blobs().put_as(blob.hash, bytes).await.expect("repaired");
                            store.blobs().read(&blob.hash).await.expect("it is whole again");
                        }
                    }
                }
            }
        }
    }
    println!("{rebuilt} were built again, {runs} of them for the log of changes; {opened} opened");
    assert!(
        rebuilt > 3 && opened > 3 && runs > 1,
        "{rebuilt} were built again, {runs} for the log, {opened} opened"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_rebuild_goes_on_at_the_next_start() {
    let (dir, other, _other_dir, alone) = pair().await;
    spoil_index(dir.path());
    // Killed right after the index was set aside, and again before all was taken over.
    let index = dir.path().join("db");
    let aside = twinbox_disk::set_aside(&index, 5).expect("set aside");
    let first = Store::open(config(dir.path(), "a")).expect("an empty store");
    assert_eq!(records(&first), []);
    drop(first);
    let store = open(config(dir.path(), "a")).await.expect("it goes on");
    assert!(store.get(&key("alone")).expect("a read").is_some() && store.blobs().has(&alone.hash));
    hand_over(&other, &store).await;
    assert_eq!(records(&store).len(), SHARED + 5);
    assert_eq!(find(&index).expect("the folders")[0].folder, aside);
}

/// A row that opening reads, not as this release writes it.
#[tokio::test(flavor = "multi_thread")]
async fn store_whose_own_rows_are_not_readable_is_built_again_but_not_one_of_another_format() {
    for (row, damaged) in [(&[3, 77][..], true), (&[9, 0][..], false), (&[1, 0][..], false)] {
        let (dir, _other, _other_dir, _) = pair().await;
        let disk = Disk::open(&dir.path().join("db")).expect("the index");
        let row = row.to_vec();
        let write = move |transaction: &mut Transaction<'_>| transaction.put(*b"m/filled", row);
        disk.transact_blocking::<_, DiskError, _>(write).expect("written");
        drop(disk);
        let opened = open(config(dir.path(), "a")).await;
        let aside = find(&dir.path().join("db")).expect("the folders").len();
        match damaged {
            true => assert!(opened.is_ok() && aside == 1),
            false => assert!(matches!(opened, Err(RebuildError::Store(StoreError::Format { .. }))) && aside == 0),
        }
    }
}

/// A take in progress is found again, and one that has ended is not.
#[tokio::test(flavor = "multi_thread")]
async fn takes_in_progress_outlive_the_index() {
    let (dir, _other, _other_dir, _) = pair().await;
    let store = open(config(dir.path(), "a")).await.expect("a store");
    let recording = RecordingId::random();
    store.recordings().begin(recording, 1).await.expect("a take");
    store.recordings().append(recording, 1, 0, Bytes::from(audio(3, 4_000))).expect("a chunk");
    store.recordings().written().await.expect("written");
    drop(store);
    spoil_index(dir.path());
    let store = open(config(dir.path(), "a")).await.expect("it is built again");
    let open = store.recordings().open();
    assert!(open.contains(&(recording, 1, 4_000)), "{open:?}");
    assert_eq!(store.recordings().read(recording, 1, 0..4_000).await.expect("audio"), audio(3, 4_000));
}

/// A store that opens, but is not to be trusted: a row of it is gone, and one is not as the other node has it.
#[tokio::test(flavor = "multi_thread")]
async fn overwritten_store_hands_over_what_only_it_has_and_keeps_no_row_of_its_own() {
    let cluster = ClusterId::random();
    let (dir, other, _other_dir, alone) = pair().await;
    let store = open(config(dir.path(), "a")).await.expect("a store");
    store.set_cluster_id(cluster).await.expect("its cluster");
    store.set_filled(Filled::Complete).await.expect("the mark");
    let used = overwrite(config(dir.path(), "a"), cluster).await;
    assert!(matches!(used, Err(RebuildError::Store(_))), "a node that runs: {used:?}");
    drop(store);
    let lost = key("alone");
    let row = [&b"r"[..], &TABLE.0.to_be_bytes(), &lost.id].concat();
    let disk = Disk::open(&dir.path().join("db")).expect("the index");
    let remove = move |transaction: &mut Transaction<'_>| {
        transaction.remove(row);
        Ok::<_, DiskError>(())
    };
    disk.transact_blocking(remove).expect("removed");
    drop(disk);

    let foreign = overwrite(config(dir.path(), "a"), ClusterId::random()).await;
    assert!(matches!(foreign, Err(RebuildError::OtherCluster { .. })), "{foreign:?}");
    assert_eq!(find(&dir.path().join("db")).expect("the folders"), [], "nothing was changed");

    let done = overwrite(config(dir.path(), "a"), cluster).await.expect("overwritten");
    assert!(done.taken_over.is_whole() && done.taken_over.changes > 5, "{done:?}");
    assert_eq!(done.cut, Some(0));
    let aside = find(&dir.path().join("db")).expect("the folders");
    assert_eq!((aside.len(), &aside[0].folder), (1, &done.folder));
    assert_eq!(aside[0].taken_over, Some(done.taken_over.to_string()));
    assert!(done.folder.join("index").is_dir(), "the old data is kept");

    let store = open(config(dir.path(), "a")).await.expect("a store");
    assert_eq!(store.filled(), Filled::Partly, "it is to be filled");
    assert!(store.get(&lost).expect("a read").is_some(), "its change is taken over, not its row");
    hand_over(&store, &other).await;
    assert_eq!(fetch(&store, &other).await, 1, "the audio of the deposit alone");
    assert_eq!(other.blobs().read(&alone.hash).await.expect("audio"), audio(9, 50_000));
    hand_over(&other, &store).await;
    assert_eq!((records(&store), records(&store).len()), (records(&other), SHARED + 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_store_is_overwritten_as_far_as_it_can_be_read_and_what_cannot_is_said() {
    let (dir, other, _other_dir, _) = pair().await;
    spoil_index(dir.path());
    let done = overwrite(config(dir.path(), "a"), ClusterId::random()).await.expect("overwritten");
    assert_eq!(done.cut, None, "nobody knows");
    assert!(!done.taken_over.is_whole() && done.taken_over.to_string().contains("index: "), "{done:?}");
    let store = open(config(dir.path(), "a")).await.expect("a store");
    hand_over(&store, &other).await;
    hand_over(&other, &store).await;
    assert_eq!(records(&store), records(&other));

    let empty = TempDir::new().expect("a folder");
    let nothing = overwrite(config(empty.path(), "a"), ClusterId::random()).await;
    assert!(matches!(nothing, Err(RebuildError::NoData { .. })), "{nothing:?}");
}
