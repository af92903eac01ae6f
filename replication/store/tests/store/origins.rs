//! Incarnations of a store: their initial state, and the refusals of the directory.

use std::{
    fs,
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use twinbox_disk::{Disk, DiskError, Transaction};
use twinbox_ids::{BlobHash, ClusterId, Origin, RecordingId, Stamp};
use twinbox_replication_core::{BlobRef, Change, Edit, Field, Record, Value};
use twinbox_replication_store::{CommitError, Filled, StoreError, codec::keys};

use crate::{audio, damage, dir, edit, key, open, open_as, set, text};

#[tokio::test]
async fn each_incarnation_has_a_new_origin_and_all_earlier_data() {
    let dir = dir();
    let first = open(dir.path());
    edit(&first, "x", set("one")).await.expect("a commit");
    let origin = first.origin();
    drop(first);
    let second = open(dir.path());
    assert_ne!(second.origin(), origin);
    assert_eq!(second.own_origins().len(), 2);
    assert_eq!(second.own_origins().last(), Some(&second.origin()));
    assert!(second.own_origins().contains(&origin));
    assert_eq!(second.vector().get(origin), 1);
    let before = second.get(&key("x")).expect("a read").and_then(|r| r.latest()).expect("a stamp");
    // Numbers begin again, stamps do not.
    assert_eq!(edit(&second, "y", set("two")).await.expect("a commit").first, 1);
    let after = second.get(&key("y")).expect("a read").and_then(|r| r.latest()).expect("a stamp");
    assert!(after > before, "{after} after {before}");
    assert_eq!(text(&second, "x").as_deref(), Some("one"));
}

/// The wall clock of this node goes back by half a minute between two incarnations, as seen from the stamps.
#[tokio::test]
async fn new_incarnation_stamps_above_all_stamps_of_the_last() {
    let dir = dir();
    let store = open(dir.path());
    let ahead = Stamp { wall: twinbox_clock::wall().0 + 30_000, counter: 0, origin: Origin(5) };
    let register = Field::Register { stamp: ahead, value: Value::Bytes(Vec::new()) };
    let delta = Record::from_parts([(1, register)], None);
    store
        .apply(vec![Change { origin: Origin(5), seq: 1, key: key("x"), delta, part: Default::default() }])
        .await
        .expect("a change");
    drop(store);
    let store = open(dir.path());
    edit(&store, "y", set("two")).await.expect("a commit");
    let stamp = store.get(&key("y")).expect("a read").and_then(|r| r.latest()).expect("a stamp");
    assert!(stamp > ahead, "{stamp} after {ahead}");
}

#[tokio::test]
async fn the_directory_of_another_node_is_refused_by_name() {
    let dir = dir();
    drop(open(dir.path()));
    let error = open_as(dir.path(), "b").err().expect("a refusal");
    assert!(matches!(&error, StoreError::OtherNode { found, .. } if found == "a"), "{error}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    drop(open(dir.path()));
}

#[tokio::test]
async fn a_store_is_opened_once() {
    let dir = dir();
    let store = open(dir.path());
    let error = open_as(dir.path(), "a").err().expect("a refusal");
    assert!(matches!(error, StoreError::Disk(DiskError::InUse { .. })), "{error}");
    drop(store);
    open(dir.path());
}

#[tokio::test]
async fn a_store_belongs_to_one_cluster() {
    let dir = dir();
    let (ours, other) = (ClusterId::random(), ClusterId::random());
    let store = open(dir.path());
    assert_eq!(store.cluster_id(), None);
    store.set_cluster_id(ours).await.expect("the first");
    store.set_cluster_id(ours).await.expect("the same");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.cluster_id(), Some(ours));
    let refused = store.set_cluster_id(other).await;
    assert_eq!(refused, Err(StoreError::OtherCluster { found: ours, expected: other }));
    assert_eq!(store.cluster_id(), Some(ours));
}

/// Rule D13.
#[tokio::test]
async fn fill_mark_is_durable_and_only_rises() {
    let dir = dir();
    let store = open(dir.path());
    assert_eq!(store.filled(), Filled::Partly, "an empty store lacks whatever there is");
    edit(&store, "x", set("one")).await.expect("a commit");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.filled(), Filled::Partly, "existing data does not prove completeness");
    let mut watch = store.watch_filled();
    store.set_filled(Filled::Records).await.expect("a write");
    assert!(watch.has_changed().expect("open") && watch.borrow_and_update().has_records());
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.filled(), Filled::Records);
    store.set_filled(Filled::Complete).await.expect("a write");
    store.set_filled(Filled::Records).await.expect("a write");
    assert_eq!(store.filled(), Filled::Complete);
    drop(store);
    assert_eq!(open(dir.path()).filled(), Filled::Complete);
}

/// A store of a release that did not know the mark.
#[tokio::test]
async fn store_without_a_fill_mark_is_complete_if_it_has_records() {
    for (records, expected) in [(true, Filled::Complete), (false, Filled::Partly)] {
        let dir = dir();
        let store = open(dir.path());
        if records {
            edit(&store, "x", set("one")).await.expect("a commit");
        }
        drop(store);
        let disk = Disk::open(&dir.path().join("db")).expect("its index");
        let forget = |t: &mut Transaction<'_>| {
            t.remove(&b"m/filled"[..]);
            Ok::<_, DiskError>(())
        };
        disk.transact(forget).await.expect("a write");
        drop(disk);
        assert_eq!(open(dir.path()).filled(), expected);
        assert_eq!(open(dir.path()).filled(), expected, "and stays so");
    }
}

#[tokio::test]
async fn store_of_an_older_or_later_version_is_refused_with_the_remedy_and_stays_as_it_is() {
    let dir = dir();
    edit(&open(dir.path()), "x", set("one")).await.expect("a commit");
    // The version of the store as a whole is in front of the name of its node.
    let set_version = async |version: u8| {
        let disk = Disk::open(&dir.path().join("db")).expect("its index");
        let write = move |t: &mut Transaction<'_>| t.put(keys::NODE, [version, b'a']);
        disk.transact(write).await.expect("a write");
    };
    let empty = "or move the data folder to another place and start with an empty one, which the other nodes fill";
    for (version, is_older) in [(2, true), (5, false)] {
        set_version(version).await;
        let error = open_as(dir.path(), "a").err().expect("a refusal");
        let text = error.to_string();
        assert!(text.contains(&format!("format version {version} is not")), "{text}");
        assert!(text.contains("use the release that wrote it") && text.contains(empty) == is_older, "{text}");
        assert!(!error.is_damage(), "a start would set it aside: {text}");
    }
    set_version(4).await;
    assert_eq!(text(&open(dir.path()), "x").as_deref(), Some("one"));
}

#[tokio::test]
async fn missing_audio_of_records_is_listed() {
    let dir = dir();
    let store = open(dir.path());
    let here = store.blobs().put(audio(100)).await.expect("a blob");
    let away = BlobRef { hash: BlobHash([7; 32]), length: 9, recording: None };
    for (id, blob) in [("here", here), ("away", away), ("again", away)] {
        edit(&store, id, vec![Edit::Set(1, Value::Blob(blob))]).await.expect("a commit");
    }
    assert_eq!(store.missing_audio(false, None).map(|part| part.blobs), Ok(vec![away]));
}

/// Not for lack of space, which is an ordinary refusal.
#[tokio::test]
async fn a_pack_that_cannot_be_created_breaks_the_store_until_a_restart() {
    let dir = dir();
    let store = open(dir.path());
    let folder = dir.path().join("audio");
    fs::remove_dir_all(&folder).expect("its end");
    fs::write(&folder, "").expect("a file in its place");
    let id = RecordingId::random();
    store.recordings().begin(id, 1).await.expect("a recording");
    store.recordings().append(id, 1, 0, audio(100)).expect("it is queued");
    store.recordings().written().await.expect("tried");
    assert_eq!(store.recordings().coverage(id, 1).map(|here| here.total()), Some(0));
    assert!(!store.health().ok());
    assert!(store.blobs().put("first".into()).await.is_err_and(|error| error.is_broken()));
    assert!(store.recordings().insert(id, 1, 100, audio(100)).is_err_and(|error| error.is_broken()));
    assert!(edit(&store, "x", set("no")).await.is_err());
    drop(store);

    fs::remove_file(&folder).expect("its end");
    let store = open(dir.path());
    let blob = store.blobs().put("first".into()).await.expect("a blob");
    assert_eq!(store.blobs().read(&blob.hash).await, Ok("first".into()));
}

/// Puts /dev/null, which takes every write and cannot be synced, in the place of an open file.
fn make_unsyncable(path: &Path) {
    let path = fs::canonicalize(path).expect("the file");
    let open = fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let mut open = open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path));
    let descriptor: RawFd = open.next().and_then(|e| e.file_name().to_str()?.parse().ok()).expect("it is open");
    let null = fs::File::options().read(true).write(true).open("/dev/null").expect("a device");
    // SAFETY: both descriptors are open, and the number stays in use by the same owner.
    assert!(unsafe { libc::dup2(null.as_raw_fd(), descriptor) } >= 0);
}

#[tokio::test]
async fn a_recording_that_does_not_sync_breaks_the_store_and_is_no_blob() {
    let dir = dir();
    let store = open(dir.path());
    let id = RecordingId::random();
    store.recordings().begin(id, 1).await.expect("a recording");
    store.recordings().append(id, 1, 0, audio(4000)).expect("a chunk");
    // The answer to a command comes after all earlier commands.
    store.recordings().discard(RecordingId::random(), 1).await.expect("an answer");
    let [pack] = damage::packs(dir.path()).try_into().expect("one pack");
    make_unsyncable(&pack);
    let error = store.recordings().seal(id, 1).await.expect_err("a refusal");
    assert!(error.is_broken(), "{error}");
    assert!(!store.blobs().has(&BlobHash(*blake3::hash(&audio(4000)).as_bytes())), "it is not durable");

    assert!(!store.health().ok());
    let refused = edit(&store, "x", set("no")).await.expect_err("a refusal");
    assert!(matches!(&refused, CommitError::Store(error) if error.is_broken()), "{refused}");
    assert!(store.blobs().put("no".into()).await.is_err_and(|e| e.is_broken()));
    assert!(store.recordings().insert(id, 1, 4000, audio(10)).is_err_and(|e| e.is_broken()));
    assert!(store.recordings().begin(RecordingId::random(), 1).await.is_err_and(|e| e.is_broken()));
    assert!(store.recordings().seal(id, 1).await.is_err(), "it is not tried again");
    assert_eq!(text(&store, "x"), None);

    // A new incarnation finds the recording and can file it.
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.recordings().open(), [(id, 1, 4000)]);
    let blob = store.recordings().seal(id, 1).await.expect("a blob").blob;
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(4000)));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a listing").map(|entry| entry.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(from, to).expect("copied")),
        }
    }
}

#[tokio::test]
async fn counts_of_a_disk_that_was_set_back_add_to_what_others_have() {
    let (dir, yesterday, dir_b) = (dir(), crate::dir(), crate::dir());
    let count = |n| vec![Edit::Count(1, n)];
    let sum = |store: &twinbox_replication_store::Store| {
        store.get(&key("x")).expect("a read").map_or(0, |record| record.counter(1))
    };
    let store = open(dir.path());
    edit(&store, "x", count(5)).await.expect("a commit");
    drop(store);
    copy(dir.path(), yesterday.path());
    let (store, peer) = (open(dir.path()), open_as(dir_b.path(), "b").expect("a store"));
    edit(&store, "x", count(3)).await.expect("a commit");
    edit(&store, "x", count(4)).await.expect("a commit");
    peer.apply(store.changes_after(&peer.vector(), usize::MAX).expect("a log")).await.expect("applied");
    drop(store);

    let restored = open(yesterday.path());
    assert_eq!((sum(&peer), sum(&restored)), (12, 5));
    edit(&restored, "x", count(2)).await.expect("a commit");
    peer.apply(restored.changes_after(&peer.vector(), usize::MAX).expect("a log")).await.expect("applied");
    restored.apply(peer.changes_after(&restored.vector(), usize::MAX).expect("a log")).await.expect("applied");
    assert_eq!((sum(&peer), sum(&restored)), (14, 14));
}
