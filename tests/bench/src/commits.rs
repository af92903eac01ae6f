//! Durable commits of the store of records alone, in this process: the commits that wait together share a sync.
//!
//! Method: callers commit one after the other, each four values of 1 kB under new keys, as a message writes its record,
//! its change and their indexes. A thread reads keys of earlier commits meanwhile: what a call that reads waits for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_disk::{Disk, DiskError, Transaction};

use crate::{
    machine,
    report::{Report, ms, percentile},
};

/// Pause of the reader between two reads.
const READ_EVERY: Duration = Duration::from_micros(200);

/// Runs the steps: this many callers at once, for `seconds` each.
pub fn run(report: &mut Report, callers: &[usize], seconds: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let mut table = report.table(
        "commits of 4 kB on one disk",
        &[
            "callers",
            "commits/s",
            "median ms",
            "p99 ms",
            "syncs/commit",
            "cpu us/commit",
            "read p99 ms",
            "read max ms",
        ],
    );
    for &callers in callers {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::open(dir.path()).expect("a store opens");
        let stop = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (disk, stop) = (disk.clone(), Arc::clone(&stop));
            move || read(&disk, &stop)
        });
        let (syncs, cpu, begun) = (Disk::fsync_count(), machine::cpu_of(std::process::id()), BootInstant::now());
        let tasks: Vec<_> = (0..callers)
            .map(|caller| runtime.spawn(commit(disk.clone(), caller, Duration::from_secs(seconds))))
            .collect();
        let mut took: Vec<Duration> =
            tasks.into_iter().flat_map(|task| runtime.block_on(task).expect("a caller commits")).collect();
        let elapsed = begun.elapsed().as_secs_f64();
        let cpu = machine::cpu_of(std::process::id()).saturating_sub(cpu);
        let syncs = Disk::fsync_count() - syncs;
        stop.store(true, Relaxed);
        let mut reads = reader.join().expect("the reader ends");
        let commits = took.len() as f64;
        table.row(&[
            json!(callers),
            json!(commits / elapsed),
            json!(ms(percentile(&mut took, 0.5))),
            json!(ms(percentile(&mut took, 0.99))),
            json!(syncs as f64 / commits),
            json!(cpu.as_secs_f64() * 1e6 / commits),
            json!(ms(percentile(&mut reads, 0.99))),
            json!(ms(percentile(&mut reads, 1.0))),
        ]);
    }
}

/// The key of a caller's value.
fn key(caller: usize, number: u64, part: u8) -> Vec<u8> {
    [&(caller as u64).to_be_bytes()[..], &number.to_be_bytes(), &[part]].concat()
}

async fn commit(disk: Disk, caller: usize, time: Duration) -> Vec<Duration> {
    let (begun, mut took) = (BootInstant::now(), Vec::new());
    while begun.elapsed() < time {
        let (number, sent) = (took.len() as u64, BootInstant::now());
        let write = move |transaction: &mut Transaction<'_>| {
            (0..4).try_for_each(|part| transaction.put(key(caller, number, part), vec![part; 1024]))
        };
        let written: Result<(), _> = disk.transact::<(), DiskError, _>(write).await;
        written.expect("a commit is durable");
        took.push(sent.elapsed());
    }
    took
}

/// Reads until it is told to stop; the time of each read.
fn read(disk: &Disk, stop: &AtomicBool) -> Vec<Duration> {
    let (mut took, mut number) = (Vec::new(), 0_u64);
    while !stop.load(Relaxed) {
        let begun = BootInstant::now();
        let found = disk.get(&key(0, number % 64, 0)).expect("a read");
        took.push(begun.elapsed());
        number += u64::from(found.is_some());
        thread::sleep(READ_EVERY);
    }
    took
}
