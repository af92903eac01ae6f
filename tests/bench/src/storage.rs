//! The storage path alone: recordings, seals and commits of one store in this process, without SIP, RTP and a peer.
//!
//! Method: a given number of recordings is in progress; a thread ([`crate::recorders`]) gives each a chunk of 2,000 bytes every quarter
//! of a second, and ends as many of them in a second as `--rate` states. The acknowledgement is the time from the end of a recording
//! until its message is durable: the audio is synced, the change is synced. There is no peer to wait for. An earlier incarnation of the
//! store has left messages of the same length (audio that this one stores is pinned for an hour). For each deposit one of those is
//! deleted, but every eighth: it is purged, its audio is removed, and the packs are compacted, which moves what stays.
//!
//! Processor time is that of the process without the generator's thread, so it has the cleaning too. The generator's own is beside it: it
//! includes the hand-over of each chunk to the store's queue. With `--pin-core` all threads but the generator's run on one core.
//!
//! At the end the store is opened again, and every message that was acknowledged and not deleted is read and verified
//! by its hash: one that is not there in full ends the command with an error.

use std::{path::Path, thread::sleep, time::Duration};

use serde_json::json;
use tokio::{runtime::Runtime, task::JoinSet};
use twinbox_clock::BootInstant;
use twinbox_disk::Disk;
use twinbox_ids::MailboxId;
use twinbox_mailstore::Mailstore;
use twinbox_store_kit::Node;
use twinbox_testkit::resident_bytes;

use crate::{
    cleaning::Cleaner,
    machine,
    population::{self, CHUNK, Population, Written},
    recorders::{Deposit, Plan, Recorders},
    report::{Report, ms, percentile},
    segments::Segments,
    threads::{self, ThreadTimes},
};

/// Number of mailboxes.
const MAILBOXES: usize = 200;
/// One old message in this many stays, so that packs have something to be moved.
const STAYS: usize = 8;
/// Tasks that read the messages at the end.
const READERS: usize = 8;
/// Pause between two looks of the cleaning.
const CLEANS_EVERY: Duration = Duration::from_millis(500);

/// The load of a run.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Recordings at once.
    pub recordings: usize,
    /// Deposits in a second.
    pub rate: usize,
    /// Length of the measurement.
    pub seconds: u64,
    /// All threads but the generator's share one core.
    pub pin_core: bool,
}

/// The messages of a store, by the turn of their deletion.
struct Messages {
    /// Messages of the earlier incarnation that are to be deleted.
    old: std::vec::IntoIter<Written>,
    /// Messages that must be there at the end.
    stay: Vec<Written>,
}

/// Runs the load. The error names what was lost.
pub fn run(report: &mut Report, load: Load) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a folder");
    let store = dir.path().join("store");
    let plan = Plan { recordings: load.recordings, chunks: (load.recordings * 4 / load.rate.max(1)).max(4) as u32 };
    let old = load.rate * (load.seconds + plan.warm_up().as_secs()) as usize;
    println!(
        "first {old} messages of {} kB are written, of which {} stay",
        plan.chunks as usize * CHUNK / 1000,
        old / STAYS
    );
    let (mailboxes, written) = write_old(&store, old, plan.chunks as usize * CHUNK);
    let (go, stay): (Vec<_>, Vec<_>) = written.into_iter().enumerate().partition(|(n, _)| n % STAYS != STAYS - 1);
    let plain = |part: Vec<(usize, Written)>| part.into_iter().map(|(_, written)| written).collect::<Vec<_>>();
    let mut messages = Messages { old: plain(go).into_iter(), stay: plain(stay) };

    if load.pin_core {
        machine::pin(0, machine::UNDER_TEST);
    }
    let runtime = runtime();
    let failed = measure(report, &runtime, &store, load, plan, &mailboxes, &mut messages);
    runtime.shutdown_timeout(Duration::from_secs(10));
    population::wait_closed(&store);
    let lost = lost(&store, &messages);
    let mut table = report.table("messages after the store was opened again", &["expected", "lost", "not filed"]);
    table.row(&[json!(messages.stay.len() + messages.old.len()), json!(lost.len()), json!(failed.len())]);
    match failed.first().or(lost.first()) {
        None => Ok(()),
        Some(first) => {
            Err(format!("storage: {} recordings not filed, {} messages lost: {first}", failed.len(), lost.len()))
        }
    }
}

/// A runtime as a node has it: a worker for each core that it may use.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts")
}

/// The messages of an earlier incarnation of the store.
fn write_old(store: &Path, messages: usize, audio: usize) -> (Vec<MailboxId>, Vec<Written>) {
    let runtime = runtime();
    let wrote = runtime.block_on(async {
        let node = Node::alone(store, "a");
        let mailboxes = population::mailboxes(&node.mailstore, MAILBOXES).await;
        let all = Population { mailboxes: MAILBOXES, messages, audio, imported: false, deleted: false };
        // Above the numbers of the run itself.
        let written = population::messages(&node.mailstore, &mailboxes, all, 1 << 40).await;
        (mailboxes, written)
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    population::wait_closed(store);
    wrote
}

fn measure(
    report: &mut Report,
    runtime: &Runtime,
    store: &Path,
    load: Load,
    plan: Plan,
    mailboxes: &[MailboxId],
    messages: &mut Messages,
) -> Vec<String> {
    let node = runtime.block_on(async { Node::alone(store, "a") });
    let core = load.pin_core.then_some(machine::ELSEWHERE);
    let recorders = Recorders::start(runtime.handle(), &node.mailstore, mailboxes, plan, core);
    let (mut segments, mut cleaner) = (Segments::of(store), Cleaner::new(&node.mailstore));
    let mut failed = Vec::new();
    watch(runtime, &recorders, plan.warm_up(), &mut segments, &mut cleaner, messages, &mut failed);

    let pid = std::process::id();
    let before = (segments.look(), cleaner.cleaned, Disk::fsync_count(), machine::written(store));
    let (threads, used, own) = (ThreadTimes::of(pid), machine::cpu_of(pid), recorders.generator_time());
    recorders.take_late();
    let begun = BootInstant::now();
    let time = Duration::from_secs(load.seconds);
    let mut took = watch(runtime, &recorders, time, &mut segments, &mut cleaner, messages, &mut failed);
    let wall = begun.elapsed();
    let (used, own) = (machine::cpu_of(pid) - used, recorders.generator_time() - own);
    let spent = ThreadTimes::of(pid).since(&threads);
    let (late, memory) = (recorders.take_late(), resident_bytes(pid));
    let after = (segments.look(), cleaner.cleaned, Disk::fsync_count(), machine::written(store));
    let written = after.3.zip(before.3).map(|(after, before)| after - before);
    note(recorders.finish(), messages, &mut failed);

    let (deposits, percent) =
        (took.len().max(1) as f64, |time: Duration| time.as_secs_f64() / wall.as_secs_f64() * 100.0);
    let mut table = report.table(
        "storage alone: recordings in progress, each deposit durable",
        &[
            "recording",
            "deposits/s",
            "kB each",
            "core %",
            "generator %",
            "ack p50 ms",
            "ack p99 ms",
            "ack max ms",
            "syncs/deposit",
            "kB written each",
            "memory MB",
            "generator late",
        ],
    );
    table.row(&[
        json!(load.recordings),
        json!(took.len() as f64 / wall.as_secs_f64()),
        json!(plan.chunks as usize * CHUNK / 1000),
        json!(percent(used.saturating_sub(own))),
        json!(percent(own)),
        json!(ms(percentile(&mut took, 0.5))),
        json!(ms(percentile(&mut took, 0.99))),
        json!(ms(percentile(&mut took, 1.0))),
        json!((after.2 - before.2) as f64 / deposits),
        json!(written.map(|bytes| bytes as f64 / 1e3 / deposits)),
        json!(memory as f64 / 1e6),
        json!(ms(late)),
    ]);
    drop(table);
    let columns = &["segments recycled", "deleted", "records removed", "MB of audio", "packs removed", "MB moved"];
    let mut table = report.table("the same time: what was recycled, removed and compacted", columns);
    table.row(&[
        json!(after.0.recycled_since(before.0)),
        json!(after.1.deleted - before.1.deleted),
        json!(after.1.records - before.1.records),
        json!((after.1.freed.bytes - before.1.freed.bytes) as f64 / 1e6),
        json!(after.1.packs.removed - before.1.packs.removed),
        json!((after.1.packs.moved_bytes - before.1.packs.moved_bytes) as f64 / 1e6),
    ]);
    drop(table);
    threads::table(report, "storage alone, by thread", &spent, wall);
    failed
}

/// Cleans for this time; returns the times of the acknowledgements in it.
fn watch(
    runtime: &Runtime,
    recorders: &Recorders,
    time: Duration,
    segments: &mut Segments,
    cleaner: &mut Cleaner,
    messages: &mut Messages,
    failed: &mut Vec<String>,
) -> Vec<Duration> {
    let (begun, mut took) = (BootInstant::now(), Vec::new());
    let count = |deposits: &[Deposit], took: &mut Vec<Duration>| {
        let now = deposits.iter().filter(|deposit| deposit.at >= begun && deposit.outcome.is_ok());
        took.extend(now.map(|deposit| deposit.took));
    };
    note(recorders.take(), messages, failed);
    while begun.elapsed() < time {
        sleep(CLEANS_EVERY.min(time.saturating_sub(begun.elapsed())));
        segments.look();
        let deposits = recorders.take();
        count(&deposits, &mut took);
        let gone: Vec<Written> = messages.old.by_ref().take(deposits.len()).collect();
        note(deposits, messages, failed);
        let cleaned = runtime.block_on(async {
            cleaner.delete(&gone).await?;
            cleaner.purge().await?;
            cleaner.compact().await
        });
        failed.extend(cleaned.err().map(|error| format!("the cleaning failed: {error}")));
    }
    // Those of the last cleaning, which may have taken long.
    let deposits = recorders.take();
    count(&deposits, &mut took);
    note(deposits, messages, failed);
    took
}

fn note(deposits: Vec<Deposit>, messages: &mut Messages, failed: &mut Vec<String>) {
    for deposit in deposits {
        match deposit.outcome {
            Ok(written) => messages.stay.push(written),
            Err(error) => failed.push(error),
        }
    }
}

/// Opens the store again, and reads all messages that must be there; names those that are not.
fn lost(store: &Path, messages: &Messages) -> Vec<String> {
    let expected: Vec<Written> = messages.stay.iter().chain(messages.old.as_slice()).copied().collect();
    runtime().block_on(async {
        let node = Node::alone(store, "a");
        let mut readers = JoinSet::new();
        for part in expected.chunks(expected.len().div_ceil(READERS).max(1)) {
            readers.spawn(lost_of(node.mailstore.clone(), part.to_vec()));
        }
        readers.join_all().await.concat()
    })
}

async fn lost_of(mailstore: Mailstore, expected: Vec<Written>) -> Vec<String> {
    let mut lost = Vec::new();
    for Written { mailbox, message, bytes, .. } in expected {
        let found = match mailstore.message(mailbox, message).await {
            Ok(Some(filed)) => mailstore.audio(&filed).await.map(|audio| audio.bytes.len()),
            Ok(None) => Ok(0),
            Err(error) => Err(error),
        };
        match found {
            Ok(length) if length == bytes => {}
            Ok(length) => lost.push(format!("message {message} has {length} of {bytes} bytes")),
            Err(error) => lost.push(format!("message {message}: {error}")),
        }
    }
    lost
}
