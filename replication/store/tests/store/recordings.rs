//! Recordings in progress (rule C1).

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use twinbox_disk::Disk;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{BlobRef, Edit};
use twinbox_replication_feed::FeedEntry;
use twinbox_replication_store::{CommitError, Sealed, Store, StoreError};

use crate::{audio, damage, dir, edit, key, open, taken};

const CHUNK: usize = 2000;

/// Appends audio chunk by chunk.
fn append(store: &Store, id: RecordingId, audio: &Bytes) {
    for offset in (0..audio.len()).step_by(CHUNK) {
        let chunk = audio.slice(offset..audio.len().min(offset + CHUNK));
        store.recordings().append(id, 1, offset as u64, chunk).expect("a chunk");
    }
}

/// Waits until all queued chunks are written.
async fn written(store: &Store) {
    // The writer works in order, so an answer comes after all earlier commands.
    let other = RecordingId::random();
    store.recordings().discard(other, 0).await.expect("an answer");
}

/// Rule A4.
#[tokio::test]
async fn what_is_recorded_after_the_disk_failed_goes_to_the_peers_only() {
    let dir = dir();
    let store = open(dir.path());
    let (id, audio) = (RecordingId::random(), audio(2 * CHUNK));
    let mut feed = store.feed().reader();
    store.recordings().begin(id, 1).await.expect("a recording");
    append(&store, id, &audio.slice(..CHUNK));
    written(&store).await;
    store.mark_broken("a sync failed");
    store.recordings().append(id, 1, CHUNK as u64, audio.slice(CHUNK..)).expect("a chunk");
    store.recordings().written().await.expect("an answer");
    let entry = |offset: usize| {
        let bytes = audio.slice(offset..offset + CHUNK);
        FeedEntry::Chunk { take: (id, 1), offset: offset as u64, bytes }
    };
    assert_eq!(taken(&mut feed), [entry(0), entry(CHUNK)]);
    let here = store.recordings().coverage(id, 1).expect("the take");
    assert_eq!(here.end(), CHUNK as u64, "nothing is written to a disk that failed");
    let of_a_peer = store.recordings().insert(id, 1, CHUNK as u64, audio.slice(CHUNK..));
    assert!(of_a_peer.is_err_and(|error| error.is_broken()));
}

/// Commits a record that names a blob.
async fn file(store: &Store, blob: BlobRef) {
    edit(store, "message", vec![Edit::Set(1, blob.into())]).await.expect("a filing");
}

fn blob_of(bytes: &Bytes, recording: Option<(RecordingId, u32)>) -> BlobRef {
    let hash = twinbox_ids::BlobHash(*blake3::hash(bytes).as_bytes());
    BlobRef { hash, length: bytes.len() as u64, recording }
}

#[tokio::test]
async fn live_chunks_become_the_blob() {
    let dir = dir();
    let store = open(dir.path());
    let (id, audio) = (RecordingId::random(), audio(20_500));
    let mut feed = store.feed().reader();
    store.recordings().begin(id, 1).await.expect("a recording");
    append(&store, id, &audio);
    written(&store).await;
    assert_eq!(store.recordings().open(), [(id, 1, 20_500)]);
    assert_eq!(store.recordings().read(id, 1, 1000..3000).await, Ok(audio.slice(1000..3000)));
    let before = Disk::fsync_count();
    let blob = store.recordings().seal(id, 1).await.expect("a blob").blob;
    assert!(Disk::fsync_count() > before, "its pack is synced");
    assert_eq!(blob, blob_of(&audio, Some((id, 1))));
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio.clone()));
    assert!(store.recordings().open().is_empty());
    assert_eq!(
        store.recordings().seal(id, 1).await.map(|sealed| sealed.blob),
        Ok(blob),
        "sealing again gives the same"
    );
    file(&store, blob).await;
    written(&store).await;
    let mut entries = taken(&mut feed).into_iter();
    for offset in (0..audio.len()).step_by(CHUNK) {
        let bytes = audio.slice(offset..audio.len().min(offset + CHUNK));
        assert_eq!(entries.next(), Some(FeedEntry::Chunk { take: (id, 1), offset: offset as u64, bytes }));
    }
    let Some(FeedEntry::Change(filing)) = entries.next() else { panic!("the change comes after all chunks") };
    assert_eq!((filing.origin, filing.seq, &*filing.takes), (store.origin(), 1, &[(id, 1)][..]));
    assert_eq!(entries.next(), None);
    drop(store);

    let store = open(dir.path());
    assert!(store.recordings().open().is_empty());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio));
}

#[tokio::test]
async fn chunks_from_a_peer_join_in_any_order_to_the_same_blob() {
    let dir = dir();
    let store = open(dir.path());
    let (id, audio) = (RecordingId::random(), audio(9000));
    let blob = blob_of(&audio, Some((id, 1)));
    let mut feed = store.feed().reader();
    let insert = |range: std::ops::Range<usize>| {
        store.recordings().insert(id, 1, range.start as u64, audio.slice(range)).expect("a chunk");
    };
    assert_eq!(store.recordings().seal_from_chunks(blob).await, Ok(false), "nothing is here");
    insert(4000..9000);
    insert(0..2000);
    assert_eq!(store.recordings().seal_from_chunks(blob).await, Ok(false), "there is a hole");
    assert_eq!(store.recordings().coverage(id, 1).map(|c| c.total()), Some(7000));
    let hole = store.recordings().read(id, 1, 1000..5000).await;
    assert_eq!(hole, Err(StoreError::NotThere { range: 1000..5000 }));
    insert(1500..4500);
    insert(0..9000);
    assert_eq!(store.recordings().seal_from_chunks(blob).await, Ok(true));
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio.clone()));
    assert_eq!(store.recordings().seal_from_chunks(blob).await, Ok(true), "it is here");
    // A late chunk does not bring the take back.
    insert(0..2000);
    written(&store).await;
    assert!(store.recordings().open().is_empty());
    assert_eq!(taken(&mut feed), [], "what a peer sent is not announced as ours");
}

#[tokio::test]
async fn chunks_that_do_not_match_the_blob_are_not_used() {
    let dir = dir();
    let store = open(dir.path());
    let (id, audio) = (RecordingId::random(), audio(5000));
    let blob = blob_of(&audio, Some((id, 1)));
    let mut wrong = audio.to_vec();
    wrong[4999] ^= 1;
    store.recordings().insert(id, 1, 0, wrong.into()).expect("a chunk");
    assert_eq!(store.recordings().seal_from_chunks(blob).await, Ok(false));
    assert!(!store.blobs().has(&blob.hash));
    // The blob is fetched instead: then the rest of the take is removed.
    store.blobs().put_as(blob.hash, audio.clone()).await.expect("the blob");
    assert_eq!(store.recordings().seal_from_chunks(blob).await, Ok(true));
    assert!(store.recordings().open().is_empty());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio.clone()));

    // More than was filed: the audio ends at the last chunk that the filing names.
    let id = RecordingId::random();
    store.recordings().insert(id, 1, 0, audio.clone()).expect("a chunk");
    let short = blob_of(&audio.slice(..3000), Some((id, 1)));
    assert_eq!(store.recordings().seal_from_chunks(short).await, Ok(true));
    assert_eq!(store.blobs().read(&short.hash).await, Ok(audio.slice(..3000)));
    // A blob that never was a recording.
    assert_eq!(store.recordings().seal_from_chunks(BlobRef { recording: None, ..short }).await, Ok(true));
}

#[tokio::test]
async fn recordings_survive_a_restart() {
    let dir = dir();
    let store = open(dir.path());
    let (whole, holes, torn) = (RecordingId::random(), RecordingId::random(), RecordingId::random());
    let audio = audio(8000);
    store.recordings().begin(whole, 1).await.expect("a recording");
    append(&store, whole, &audio);
    store.recordings().insert(holes, 3, 6000, audio.slice(6000..)).expect("a chunk");
    store.recordings().insert(holes, 3, 0, audio.slice(..2000)).expect("a chunk");
    store.recordings().insert(torn, 1, 0, audio.slice(..1900)).expect("a chunk");
    store.recordings().insert(torn, 1, 1900, audio.slice(1900..4000)).expect("a chunk");
    written(&store).await;
    drop(store);

    // Power cut: one of the chunks did not reach the disk whole.
    damage::spoil(dir.path(), &audio[1900..4000]);
    let store = open(dir.path());
    let mut found = store.recordings().open();
    let mut expected = vec![(whole, 1, 8000), (holes, 3, 8000), (torn, 1, 1900)];
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(store.recordings().coverage(holes, 3).map(|c| c.total()), Some(4000));
    let begun = store.recordings().begin(whole, 1).await;
    assert_eq!(begun, Err(StoreError::BegunBefore { id: whole, take: 1 }));
    // The recording continues, from a peer that has more, to the same blob.
    store.recordings().insert(torn, 1, 1900, audio.slice(1900..)).expect("a chunk");
    store.recordings().insert(holes, 3, 2000, audio.slice(2000..6000)).expect("a chunk");
    for (id, take) in [(whole, 1), (torn, 1), (holes, 3)] {
        let blob = store.recordings().seal(id, take).await.expect("a blob").blob;
        assert_eq!(blob, blob_of(&audio, Some((id, take))));
        file(&store, blob).await;
    }
    written(&store).await;
    drop(store);
    assert!(open(dir.path()).recordings().open().is_empty());
}

#[tokio::test]
async fn sealed_but_unfiled_take_is_in_progress_again_after_a_restart() {
    let dir = dir();
    let store = open(dir.path());
    let (id, filed, audio) = (RecordingId::random(), RecordingId::random(), audio(5000));
    for id in [id, filed] {
        store.recordings().begin(id, 1).await.expect("a recording");
        append(&store, id, &audio);
    }
    let blob = store.recordings().seal(id, 1).await.expect("a blob").blob;
    let other = store.recordings().seal(filed, 1).await.expect("a blob").blob;
    file(&store, other).await;
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.recordings().open(), [(id, 1, 5000)]);
    assert_eq!(store.recordings().read(id, 1, 0..5000).await, Ok(audio.clone()));
    // Chunks that come now belong to the take, not to the blob.
    store.recordings().insert(id, 1, 5000, Bytes::from_static(b"more")).expect("a chunk");
    assert_eq!(store.recordings().seal(id, 1).await.map(|sealed| sealed.blob.length), Ok(5004));
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio));
    store.recordings().discard(id, 1).await.expect("a discard");
    drop(store);
    assert!(open(dir.path()).recordings().open().is_empty());
}

/// Two takes with the same audio share a blob; one of them is filed.
#[tokio::test]
async fn unfiled_take_with_the_audio_of_a_filed_one_is_in_progress_again_after_a_restart() {
    for filed_first in [false, true] {
        let dir = dir();
        let store = open(dir.path());
        let (filed, other, audio) = (RecordingId::random(), RecordingId::random(), audio(5000));
        let order = if filed_first { [filed, other] } else { [other, filed] };
        for id in order {
            store.recordings().begin(id, 1).await.expect("a recording");
            append(&store, id, &audio);
            store.recordings().seal(id, 1).await.expect("a blob");
        }
        file(&store, blob_of(&audio, Some((filed, 1)))).await;
        written(&store).await;
        drop(store);

        let store = open(dir.path());
        assert_eq!(store.recordings().open(), [(other, 1, 5000)], "filed first: {filed_first}");
        let blob = store.recordings().seal(other, 1).await.expect("a blob").blob;
        assert_eq!(blob, blob_of(&audio, Some((other, 1))));
        edit(&store, "another", vec![Edit::Set(1, blob.into())]).await.expect("a filing");
        written(&store).await;
        drop(store);
        let store = open(dir.path());
        assert!(store.recordings().open().is_empty());
        assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio));
    }
}

/// The row of the places of a take has a limit: a take of many small chunks is copied into long ones.
#[tokio::test]
async fn take_of_thousands_of_chunks_becomes_a_blob() {
    let dir = dir();
    let store = open(dir.path());
    let (id, audio) = (RecordingId::random(), audio(60_000));
    store.recordings().begin(id, 1).await.expect("a recording");
    let chunk = |n: usize| store.recordings().append(id, 1, n as u64, audio.slice(n..n + 10)).expect("a chunk");
    // Not in order: the hash catches up.
    (0..60_000).step_by(20).chain((10..60_000).step_by(20)).for_each(chunk);
    let blob = store.recordings().seal(id, 1).await.expect("a blob").blob;
    assert_eq!(blob, blob_of(&audio, Some((id, 1))));
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio.clone()));
    drop(store);

    // Chunks and copies are there: they are one take.
    let store = open(dir.path());
    assert_eq!(store.recordings().open(), [(id, 1, 60_000)]);
    assert_eq!(store.recordings().read(id, 1, 0..60_000).await, Ok(audio.clone()));
    assert_eq!(store.recordings().seal(id, 1).await.map(|sealed| sealed.blob), Ok(blob));
    file(&store, blob).await;
    written(&store).await;
    drop(store);
    let store = open(dir.path());
    assert!(store.recordings().open().is_empty());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio));
}

#[tokio::test]
async fn commit_that_refuses_after_a_seal_can_be_tried_again() {
    let dir = dir();
    let store = open(dir.path());
    let (id, audio) = (RecordingId::random(), audio(3000));
    store.recordings().begin(id, 1).await.expect("a recording");
    append(&store, id, &audio);
    let blob = store.recordings().seal(id, 1).await.expect("a blob").blob;
    let refused = store
        .commit(move |draft| {
            draft.edit(key("message"), vec![Edit::Set(1, blob.into())])?;
            Err::<(), _>(StoreError::Closed)
        })
        .await;
    assert!(matches!(refused, Err(CommitError::Refused(StoreError::Closed))));
    assert!(store.blobs().has(&blob.hash) && store.recordings().open().is_empty());
    drop(store);
    let store = open(dir.path());
    assert!(!store.blobs().has(&blob.hash), "no change names it");
    assert_eq!(store.recordings().open(), [(id, 1, 3000)]);
    assert_eq!(store.recordings().seal(id, 1).await.map(|sealed| sealed.blob), Ok(blob));
    file(&store, blob).await;
    drop(store);
    let store = open(dir.path());
    assert!(store.recordings().open().is_empty());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio));
}

/// In a first fill, history comes before its audio.
#[tokio::test]
async fn take_that_a_record_names_before_it_is_sealed_is_filed_by_its_seal() {
    let dir = dir();
    let store = open(dir.path());
    let (id, audio) = (RecordingId::random(), audio(3000));
    let blob = blob_of(&audio, Some((id, 1)));
    file(&store, blob).await;
    store.recordings().insert(id, 1, 0, audio.clone()).expect("a chunk");
    assert_eq!(store.recordings().seal_from_chunks(blob).await, Ok(true));
    // Its row comes with the commits that follow.
    edit(&store, "other", crate::set("text")).await.expect("a commit");
    assert!(store.recordings().open().is_empty());
    drop(store);
    let store = open(dir.path());
    assert!(store.recordings().open().is_empty());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio));
}

/// Another node may have filed a recording whose audio ends where it ends here. Mutant: nothing settles the take.
#[tokio::test]
async fn take_that_a_record_names_ends_soon_after_its_seal_though_nothing_files_it() {
    let dir = dir();
    let store = open(dir.path());
    let (id, audio) = (RecordingId::random(), audio(3000));
    let blob = blob_of(&audio, Some((id, 1)));
    file(&store, blob).await;
    store.recordings().begin(id, 1).await.expect("a recording");
    append(&store, id, &audio);
    assert_eq!(store.recordings().seal(id, 1).await, Ok(Sealed { blob, whole: 3000 }));
    let ended = async {
        while store.recordings().seal(id, 1).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the take ends");
    drop(store);
    let store = open(dir.path());
    assert!(store.recordings().open().is_empty());
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio));
}

#[tokio::test]
async fn late_chunk_of_an_ended_take_is_dropped_after_a_restart_too() {
    let dir = dir();
    let store = open(dir.path());
    let (discarded, filed, audio) = (RecordingId::random(), RecordingId::random(), audio(3000));
    for id in [discarded, filed] {
        store.recordings().insert(id, 1, 0, audio.clone()).expect("a chunk");
    }
    store.recordings().discard(discarded, 1).await.expect("a discard");
    let blob = store.recordings().seal(filed, 1).await.expect("a blob").blob;
    file(&store, blob).await;
    written(&store).await;
    drop(store);
    let store = open(dir.path());
    for id in [discarded, filed] {
        store.recordings().insert(id, 1, 3000, audio.clone()).expect("a late chunk");
    }
    written(&store).await;
    assert!(store.recordings().open().is_empty());
}

#[tokio::test]
async fn gap_is_filled_when_an_incomplete_take_is_sealed() {
    let dir = dir();
    let store = open(dir.path());
    let id = RecordingId::random();
    store.recordings().insert(id, 1, 0, Bytes::from_static(b"abc")).expect("a chunk");
    store.recordings().insert(id, 1, 5, Bytes::from_static(b"fgh")).expect("a chunk");
    store.recordings().written().await.expect("an answer");
    let sealed = store.recordings().seal(id, 1).await.expect("a blob");
    assert_eq!(store.blobs().read(&sealed.blob.hash).await, Ok(Bytes::from_static(b"abc\xff\xfffgh")));
    assert_eq!(sealed.whole, 3, "silence is no audio of the caller");
    // An empty recording, and one without a gap.
    for bytes in ["", "abc"] {
        let id = RecordingId::random();
        store.recordings().begin(id, 1).await.expect("a recording");
        store.recordings().append(id, 1, 0, Bytes::from_static(bytes.as_bytes())).expect("a chunk");
        let lengths = store.recordings().seal(id, 1).await.map(|sealed| (sealed.blob.length, sealed.whole));
        assert_eq!(lengths, Ok((bytes.len() as u64, bytes.len() as u64)));
    }
}

#[tokio::test]
async fn discarded_take_stays_removed() {
    let dir = dir();
    let store = open(dir.path());
    let id = RecordingId::random();
    let mut feed = store.feed().reader();
    store.recordings().begin(id, 1).await.expect("a recording");
    store.recordings().begin(id, 2).await.expect("another take");
    store.recordings().append(id, 1, 0, audio(100)).expect("a chunk");
    store.recordings().discard(id, 1).await.expect("a discard");
    store.recordings().append(id, 1, 100, audio(100)).expect("a late chunk");
    store.recordings().insert(id, 1, 0, audio(100)).expect("a late chunk");
    assert_eq!(store.recordings().seal(id, 1).await, Err(StoreError::NoRecording { id, take: 1 }));
    assert_eq!(store.recordings().open(), [(id, 2, 0)]);
    let chunk = FeedEntry::Chunk { take: (id, 1), offset: 0, bytes: audio(100) };
    assert_eq!(taken(&mut feed), [chunk, FeedEntry::Discarded { take: (id, 1) }]);
    store.recordings().discard(id, 1).await.expect("again");
    // Discarded here before its chunks applied.
    let early = RecordingId::random();
    store.recordings().discard(early, 1).await.expect("a discard");
    store.recordings().insert(early, 1, 0, audio(100)).expect("a chunk");
    written(&store).await;
    assert_eq!(store.recordings().open(), [(id, 2, 0)]);
    assert_eq!(taken(&mut feed), []);
    let two = store.recordings().seal(id, 2).await.expect("a blob").blob;
    store.recordings().discard(id, 2).await.expect("nothing");
    assert!(store.blobs().has(&two.hash), "what is sealed is a blob and not discarded");
}

#[tokio::test]
async fn invalid_chunks_are_refused() {
    let dir = dir();
    let store = open(dir.path());
    let id = RecordingId::random();
    for offset in [u64::MAX, u64::MAX - 50, 1 << 40] {
        assert!(store.recordings().insert(id, 1, offset, audio(100)).is_err(), "offset {offset} was taken");
    }
    // A take that was never begun here is not ours to record.
    store.recordings().append(id, 1, 0, audio(100)).expect("it is queued");
    written(&store).await;
    assert!(store.recordings().open().is_empty());
    assert!(store.recordings().read(id, 1, 0..1).await.is_err());
}

#[tokio::test]
async fn concurrent_seals_do_not_wait_for_each_other() {
    let dir = dir();
    let store = open(dir.path());
    let seals = (0..40u8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let id = RecordingId::random();
            store.recordings().begin(id, 1).await.expect("a recording");
            append(&store, id, &vec![n; 16_000].into());
            let (one, other) = tokio::join!(store.recordings().seal(id, 1), store.recordings().seal(id, 1));
            assert_eq!(one, other);
            one.expect("a blob").blob
        })
    });
    let seals: Vec<_> = seals.collect();
    let all = async {
        for seal in seals {
            let blob = seal.await.expect("a task");
            assert!(store.blobs().has(&blob.hash));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("in time");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Chunks in any order, overlapping, repeated, over several incarnations: chunks that cover all of the audio
    /// assemble to its hash, others do not.
    #[test]
    fn union_of_chunks_is_the_audio(
        chunks in prop::collection::vec((0..300usize, 1..120usize), 1..14), reopen in 0..14usize
    ) {
        let dir = dir();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (id, audio) = (RecordingId::random(), audio(300));
        let mut store = open(dir.path());
        let mut covered = [false; 300];
        for (n, (offset, length)) in chunks.into_iter().enumerate() {
            let end = (offset + length).min(300);
            store.recordings().insert(id, 1, offset as u64, audio.slice(offset..end)).expect("a chunk");
            covered[offset..end].fill(true);
            if n == reopen {
                drop(store);
                store = open(dir.path());
            }
        }
        runtime.block_on(async {
            written(&store).await;
            let here = store.recordings().coverage(id, 1).expect("a take").total();
            assert_eq!(here, covered.iter().filter(|c| **c).count() as u64);
            let whole = blob_of(&audio, Some((id, 1)));
            let sealed = store.recordings().seal_from_chunks(whole).await;
            assert_eq!(sealed, Ok(covered.iter().all(|c| *c)));
        });
    }
}
