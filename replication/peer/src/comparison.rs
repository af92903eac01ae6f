//! Comparison of this store with those of the peers (rule D3): equal stores exchange a few kilobytes, differences are found by
//! sums over buckets of rows, and data that one side lacks is copied from the other.
//!
//! Stores need not stand still: a row counts as different only when each node has all changes that the other had before
//! (`session`). A row that is absent deletes nothing; a deletion that one side lost is copied. No vector moves.

mod audio;
mod client;
mod frames;
mod serve;
mod session;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::sleep};
use tracing::{debug, info, warn};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{BlobHash, NodeName, Timestamp};
use twinbox_replication_core::{Key, Lack};
use twinbox_replication_store::{Filled, RowFault, StoreError};

use crate::{Peers, link::Link, peers::Inner};

pub use audio::AudioCheck;
pub(crate) use client::{Client, PeerRows};
pub(crate) use frames::ROWS;
pub(crate) use serve::{compare, repair};

/// Time between two comparisons with a peer; up to a sixth is added, so that nodes do not compare in step.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// Time from the connection of a peer to the comparison.
const SETTLE: Duration = Duration::from_secs(10);
/// Time after a comparison that was not completed.
const RETRY: Duration = Duration::from_secs(300);
/// Time between two checks that the audio of all records is here.
const AUDIO_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// Time after which the rows are counted again: sums do not show rows that the disk has lost since. Up to a sixth of
/// [`INTERVAL`] is added here, too.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// Poll interval of the schedule.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Differences that a report lists.
const LISTED: usize = 1_000;

/// The subject of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A record.
    Row(Key),
    /// Audio that a record names.
    Audio(BlobHash),
}

/// The end of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceOutcome {
    /// It was repaired.
    Repaired,
    /// One node lacked changes of the other for too long: the next comparison decides.
    Undecided,
    /// No good copy was found, or the record has grown too large.
    NotRepaired,
}

/// A difference between two stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its subject.
    pub subject: Subject,
    /// The node that lacked something.
    pub node: NodeName,
    /// The fault there; audio is missing or unreadable.
    pub fault: RowFault,
    /// The parts that a record lacked.
    pub lacked: Lack,
    /// Its end.
    pub outcome: DifferenceOutcome,
}

/// The result of a comparison with one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComparisonReport {
    /// The peer.
    pub peer: NodeName,
    /// Time of the begin.
    pub began: Timestamp,
    /// Duration in milliseconds.
    pub took_ms: u64,
    /// Present rows of this node.
    pub rows: u64,
    /// The differences, the first thousand.
    pub differences: Vec<Difference>,
    /// Number of further differences.
    pub more: u64,
    /// Reason why the comparison was not completed.
    pub problem: Option<String>,
}

impl ComparisonReport {
    /// True when the comparison was completed and everything was equal.
    pub fn is_equal(&self) -> bool {
        self.problem.is_none() && self.differences.is_empty() && self.more == 0
    }

    /// Number of differences that were repaired. Of those that are not listed, none is counted when no listed one was
    /// repaired: others have displaced them, and may be among the rest.
    pub fn repaired(&self) -> u64 {
        let repaired =
            self.differences.iter().filter(|difference| difference.outcome == DifferenceOutcome::Repaired);
        match repaired.count() as u64 {
            0 => 0,
            listed => listed + self.more,
        }
    }

    fn note(&mut self, difference: Difference) {
        match (self.differences.len() < LISTED, difference.outcome) {
            (true, _) => self.differences.push(difference),
            (false, DifferenceOutcome::Repaired) => self.more += 1,
            // A difference that was not repaired must be listed, so it replaces a repaired one.
            (false, _) => {
                if let Some(listed) =
                    self.differences.iter_mut().find(|listed| listed.outcome == DifferenceOutcome::Repaired)
                {
                    *listed = difference;
                }
                self.more += 1;
            }
        }
    }
}

/// Counts since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComparisonCounts {
    /// Comparisons that were completed.
    pub completed: u64,
    /// Comparisons that were not completed.
    pub failed: u64,
    /// Differences.
    pub differences: u64,
    /// Differences that were repaired, here or at the peer.
    pub repaired: u64,
    /// Milliseconds of all comparisons.
    pub took_ms: u64,
}

/// State of the comparisons of one node.
#[derive(Default)]
pub(crate) struct Comparisons {
    /// One comparison at a time.
    turn: AsyncMutex<()>,
    /// Time at which the last count of the rows ended, in nanoseconds of the boot clock.
    counted: AtomicU64,
    peers: Mutex<BTreeMap<NodeName, PeerState>>,
    completed: AtomicU64,
    failed: AtomicU64,
    differences: AtomicU64,
    repaired: AtomicU64,
    took_ms: AtomicU64,
}

#[derive(Default)]
struct PeerState {
    last: Option<Arc<ComparisonReport>>,
    repairs: u64,
    /// Both streams are open.
    connected: bool,
    /// A comparison was due since then.
    compared: bool,
    /// Time of the next comparison while they are open.
    due: Option<BootInstant>,
    /// Time of the last check of audio.
    audio: Option<BootInstant>,
}

/// A comparison that is due.
struct Due {
    audio: AudioCheck,
    /// It is the first one since the peer is connected.
    is_first: bool,
}

impl Comparisons {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeName, PeerState>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, report: &Arc<ComparisonReport>) {
        let outcome = if report.problem.is_none() { &self.completed } else { &self.failed };
        outcome.fetch_add(1, Relaxed);
        self.differences.fetch_add(report.differences.len() as u64 + report.more, Relaxed);
        self.repaired.fetch_add(report.repaired(), Relaxed);
        self.took_ms.fetch_add(report.took_ms, Relaxed);
        let mut peers = self.peers();
        let state = peers.entry(report.peer.clone()).or_default();
        state.repairs += report.repaired();
        state.last = Some(report.clone());
    }

    /// The comparison with a peer that is due; `None` for none. Audio is checked only on a node that is filled.
    fn due(&self, link: &Link, is_filled: bool, now: BootInstant, spread: Duration) -> Option<Due> {
        let mut peers = self.peers();
        let state = peers.entry(link.name.clone()).or_default();
        if !link.followed() || !link.following.load(Relaxed) {
            (state.connected, state.compared) = (false, false);
            return None;
        }
        if !std::mem::replace(&mut state.connected, true) {
            state.due = Some(now + SETTLE);
        }
        if state.due.is_some_and(|due| now < due) {
            return None;
        }
        state.due = Some(now + (INTERVAL + spread));
        let is_audio_due = is_filled && state.audio.is_none_or(|at| now.since(at) >= AUDIO_INTERVAL);
        if is_audio_due {
            state.audio = Some(now);
        }
        let audio = if is_audio_due { AudioCheck::Presence } else { AudioCheck::None };
        Some(Due { audio, is_first: !std::mem::replace(&mut state.compared, true) })
    }

    /// Counts rows that this node took for a peer that compared its store with this one.
    fn repaired_for(&self, peer: &NodeName, count: u64) {
        self.repaired.fetch_add(count, Relaxed);
        self.peers().entry(peer.clone()).or_default().repairs += count;
    }

    fn retry(&self, peer: &NodeName, now: BootInstant) {
        if let Some(state) = self.peers().get_mut(peer) {
            state.due = Some(now + RETRY);
        }
    }
}

impl Peers {
    /// Compares this store with that of a peer now, and repairs both. Waits for a comparison in progress. With a check of
    /// audio the rows of this store are counted again before, so that damage since the last count shows, unless a count ends
    /// while this call waits. `None`: there is no such peer, or the streams are shut down.
    pub async fn compare(&self, peer: &NodeName, audio: AudioCheck) -> Option<Arc<ComparisonReport>> {
        let inner = self.inner();
        let link = inner.links.get(peer)?;
        let recount = (audio != AudioCheck::None).then(BootInstant::now);
        inner.stop.run_until_cancelled(run_one(inner, &link, audio, recount)).await
    }

    /// The last comparison with each peer, and the number of repairs since the start of the process.
    pub fn comparisons(&self) -> Vec<(NodeName, Option<Arc<ComparisonReport>>, u64)> {
        let peers = self.inner().comparisons.peers();
        peers.iter().map(|(name, state)| (name.clone(), state.last.clone(), state.repairs)).collect()
    }

    /// Counts since the start of the process.
    pub fn comparison_counts(&self) -> ComparisonCounts {
        let Comparisons { completed, failed, differences, repaired, took_ms, .. } = &self.inner().comparisons;
        ComparisonCounts {
            completed: completed.load(Relaxed),
            failed: failed.load(Relaxed),
            differences: differences.load(Relaxed),
            repaired: repaired.load(Relaxed),
            took_ms: took_ms.load(Relaxed),
        }
    }
}

/// Counts the rows of this store, then compares it with each peer when that is due.
pub(crate) async fn run(inner: Arc<Inner>) {
    count_rows(&inner).await;
    let mut counted = BootInstant::now();
    // Taken from the origin, which is another one at each start of each node.
    let [random, ..] = inner.store.origin().to_bytes();
    let spread = INTERVAL.mul_f64(f64::from(random) / 256.0 / 6.0);
    loop {
        sleep(POLL_INTERVAL).await;
        let links = inner.links.all();
        inner.comparisons.peers().retain(|name, _| links.iter().any(|link| link.name == *name));
        if !inner.store.filled().has_records() {
            continue;
        }
        for link in links {
            let (now, is_filled) = (BootInstant::now(), inner.store.filled() == Filled::Complete);
            let Some(due) = inner.comparisons.due(&link, is_filled, now, spread) else { continue };
            // After a connection both nodes compare concurrently, and neither can while the other counts.
            let is_recount_due = !due.is_first && now.since(counted) >= RECOUNT_INTERVAL + spread;
            if is_recount_due {
                counted = now;
            }
            let report = run_one(&inner, &link, due.audio, is_recount_due.then_some(now)).await;
            if report.problem.is_some() {
                inner.comparisons.retry(&link.name, BootInstant::now());
            }
        }
    }
}

/// Counts the rows after the start, however often that fails.
async fn count_rows(inner: &Inner) {
    loop {
        let turn = inner.comparisons.turn.lock().await;
        let Err(error) = count_all(inner).await else { return };
        drop(turn);
        warn!(%error, "rows of the store cannot be counted for the comparison");
        sleep(RETRY).await;
    }
}

/// Counts in steps, with pauses as long as the steps, unless all rows are counted.
async fn count_all(inner: &Inner) -> Result<(), StoreError> {
    if inner.store.group_sums().is_some() {
        return Ok(());
    }
    loop {
        let began = BootInstant::now();
        if inner.store.sum_step().await? {
            inner.comparisons.counted.store(BootInstant::now().as_nanos(), Relaxed);
            return Ok(());
        }
        sleep(began.elapsed().max(Duration::from_millis(1))).await;
    }
}

/// Compares with one peer, after a count of the rows that ends after `recount` if that is given.
async fn run_one(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    audio: AudioCheck,
    recount: Option<BootInstant>,
) -> Arc<ComparisonReport> {
    let _turn = inner.comparisons.turn.lock().await;
    if recount.is_some_and(|asked| inner.comparisons.counted.load(Relaxed) < asked.as_nanos()) {
        inner.store.recount();
    }
    let (began, instant) = (wall(), BootInstant::now());
    let mut report = ComparisonReport {
        peer: link.name.clone(),
        began,
        took_ms: 0,
        rows: 0,
        differences: Vec::new(),
        more: 0,
        problem: None,
    };
    if let Err(problem) = session::compare(inner, link, audio, &mut report).await {
        report.problem = Some(problem);
    }
    report.took_ms = u64::try_from(instant.elapsed().as_millis()).unwrap_or(u64::MAX);
    let last = inner.comparisons.peers().get(&link.name).and_then(|state| state.last.clone());
    match &report.problem {
        // The same problem is logged once, not at every attempt.
        Some(problem) if last.as_ref().is_some_and(|last| last.problem.as_ref() == Some(problem)) => {
            debug!(peer = %link.name, problem, "stores were not compared");
        }
        Some(problem) => info!(peer = %link.name, problem, "stores were not compared"),
        None if report.is_equal() => info!(peer = %link.name, took_ms = report.took_ms, "stores are equal"),
        None => {
            let found = report.differences.len() as u64 + report.more;
            warn!(peer = %link.name, found, repaired = report.repaired(), "stores differed");
        }
    }
    let report = Arc::new(report);
    inner.comparisons.ended(&report);
    report
}
