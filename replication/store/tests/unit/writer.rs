use std::{fs::File, os::unix::fs::FileExt, path::Path};

use bytes::Bytes;
use twinbox_disk::Reserve;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{BlobRef, Edit, Key, Table, Value};

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
        let sealed = shared.make_blob(*writer.ready(*key)).await.unwrap();
        let (again, blob) = (writer.seal(*key), sealed.blob);
        assert!(matches!(&again, Ok(Sealing::Elsewhere(done)) if *done.borrow() == Some(sealed)));
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
    assert!(shared.index().takes.values().next().is_none() && writer.firsts.is_empty());
    assert!(writer.hashed.iter().all(Option::is_none));
    // A late chunk of a remembered take is dropped.
    for key in [keys[29], keys[27]] {
        writer.put(key, 0, "late");
        assert!(shared.index().takes.values().next().is_none());
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
        assert_eq!(store.recordings().coverage(key.0, key.1).map(|here| here.total()), Some(13));
    }
    let blob = shared.make_blob(*writer.ready(again)).await.unwrap().blob;
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
    let blob = recordings.seal(other.0, other.1).await.unwrap().blob;
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
    let blob = opened.recordings().seal(other.0, other.1).await.unwrap().blob;
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
    let blob = store.recordings().seal(open.0, 1).await.unwrap().blob;
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(Bytes::from_static(b"abcdefgh")));
}

/// The places of a blob without a row are known to the blob alone.
#[tokio::test]
async fn sealed_take_stays_in_its_pack_until_its_blob_has_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (id, take) = key();
    store.recordings().insert(id, take, 0, Bytes::from_static(b"audio")).unwrap();
    let blob = store.recordings().seal(id, take).await.unwrap().blob;
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
        let blob = take.seal(key.0, key.1).await.unwrap().blob;
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

/// The command of a chunk, as callers queue it.
fn queued(writer: &Writer, key: TakeKey, offset: u64, bytes: &'static str, own: bool) -> Command {
    let chunk = Chunk { key, offset, bytes: Bytes::from_static(bytes.as_bytes()), own };
    writer.shared.waiting.fetch_add(chunk.bytes.len() as u64 + CHUNK_BYTES, std::sync::atomic::Ordering::Relaxed);
    Command::Chunk(chunk)
}

/// The entries that a feed has for a reader: takes and offsets of chunks.
fn announced(feed: &mut twinbox_replication_feed::FeedReader) -> Vec<(TakeKey, u64)> {
    let mut entries = Vec::new();
    feed.take(usize::MAX, &mut entries).unwrap();
    let chunk = |entry| match entry {
        FeedEntry::Chunk { take, offset, .. } => (take, offset),
        _ => panic!("{entry:?}"),
    };
    entries.into_iter().map(chunk).collect()
}

/// Mutants: a seal that takes the chunks behind it too, or not those before it; a chunk that is put at the slot of another take.
#[tokio::test]
async fn take_that_is_sealed_within_a_batch_has_the_chunks_before_its_seal() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (shared, mut feed) = (Arc::clone(store.recordings().shared()), store.feed().reader());
    let mut writer = writer(&store);
    let (sealed, discarded, goes_on, begins, early) = (key(), key(), key(), key(), key());
    [sealed, discarded, goes_on].into_iter().for_each(|key| writer.begin(key).unwrap());
    let ((seal, mut ready), (discard, _discarded)) = (oneshot::channel(), oneshot::channel());
    let ((first, mut begun), (second, mut begun_later)) = (oneshot::channel(), oneshot::channel());
    let batch = [
        queued(&writer, sealed, 0, "se", true),
        queued(&writer, goes_on, 0, "on", true),
        queued(&writer, sealed, 2, "al", true),
        Command::Begin { key: begins, reply: first },
        queued(&writer, discarded, 0, "dis", true),
        queued(&writer, begins, 0, "be", true),
        // Of a take that begins in the same batch, but later.
        queued(&writer, early, 0, "lost", true),
        Command::Begin { key: early, reply: second },
        queued(&writer, early, 0, "early", true),
        Command::Seal { key: sealed, reply: seal },
        Command::Discard { key: discarded, tell: false, reply: discard },
        queued(&writer, sealed, 4, "late", true),
        queued(&writer, discarded, 3, "late", true),
        queued(&writer, goes_on, 2, "e more", true),
    ];
    writer.execute_all(batch.into_iter());
    assert_eq!(shared.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!((begun.try_recv(), begun_later.try_recv()), (Ok(Ok(())), Ok(Ok(()))));
    let Ok(Ok(Sealing::Ready(ready))) = ready.try_recv() else { panic!("it does not seal") };
    let blob = shared.make_blob(*ready).await.unwrap().blob;
    assert_eq!(blob.hash.0, *blake3::hash(b"seal").as_bytes());
    let length = |(id, take): TakeKey| store.recordings().coverage(id, take).map(|here| here.total());
    assert_eq!([goes_on, begins, early].map(length), [Some(8), Some(2), Some(5)]);
    assert_eq!([sealed, discarded].map(length), [None; 2]);
    let expected = [(sealed, 0), (goes_on, 0), (sealed, 2), (discarded, 0), (begins, 0), (early, 0), (goes_on, 2)];
    assert_eq!(announced(&mut feed), expected);
    for (key, text) in [(goes_on, "one more"), (begins, "be"), (early, "early")] {
        let blob = shared.make_blob(*writer.ready(key)).await.unwrap().blob;
        assert_eq!(store.blobs().read(&blob.hash).await, Ok(Bytes::from_static(text.as_bytes())));
    }
}

/// Mutants: no look at the chunks of the same batch, one that looks at those of other takes.
#[tokio::test]
async fn chunks_of_one_batch_that_overlap_are_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let shared = Arc::clone(store.recordings().shared());
    let mut writer = writer(&store);
    let (one, other) = (key(), key());
    writer.put(one, 4, "efg");
    let of = |key, offset, bytes| chunk(key, offset, bytes, false);
    let batch = [
        of(one, 0, "ab"),
        of(other, 0, "0123"),
        // Twice, in parts that are here, that come before them in the batch, and that are new.
        of(one, 0, "ab"),
        of(one, 1, "bcdefghi"),
        of(other, 6, "67"),
        of(one, 7, "hij"),
        of(other, 2, "2345678"),
    ];
    let packs = store.blobs().packs();
    let used = || packs.active().map(|pack| packs.used(pack));
    let before = used();
    writer.put_all(batch.into_iter().flatten().collect());
    // ab, cd, hi, j; 0123, 67, 45, 8.
    let written: u64 = [2, 2, 2, 1, 4, 2, 2, 1].map(twinbox_packs::frame_bytes).iter().sum();
    assert_eq!(used(), before.map(|before| before + written));
    for (key, text) in [(one, "abcdefghij"), (other, "012345678")] {
        let blob = shared.make_blob(*writer.ready(key)).await.unwrap().blob;
        assert_eq!(blob.hash.0, *blake3::hash(text.as_bytes()).as_bytes(), "its hash follows the bytes: {text}");
        assert_eq!(store.blobs().read(&blob.hash).await, Ok(Bytes::from_static(text.as_bytes())));
    }
}

/// A peer that lies fills the queue with bytes that are here: all calls wait for the lock of the index meanwhile. Mutant: a look at all
/// chunks of the append for each.
#[test]
fn chunk_that_comes_again_costs_the_same_whatever_came_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut writer = writer(&store);
    let key = key();
    let mut batch = vec![queued(&writer, key, 0, "xx", false)];
    batch.extend((0..400_000).map(|n| queued(&writer, key, n % 2, "x", false)));
    let began = twinbox_clock::BootInstant::now();
    writer.execute_all(batch.into_iter());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let packs = store.blobs().packs();
    let used = packs.active().map(|pack| packs.used(pack));
    assert_eq!(used, Some(twinbox_packs::BLOCK + twinbox_packs::frame_bytes(2)), "only the first one is written");
}

/// Rule A4. Mutant: a take of a peer that is left without audio.
#[test]
fn batch_that_cannot_be_written_begins_no_take_and_goes_to_the_peers_if_the_disk_failed() {
    for disk_failed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut announcements = store.feed().reader();
        let (own, theirs, known) = (key(), key(), key());
        let mut writer = writer(&store);
        writer.begin(own).unwrap();
        writer.put(known, 0, "here");
        if disk_failed {
            store.mark_broken("a sync failed");
        } else {
            // The same on a disk without room.
            let Shared { disk, blobs, index, feed, .. } = &*writer.shared;
            let (disk, blobs, feed) = (disk.clone(), blobs.clone(), feed.clone());
            let index = std::mem::take(&mut *index.lock().unwrap()).into();
            let (named, waiting, full) = (Default::default(), Default::default(), Default::default());
            let reserve = Reserve::new(dir.path(), u64::MAX);
            writer.shared = Arc::new(Shared { disk, blobs, reserve, index, named, waiting, full, feed });
        }
        let batch = [(own, true), (theirs, false), (known, false), (theirs, false)].into_iter().enumerate();
        writer.put_all(batch.flat_map(|(n, (key, own))| chunk(key, 4 * n as u64, "lost", own)).collect());
        let here = |key: TakeKey| writer.shared.index().open(key).map(Pieces::end);
        assert_eq!((here(own), here(theirs), here(known)), (Some(0), None, Some(4)));
        assert!(!writer.takes.contains_key(&theirs));
        assert_eq!(writer.shared.full.load(std::sync::atomic::Ordering::Relaxed), !disk_failed);
        let expected = if disk_failed { vec![(own, 0)] } else { Vec::new() };
        assert_eq!(announced(&mut announcements), expected, "disk failed: {disk_failed}");
    }
}
