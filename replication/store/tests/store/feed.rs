//! The feed: one order for all readers, held by bytes and not by number.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use proptest::prelude::*;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Value, Vector};
use twinbox_replication_store::{Feed, FeedEntry, FeedReader, Overtaken, codec};

use crate::{audio, dir, edit, key, open, set, taken};

fn chunk(number: u64, length: usize) -> FeedEntry {
    let bytes = Bytes::from(vec![number as u8; length]);
    FeedEntry::Chunk { take: (RecordingId(1), 1), offset: number, bytes }
}

fn numbers(entries: &[FeedEntry]) -> Vec<u64> {
    let number = |entry: &FeedEntry| match entry {
        FeedEntry::Chunk { offset, .. } => *offset,
        entry => panic!("{entry:?}"),
    };
    entries.iter().map(number).collect()
}

/// The numbers of the next entries, at most so many bytes and an entry.
fn next(reader: &mut FeedReader, limit: usize) -> Result<Vec<u64>, Overtaken> {
    let mut entries = Vec::new();
    reader.take(limit, &mut entries)?;
    Ok(numbers(&entries))
}

/// Audio of which the number of owners shows: that held by a feed is not unique.
fn watched(feed: &Feed, count: usize, length: usize) -> Vec<Bytes> {
    let audio: Vec<Bytes> = (0..count).map(|_| Bytes::from(vec![7; length])).collect();
    let entry = |bytes: &Bytes| FeedEntry::Chunk { take: (RecordingId(1), 1), offset: 0, bytes: bytes.clone() };
    feed.append(audio.iter().map(entry).collect());
    audio
}

fn held(audio: &[Bytes]) -> usize {
    audio.iter().filter(|bytes| !bytes.is_unique()).count()
}

#[test]
fn every_reader_takes_all_entries_in_order_from_its_beginning() {
    let feed = Feed::new(1 << 20);
    let mut first = feed.reader();
    feed.append(vec![chunk(0, 10), chunk(1, 10)]);
    let mut second = feed.reader();
    feed.append(vec![chunk(2, 10)]);
    assert_eq!(next(&mut first, usize::MAX), Ok(vec![0, 1, 2]));
    assert_eq!(next(&mut first, usize::MAX), Ok(vec![]));
    feed.append((3..7).map(|number| chunk(number, 1_000)).collect());
    assert_eq!(next(&mut second, usize::MAX), Ok(vec![2, 3, 4, 5, 6]));
    // A frame is full after two of them.
    assert_eq!(next(&mut first, 2_000), Ok(vec![3, 4]));
    assert_eq!(next(&mut first, 1), Ok(vec![5]));
    assert_eq!(next(&mut first, usize::MAX), Ok(vec![6]));
}

#[test]
fn bytes_are_not_copied_for_a_reader() {
    let feed = Feed::new(1 << 20);
    let mut reader = feed.reader();
    let audio = watched(&feed, 1, 1_000);
    let mut entries = Vec::new();
    assert_eq!(reader.take(usize::MAX, &mut entries), Ok(()));
    let [FeedEntry::Chunk { bytes, .. }] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(bytes.as_ptr(), audio[0].as_ptr());
}

#[test]
fn overtaken_reader_is_told_once_and_goes_on_with_what_is_held() {
    let feed = Feed::new(10_000);
    let (mut slow, mut fast) = (feed.reader(), feed.reader());
    for number in 0..100 {
        feed.append(vec![chunk(number, 1_000)]);
        assert_eq!(next(&mut fast, usize::MAX), Ok(vec![number]));
    }
    assert_eq!(next(&mut slow, usize::MAX), Err(Overtaken));
    let rest = next(&mut slow, usize::MAX).expect("told only once");
    assert_eq!(rest.last(), Some(&99));
    assert!((5..10).contains(&rest.len()), "{rest:?}");
    assert!(rest.windows(2).all(|pair| pair[1] == pair[0] + 1), "{rest:?}");
    // One entry that is larger than all that may be held.
    feed.append(vec![chunk(100, 20_000)]);
    assert_eq!(next(&mut slow, usize::MAX), Err(Overtaken));
    assert_eq!(next(&mut slow, usize::MAX), Ok(vec![]));
}

#[test]
fn small_entries_are_bounded_too() {
    let feed = Feed::new(10_000);
    let mut reader = feed.reader();
    feed.append((0..1_000).map(|number| chunk(number, 0)).collect());
    assert_eq!(next(&mut reader, usize::MAX), Err(Overtaken));
    let rest = next(&mut reader, usize::MAX).expect("what is held");
    assert!(rest.len() < 100, "{} entries in 10,000 bytes", rest.len());
}

#[test]
fn entries_are_held_for_readers_only_until_all_have_taken_them() {
    let feed = Feed::new(1 << 20);
    assert_eq!(held(&watched(&feed, 10, 1_000)), 0, "nobody reads");
    let (mut first, second) = (feed.reader(), feed.reader());
    let audio = watched(&feed, 10, 1_000);
    assert_eq!(held(&audio), 10);
    assert_eq!(next(&mut first, usize::MAX).map(|numbers| numbers.len()), Ok(10));
    assert_eq!(held(&audio), 10, "the second reader has taken none");
    drop(second);
    assert_eq!(held(&audio), 0);
    // A reader that takes nothing holds at most the limit.
    let audio = watched(&feed, 3_000, 1_000);
    assert!((900..=1_048).contains(&held(&audio)), "{} kB", held(&audio));
    drop(first);
    assert_eq!(held(&audio), 0);
}

/// Counts wake-ups.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn batch_wakes_a_waiting_reader_once() {
    let feed = Feed::new(1 << 20);
    let mut reader = feed.reader();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut context = Context::from_waker(&waker);
    let count = || wakes.0.load(Ordering::Relaxed);
    {
        let mut ready = pin!(reader.ready());
        assert_eq!(ready.as_mut().poll(&mut context), Poll::Pending);
        feed.append(vec![]);
        assert_eq!(count(), 0);
        feed.append((0..100).map(|number| chunk(number, 10)).collect());
        assert_eq!(count(), 1);
        feed.append((100..200).map(|number| chunk(number, 10)).collect());
        assert_eq!(count(), 1, "it has been woken, and has not looked yet");
        assert_eq!(ready.as_mut().poll(&mut context), Poll::Ready(()));
    }
    assert_eq!(next(&mut reader, usize::MAX).map(|numbers| numbers.len()), Ok(200));
    // One that has something does not wait.
    feed.append(vec![chunk(200, 10)]);
    assert_eq!(pin!(reader.ready()).poll(&mut context), Poll::Ready(()));
    assert_eq!(count(), 1);
}

#[tokio::test]
async fn chunks_of_a_recording_come_before_the_change_that_files_it() {
    let dir = dir();
    let store = open(dir.path());
    let mut feed = store.feed();
    let filings = (0..20u128).map(|n| {
        let store = store.clone();
        async move {
            let (id, spoken) = (RecordingId(n), audio(3_000 + n as usize));
            store.recordings().begin(id, 1).await.expect("a recording");
            for offset in (0..spoken.len()).step_by(500) {
                let part = spoken.slice(offset..spoken.len().min(offset + 500));
                store.recordings().append(id, 1, offset as u64, part).expect("a chunk");
            }
            let blob = store.recordings().seal(id, 1).await.expect("a blob");
            edit(&store, &format!("message {n}"), vec![Edit::Set(1, Value::Blob(blob))]).await.expect("a filing");
        }
    });
    let filings: Vec<_> = filings.map(tokio::spawn).collect();
    for filing in filings {
        filing.await.expect("filed");
    }
    let mut recorded = [0; 20];
    let (mut filed, mut last) = (0, 0);
    for entry in taken(&mut feed) {
        match entry {
            FeedEntry::Chunk { take, offset, bytes } => {
                let recorded = &mut recorded[take.0.0 as usize];
                assert_eq!(*recorded, offset);
                *recorded += bytes.len() as u64;
            }
            FeedEntry::Change(change) => {
                assert_eq!((change.origin, change.seq), (store.origin(), last + 1));
                last = change.seq;
                let [(id, 1)] = change.takes[..] else { panic!("{change:?}") };
                assert_eq!(recorded[id.0 as usize], 3_000 + id.0 as u64, "{id} is filed before its last chunk");
                filed += 1;
            }
            FeedEntry::Discarded { take } => panic!("{take:?}"),
        }
    }
    assert_eq!(filed, 20);
}

#[tokio::test]
async fn changes_are_in_the_feed_once_they_are_durable_as_peers_get_them() {
    let (dir_a, dir_b) = (dir(), dir());
    let (a, b) = (open(dir_a.path()), open(dir_b.path()));
    edit(&a, "before", set("x")).await.expect("a commit");
    let mut feed = a.feed();
    assert_eq!(taken(&mut feed), [], "what was before is in the vector");
    edit(&a, "row", set("1")).await.expect("a commit");
    edit(&b, "row", set("2")).await.expect("a commit");
    let theirs = b.changes_after(&Default::default(), 10).expect("the log");
    a.apply(theirs.clone()).await.expect("applied");
    a.apply(theirs).await.expect("no effect");
    let ours = a.changes_after(&[(a.origin(), 1)].into_iter().collect(), 10).expect("the log");
    let mut expected: Vec<_> = ours.iter().map(|change| Bytes::from(codec::change_to_bytes(change))).collect();
    expected.sort();
    let mut found: Vec<_> = Vec::new();
    for entry in taken(&mut feed) {
        let FeedEntry::Change(change) = entry else { panic!("{entry:?}") };
        assert!(a.has(change.origin, change.seq));
        found.push(change.bytes.clone());
    }
    found.sort();
    assert_eq!((found.len(), found), (2, expected));
    // A repaired row is no change of an origin.
    let row = b.get(&key("row")).expect("a read").expect("a row");
    a.repair(vec![(key("lost"), row)], Vector::new()).await.expect("repaired");
    assert_eq!(taken(&mut feed), []);
}

proptest! {
    #[test]
    fn each_reader_gets_every_entry_or_is_told(
        steps in prop::collection::vec((0..4_usize, 1..40_usize, 0..3_000_usize), 1..60),
    ) {
        let feed = Feed::new(20_000);
        let mut readers: Vec<_> = (0..3).map(|_| (feed.reader(), 0)).collect();
        let mut appended = 0;
        for (index, count, length) in steps {
            match readers.get_mut(index) {
                None => {
                    let end = appended + count as u64;
                    feed.append((appended..end).map(|number| chunk(number, length)).collect());
                    appended = end;
                }
                Some((reader, expected)) => match next(reader, length) {
                    Ok(numbers) => {
                        for number in numbers {
                            prop_assert_eq!(number, *expected);
                            *expected += 1;
                        }
                    }
                    Err(Overtaken) => {
                        // What is held, to the end, without a gap.
                        let rest = next(reader, usize::MAX).expect("told only once");
                        prop_assert!(rest.first().is_none_or(|number| *number > *expected));
                        prop_assert!(rest.windows(2).all(|pair| pair[1] == pair[0] + 1));
                        prop_assert!(rest.last().is_none_or(|number| *number + 1 == appended));
                        *expected = appended;
                    }
                },
            }
        }
    }
}
