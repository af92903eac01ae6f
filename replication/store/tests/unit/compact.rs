use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::StoreConfig;

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
    assert_eq!(store.move_blobs(pack), Ok(1_300_000));
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
    store.disk().transact(move |transaction| replace(transaction, &moves)).await.unwrap();
    assert_eq!(store.blobs().row(&hash), Ok(Some(row.clone())));

    let removed = move |transaction: &mut Transaction<'_>| pieces::remove(transaction, &hash).map(drop);
    store.disk().transact(removed).await.unwrap();
    store.disk().transact(move |transaction| replace(transaction, &[(hash, row, to)])).await.unwrap();
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
    assert_eq!((store.live_in(pack), store.remove_pack(pack)), (Ok(Some(Live::NONE)), Ok(true)));
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
