//! Compaction: the disk gets back the space of removed audio, and nothing else is lost.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use twinbox_clock::wall;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{BlobRef, Edit, Value};
use twinbox_replication_store::{CompactedPacks, Store};

use crate::{audio, damage, dir, edit, open};

/// Four of these fill the first pack, nearly; eight the next, sixteen each after that, since they come fast.
const LENGTH: usize = 4_000_000;

/// Audio number `n`.
fn content(n: u8) -> Bytes {
    let mut bytes = vec![0; LENGTH];
    for (i, block) in bytes.chunks_mut(4_096).enumerate() {
        block.fill(n.wrapping_mul(31).wrapping_add((i % 251) as u8));
    }
    bytes.into()
}

/// Stores audio; a record names every fourth, the rest is removed again. Returns the numbers and blobs of those that stay.
async fn fill(store: &Store, numbers: std::ops::Range<u8>) -> Vec<(u8, BlobRef)> {
    let mut kept = Vec::new();
    for n in numbers {
        let blob = store.blobs().put(content(n)).await.expect("a blob");
        if n % 4 == 0 {
            edit(store, &format!("message {n}"), vec![Edit::Set(1, Value::Blob(blob))]).await.expect("a commit");
            kept.push((n, blob));
        }
    }
    store.remove_orphan_blobs(&mut None, Duration::ZERO, wall(), 1_000).await.expect("a removal");
    kept
}

async fn compact(store: &Store) -> CompactedPacks {
    store.compact(&mut 0, 1_000).await.expect("a compaction")
}

async fn check(store: &Store, kept: &[(u8, BlobRef)]) {
    for (n, blob) in kept {
        assert!(store.blobs().has(&blob.hash), "{n}");
        assert!(store.blobs().read(&blob.hash).await == Ok(content(*n)), "{n}");
        let part = store.blobs().read_part(&blob.hash, 999_999, 500_001);
        assert!(part.is_ok_and(|(part, _)| part == content(*n).slice(999_999..1_500_000)), "{n}");
    }
}

fn oldest(dir: &Path) -> std::path::PathBuf {
    damage::packs(dir).remove(0)
}

#[tokio::test]
async fn sparse_packs_are_moved_together_and_leave_the_disk() {
    let dir = dir();
    let store = open(dir.path());
    let kept = fill(&store, 0..62).await;
    let first = oldest(dir.path());
    let compacted = compact(&store).await;
    assert!(compacted.removed >= 3, "{compacted:?}");
    let moved = compacted.moved_bytes as usize / LENGTH;
    assert!((4..12).contains(&moved), "{compacted:?}");
    check(&store, &kept).await;
    // The newest packs of before are next; what was moved is not moved again.
    let mut rounds = 0;
    while compact(&store).await != CompactedPacks::default() {
        rounds += 1;
        assert!(rounds < 5, "it comes to an end");
    }
    drop(store);
    // Its file may have been kept until now, to become another pack.
    assert!(!first.exists());

    let store = open(dir.path());
    check(&store, &kept).await;
    // Packs whose audio is all removed from now on need no move.
    for (n, _) in &kept {
        let edits = vec![Edit::Set(1, Value::Bytes(b"no audio".into()))];
        edit(&store, &format!("message {n}"), edits).await.expect("a commit");
    }
    let freed = store.remove_unreferenced(&mut None, Duration::ZERO, wall(), 1_000).await.expect("a removal");
    assert_eq!(freed.blobs as usize, kept.len());
    for n in [101, 102, 103, 105, 106, 107, 109, 110] {
        store.blobs().put(content(n)).await.expect("a blob");
    }
    assert_eq!(fill(&store, 0..0).await, [], "all of these are removed");
    let CompactedPacks { removed, moved_bytes, freed_bytes } = compact(&store).await;
    assert!(freed_bytes > LENGTH as u64, "{freed_bytes}");
    assert!(removed >= 2 && moved_bytes == 0, "{removed} packs, {moved_bytes} bytes");
}

/// Their rows change in several transactions, each of few blobs.
#[tokio::test]
async fn short_blobs_leave_a_sparse_pack_together() {
    let dir = dir();
    let store = open(dir.path());
    let mut short = Vec::new();
    for n in 1..=21 {
        let blob = store.blobs().put(audio(1_000 + n)).await.expect("a blob");
        edit(&store, &format!("short {n}"), vec![Edit::Set(1, Value::Blob(blob))]).await.expect("a commit");
        short.push((n, blob));
    }
    let first = oldest(dir.path());
    // The rest of its pack is removed, and newer packs come.
    fill(&store, 1..4).await;
    let kept = fill(&store, 4..62).await;
    let compacted = compact(&store).await;
    assert!(compacted.removed >= 1, "{compacted:?}");
    drop(store);
    assert!(!first.exists(), "a blob was left in it");

    let store = open(dir.path());
    check(&store, &kept).await;
    for (n, blob) in short {
        assert!(store.blobs().read(&blob.hash).await == Ok(audio(1_000 + n)), "{n}");
    }
}

#[tokio::test]
async fn dense_packs_stay_and_the_cursor_goes_round() {
    let dir = dir();
    let store = open(dir.path());
    for n in 0..62 {
        let blob = store.blobs().put(content(n)).await.expect("a blob");
        edit(&store, &n.to_string(), vec![Edit::Set(1, Value::Blob(blob))]).await.expect("a commit");
    }
    let mut cursor = 0;
    // The rows say how much of each is live; none is counted.
    assert_eq!(store.compact(&mut cursor, 1).await, Ok(CompactedPacks::default()));
    assert_eq!(cursor, 0, "no pack is to be looked at");
    assert!(oldest(dir.path()).exists());
    for n in (0..62).filter(|n| n % 4 != 0) {
        edit(&store, &n.to_string(), vec![Edit::Set(1, Value::Bytes(b"no audio".into()))]).await.expect("a commit");
    }
    store.remove_unreferenced(&mut None, Duration::ZERO, wall(), 1_000).await.expect("a removal");
    let (mut removed, mut rounds) = (0, 0);
    while rounds == 0 || cursor != 0 {
        removed += store.compact(&mut cursor, 1).await.expect("a compaction").removed;
        rounds += 1;
    }
    assert!(removed >= 3 && rounds >= 3, "{removed} removed, one in each of {rounds} calls");
}

/// The node compacts automatically, and an administrator may ask for it meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_callers_compact_without_harm_and_free_each_pack_once() {
    let dir = dir();
    let store = open(dir.path());
    let kept = fill(&store, 0..24).await;
    let packs = damage::packs(dir.path()).len() as u64;
    let (one, other) = (store.clone(), store.clone());
    let one = tokio::spawn(async move { compact(&one).await });
    let other = tokio::spawn(async move { compact(&other).await });
    let (one, other) = (one.await.expect("one"), other.await.expect("the other"));
    assert!((1..packs).contains(&(one.removed + other.removed)), "{one:?} {other:?}, {packs} packs");
    assert!(one.freed_bytes + other.freed_bytes > one.moved_bytes + other.moved_bytes, "{one:?} {other:?}");
    check(&store, &kept).await;
}

/// A reader that has read the places of a blob, and not yet its bytes, finds them in the new pack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_can_be_read_while_they_are_moved() {
    let dir = dir();
    let store = open(dir.path());
    let stop = Arc::new(AtomicBool::new(false));
    let mut kept = fill(&store, 0..20).await;
    let (reader, done, known) = (store.clone(), Arc::clone(&stop), kept.clone());
    let reads = tokio::spawn(async move {
        let mut reads = 0;
        while !done.load(Relaxed) {
            for (n, blob) in &known {
                let read = reader.blobs().read(&blob.hash).await;
                assert!(read == Ok(content(*n)), "{n}: {:?}", read.map(|bytes| bytes.len()));
                reads += 1;
            }
        }
        reads
    });
    let mut removed = 0;
    for round in 1..4 {
        removed += compact(&store).await.removed;
        kept.extend(fill(&store, round * 20..round * 20 + 20).await);
    }
    stop.store(true, Relaxed);
    assert!(reads.await.expect("the reader") > 0);
    assert!(removed >= 3, "{removed}");
    check(&store, &kept).await;
}

#[tokio::test]
async fn takes_in_progress_leave_a_sparse_pack_with_all_their_bytes() {
    let dir = dir();
    let store = open(dir.path());
    let (id, spoken) = (RecordingId::random(), audio(30_000));
    store.recordings().begin(id, 1).await.expect("a recording");
    store.recordings().append(id, 1, 0, spoken.slice(..10_000)).expect("a chunk");
    store.recordings().written().await.expect("written");
    let kept = fill(&store, 0..24).await;
    store.recordings().append(id, 1, 10_000, spoken.slice(10_000..20_000)).expect("a chunk");
    store.recordings().written().await.expect("written");
    let first = oldest(dir.path());
    compact(&store).await;
    assert_eq!(store.recordings().read(id, 1, 0..20_000).await, Ok(spoken.slice(..20_000)));
    check(&store, &kept).await;
    drop(store);
    // Its file may have been kept until now, to become another pack.
    assert!(!first.exists());

    // The next incarnation finds it where it is now.
    let store = open(dir.path());
    assert_eq!(store.recordings().open(), [(id, 1, 20_000)]);
    store.recordings().append(id, 1, 20_000, spoken.slice(20_000..)).expect("a chunk");
    let blob = store.recordings().seal(id, 1).await.expect("a blob").blob;
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(spoken));
    check(&store, &kept).await;
}

/// No row names the audio of a sealed take yet, and its pack must not go.
#[tokio::test]
async fn audio_that_waits_for_its_change_keeps_its_pack() {
    let dir = dir();
    let store = open(dir.path());
    let id = RecordingId::random();
    store.recordings().begin(id, 1).await.expect("a recording");
    store.recordings().append(id, 1, 0, audio(5_000)).expect("a chunk");
    let blob = store.recordings().seal(id, 1).await.expect("a blob").blob;
    fill(&store, 1..48).await;
    let first = oldest(dir.path());
    assert!(compact(&store).await.removed > 0);
    assert!(first.exists());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(5_000)));
    edit(&store, "message", vec![Edit::Set(1, Value::Blob(blob))]).await.expect("filed");
    store.recordings().written().await.expect("it has ended");
    compact(&store).await;
    drop(store);
    assert!(!first.exists());
    assert_eq!(open(dir.path()).blobs().read(&blob.hash).await, Ok(audio(5_000)));
}
