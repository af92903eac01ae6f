//! Blobs.

use std::fs;

use bytes::Bytes;
use twinbox_disk::Disk;
use twinbox_ids::BlobHash;
use twinbox_replication_store::StoreError;

use crate::{audio, dir, open};

#[tokio::test]
async fn blob_is_named_by_its_hash_and_survives_a_restart() {
    let dir = dir();
    let store = open(dir.path());
    let bytes = audio(10_000);
    let before = Disk::fsync_count();
    let blob = store.blobs().put(bytes.clone()).await.expect("a blob");
    assert!(Disk::fsync_count() >= before + 2, "file and directory are synced");
    assert_eq!((blob.hash.0, blob.length, blob.recording), (*blake3::hash(&bytes).as_bytes(), 10_000, None));
    let name = blob.hash.to_string();
    assert_eq!(store.blobs().path(&blob.hash), dir.path().join("blobs").join(&name[..2]).join(&name));
    assert_eq!(store.blobs().put(bytes.clone()).await.as_ref(), Ok(&blob), "the same again");
    drop(store);

    let store = open(dir.path());
    assert!(store.blobs().has(&blob.hash));
    assert_eq!(store.blobs().length(&blob.hash), Ok(10_000));
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(bytes.clone()));
    assert_eq!(store.blobs().read_range(&blob.hash, 100..300).await, Ok(bytes.slice(100..300)));
    assert_eq!(store.blobs().read_range(&blob.hash, 5..5).await, Ok("".into()));
    for range in [9_999..10_001, 10_001..10_001, 0..u64::MAX] {
        let outside = store.blobs().read_range(&blob.hash, range.clone()).await;
        assert_eq!(outside, Err(StoreError::NotThere { range }));
    }
}

/// A name that a power cut could still remove is no blob: a peer must not be notified of it.
#[tokio::test]
async fn blob_is_available_only_after_its_directory_is_synced() {
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
        assert!(Disk::fsync_count() >= before + 2, "blob {n} is here before file and directory are synced");
        put.await.expect("the task").expect("a blob");
    }
}

/// A file that a killed process renamed and had not synced is made durable before it is reported as here.
#[tokio::test]
async fn names_left_by_an_earlier_incarnation_are_synced_at_opening() {
    let dir = dir();
    let reopened = |dir| {
        let before = Disk::fsync_count();
        drop(open(dir));
        Disk::fsync_count() - before
    };
    // A start after the first ones, so that the journal has its files.
    drop(open(dir.path()));
    reopened(dir.path());
    let without = reopened(dir.path());
    let hashes: Vec<_> = (0..=u8::MAX).map(|first| BlobHash([first; 32])).collect();
    for hash in &hashes {
        let name = hash.to_string();
        fs::write(dir.path().join("blobs").join(&name[..2]).join(&name), "left").expect("a file");
    }
    let with = reopened(dir.path());
    assert!(with >= without + 256, "{with} syncs, {without} without any blob");
}

#[tokio::test]
async fn missing_or_damaged_blobs_are_never_returned() {
    let dir = dir();
    let store = open(dir.path());
    let none = BlobHash([1; 32]);
    assert!(!store.blobs().has(&none));
    assert_eq!(store.blobs().read(&none).await, Err(StoreError::NoBlob(none)));
    assert_eq!(store.blobs().read_range(&none, 0..1).await, Err(StoreError::NoBlob(none)));
    assert_eq!(store.blobs().length(&none), Err(StoreError::NoBlob(none)));

    let blob = store.blobs().put(audio(500)).await.expect("a blob");
    let mut rotten = audio(500).to_vec();
    rotten[7] ^= 1;
    fs::write(store.blobs().path(&blob.hash), &rotten).expect("bit rot");
    assert_eq!(store.blobs().read(&blob.hash).await, Err(StoreError::Corrupt(blob.hash)));
    let wrong = store.blobs().put_as(blob.hash, rotten.into()).await;
    assert!(matches!(wrong, Err(StoreError::WrongBlob { expected, .. }) if expected == blob.hash), "{wrong:?}");
    assert_eq!(store.blobs().put_as(blob.hash, audio(500)).await, Ok(blob), "a good copy mends it");
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(500)));
}

#[tokio::test]
async fn half_written_files_are_removed_after_a_crash() {
    let dir = dir();
    let store = open(dir.path());
    let blob = store.blobs().put(audio(10)).await.expect("a blob");
    let folder = store.blobs().path(&blob.hash).with_file_name(".half.1.0.aside");
    drop(store);
    fs::write(&folder, "half").expect("a file");
    let store = open(dir.path());
    assert!(!folder.exists() && store.blobs().has(&blob.hash));
}
