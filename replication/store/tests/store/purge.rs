//! Purging: deleted records and audio that nothing names leave the disk, and nothing else does.

use std::{path::Path, time::Duration};

use twinbox_clock::wall;
use twinbox_disk::{Disk, DiskError, Transaction};
use twinbox_ids::{BlobHash, RecordingId, Timestamp};
use twinbox_replication_core::{BlobRef, Edit, Value, Vector};
use twinbox_replication_feed::FeedEntry;
use twinbox_replication_store::{DeletedRow, FreedSpace, PurgedRows, Removal, Store, StoreError};

use crate::{TABLE, audio, damage, dir, edit, key, open, open_as, set, taken, text};

const HOUR: Duration = Duration::from_secs(3_600);

fn names(blob: BlobRef) -> Vec<Edit> {
    vec![Edit::Set(1, Value::Blob(blob))]
}

/// A record that names a new blob.
async fn message(store: &Store, id: &str, length: usize) -> BlobRef {
    let blob = store.blobs().put(audio(length)).await.expect("a blob");
    edit(store, id, names(blob)).await.expect("a commit");
    blob
}

async fn delete(store: &Store, id: &str) {
    edit(store, id, vec![Edit::Delete]).await.expect("a delete");
}

fn deleted(store: &Store) -> Vec<DeletedRow> {
    store.deleted_rows(TABLE, None, 1_000).expect("a list")
}

async fn purge(store: &Store, removal: Removal) -> PurgedRows {
    let rows = deleted(store).into_iter().map(|row| (row, removal)).collect();
    store.purge(rows).await.expect("a purge")
}

/// Removes what is in no use.
async fn sweep(store: &Store, grace: Duration) -> FreedSpace {
    sweep_at(store, grace, wall()).await
}

async fn sweep_at(store: &Store, grace: Duration, now: Timestamp) -> FreedSpace {
    let mut freed = store.remove_unreferenced(&mut None, grace, now, 1_000).await.expect("a removal");
    freed += store.remove_orphan_blobs(&mut None, grace, now, 1_000).await.expect("a removal");
    freed
}

/// A time at which all that is stored now is older than an hour.
fn later() -> Timestamp {
    Timestamp(wall().0 + 7_200_000)
}

/// The hash before this one.
fn before(hash: BlobHash) -> BlobHash {
    let (high, low) = (u128::from_be_bytes(hash.0[..16].try_into().unwrap()), &hash.0[16..]);
    let low = u128::from_be_bytes(low.try_into().unwrap());
    let high = if low == 0 { high.wrapping_sub(1) } else { high };
    BlobHash([high.to_be_bytes(), low.wrapping_sub(1).to_be_bytes()].concat().try_into().unwrap())
}

async fn change_index(dir: &Path, change: impl FnOnce(&mut Transaction<'_>) + Send + 'static) {
    let disk = Disk::open(&dir.join("db")).expect("its index");
    let run = move |transaction: &mut Transaction<'_>| {
        change(transaction);
        Ok::<_, DiskError>(())
    };
    disk.transact(run).await.expect("a write");
}

#[tokio::test]
async fn purge_frees_record_and_audio_and_keeps_the_rest() {
    let dir = dir();
    let store = open(dir.path());
    let (gone, kept) = (message(&store, "gone", 700).await, message(&store, "kept", 900).await);
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default(), "both are named");
    delete(&store, "gone").await;
    assert_eq!(
        sweep(&store, Duration::ZERO).await,
        FreedSpace::default(),
        "a deleted record still names its audio"
    );
    assert_eq!(deleted(&store).iter().map(|row| row.key.clone()).collect::<Vec<_>>(), [key("gone")]);
    let vector = store.vector();
    assert_eq!(purge(&store, Removal::Whole).await, PurgedRows { whole: 1, audio: 0 });
    assert!(store.blobs().has(&gone.hash), "the grace runs from now on");
    assert_eq!(sweep(&store, HOUR).await, FreedSpace::default());
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace { blobs: 1, bytes: 700 });
    assert!(!store.blobs().has(&gone.hash));
    assert_eq!(store.blobs().read(&gone.hash).await, Err(StoreError::NoBlob(gone.hash)));
    assert_eq!(store.vector(), vector, "no change for peers");
    drop(store);

    let store = open(dir.path());
    assert!(store.is_indexed());
    assert_eq!(store.get(&key("gone")), Ok(None));
    assert!(deleted(&store).is_empty());
    assert_eq!(store.blobs().read(&kept.hash).await, Ok(audio(900)));
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default());
}

/// A purge takes several transactions, each of few rows.
#[tokio::test]
async fn purge_of_many_records_removes_each_with_its_audio() {
    let dir = dir();
    let store = open(dir.path());
    let kept = message(&store, "kept", 5_000).await;
    for n in 0..21 {
        message(&store, &format!("gone {n}"), 100 + n).await;
        delete(&store, &format!("gone {n}")).await;
    }
    assert_eq!(purge(&store, Removal::Whole).await, PurgedRows { whole: 21, audio: 0 });
    assert!(deleted(&store).is_empty());
    assert_eq!(sweep_at(&store, HOUR, later()).await.blobs, 0, "pinned by their storing");
    drop(store);
    let store = open(dir.path());
    assert_eq!(sweep_at(&store, HOUR, later()).await.blobs, 21);
    assert!(store.blobs().has(&kept.hash));
}

#[tokio::test]
async fn shared_audio_stays_while_one_record_names_it() {
    let dir = dir();
    let store = open(dir.path());
    let blob = message(&store, "one", 500).await;
    assert_eq!(message(&store, "two", 500).await, blob);
    delete(&store, "one").await;
    purge(&store, Removal::Whole).await;
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default());
    // Replaced, as a greeting is: the record goes on, the old audio goes.
    edit(&store, "two", set("another")).await.expect("a commit");
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace { blobs: 1, bytes: 500 });
    // The same audio comes again.
    assert_eq!(message(&store, "three", 500).await, blob);
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(500)));
}

#[tokio::test]
async fn deletion_is_dated_by_the_clock_here_and_a_later_one_again() {
    let dir = dir();
    let store = open(dir.path());
    message(&store, "row", 300).await;
    let before = wall();
    delete(&store, "row").await;
    let first = deleted(&store)[0].seen;
    assert!(first >= before && first <= wall());
    edit(&store, "row", set("again")).await.expect("a commit");
    assert_eq!(deleted(&store)[0].seen, first, "a write is no deletion");
    while wall() <= first {
        tokio::task::yield_now().await;
    }
    delete(&store, "row").await;
    assert!(deleted(&store)[0].seen > first);
    assert_eq!(store.purge_clock(), Ok(None));
    store.set_purge_clock(first).await.expect("stored");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.purge_clock(), Ok(Some(first)));
    assert!(deleted(&store)[0].seen > first);
}

#[tokio::test]
async fn record_that_changed_since_it_was_read_stays() {
    let dir = dir();
    let store = open(dir.path());
    let blob = message(&store, "row", 300).await;
    delete(&store, "row").await;
    let rows: Vec<_> = deleted(&store).into_iter().map(|row| (row, Removal::Whole)).collect();
    edit(&store, "row", names(blob)).await.expect("it is written again");
    assert_eq!(store.purge(rows).await, Ok(PurgedRows::default()));
    assert!(store.get(&key("row")).expect("a read").is_some_and(|record| !record.is_deleted()));
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default());
}

#[tokio::test]
async fn record_can_stay_without_its_audio_and_name_it_again() {
    let dir = dir();
    let store = open(dir.path());
    let blob = message(&store, "imported", 400).await;
    delete(&store, "imported").await;
    assert_eq!(purge(&store, Removal::Audio).await, PurgedRows { whole: 0, audio: 1 });
    assert!(deleted(&store).is_empty(), "it is not looked at again");
    assert!(store.get(&key("imported")).expect("a read").is_some());
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace { blobs: 1, bytes: 400 });
    assert_eq!(store.missing_audio(false, None).map(|part| part.blobs), Ok(vec![]), "its absence is no loss");
    // Written again, it counts as before.
    assert_eq!(store.blobs().put(audio(400)).await, Ok(blob));
    edit(&store, "imported", vec![Edit::Set(2, Value::Bytes(b"back".to_vec()))]).await.expect("a commit");
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default());
}

#[tokio::test]
async fn history_that_comes_again_does_not_bring_a_purged_record_back() {
    let (dir_a, dir_b) = (dir(), dir());
    let (a, b) = (open(dir_a.path()), open_as(dir_b.path(), "b").expect("a store"));
    edit(&a, "row", set("text")).await.expect("a commit");
    delete(&a, "row").await;
    let history = a.changes_after(&Vector::new(), 100).expect("the log");
    b.apply(history.clone()).await.expect("applied");
    assert_eq!(purge(&b, Removal::Whole).await.whole, 1);
    b.apply(history).await.expect("applied");
    assert_eq!((text(&b, "row"), b.vector()), (None, a.vector()));
}

/// Without the exclusion, the row is removed after it was found to be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blob_that_is_stored_while_it_is_removed_is_there_afterwards() {
    let dir = dir();
    let store = open(dir.path());
    let mut blobs = Vec::new();
    for n in 0..300 {
        blobs.push(store.blobs().put(audio(1_000 + n)).await.expect("a blob").hash);
    }
    drop(store);
    // The next incarnation knows of no use.
    let store = open(dir.path());
    for (n, hash) in blobs.into_iter().enumerate() {
        let (sweeper, bytes) = (store.clone(), audio(1_000 + n));
        let mut cursor = Some(before(hash));
        let removal = tokio::spawn(async move { sweeper.remove_orphan_blobs(&mut cursor, HOUR, later(), 1).await });
        let blob = store.blobs().put(bytes.clone()).await.expect("a blob");
        removal.await.expect("the task").expect("a removal");
        assert!(store.blobs().has(&blob.hash), "blob {n} is gone");
        assert_eq!(store.blobs().read(&blob.hash).await, Ok(bytes));
    }
}

#[tokio::test]
async fn orphans_are_found_part_by_part() {
    let dir = dir();
    let store = open(dir.path());
    for n in 0..7 {
        store.blobs().put(audio(1_000 + n)).await.expect("a blob");
    }
    let (mut cursor, mut freed, mut rounds) = (None, FreedSpace::default(), 0);
    while rounds == 0 || cursor.is_some() {
        freed += store.remove_orphan_blobs(&mut cursor, Duration::ZERO, wall(), 3).await.expect("a removal");
        rounds += 1;
    }
    assert_eq!((freed.blobs, rounds), (7, 3));
}

#[tokio::test]
async fn stored_audio_waits_for_the_change_that_names_it() {
    let dir = dir();
    let store = open(dir.path());
    let kept = store.blobs().put(audio(100)).await.expect("a blob");
    let other = store.blobs().put(audio(200)).await.expect("a blob");
    let sent = store.blobs().put(audio(300)).await.expect("a blob");
    assert_eq!(sweep_at(&store, HOUR, later()).await, FreedSpace::default(), "storing it is a use");
    drop(store);
    // The next incarnation knows of no use.
    let store = open(dir.path());
    assert_eq!(sweep(&store, HOUR).await, FreedSpace::default(), "too young");
    assert!(store.blobs().keep(&kept.hash));
    assert!(store.blobs().reader().keep_and_read(&sent.hash, 0, 1).is_ok_and(|read| read.is_some()));
    assert_eq!(sweep_at(&store, HOUR, later()).await, FreedSpace { blobs: 1, bytes: 200 });
    assert!(store.blobs().has(&kept.hash) && store.blobs().has(&sent.hash) && !store.blobs().has(&other.hash));
}

/// A sealed take of its audio.
async fn sealed(store: &Store, length: usize) -> BlobRef {
    let id = RecordingId::random();
    store.recordings().begin(id, 1).await.expect("a recording");
    store.recordings().append(id, 1, 0, audio(length)).expect("a chunk");
    store.recordings().seal(id, 1).await.expect("a blob").blob
}

#[tokio::test]
async fn audio_of_a_recording_that_is_not_filed_yet_stays() {
    let dir = dir();
    let store = open(dir.path());
    let blob = sealed(&store, 600).await;
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(600)));
    edit(&store, "message", names(blob)).await.expect("filed");
    store.recordings().written().await.expect("it has ended");
    delete(&store, "message").await;
    purge(&store, Removal::Whole).await;
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace { blobs: 1, bytes: 600 });
}

#[tokio::test]
async fn audio_of_a_sealed_take_that_was_discarded_goes() {
    let dir = dir();
    let store = open(dir.path());
    let blob = sealed(&store, 600).await;
    let (id, take) = blob.recording.expect("its take");
    store.recordings().discard(id, take).await.expect("discarded");
    store.recordings().written().await.expect("written");
    assert!(store.blobs().has(&blob.hash), "for its grace");
    assert_eq!(sweep(&store, HOUR).await, FreedSpace::default());
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace { blobs: 1, bytes: 600 });
    assert!(!store.blobs().has(&blob.hash));
}

/// The row of audio that is stored again while it is a sealed take does not depend on the take.
#[tokio::test]
async fn audio_that_is_also_stored_as_a_blob_outlives_its_discarded_take() {
    let dir = dir();
    let store = open(dir.path());
    let blob = sealed(&store, 600).await;
    assert_eq!(store.blobs().put(audio(600)).await.map(|stored| stored.hash), Ok(blob.hash));
    assert_eq!(damage::places(dir.path(), &audio(600)).len(), 1, "its bytes are those of the take");
    let (id, take) = blob.recording.expect("its take");
    store.recordings().discard(id, take).await.expect("discarded");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(600)));
}

#[tokio::test]
async fn take_that_is_discarded_here_only_is_not_announced_to_peers() {
    let dir = dir();
    let store = open(dir.path());
    let (here, everywhere) = (RecordingId::random(), RecordingId::random());
    for id in [here, everywhere] {
        store.recordings().begin(id, 1).await.expect("a recording");
        store.recordings().append(id, 1, 0, audio(600)).expect("a chunk");
    }
    store.recordings().written().await.expect("written");
    let mut feed = store.feed().reader();
    store.recordings().discard_here(here, 1).await.expect("discarded");
    store.recordings().discard(everywhere, 1).await.expect("discarded");
    assert!(store.recordings().open().is_empty());
    assert_eq!(taken(&mut feed), [FeedEntry::Discarded { take: (everywhere, 1) }]);
}

#[tokio::test]
async fn store_that_an_earlier_release_wrote_to_is_indexed_before_audio_is_removed() {
    let dir = dir();
    let store = open(dir.path());
    let kept = message(&store, "kept", 800).await;
    let gone = message(&store, "gone", 850).await;
    delete(&store, "gone").await;
    let indexed: Vec<Vec<u8>> = [&b"b"[..], b"t", b"u"].iter().map(|prefix| prefix.to_vec()).collect();
    drop(store);
    change_index(dir.path(), move |transaction| {
        transaction.remove(&b"m/indexed"[..]);
        for prefix in indexed {
            for (key, _) in transaction.scan(&prefix).expect("a scan") {
                transaction.remove(key);
            }
        }
    })
    .await;
    let store = open(dir.path());
    assert!(!store.is_indexed());
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default(), "nothing is known yet");
    while !store.index_step().await.expect("a step") {}
    assert!(store.is_indexed());
    assert_eq!(purge(&store, Removal::Whole).await.whole, 1);
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace { blobs: 1, bytes: 850 });
    assert!(store.blobs().has(&kept.hash) && !store.blobs().has(&gone.hash));
    drop(store);

    // A release without these indexes opens the store in between: it adds an origin, and writes records alone.
    change_index(dir.path(), |transaction| {
        transaction.put([&b"o"[..], &[9; 16]].concat(), vec![1_u8]).expect("a write");
    })
    .await;
    let store = open(dir.path());
    assert!(!store.is_indexed());
    while !store.index_step().await.expect("a step") {}
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default());
    drop(store);
    assert!(open(dir.path()).is_indexed(), "and stays so");
}

#[tokio::test]
async fn record_that_cannot_be_read_keeps_all_audio() {
    let dir = dir();
    let store = open(dir.path());
    message(&store, "row", 100).await;
    drop(store);
    change_index(dir.path(), |transaction| {
        transaction.remove(&b"m/indexed"[..]);
        let row = [&b"r"[..], &TABLE.0.to_be_bytes(), b"row"].concat();
        transaction.put(row, vec![99_u8, 1, 2]).expect("of a later release");
    })
    .await;
    let store = open(dir.path());
    while !store.index_step().await.expect("a step") {}
    assert!(!store.is_indexed());
    assert_eq!(sweep(&store, Duration::ZERO).await, FreedSpace::default());
    let read: Result<_, StoreError> = store.get(&key("row"));
    assert!(read.is_err());
}
