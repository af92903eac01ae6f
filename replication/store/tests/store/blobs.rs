//! Blobs.

use std::fs::{self, File};

use bytes::Bytes;
use twinbox_disk::Disk;
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_replication_core::{BlobRef, Edit, Value};
use twinbox_replication_store::{Store, StoreError};

use crate::{audio, damage, dir, edit, key, open};

#[tokio::test]
async fn blob_is_named_by_its_hash_and_survives_a_restart() {
    let dir = dir();
    let store = open(dir.path());
    let bytes = audio(700_000);
    let before = Disk::fsync_count();
    let blob = store.blobs().put(bytes.clone()).await.expect("a blob");
    assert!(Disk::fsync_count() >= before + 2, "pack and journal are synced");
    assert_eq!((blob.hash.0, blob.length, blob.recording), (*blake3::hash(&bytes).as_bytes(), 700_000, None));
    assert_eq!(store.blobs().put(bytes.clone()).await.as_ref(), Ok(&blob), "the same again");
    assert_eq!(damage::places(dir.path(), &bytes[..256 * 1024]).len(), 1, "it is written once");
    let empty = store.blobs().put(Bytes::new()).await.expect("a blob");
    drop(store);

    let store = open(dir.path());
    assert!(store.blobs().has(&blob.hash) && store.blobs().has(&empty.hash));
    assert_eq!(store.blobs().read(&empty.hash).await, Ok(Bytes::new()));
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(bytes.clone()));
    for range in [100..300, 0..700_000, 262_143..262_145, 262_144..524_288, 200_000..600_000, 5..5] {
        let part = store.blobs().read_part(&blob.hash, range.start as u64, range.len() as u64);
        assert_eq!(part, Ok((bytes.slice(range.clone()), range.end == 700_000)), "{range:?}");
    }
    for (start, most, expected) in [(699_999, 2, 1), (700_000, 5, 0), (0, u64::MAX, 700_000)] {
        let rest = store.blobs().read_part(&blob.hash, start, most);
        assert_eq!(rest, Ok((bytes.slice(700_000 - expected..), true)), "{start}");
    }
    let outside = store.blobs().read_part(&blob.hash, 700_001, 5);
    assert!(matches!(outside, Err(StoreError::NotThere { .. })), "{outside:?}");
}

/// A row that a power cut could still remove is no blob: a peer must not be notified of it.
#[tokio::test]
async fn blob_is_available_only_after_its_audio_and_its_row_are_synced() {
    let dir = dir();
    let store = open(dir.path());
    for n in 0..200u32 {
        let bytes = Bytes::from(n.to_be_bytes().to_vec());
        let hash = BlobHash(*blake3::hash(&bytes).as_bytes());
        let before = Disk::fsync_count();
        let blobs = store.blobs().clone();
        let put = tokio::spawn(async move { blobs.put_as(hash, bytes).await });
        while !store.blobs().has(&hash) {
            tokio::task::yield_now().await;
        }
        assert!(Disk::fsync_count() >= before + 2, "blob {n} is here before pack and journal are synced");
        put.await.expect("the task").expect("a blob");
    }
}

#[tokio::test]
async fn missing_or_damaged_blobs_are_never_returned() {
    let dir = dir();
    let store = open(dir.path());
    let none = BlobHash([1; 32]);
    assert!(!store.blobs().has(&none) && !store.blobs().keep(&none));
    assert_eq!(store.blobs().read(&none).await, Err(StoreError::NoBlob(none)));
    assert_eq!(store.blobs().read_part(&none, 0, 1), Err(StoreError::NoBlob(none)));

    let blob = store.blobs().put(audio(500)).await.expect("a blob");
    damage::spoil(dir.path(), &audio(500));
    assert_eq!(store.blobs().read(&blob.hash).await, Err(StoreError::Corrupt(blob.hash)));
    let mut rotten = audio(500).to_vec();
    rotten[250] ^= 1;
    let wrong = store.blobs().put_as(blob.hash, rotten.into()).await;
    assert!(matches!(wrong, Err(StoreError::WrongBlob { expected, .. }) if expected == blob.hash), "{wrong:?}");
    assert_eq!(store.blobs().put_as(blob.hash, audio(500)).await, Ok(blob), "a good copy mends it");
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(500)));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(500)));
}

#[tokio::test]
async fn many_blobs_share_the_syncs_and_wrong_ones_are_named_and_not_stored() {
    let dir = dir();
    let store = open(dir.path());
    let damaged = store.blobs().put(audio(500)).await.expect("a blob");
    damage::spoil(dir.path(), &audio(500));
    let hash_of = |bytes: &Bytes| BlobHash(*blake3::hash(bytes).as_bytes());
    // Short ones, an empty one, and one of several frames and appends.
    let lengths = (1_000..1_300).chain([500, 0, 2_500_000]);
    let mut all: Vec<_> = lengths.map(audio).map(|bytes| (hash_of(&bytes), bytes)).collect();
    let wrong = BlobHash([1; 32]);
    all.insert(7, (wrong, audio(77)));
    all.push((wrong, audio(78)));
    let before = Disk::fsync_count();
    assert_eq!(store.blobs().put_all(all.clone()).await, Ok(vec![wrong, wrong]));
    // Other tests of this process may sync, too: a sync for each blob would still be far more.
    assert!(Disk::fsync_count() - before < 150, "{} syncs", Disk::fsync_count() - before);
    assert!(!store.blobs().has(&wrong) && !store.blobs().has(&hash_of(&audio(77))));
    all.retain(|(hash, _)| *hash != wrong);
    assert!(all.iter().any(|(hash, _)| *hash == damaged.hash), "it is mended");
    let again = all.iter().rev().cloned().collect();
    assert_eq!(store.blobs().put_all(again).await, Ok(vec![]));
    for length in [1_000, 1_299] {
        assert_eq!(damage::places(dir.path(), &audio(length)).len(), 1, "{length} bytes are written once");
    }
    drop(store);
    let store = open(dir.path());
    for (hash, bytes) in &all {
        assert_eq!(store.blobs().read(hash).await.as_ref(), Ok(bytes), "{} bytes", bytes.len());
    }
    assert_eq!(store.blobs().put_all(Vec::new()).await, Ok(vec![]));
}

#[tokio::test]
async fn audio_of_a_pack_that_was_cut_off_or_lost_is_mended_from_a_peer() {
    let dir = dir();
    let store = open(dir.path());
    let blob = store.blobs().put(audio(500)).await.expect("a blob");
    edit(&store, "message", vec![Edit::Set(1, Value::Blob(blob))]).await.expect("a commit");
    let (pack, at) = damage::places(dir.path(), &audio(500)).remove(0);
    File::options().write(true).open(&pack).and_then(|file| file.set_len(at + 100)).expect("a shorter file");
    assert_eq!(store.blobs().read(&blob.hash).await, Err(StoreError::Corrupt(blob.hash)));
    assert_eq!(store.blobs().read_part(&blob.hash, 0, 100), Ok((audio(100), false)), "what is there");
    drop(store);

    fs::remove_file(&pack).expect("its end");
    let store = open(dir.path());
    assert!(!store.blobs().has(&blob.hash), "it is fetched as any missing blob");
    assert_eq!(store.missing_audio(false, None).map(|part| part.blobs), Ok(vec![blob]));
    assert_eq!(store.blobs().read(&blob.hash).await, Err(StoreError::Corrupt(blob.hash)));
    store.blobs().put_as(blob.hash, audio(500)).await.expect("it comes from a peer");
    assert_eq!(store.missing_audio(false, None).map(|part| part.blobs), Ok(vec![]));
    assert!(!pack.exists(), "its number is not used again");
    drop(store);
    assert_eq!(open(dir.path()).blobs().read(&blob.hash).await, Ok(audio(500)));
}

/// A take whose audio comes from a peer, as chunks.
async fn from_chunks(store: &Store, blob: BlobRef, bytes: Bytes) {
    let (id, take) = blob.recording.expect("a take");
    store.recordings().insert(id, take, 0, bytes).expect("a chunk");
    assert_eq!(store.recordings().seal_from_chunks(blob).await, Ok(true));
}

#[tokio::test]
async fn sealed_audio_is_a_blob_from_the_change_that_names_it() {
    let dir = dir();
    let store = open(dir.path());
    let take = |bytes: &Bytes| BlobRef {
        hash: BlobHash(*blake3::hash(bytes).as_bytes()),
        length: bytes.len() as u64,
        recording: Some((RecordingId::random(), 1)),
    };
    let (filed, unfiled, early) = (take(&audio(3_000)), take(&audio(3_001)), take(&audio(3_002)));
    from_chunks(&store, filed, audio(3_000)).await;
    edit(&store, "filed", vec![Edit::Set(1, filed.into())]).await.expect("a commit");
    from_chunks(&store, unfiled, audio(3_001)).await;
    assert!(store.blobs().has(&unfiled.hash));
    // Its history came before its audio.
    edit(&store, "early", vec![Edit::Set(1, early.into())]).await.expect("a commit");
    assert_eq!(store.missing_audio(false, None).map(|part| part.blobs), Ok(vec![early]));
    from_chunks(&store, early, audio(3_002)).await;
    assert_eq!(store.missing_audio(false, None).map(|part| part.blobs), Ok(vec![]));
    // Its row is durable with all commits that follow.
    edit(&store, "another", vec![Edit::Set(1, Value::Bytes(b"x".into()))]).await.expect("a commit");
    drop(store);

    let store = open(dir.path());
    assert!(!store.blobs().has(&unfiled.hash), "it is a take in progress again");
    let open: Vec<_> = store.recordings().open().into_iter().map(|(id, take, _)| Some((id, take))).collect();
    assert_eq!(open, [unfiled.recording]);
    for (blob, bytes) in [(filed, audio(3_000)), (early, audio(3_002))] {
        assert_eq!(store.blobs().read(&blob.hash).await, Ok(bytes));
    }
}

/// A sealed take is a good copy of a blob whose bytes are damaged.
#[tokio::test]
async fn sealed_audio_replaces_a_damaged_blob() {
    let dir = dir();
    let store = open(dir.path());
    let blob = store.blobs().put(audio(900)).await.expect("a blob");
    damage::spoil(dir.path(), &audio(900));
    let taken = BlobRef { recording: Some((RecordingId::random(), 1)), ..blob };
    let (id, take) = taken.recording.expect("a take");
    store.recordings().begin(id, take).await.expect("a recording");
    store.recordings().append(id, take, 0, audio(900)).expect("a chunk");
    assert_eq!(store.recordings().seal(id, take).await.map(|sealed| sealed.blob), Ok(taken));
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(900)));
    let sent = store.blobs().reader().keep_and_read(&blob.hash, 0, u64::MAX);
    assert_eq!(sent, Ok(Some((audio(900), true))), "a peer gets the good copy");
    edit(&store, "message", vec![Edit::Set(1, taken.into())]).await.expect("a commit");
    drop(store);
    assert_eq!(open(dir.path()).blobs().read(&blob.hash).await, Ok(audio(900)));
}

/// In any order, with a row or without one: a peer may ask for each.
#[tokio::test]
async fn reader_has_each_blob_that_is_here() {
    let dir = dir();
    let store = open(dir.path());
    let hash_of = |bytes: &Bytes| BlobHash(*blake3::hash(bytes).as_bytes());
    let mut all: Vec<_> = (1_000..1_200).map(audio).map(|bytes| (hash_of(&bytes), bytes)).collect();
    assert_eq!(store.blobs().put_all(all.clone()).await, Ok(vec![]));
    // One that no row has yet.
    let sealed = audio(3_000);
    let take = Some((RecordingId::random(), 1));
    from_chunks(&store, BlobRef { hash: hash_of(&sealed), length: 3_000, recording: take }, sealed.clone()).await;
    all.push((hash_of(&sealed), sealed));
    all.sort_by_key(|(hash, _)| *hash);
    let none = BlobHash([0x77; 32]);
    for turned in [false, true] {
        let mut reader = store.blobs().reader();
        assert_eq!(reader.keep_and_read(&none, 0, 1).map(|read| read.is_none()), Ok(true));
        for (hash, bytes) in &all {
            assert_eq!(reader.keep_and_read(hash, 0, u64::MAX), Ok(Some((bytes.clone(), true))), "{turned}");
            assert_eq!(reader.keep_and_read(hash, 5, 300), Ok(Some((bytes.slice(5..305), false))));
            let outside = reader.keep_and_read(hash, 10_000, 1);
            assert!(matches!(outside, Err(StoreError::NotThere { .. })), "{outside:?}");
        }
        all.reverse();
    }
    // Stored since the reader has looked.
    let mut reader = store.blobs().reader();
    assert_eq!(reader.keep_and_read(&BlobHash([0; 32]), 0, 1), Ok(None));
    let later = audio(4_000);
    store.blobs().put(later.clone()).await.expect("a blob");
    assert_eq!(reader.keep_and_read(&hash_of(&later), 0, u64::MAX), Ok(Some((later, true))));
}

#[tokio::test]
async fn missing_audio_of_many_records_comes_in_parts() {
    let dir = dir();
    let store = open(dir.path());
    let blob = |number: u32| {
        let hash = BlobHash(*blake3::hash(&number.to_be_bytes()).as_bytes());
        Value::from(BlobRef { hash, length: 100, recording: None })
    };
    // Each names 399 blobs that all name, and one of its own.
    for record in 0..680 {
        let edits = (0..400).map(|n| Edit::Set(n as u16, blob(if n == 0 { 400 + record } else { n }))).collect();
        edit(&store, &format!("{record:03}"), edits).await.expect("a commit");
    }
    let first = store.missing_audio(false, None).expect("a part");
    assert_eq!((first.blobs.len(), &first.upto, first.others), (399 + 656, &Some(key("655")), false));
    assert!(first.blobs.is_sorted_by_key(|blob| blob.hash));
    let rest = store.missing_audio(false, first.upto.as_ref()).expect("a part");
    assert_eq!((rest.blobs.len(), &rest.upto), (399 + 24, &None));
    let deleted = store.missing_audio(true, None).expect("a part");
    assert_eq!((deleted.blobs, deleted.upto, deleted.others), (vec![], None, true), "none is deleted");
}
