use std::{fs::File, os::unix::fs::FileExt, path::Path};

use bytes::Bytes;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Key, Table, Value};

use super::*;
use crate::{CommitError, Store, StoreConfig};

fn store(dir: &Path) -> Store {
    let config = StoreConfig { dir: dir.to_owned(), node: "a".parse().unwrap(), reserve_bytes: 0 };
    Store::open(config).unwrap()
}

fn chunk(key: TakeKey, offset: u64, bytes: &'static str, own: bool) -> Vec<Chunk> {
    vec![Chunk { key, offset, bytes: Bytes::from_static(bytes.as_bytes()), own }]
}

impl Writer {
    fn put(&mut self, key: TakeKey, offset: u64, bytes: &'static str) {
        self.put_all(chunk(key, offset, bytes, false));
    }

    fn put_all(&mut self, chunks: Vec<Chunk>) {
        let queued = chunks.iter().map(|chunk| chunk.bytes.len() as u64 + CHUNK_BYTES).sum();
        self.shared.waiting.fetch_add(queued, std::sync::atomic::Ordering::Relaxed);
        self.write(chunks);
    }

    fn ready(&mut self, key: TakeKey) -> Box<Ready> {
        match self.seal(key) {
            Ok(Sealing::Ready(ready)) => ready,
            _ => panic!("it does not seal"),
        }
    }
}

/// Commits a record that names a blob.
async fn file(store: &Store, blob: BlobRef) {
    let key = Key::new(Table(7), blob.hash.to_string());
    let commit = store.commit(move |draft| draft.edit(key, vec![Edit::Set(1, Value::Blob(blob))]));
    let committed: Result<_, CommitError<StoreError>> = commit.await;
    committed.unwrap();
}

fn key() -> TakeKey {
    (RecordingId::random(), 1)
}

/// A writer besides that of the store, which does nothing meanwhile.
fn writer(store: &Store) -> Writer {
    Writer::new(Arc::clone(store.recordings().shared()), Loaded::default())
}

#[tokio::test]
async fn ended_takes_are_remembered_up_to_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let shared = Arc::clone(store.recordings().shared());
    let mut writer = Writer { remembered: 8, ..writer(&store) };
    let keys: Vec<TakeKey> = (0..30).map(|_| key()).collect();
    let texts = ["zero", "one", "two", "three", "four"];
    for (n, key) in keys.iter().enumerate() {
        writer.begin(*key).unwrap();
        writer.put(*key, 0, texts[n % 5]);
        if n % 3 == 0 {
            writer.discard(*key, true);
            continue;
        }
        let blob = shared.make_blob(*writer.ready(*key)).await.unwrap();
        let again = writer.seal(*key);
        assert!(matches!(&again, Ok(Sealing::Elsewhere(done)) if *done.borrow() == Some(blob)));
        // Without a durable row, only the take keeps the audio from a restart.
        if n < 5 {
            writer.filed(*key, blob.hash);
            assert!(!matches!(writer.takes.get(key), Some(State::Ended)));
        }
        file(&store, blob).await;
        writer.filed(*key, BlobHash([1; 32]));
        assert!(!matches!(writer.takes.get(key), Some(State::Ended)), "another content was filed");
        writer.filed(*key, blob.hash);
    }
    assert_eq!((writer.takes.len(), writer.ended.len()), (8, 8));
    assert!(writer.takes.values().all(|state| matches!(state, State::Ended)));
    assert!(size_of::<State>() <= 16);
    assert!(shared.index().takes.is_empty() && writer.firsts.is_empty());
    // A late chunk of a remembered take is dropped.
    for key in [keys[29], keys[27]] {
        writer.put(key, 0, "late");
        assert!(shared.index().takes.is_empty());
    }
}

/// A peer that lies sends a byte of one take after the other.
#[tokio::test]
async fn chunks_of_peers_begin_takes_up_to_a_bound_and_own_takes_always_begin() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut writer = writer(&store);
    let (first, late, own) = (key(), key(), key());
    let others = (1..MOST_OPEN).map(|_| key());
    writer.put_all([first].into_iter().chain(others).flat_map(|key| chunk(key, 0, "x", false)).collect());
    let is_open = |key: TakeKey| store.recordings().coverage(key.0, key.1).is_some();
    writer.put(late, 0, "late");
    assert!(is_open(first) && !is_open(late));
    writer.put(first, 1, "more");
    assert_eq!(store.recordings().coverage(first.0, first.1).map(|here| here.total()), Some(5));
    writer.begin(own).unwrap();
    writer.put_all(chunk(own, 0, "own", true));
    assert_eq!(store.recordings().coverage(own.0, own.1).map(|here| here.total()), Some(3));
    // With the end of takes there is room for others.
    writer.discard(first, false);
    writer.discard(own, false);
    writer.put(late, 0, "late");
    assert!(is_open(late));
}

#[test]
fn chunk_counts_in_the_queue_even_without_audio() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let shared = store.recordings().shared();
    shared.waiting.store(crate::recordings::QUEUE_BYTES, std::sync::atomic::Ordering::Relaxed);
    let (id, take) = key();
    let refused = store.recordings().insert(id, take, 0, Bytes::new());
    assert!(matches!(refused, Err(StoreError::Overloaded { .. })), "{refused:?}");
}

#[tokio::test]
async fn seal_that_failed_can_be_tried_again_or_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let shared = Arc::clone(store.recordings().shared());
    let mut writer = writer(&store);
    let (again, given_up) = (key(), key());
    for key in [again, given_up] {
        writer.put(key, 0, "first");
        writer.put(key, 8, "third");
        drop(writer.ready(key));
        // Not yet in progress again: nothing may come in between.
        writer.put(key, 5, "2nd");
        assert_eq!(shared.index().open(key).map(|pieces| pieces.covered().total()), Some(13));
    }
    let blob = shared.make_blob(*writer.ready(again)).await.unwrap();
    assert_eq!(blob.hash.0, *blake3::hash(b"first\xff\xff\xffthird").as_bytes());
    writer.discard(given_up, false);
    assert!(shared.index().all_open().next().is_none());
}

/// Mutants: a note of the end that is written before the row is durable, a start that takes any frame of a blob for
/// filed, a start that asks only whether a record names the take.
#[tokio::test]
async fn filed_take_without_a_note_of_its_end_is_not_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    let recordings = opened.recordings();
    let (filed, other, longer) = (key(), key(), key());
    for (id, take) in [filed, other] {
        recordings.insert(id, take, 0, Bytes::from_static(b"the same")).unwrap();
    }
    recordings.insert(longer.0, longer.1, 0, Bytes::from_static(b"a part and the rest")).unwrap();
    // The blob has the pieces of the take that is sealed last: the one that is not filed.
    recordings.seal(filed.0, filed.1).await.unwrap();
    let blob = recordings.seal(other.0, other.1).await.unwrap();
    let part = opened.blobs().put(Bytes::from_static(b"a part")).await.unwrap();
    file(&opened, BlobRef { recording: Some(longer), ..part }).await;
    file(&opened, BlobRef { recording: Some(filed), ..blob }).await;
    recordings.written().await.unwrap();
    let mut open = recordings.open();
    assert_eq!(open, [(longer.0, 1, 19)]);
    drop(opened);

    let opened = store(dir.path());
    open.push((other.0, 1, 8));
    open.sort_unstable();
    assert_eq!(opened.recordings().open(), open, "one is longer than what was filed, one is not filed");
    let blob = opened.recordings().seal(other.0, other.1).await.unwrap();
    file(&opened, blob).await;
    opened.recordings().written().await.unwrap();
    let packs = opened.blobs().packs();
    let pack = packs.active().unwrap();
    let end = packs.used(pack);
    drop(opened);

    // A power cut before the note reached the disk.
    let path = dir.path().join("audio").join(format!("{pack:08}.pack"));
    let pack = File::options().read(true).write(true).open(path).unwrap();
    let mut note = [0; 48];
    pack.read_exact_at(&mut note, end - 48).unwrap();
    assert_eq!(note[16..32], other.0.0.to_le_bytes(), "it is the note");
    pack.write_all_at(&[0; 48], end - 48).unwrap();
    let opened = store(dir.path());
    assert_eq!(opened.recordings().open(), [(longer.0, 1, 19)]);
    assert_eq!(opened.blobs().read(&blob.hash).await, Ok(Bytes::from_static(b"the same")));
}

#[tokio::test]
async fn take_moves_out_of_a_pack_and_is_found_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (open, discarded) = (key(), key());
    let before = store(dir.path());
    let recordings = before.recordings();
    for (id, take) in [open, discarded] {
        recordings.insert(id, take, 0, Bytes::from_static(b"abc")).unwrap();
        recordings.insert(id, take, 5, Bytes::from_static(b"fgh")).unwrap();
    }
    recordings.discard(discarded.0, 1).await.unwrap();
    let old = before.blobs().packs().active().unwrap();
    assert_eq!(recordings.bytes_in(old), Some(6 + 48));
    drop(before);

    let moved = store(dir.path());
    let recordings = moved.recordings();
    assert_eq!(recordings.bytes_in(old), Some(6 + 48));
    recordings.move_from(old).await.unwrap();
    assert_eq!(recordings.bytes_in(old), Some(0));
    assert_eq!(recordings.read(open.0, 1, 5..8).await, Ok(Bytes::from_static(b"fgh")));
    moved.blobs().packs().remove(old).unwrap();
    recordings.insert(open.0, 1, 3, Bytes::from_static(b"de")).unwrap();
    recordings.written().await.unwrap();
    drop(moved);

    let store = store(dir.path());
    assert_eq!(store.recordings().open(), [(open.0, 1, 8)]);
    let blob = store.recordings().seal(open.0, 1).await.unwrap();
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(Bytes::from_static(b"abcdefgh")));
}

/// The places of a blob without a row are known to the blob alone.
#[tokio::test]
async fn sealed_take_stays_in_its_pack_until_its_blob_has_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (id, take) = key();
    store.recordings().insert(id, take, 0, Bytes::from_static(b"audio")).unwrap();
    let blob = store.recordings().seal(id, take).await.unwrap();
    let pack = store.blobs().packs().active().unwrap();
    store.recordings().move_from(pack).await.unwrap();
    assert_eq!(store.recordings().bytes_in(pack), Some(5));
    assert!(store.recordings().unfiled().contains(&blob.hash));
    file(&store, blob).await;
    store.recordings().written().await.unwrap();
    assert_eq!(store.recordings().bytes_in(pack), Some(48), "the note of its end");
    assert!(!store.recordings().unfiled().contains(&blob.hash));
    store.recordings().shared().index().unreadable.insert(pack);
    assert_eq!(store.recordings().bytes_in(pack), None, "compaction keeps what this start could not read");
}

/// A start scans from the first pack with a take on, and new packs are never before it.
#[tokio::test]
async fn first_pack_of_a_start_rises_with_the_end_of_takes() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = 0;
    for n in 0..4 {
        let store = store(dir.path());
        let key = key();
        let take = store.recordings();
        take.insert(key.0, key.1, 0, Bytes::copy_from_slice(&[n; 100])).unwrap();
        take.written().await.unwrap();
        let pack = store.blobs().packs().active().unwrap();
        assert!(pack >= expected, "pack {pack} is not scanned");
        expected = pack;
        let blob = take.seal(key.0, key.1).await.unwrap();
        file(&store, blob).await;
        // The writer ends the take, then raises the first pack; the next change stores it.
        let began = twinbox_clock::BootInstant::now();
        while store.blobs().stored_floor() != Ok(pack) {
            assert!(began.elapsed() < Duration::from_secs(30), "{:?} of pack {pack}", store.blobs().stored_floor());
            take.written().await.unwrap();
            file(&store, store.blobs().put(Bytes::copy_from_slice(&[n; 50])).await.unwrap()).await;
        }
        assert!(take.open().is_empty());
    }
}
