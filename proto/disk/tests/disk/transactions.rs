//! Transactions: their view, their writes, the syncs of a group.

use std::{collections::BTreeMap, sync::mpsc, time::Duration};

use proptest::prelude::*;
use twinbox_clock::BootInstant;
use twinbox_disk::{Disk, DiskError, InOrder, MAX_KEY, MAX_VALUE, Pair, TransactError, Transaction, Urgency};

use crate::put;

fn all(disk: &Disk, prefix: &[u8]) -> Vec<Pair> {
    disk.scan(prefix).collect::<Result<_, _>>().expect("a scan")
}

#[tokio::test]
async fn written_values_are_readable_also_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    put(&disk, b"a/1", b"one").await.expect("a write");
    put(&disk, b"a/2", b"two").await.expect("a write");
    put(&disk, b"b/1", b"other").await.expect("a write");
    drop(disk);
    let disk = Disk::open(dir.path()).expect("the disk again");
    assert_eq!(disk.get(b"a/1"), Ok(Some(b"one".into())));
    assert_eq!(disk.get(b"a/3"), Ok(None));
    assert_eq!(all(&disk, b"a/"), [(b"a/1".into(), b"one".into()), (b"a/2".into(), b"two".into())]);
    assert_eq!(disk.scan(b"a/").next_back(), Some(Ok((b"a/2".into(), b"two".into()))));
    assert_eq!(disk.scan_range(b"a/2", b"b").count(), 1);
    assert_eq!(disk.scan_range(b"b", b"a").count(), 0);
    assert_eq!(all(&disk, b"").len(), 3, "the self-test leaves nothing behind");
}

#[tokio::test]
async fn a_refused_transaction_writes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    let refused = disk.transact(|t| {
        t.put(*b"a", *b"1").map_err(|_| "disk")?;
        Err::<(), _>("no")
    });
    assert_eq!(refused.await, Err(TransactError::Refused("no")));
    assert_eq!(disk.get(b"a"), Ok(None));
    for (key, value, what) in [(MAX_KEY + 1, 1, "key"), (1, MAX_VALUE + 1, "value")] {
        match put(&disk, &vec![b'k'; key], &vec![0; value]).await {
            Err(TransactError::Refused(DiskError::TooLarge { what: found, .. })) => assert_eq!(found, what),
            other => panic!("a large {what} gave {other:?}"),
        }
    }
}

#[tokio::test]
async fn panicking_transaction_does_not_affect_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    let panics = disk.transact(|t| {
        t.put(*b"bad", *b"1")?;
        if t.get(b"bad")?.is_some() {
            panic!("the test panics here");
        }
        Ok::<_, DiskError>(())
    });
    let (bad, good) = tokio::join!(panics, put(&disk, b"good", b"1"));
    assert_eq!(bad, Err(TransactError::Disk(DiskError::Panicked)));
    assert_eq!(good, Ok(()));
    assert_eq!(disk.get(b"bad"), Ok(None));
    let then = disk.transact_then(|_| Ok::<_, DiskError>(()), |()| panic!("the test panics here"));
    let then: Result<(), _> = then.await;
    assert_eq!(then, Err(TransactError::Disk(DiskError::Panicked)));
    assert_eq!(put(&disk, b"after", b"1").await, Ok(()));
    assert_eq!(disk.broken(), None);
}

#[tokio::test]
async fn transactions_run_one_after_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    // Each reads the write of the one before, also within one group.
    let count = |disk: Disk| async move {
        disk.transact(|t| {
            let before = t.get(b"n")?.map_or(0, |n| u64::from_be_bytes(n.try_into().expect("8 bytes")));
            t.put(*b"n", (before + 1).to_be_bytes())?;
            Ok::<_, DiskError>(before)
        })
        .await
    };
    let tasks: Vec<_> = (0..200).map(|_| tokio::spawn(count(disk.clone()))).collect();
    let mut seen = Vec::new();
    for task in tasks {
        seen.push(task.await.expect("a task").expect("a commit"));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn callbacks_run_in_the_order_of_commits() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    let (sender, order) = std::sync::mpsc::channel();
    let commits = (0..100u8).map(|n| {
        let sender = sender.clone();
        disk.transact_then(move |t| t.put([n], [n]), move |()| sender.send(n))
    });
    for result in futures::future::join_all(commits).await {
        result.expect("a commit").expect("a receiver");
    }
    drop(sender);
    assert_eq!(order.into_iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_commit_is_synced_and_concurrent_commits_share_a_sync() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    // The first commit also makes a segment of the journal.
    put(&disk, b"first", b"alone").await.expect("a write");
    let before = Disk::fsync_count();
    for n in 0..10u8 {
        put(&disk, &[n], b"alone").await.expect("a write");
        assert_eq!(Disk::fsync_count() - before, u64::from(n) + 1, "each commit takes one sync");
    }
    let before = Disk::fsync_count();
    let writes = (0..500u16).map(|n| {
        let disk = disk.clone();
        async move { put(&disk, &n.to_be_bytes(), b"together").await }
    });
    for result in futures::future::join_all(writes).await {
        result.expect("a write");
    }
    let syncs = Disk::fsync_count() - before;
    assert!((1..100).contains(&syncs), "{syncs} syncs for 500 transactions");
    // A transaction that only reads needs no sync.
    let before = Disk::fsync_count();
    disk.transact(|t| t.get(b"x")).await.expect("a read");
    assert_eq!(Disk::fsync_count(), before);
}

#[test]
fn blocking_commit_works_on_threads_and_within_a_runtime() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    disk.transact_blocking(|t| t.put(*b"a", *b"1")).expect("a commit from a thread");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async { disk.transact_blocking(|t| t.put(*b"a", *b"2")) }).expect("a commit at start-up");
    assert_eq!(disk.get(b"a"), Ok(Some(b"2".into())));
}

/// sled puts a page over a quarter of a segment into a separate file, which it never syncs.
#[tokio::test]
async fn largest_values_are_never_stored_in_unsynced_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    for round in 0..4u8 {
        let writes = (0..60u16).map(|n| {
            let disk = disk.clone();
            let key = [&[b'k'; 900][..], &(n * 7 % 60).to_be_bytes()].concat();
            async move { put(&disk, &key, &vec![round; MAX_VALUE]).await }
        });
        for result in futures::future::join_all(writes).await {
            result.expect("a write");
        }
    }
    drop(disk);
    let unsynced = std::fs::read_dir(dir.path().join("index/blobs")).expect("sled's folder").count();
    assert_eq!(unsynced, 0, "values went into files that are never synced");
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8, u8),
    Remove(u8),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A transaction over the stored data, the writes of its group and its own writes sees the same as a plain map with
    /// all of these.
    #[test]
    fn a_transaction_sees_all_layers(
        ops in prop::collection::vec(
            prop_oneof![(0..20u8, any::<u8>()).prop_map(|(k, v)| Op::Put(k, v)), (0..20u8).prop_map(Op::Remove)], 0..60),
        split in prop::collection::vec((1..8usize, 0..20u8, 0..20u8), 12), start in 0..20u8, limit in 0..25usize,
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(dir.path()).expect("a disk");
        let mut model = BTreeMap::new();
        let mut ops = ops.into_iter();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut commits = Vec::new();
            for (number, (size, from, to)) in split.into_iter().enumerate() {
                let ops: Vec<Op> = ops.by_ref().take(size).collect();
                for op in &ops {
                    match op {
                        Op::Put(k, v) => drop(model.insert(vec![b'p', *k], vec![*v])),
                        Op::Remove(k) => drop(model.remove(&vec![b'p', *k])),
                    }
                }
                let whole: Vec<Pair> = model.clone().into_iter().collect();
                let part: Vec<Pair> =
                    model.range(vec![b'p', start]..).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect();
                commits.push(disk.transact(move |t| {
                    t.look_ahead(&[b'p', from], &[b'p', to])?;
                    for op in ops {
                        match op {
                            Op::Put(k, v) => t.put([b'p', k], [v])?,
                            Op::Remove(k) => t.remove([b'p', k]),
                        }
                    }
                    t.put(*b"q", *b"beyond the prefix")?;
                    let single = (0..20).map(|k| Ok(t.get(&[b'p', k])?.map(|value| (vec![b'p', k], value))));
                    let single: Vec<Pair> = single.filter_map(Result::transpose).collect::<Result<_, DiskError>>()?;
                    let same = single == whole && t.scan(b"p")? == whole && t.scan_from(b"p", &[b'p', start], limit)? == part;
                    Ok::<_, DiskError>(same)
                }));
                // Groups of five: later ones find the writes of earlier ones in the store.
                if number % 5 == 4 || number == 11 {
                    for same in futures::future::join_all(commits.drain(..)).await {
                        assert!(same.expect("a commit"), "a transaction saw something else");
                    }
                }
            }
        });
        prop_assert_eq!(all(&disk, b"p"), model.into_iter().collect::<Vec<_>>());
    }
}

/// Both ends of a scan, over what is in the index and what is not there yet, also when it takes several chunks.
#[tokio::test]
async fn scans_from_both_ends_see_every_commit_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut disk = Disk::open(dir.path()).expect("a disk");
    let mut model = BTreeMap::new();
    for round in 0..4u8 {
        for n in (0..2000u16).filter(|n| n % 4 <= u16::from(round)) {
            let removed = n % 7 == u16::from(round);
            let key = [&b"n"[..], &n.to_be_bytes()].concat();
            match removed {
                true => model.remove(&key),
                false => model.insert(key, vec![round]),
            };
        }
        let write = move |t: &mut twinbox_disk::Transaction<'_>| {
            for n in (0..2000u16).filter(|n| n % 4 <= u16::from(round)) {
                let key = [&b"n"[..], &n.to_be_bytes()].concat();
                match n % 7 == u16::from(round) {
                    true => t.remove(key),
                    false => t.put(key, [round])?,
                }
            }
            t.put(*b"o", *b"beyond the prefix")
        };
        disk.transact(write).await.expect("a commit");
        let pairs: Vec<Pair> = model.clone().into_iter().collect();
        assert_eq!(all(&disk, b"n"), pairs);
        let mut backward: Vec<Pair> = disk.scan(b"n").rev().collect::<Result<_, _>>().expect("a scan");
        backward.reverse();
        assert_eq!(backward, pairs);
        let (mut scan, mut front, mut back) = (disk.scan(b"n"), Vec::new(), Vec::new());
        while let Some(pair) = scan.next() {
            front.push(pair.expect("a pair"));
            back.extend(scan.next_back().into_iter().chain(scan.next_back()).map(|pair| pair.expect("a pair")));
        }
        front.extend(back.into_iter().rev());
        assert_eq!(front, pairs, "the ends meet");
        if round == 1 {
            // The index now holds all writes so far.
            drop((scan, disk));
            disk = Disk::open(dir.path()).expect("the disk again");
        }
    }
}

#[test]
fn a_transaction_that_waits_for_another_one_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    let same = disk.clone();
    let waiting = move |_: &mut Transaction<'_>| -> Result<_, DiskError> {
        Ok(same.transact_blocking(|t: &mut Transaction<'_>| t.put(*b"key", *b"value")))
    };
    assert_eq!(disk.transact_blocking(waiting), Ok(Err(TransactError::Disk(DiskError::WaitsForItself))));
    assert_eq!(disk.get(b"key"), Ok(None));
}

/// The runtime ends the polls of a task early when it has done much without a pause.
#[tokio::test]
async fn a_task_may_wait_for_many_transactions_in_a_row() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    for n in 0..300_u32 {
        disk.transact_blocking(move |t: &mut Transaction<'_>| t.put(n.to_be_bytes(), *b"value")).expect("a write");
    }
    assert_eq!(disk.scan(b"").count(), 300);
}

/// Submits transactions that note when they run, and when they are durable.
struct Submitter {
    runtime: tokio::runtime::Runtime,
    noted: mpsc::Sender<&'static str>,
}

impl Submitter {
    fn new() -> (Self, mpsc::Receiver<&'static str>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (noted, notes) = mpsc::channel();
        (Self { runtime, noted }, notes)
    }

    /// While it runs, the transaction waits for `until`.
    fn submit(&self, disk: &Disk, name: &'static str, until: Option<mpsc::Receiver<()>>) {
        let (ran, durable) = (self.noted.clone(), self.noted.clone());
        let run = move |t: &mut Transaction<'_>| {
            ran.send(name).expect("the test listens");
            until.into_iter().for_each(|until| until.recv().expect("the test goes on"));
            t.put(name.as_bytes(), *b"1")
        };
        let done = move |result: Result<(), TransactError<DiskError>>| {
            result.expect("it is written");
            durable.send("durable").expect("the test listens");
        };
        self.runtime.block_on(disk.submit(run, done)).expect("it is queued");
    }
}

/// Work in background stands behind all that waits, and goes on under any load: one transaction in each group.
#[test]
fn background_runs_behind_all_that_waits_one_in_a_group() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    let (submitter, noted) = Submitter::new();
    let (go_on, held) = mpsc::channel();
    submitter.submit(&disk, "first", Some(held));
    assert_eq!(noted.recv(), Ok("first"), "it runs, and all else waits for it");
    let background = disk.at(Urgency::Background);
    for name in ["purge 1", "purge 2", "purge 3"] {
        submitter.submit(&background, name, None);
    }
    for name in ["call 1", "call 2", "call 3"] {
        submitter.submit(&disk, name, None);
    }
    go_on.send(()).expect("the first one waits");
    let order: Vec<_> = noted.iter().take(13).collect();
    let group = |names: &[&'static str]| [names, &vec!["durable"; names.len()]].concat();
    let expected = [
        vec!["durable"],
        group(&["purge 1", "call 1", "call 2", "call 3"]),
        group(&["purge 2"]),
        group(&["purge 3"]),
    ];
    assert_eq!(order, expected.concat());
}

/// A transaction that may wait for others shares their sync, in the order of arrival; alone it waits 10 ms, and it is committed
/// before its store closes. Mutants: it waits for nothing; it waits until another one comes.
#[test]
fn what_comes_soon_waits_a_moment_for_others_and_shares_their_sync() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    let (submitter, noted) = Submitter::new();
    let soon = disk.at(Urgency::Soon);
    for _ in 0..3 {
        let begun = BootInstant::now();
        submitter.submit(&soon, "alone", None);
        assert_eq!(noted.recv(), Ok("alone"));
        assert!(begun.elapsed() >= Duration::from_millis(10), "it waited {:?}", begun.elapsed());
        assert_eq!(noted.recv(), Ok("durable"));
    }
    let (go_on, held) = mpsc::channel();
    submitter.submit(&disk, "first", Some(held));
    assert_eq!(noted.recv(), Ok("first"));
    for (disk, name) in [(&soon, "begin 1"), (&disk, "call"), (&soon, "begin 2")] {
        submitter.submit(disk, name, None);
    }
    go_on.send(()).expect("the first one waits");
    let order: Vec<_> = noted.iter().take(7).collect();
    assert_eq!(order, ["durable", "begin 1", "call", "begin 2", "durable", "durable", "durable"]);
    submitter.submit(&soon, "last", None);
    drop((disk, soon));
    assert_eq!(noted.try_iter().collect::<Vec<_>>(), ["last", "durable"]);
}

/// Keys that lie close together and far apart, over what is in the index and what is not there yet.
#[tokio::test]
async fn keys_asked_for_in_their_order_have_the_values_of_single_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = |n: u16| [&b"n"[..], &n.to_be_bytes()].concat();
    let mut disk = Disk::open(dir.path()).expect("a disk");
    put(&disk, b"o", b"behind the end").await.expect("a write");
    for part in [0..2_000, 2_000..4_000_u16] {
        // The first part is in the index by then.
        drop(disk);
        disk = Disk::open(dir.path()).expect("the disk again");
        let there = part.filter(|n| n % 3 != 0 && n / 300 % 3 != 1);
        let write = disk.transact(move |t| {
            there.into_iter().try_for_each(|n| t.put(key(n), n.to_be_bytes()))?;
            Ok::<_, DiskError>(())
        });
        write.await.expect("a commit");
    }
    for steps in [&[1][..], &[0, 1], &[1, 40, 2], &[7, 1, 1, 90], &[200, 3], &[33], &[32, 31]] {
        let (mut in_order, mut n) = (InOrder::new(&disk, b"o"), 0);
        for step in steps.iter().cycle() {
            assert_eq!(in_order.get(&key(n)), disk.get(&key(n)), "{n} by steps of {steps:?}");
            n += step;
            if n > 4_100 {
                break;
            }
        }
        assert_eq!(in_order.get(b"o"), Ok(None), "the end");
    }
}
