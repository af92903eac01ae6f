//! The feed: one order for all readers, held by bytes and not by number.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::timeout;
use twinbox_ids::{Origin, RecordingId};
use twinbox_replication_feed::{Feed, FeedChange, FeedEntry, FeedReader, GATHERED, Overtaken};

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

/// The numbers of the next entries, at most this many bytes and an entry.
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

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn change(seq: u64) -> FeedEntry {
    let change = FeedChange { origin: Origin(1), seq, takes: Vec::new(), bytes: Bytes::from_static(b"change") };
    FeedEntry::Change(Arc::new(change))
}

#[tokio::test(start_paused = true)]
async fn entries_are_gathered_until_a_caller_waits_for_the_peers() {
    let feed = Feed::new(1 << 20);
    let mut reader = feed.reader();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut context = Context::from_waker(&waker);
    {
        let mut ready = pin!(reader.ready());
        assert_eq!(ready.as_mut().poll(&mut context), Poll::Pending);
        feed.append(vec![]);
        feed.urge();
        assert_eq!(wakes.count(), 0, "nothing is here");
        feed.append((0..100).map(|number| chunk(number, 10)).collect());
        assert_eq!(wakes.count(), 1, "to begin to gather");
        assert_eq!(ready.as_mut().poll(&mut context), Poll::Pending);
        for number in 100..200 {
            feed.append(vec![chunk(number, 10)]);
        }
        feed.append(vec![change(1)]);
        assert_eq!((wakes.count(), ready.as_mut().poll(&mut context)), (1, Poll::Pending), "nothing waits for it");
        feed.urge();
        assert_eq!((wakes.count(), ready.as_mut().poll(&mut context)), (2, Poll::Ready(())));
        feed.urge();
    }
    let mut entries = Vec::new();
    assert_eq!(reader.take(usize::MAX, &mut entries), Ok(()));
    assert_eq!((numbers(&entries[..200]), &entries[200..]), ((0..200).collect(), &[change(1)][..]));
    // A caller may wait before the reader looks, and for the first entries only.
    feed.append(vec![chunk(200, 10), change(2)]);
    feed.urge();
    feed.append(vec![chunk(201, 10)]);
    assert_eq!(pin!(reader.ready()).poll(&mut context), Poll::Ready(()));
    assert_eq!(reader.take(usize::MAX, &mut entries), Ok(()));
    // It does not wait for those that come later.
    feed.append(vec![change(3)]);
    assert_eq!(pin!(reader.ready()).poll(&mut context), Poll::Pending);
}

#[tokio::test(start_paused = true)]
async fn gathering_ends_in_time_however_often_the_reader_is_asked() {
    let feed = Feed::new(1 << 20);
    let mut reader = feed.reader();
    let step = Duration::from_millis(3);
    for round in 0..3 {
        let mut steps = 0;
        feed.append(vec![chunk(0, 10)]);
        // Another part of the stream has something to do in between, and the future is dropped.
        while timeout(step, reader.ready()).await.is_err() {
            steps += 1;
            feed.append(vec![chunk(0, 10)]);
        }
        assert_eq!(steps, GATHERED.as_millis() / step.as_millis(), "{round}");
        // Those that do not fit into a frame go at once, too.
        for _ in 0..2 {
            assert_eq!(next(&mut reader, 1).map(|numbers| numbers.len()), Ok(1));
            assert_eq!(timeout(Duration::ZERO, reader.ready()).await, Ok(()));
        }
        // The reader gathers the next ones again, also those that come before it looks.
        assert!(next(&mut reader, usize::MAX).is_ok_and(|numbers| !numbers.is_empty()));
    }
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
                        // The held entries to the end, without a gap.
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
