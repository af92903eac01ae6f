//! Tests of the store on real files, through its public interface.

mod blobs;
mod changes;
mod codec;
mod commits;
mod compact;
mod compare;
mod damage;
mod feed;
mod kills;
mod log;
mod origins;
mod present;
mod purge;
mod recordings;

use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;
use twinbox_ids::NodeName;
use twinbox_replication_core::{Edit, Key, Table, Value};
use twinbox_replication_feed::{FeedEntry, FeedReader};
use twinbox_replication_store::{CommitError, Committed, Store, StoreConfig, StoreError};

const TABLE: Table = Table(7);

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn node(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

fn open(dir: &Path) -> Store {
    open_as(dir, "a").expect("a store")
}

fn open_as(dir: &Path, name: &str) -> Result<Store, StoreError> {
    Store::open(StoreConfig { dir: dir.to_owned(), node: node(name), reserve_bytes: 1 })
}

fn key(id: &str) -> Key {
    Key::new(TABLE, id)
}

fn set(text: &str) -> Vec<Edit> {
    vec![Edit::Set(1, Value::Bytes(text.into()))]
}

/// Commits edits of one record.
async fn edit(store: &Store, id: &str, edits: Vec<Edit>) -> Result<Committed, CommitError<StoreError>> {
    let key = key(id);
    store.commit(move |draft| draft.edit(key, edits)).await.map(|((), committed)| committed)
}

/// The text of a record.
fn text(store: &Store, id: &str) -> Option<String> {
    let record = store.get(&key(id)).expect("a read")?;
    Some(String::from_utf8(record.bytes(1)?.to_vec()).expect("text"))
}

/// The entries that a feed has for a reader, in order.
fn taken(feed: &mut FeedReader) -> Vec<FeedEntry> {
    let mut entries = Vec::new();
    feed.take(usize::MAX, &mut entries).expect("a reader that is not overtaken");
    entries
}

/// `length` bytes that are different at every place.
fn audio(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}
