//! The process that has the store: tells all that it finds, then commits and records until it is killed.

use std::{env, future, io::Write, path::PathBuf};

use bytes::Bytes;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Key, Table, Value};
use twinbox_replication_store::{CommitError, Store, StoreConfig, StoreError};

/// Environment of the process: folder of the store.
pub const FOLDER: &str = "TWINBOX_POWER_STORE";

const ROWS: Table = Table(7);
const AUDIO: Table = Table(8);
/// Writers at once, and rows that each of them overwrites.
const TASKS: u64 = 4;
const KEYS: u64 = 8;
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
    let store = match Store::open(StoreConfig { dir, node: "a".parse().unwrap(), reserve_bytes: 1 }) {
        Ok(store) => store,
        Err(error) => return say(format!("refused {error}")),
    };
    match report(&store).await {
        Ok(()) => say("open".to_owned()),
        Err(error) => return say(format!("refused {error}")),
    }
    for task in 0..TASKS {
        let store = store.clone();
        // A store whose disk has no power refuses all that follows.
        tokio::spawn(async move { work(&store, task).await.map_err(|error| eprintln!("{task}: {error}")) });
    }
    future::pending().await
}

async fn report(store: &Store) -> Result<(), StoreError> {
    for row in store.rows(ROWS, b"") {
        let (key, record) = row?;
        let (id, bytes) = (id_of(&key), record.bytes(1).unwrap_or_default());
        let version = version_of(bytes);
        match version.filter(|version| content(&id, *version) == bytes) {
            Some(version) => say(format!("row {id} {version}")),
            None => say(format!("damaged {id}: {} bytes, {version:?}", bytes.len())),
        }
    }
    for row in store.rows(AUDIO, b"") {
        let (key, record) = row?;
        let id = id_of(&key);
        let Some(blob) = record.blobs().next() else {
            say(format!("damaged {id} names no audio"));
            continue;
        };
        match store.blobs().read(&blob.hash).await {
            Ok(bytes) if bytes == audio(&id, blob.length as usize) => say(format!("audio {id} {}", blob.length)),
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
    Ok(())
}

async fn work(store: &Store, task: u64) -> Result<(), CommitError<StoreError>> {
    for n in 0.. {
        let id = format!("{task}-{}", n % KEYS);
        let row = store.get(&Key::new(ROWS, &*id)).map_err(CommitError::Store)?;
        let version = row.and_then(|row| version_of(row.bytes(1)?)).unwrap_or_default() + 1;
        commit(store, ROWS, &id, Value::Bytes(content(&id, version))).await?;
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
            let blob = recordings.seal(recording, 1).await.map_err(CommitError::Store)?;
            commit(store, AUDIO, &name, Value::Blob(blob)).await?;
            say(format!("filed {name} {}", bytes.len()));
        }
    }
    Ok(())
}

async fn commit(store: &Store, table: Table, id: &str, value: Value) -> Result<(), CommitError<StoreError>> {
    let key = Key::new(table, id);
    store.commit(move |draft| draft.edit(key, vec![Edit::Set(1, value)])).await.map(|((), _)| ())
}

fn id_of(key: &Key) -> String {
    String::from_utf8_lossy(&key.id).into_owned()
}

/// The content of a row: its version, and filling that differs from that of all other versions.
fn content(id: &str, version: u64) -> Vec<u8> {
    let mut bytes = version.to_be_bytes().to_vec();
    let length = 1_000 + (version * 7_919) as usize % 20_000;
    bytes.extend(audio(&format!("{id} {version}"), length));
    bytes
}

fn version_of(content: &[u8]) -> Option<u64> {
    content.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Bytes that differ from place to place and from name to name: no two recordings share a blob.
fn audio(name: &str, length: usize) -> Bytes {
    let fold = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let start = name.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    let at = |place: u64| (start.wrapping_add(place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8;
    (0..length as u64).map(at).collect()
}
