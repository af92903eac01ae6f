use std::path::Path;

use bytes::Bytes;
use twinbox_replication_core::{BlobRef, Edit, Key, Table, Value};

use super::*;
use crate::{StoreConfig, pieces};

fn open(dir: &Path) -> Store {
    Store::open(StoreConfig { dir: dir.to_owned(), node: "a".parse().unwrap(), reserve_bytes: 0 }).unwrap()
}

fn audio() -> Bytes {
    (0..1_300_000_u32).map(|i| (i / 1_000 + i) as u8).collect()
}

/// A blob, and its places.
async fn blob(store: &Store) -> (BlobHash, Row) {
    let hash = store.blobs().put(audio()).await.unwrap().hash;
    (hash, store.blobs().row(&hash).unwrap().unwrap())
}

#[tokio::test]
async fn process_that_dies_between_copy_and_transaction_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, row) = blob(&store).await;
    let pack = row.pieces[0].pack;
    let copy = store.copied(&row, pack).unwrap();
    store.blobs().sync().unwrap();
    assert_eq!((row.pieces.len(), copy.pieces.len(), copy.length), (5, 2, row.length), "pieces are joined");
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.blobs().row(&hash), Ok(Some(row)));
    assert_eq!(store.blobs().read(&hash).await, Ok(audio()));
    assert!(!store.remove_pack(pack).unwrap(), "it is in use");
    assert_eq!(store.move_blobs(pack, &store.blobs().in_pack(pack).unwrap()), Ok(1_300_000));
    assert!(store.remove_pack(pack).unwrap());
    assert!(!store.blobs().packs().list().contains(&pack));
    assert_eq!(store.blobs().read(&hash).await, Ok(audio()));
    drop(store);
    assert_eq!(open(dir.path()).blobs().read(&hash).await, Ok(audio()));
}

#[tokio::test]
async fn blob_that_changed_while_it_was_copied_is_not_moved() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, row) = blob(&store).await;
    let to = store.copied(&row, row.pieces[0].pack).unwrap();
    let since = Row { written: row.written + 1, ..row.clone() };
    let moves = vec![(hash, since, to.clone())];
    let blobs = store.blobs().clone();
    store.disk().transact(move |transaction| replace(transaction, &blobs, &moves)).await.unwrap();
    assert_eq!(store.blobs().row(&hash), Ok(Some(row.clone())));

    let removed = move |transaction: &mut Transaction<'_>| pieces::remove(transaction, &hash).map(drop);
    store.disk().transact(removed).await.unwrap();
    let blobs = store.blobs().clone();
    store.disk().transact(move |transaction| replace(transaction, &blobs, &[(hash, row, to)])).await.unwrap();
    assert_eq!(store.blobs().row(&hash), Ok(None), "it is not brought back");
}

#[tokio::test]
async fn pack_of_an_append_without_a_row_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, row) = blob(&store).await;
    drop(store);
    let store = open(dir.path());
    let appending = store.blobs().appending(None);
    let pack = row.pieces[0].pack;
    store.disk().transact(move |transaction| pieces::remove(transaction, &hash).map(drop)).await.unwrap();
    assert_eq!((store.live_in(pack), store.remove_pack(pack)), (Ok(None), Ok(false)));
    drop(appending);
    assert_eq!((store.live_in(pack), store.remove_pack(pack)), (Ok(Some((Live::NONE, vec![]))), Ok(true)));
}

/// The rows name the copies before the pack goes: without that it stays.
#[tokio::test]
async fn pack_whose_rows_cannot_be_replaced_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, row) = blob(&store).await;
    let pack = row.pieces[0].pack;
    drop(store);
    let store = open(dir.path());
    store.mark_broken("a sync of the index failed");
    assert!(store.compact_pack(pack).await.is_err_and(|error| error.is_broken()));
    assert!(store.blobs().packs().list().contains(&pack));
    assert_eq!(store.blobs().read(&hash).await, Ok(audio()));
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.blobs().row(&hash), Ok(Some(row)));
    assert_eq!(store.compact_pack(pack).await.map(|compacted| compacted.removed), Ok(1));
    assert_eq!(store.blobs().read(&hash).await, Ok(audio()));
}

/// The release before noted each blob at its packs, and needs these notes: it must not open what this one has written.
#[tokio::test]
async fn store_of_the_release_before_is_read_and_refused_by_that_release() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, row) = blob(&store).await;
    let pack = row.pieces[0].pack;
    let note = [&keys::pack(pack)[..], &hash.0].concat();
    let (of_blob, lost) = (note.clone(), [&keys::pack(999)[..], &hash.0].concat());
    let of_lost = lost.clone();
    let as_before = move |transaction: &mut Transaction<'_>| {
        transaction.put(keys::NODE, [&[3], &b"a"[..]].concat())?;
        transaction.remove(keys::pack(pack));
        transaction.put(of_lost, [3])?;
        transaction.put(of_blob, [3])
    };
    store.disk().transact(as_before).await.unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.disk().get(keys::NODE), Ok(Some(b"\x04a".to_vec())), "a version that it does not read");
    assert_eq!(store.blobs().in_pack(pack), Ok(vec![(hash, row)]));
    assert_eq!(store.disk().get(&lost), Ok(None), "no blob lies in the lost pack");
    assert_eq!(store.compact_pack(pack).await.map(|compacted| compacted.moved_bytes), Ok(1_300_000));
    assert!(!store.blobs().packs().list().contains(&pack));
    assert_eq!(store.disk().get(&note), Ok(None));
    assert_eq!(store.blobs().read(&hash).await, Ok(audio()));
    let later = |transaction: &mut Transaction<'_>| transaction.put(keys::NODE, [&[5], &b"a"[..]].concat());
    store.disk().transact(later).await.unwrap();
    drop(store);
    let config = StoreConfig { dir: dir.path().to_owned(), node: "a".parse().unwrap(), reserve_bytes: 0 };
    assert!(matches!(Store::open(config).map(drop), Err(StoreError::Format { .. })));
}

/// A blob whose places cannot be read may lie in any pack.
#[tokio::test]
async fn no_pack_goes_while_places_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, row) = blob(&store).await;
    let pack = row.pieces[0].pack;
    store.disk().transact(move |transaction| transaction.put(keys::blob(&hash), [9])).await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(matches!(store.remove_pack(pack), Err(StoreError::Format { .. })));
    // Another node sends it again.
    store.blobs().put_as(hash, audio()).await.unwrap();
    assert!(store.remove_pack(pack).unwrap());
    assert_eq!(store.blobs().read(&hash).await, Ok(audio()));

    // Or no record names it: it goes.
    store.disk().transact(move |transaction| transaction.put(keys::blob(&hash), [9])).await.unwrap();
    let (removed, later) = (std::time::Duration::ZERO, twinbox_ids::Timestamp(u64::MAX));
    drop(store);
    let store = open(dir.path());
    store.remove_orphan_blobs(&mut None, removed, later, 10).await.unwrap();
    assert_eq!(store.disk().get(&keys::blob(&hash)), Ok(None));
    assert!(store.blobs().list_contents().is_ok());
}

/// Records audio; a change names it, if asked for.
async fn take(store: &Store, audio: &Bytes, is_filed: bool) -> BlobRef {
    let (id, recordings) = (RecordingId::random(), store.recordings());
    recordings.begin(id, 1).await.unwrap();
    for offset in (0..audio.len()).step_by(100_000) {
        let chunk = audio.slice(offset..audio.len().min(offset + 100_000));
        recordings.append(id, 1, offset as u64, chunk).unwrap();
    }
    let blob = recordings.seal(id, 1).await.unwrap().blob;
    match is_filed {
        true => name(store, id, Some(blob)).await,
        false => store.recordings().discard(id, 1).await.unwrap(),
    }
    recordings.written().await.unwrap();
    blob
}

/// The record of a take names its audio, or does so no more.
async fn name(store: &Store, id: RecordingId, blob: Option<BlobRef>) {
    let value = blob.map_or_else(|| Value::Bytes(b"none".into()), Value::Blob);
    let key = Key::new(Table(1), id.0.to_be_bytes());
    store.commit(move |draft| draft.edit(key, vec![Edit::Set(1, value)])).await.unwrap();
}

/// Whether less than half of the first pack may be in use.
fn may_be_sparse(store: &Store) -> bool {
    let pack = store.blobs().packs().list()[0];
    store.blobs().live_bounds().may_be_sparse(pack, store.blobs().packs().used(pack))
}

/// Otherwise each pack would be read again just to find that it is in use.
#[tokio::test]
async fn pack_of_filed_takes_is_looked_at_once_their_audio_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blob = take(&store, &audio(), true).await;
    assert!(!may_be_sparse(&store), "it is in use");
    name(&store, blob.recording.unwrap().0, None).await;
    let at_once = (std::time::Duration::ZERO, twinbox_ids::Timestamp(u64::MAX));
    store.remove_unreferenced(&mut None, at_once.0, at_once.1, 10).await.unwrap();
    assert!(may_be_sparse(&store), "it was removed");
}

#[tokio::test]
async fn pack_is_looked_at_when_most_of_it_is_in_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("again"));
    for _ in 0..3 {
        take(&store, &audio(), true).await;
    }
    assert!(may_be_sparse(&store), "the same audio three times");

    let store = open(&dir.path().join("cut"));
    let id = RecordingId::random();
    store.recordings().begin(id, 1).await.unwrap();
    for n in 0..3 {
        store.recordings().append(id, 1, n * 1_300_000, audio()).unwrap();
    }
    let hash = BlobHash(*blake3::hash(&audio()).as_bytes());
    let cut = BlobRef { hash, length: 1_300_000, recording: Some((id, 1)) };
    assert_eq!(store.recordings().seal_from_chunks(cut).await, Ok(true));
    name(&store, id, Some(cut)).await;
    store.recordings().written().await.unwrap();
    assert!(may_be_sparse(&store), "two thirds of a take were cut");

    // Copied into longer pieces when it is sealed.
    let store = open(&dir.path().join("joined"));
    store.recordings().begin(id, 1).await.unwrap();
    for n in 0..2_000 {
        store.recordings().append(id, 1, n * 500, vec![n as u8; 500].into()).unwrap();
    }
    let joined = store.recordings().seal(id, 1).await.unwrap().blob;
    name(&store, id, Some(joined)).await;
    store.recordings().written().await.unwrap();
    assert!(may_be_sparse(&store), "a million bytes in short pieces and in long ones");

    let store = open(&dir.path().join("discarded"));
    take(&store, &audio(), false).await;
    assert!(!may_be_sparse(&store), "a sealed take that no record names is a blob");
    store.recordings().begin(id, 1).await.unwrap();
    store.recordings().append(id, 1, 0, audio().slice(..1_200_000)).unwrap();
    store.recordings().append(id, 1, 1_200_000, audio()).unwrap();
    store.recordings().discard(id, 1).await.unwrap();
    store.recordings().written().await.unwrap();
    assert!(may_be_sparse(&store), "the longer one was discarded");
}
