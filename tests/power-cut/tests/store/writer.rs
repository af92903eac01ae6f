//! The process that has the store: tells all that it finds, then commits, records, deletes and compacts until it is killed.

use std::{
    collections::VecDeque,
    env, future,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use twinbox_ids::{RecordingId, Timestamp};
use twinbox_replication_core::{Edit, Key, Table, Value};
use twinbox_replication_store::{CommitError, Removal, Store, StoreConfig, StoreError};

/// Environment of the process: folder of the store.
pub const FOLDER: &str = "TWINBOX_POWER_STORE";
/// Environment of a process that commits the next version of [`ORDERED`] for each line of its standard input, and does no other
/// work.
pub const BY_ORDER: &str = "TWINBOX_POWER_BY_ORDER";
/// The row of such a process.
pub const ORDERED: &str = "ordered";

pub const ROWS: Table = Table(7);
pub const AUDIO: Table = Table(8);
/// Writers at once, and rows that each of them overwrites.
const TASKS: usize = 4;
const KEYS: u64 = 8;
/// Recordings of a writer after which it deletes its oldest one.
const KEPT: usize = 3;
/// Packs that a compaction looks at. They are small: each process leaves one with little audio.
const PACKS: usize = 4;
/// Length of a chunk of audio.
const CHUNK: usize = 2_000;

/// A line for the test, in one piece: the process may be killed after it.
fn say(line: String) {
    let mut output = std::io::stdout().lock();
    // The test reads until this process is killed.
    let _closed = output.write_all(format!("\n{line}\n").as_bytes()).and_then(|()| output.flush());
}

/// Does the work of the process, if this process was started for it.
pub async fn write_if_asked() {
    let Some(dir) = env::var_os(FOLDER).map(PathBuf::from) else { return };
    let store = match open(&dir) {
        Ok(store) => store,
        Err(error) => return say(format!("refused {error}")),
    };
    let found = match report(&store).await {
        Ok(found) => found,
        Err(error) => return say(format!("refused {error}")),
    };
    say("open".to_owned());
    if env::var_os(BY_ORDER).is_some() {
        return obey(&store).await;
    }
    let (deleted, deletions) = unbounded_channel();
    for task in 0..TASKS {
        let (store, deleted) = (store.clone(), deleted.clone());
        let filed = found.iter().skip(task).step_by(TASKS).cloned().collect();
        // A store whose disk has no power refuses all that follows.
        tokio::spawn(async move {
            work(&store, task as u64, filed, &deleted).await.map_err(|error| eprintln!("{task}: {error}"))
        });
    }
    tokio::spawn(async move { clean(&store, deletions).await.map_err(|error| eprintln!("clean: {error}")) });
    future::pending().await
}

pub fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(StoreConfig { dir: dir.to_owned(), node: "a".parse().unwrap(), reserve_bytes: 1 })
}

async fn obey(store: &Store) {
    for _order in std::io::stdin().lines().map_while(Result::ok) {
        match commit_next(store, ORDERED).await {
            Ok(version) => say(format!("committed {ORDERED} {version}")),
            Err(error) => say(format!("refused {error}")),
        }
    }
}

/// Returns the filed recordings.
async fn report(store: &Store) -> Result<Vec<String>, StoreError> {
    for row in store.rows(ROWS, b"") {
        let (key, record) = row?;
        let (id, bytes) = (id_of(&key), record.bytes(1).unwrap_or_default());
        let version = version_of(bytes);
        match version.filter(|version| content(&id, *version) == bytes) {
            Some(version) => say(format!("row {id} {version}")),
            None => say(format!("damaged {id}: {} bytes, {version:?}", bytes.len())),
        }
    }
    let mut filed = Vec::new();
    for row in store.rows(AUDIO, b"") {
        let (key, record) = row?;
        let id = id_of(&key);
        let Some(blob) = record.blobs().next() else {
            say(format!("damaged {id} names no audio"));
            continue;
        };
        match store.blobs().read(&blob.hash).await {
            // A deleted record has its audio until it is purged.
            Ok(bytes) if bytes == audio(&id, blob.length as usize) && record.is_deleted() => {}
            Ok(bytes) if bytes == audio(&id, blob.length as usize) => {
                say(format!("audio {id} {}", blob.length));
                filed.push(id);
            }
            Ok(bytes) => say(format!("damaged {id}: other audio, {} bytes", bytes.len())),
            Err(error) => say(format!("damaged {id}: {error}")),
        }
    }
    for (id, take, length) in store.recordings().open() {
        let name = id.to_string();
        let expected = audio(&name, length as usize);
        for range in store.recordings().coverage(id, take).unwrap_or_default().iter() {
            let bytes = store.recordings().read(id, take, range.clone()).await?;
            if bytes != expected[range.start as usize..range.end as usize] {
                say(format!("damaged {name}: other audio in progress, {range:?}"));
            }
        }
        say(format!("in-progress {name}"));
        // As the check for orphan recordings does.
        store.recordings().discard(id, take).await?;
    }
    Ok(filed)
}

/// Commits and records. Of the recordings in `filed`, and of its own, it deletes the oldest ones.
async fn work(
    store: &Store,
    task: u64,
    mut filed: VecDeque<String>,
    deleted: &UnboundedSender<()>,
) -> Result<(), CommitError<StoreError>> {
    for n in 0.. {
        let id = format!("{task}-{}", n % KEYS);
        let version = commit_next(store, &id).await?;
        say(format!("committed {id} {version}"));
        if n % 3 == task % 3 {
            let recording = RecordingId::random();
            let (name, chunks) = (recording.to_string(), 1 + (n + task) % 9);
            let bytes = audio(&name, chunks as usize * CHUNK - 7);
            let recordings = store.recordings();
            recordings.begin(recording, 1).await.map_err(CommitError::Store)?;
            for offset in (0..bytes.len()).step_by(CHUNK) {
                let chunk = bytes.slice(offset..bytes.len().min(offset + CHUNK));
                recordings.append(recording, 1, offset as u64, chunk).map_err(CommitError::Store)?;
            }
            let blob = recordings.seal(recording, 1).await.map_err(CommitError::Store)?.blob;
            commit(store, AUDIO, &name, Edit::Set(1, Value::Blob(blob))).await?;
            say(format!("filed {name} {}", bytes.len()));
            filed.push_back(name);
        }
        let oldest = if filed.len() > KEPT { filed.pop_front() } else { None };
        if let Some(oldest) = oldest.filter(|name| !stays(name)) {
            say(format!("deleting {oldest}"));
            commit(store, AUDIO, &oldest, Edit::Delete).await?;
            say(format!("deleted {oldest}"));
            // Without a receiver the disk has no power.
            let _ended = deleted.send(());
        }
    }
    Ok(())
}

/// Commits the next version of a row.
async fn commit_next(store: &Store, id: &str) -> Result<u64, CommitError<StoreError>> {
    let row = store.get(&Key::new(ROWS, id)).map_err(CommitError::Store)?;
    let version = row.and_then(|row| version_of(row.bytes(1)?)).unwrap_or_default() + 1;
    commit(store, ROWS, id, Edit::Set(1, Value::Bytes(content(id, version)))).await?;
    Ok(version)
}

/// True for a quarter of the recordings: these are never deleted, and move from pack to pack.
fn stays(name: &str) -> bool {
    name.bytes().next_back().is_some_and(|last| last.is_multiple_of(4))
}

/// After each deletion: purges deleted records, removes the audio that no record names, and compacts the packs.
async fn clean(store: &Store, mut deletions: UnboundedReceiver<()>) -> Result<(), StoreError> {
    let mut cursor = 0;
    while deletions.recv().await.is_some() {
        let deleted = store.deleted_rows(AUDIO, None, 1_000)?;
        let purged = store.purge(deleted.into_iter().map(|row| (row, Removal::Whole)).collect()).await?;
        // All of it is old enough.
        let (grace, now) = (Duration::ZERO, Timestamp(u64::MAX));
        let freed = store.remove_unreferenced(&mut None, grace, now, 1_000).await?;
        let compacted = store.compact(&mut cursor, PACKS).await?;
        say(format!("cleaned {} {} {} {}", purged.whole, freed.blobs, compacted.removed, compacted.moved_bytes));
    }
    Ok(())
}

pub async fn commit(store: &Store, table: Table, id: &str, edit: Edit) -> Result<(), CommitError<StoreError>> {
    let key = Key::new(table, id);
    store.commit(move |draft| draft.edit(key, vec![edit])).await.map(|((), _)| ())
}

fn id_of(key: &Key) -> String {
    String::from_utf8_lossy(&key.id).into_owned()
}

/// The content of a row: its version, and filling that differs from that of all other versions.
pub fn content(id: &str, version: u64) -> Vec<u8> {
    let mut bytes = version.to_be_bytes().to_vec();
    let length = 1_000 + (version * 7_919) as usize % 20_000;
    bytes.extend(audio(&format!("{id} {version}"), length));
    bytes
}

fn version_of(content: &[u8]) -> Option<u64> {
    content.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Bytes that differ from place to place and from name to name: no two recordings share a blob.
pub fn audio(name: &str, length: usize) -> Bytes {
    let fold = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let start = name.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    let at = |place: u64| (start.wrapping_add(place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8;
    (0..length as u64).map(at).collect()
}
