//! Cuts the log: changes that every member has, and changes beyond the size or the age that is kept.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{NodeName, Origin, Timestamp};
use twinbox_replication_core::{
    Vector,
    state_fill::{LogEntry, LogPolicy},
};
use twinbox_replication_store::{Store, StoreError};

use crate::{Peers, peers::Inner, state_scan::blocking};

/// Time from the start of the process until the log is cut for the first time: a node that comes back after a long time
/// hands over from its log the changes that only it has.
const FIRST: Duration = Duration::from_secs(600);
/// Time between two rounds.
const INTERVAL: Duration = Duration::from_secs(60);
/// Changes looked at in one go.
const STEP: usize = 128;
/// Changes whose sizes are read to estimate that of the log.
const SAMPLE: usize = 512;

/// Test hook, only in builds with debug assertions, never in a release: `TWINBOX_TEST_LOG_CUT` is [`FIRST`] and
/// [`INTERVAL`] in seconds.
#[cfg(debug_assertions)]
fn time_of_test() -> Option<Duration> {
    std::env::var("TWINBOX_TEST_LOG_CUT").ok()?.parse().ok().map(Duration::from_secs)
}

/// Time until the log is cut for the first time, and time between two rounds.
fn times() -> (Duration, Duration) {
    #[cfg(debug_assertions)]
    if let Some(time) = time_of_test() {
        return (time, time);
    }
    (FIRST, INTERVAL)
}

/// The log of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStatus {
    /// Changes in it.
    pub changes: u64,
    /// Their bytes, estimated.
    pub bytes: u64,
    /// Time of its oldest change.
    pub oldest: Option<Timestamp>,
    /// Changes that were cut from it, ever.
    pub cut: u64,
}

/// The oldest changes of one origin, ordered by the time of the first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Oldest {
    made: Timestamp,
    origin: Origin,
    /// The number of the last change that was cut before them.
    after: u64,
}

impl Peers {
    /// Cuts the log once a minute, by this policy, until the streams are shut down.
    pub fn keep_log(&self, policy: LogPolicy) {
        let (inner, (first, interval)) = (self.inner().clone(), times());
        let cut = async move {
            sleep(first).await;
            loop {
                match cut(&inner, &policy).await {
                    Ok(0) => {}
                    Ok(removed) => info!(removed, left = inner.store.log_changes(), "log of changes cut"),
                    Err(error) => warn!(%error, "log of changes cannot be cut; retrying"),
                }
                sleep(interval).await;
            }
        };
        self.inner().spawn(cut);
    }

    /// Cuts the log once, by this policy. Returns the number of removed changes. None is removed before each
    /// member has once announced that it fills by state, or while this node lacks records itself.
    pub async fn cut_log(&self, policy: &LogPolicy) -> Result<u64, StoreError> {
        cut(self.inner(), policy).await
    }

    /// Size and beginning of the log. Reads some of it: not for a thread that serves calls.
    pub fn log_status(&self) -> Result<LogStatus, StoreError> {
        let store = &self.inner().store;
        let changes = store.log_changes();
        let oldest = oldest(store)?.into_iter().map(|Reverse(oldest)| oldest.made).filter(|made| made.0 > 0).min();
        let bytes = changes.saturating_mul(mean_size(store)?);
        Ok(LogStatus { changes, bytes, oldest, cut: store.log_begins().total() })
    }
}

/// Notes that a member fills by state. The store remembers it: the log is cut while the member is away, too.
pub(crate) async fn note_filler(inner: Arc<Inner>, peer: NodeName) {
    let noted = async {
        let mut fillers = inner.store.state_fillers()?;
        if fillers.insert(peer.clone()) {
            inner.store.set_state_fillers(fillers).await?;
        }
        Ok::<_, StoreError>(())
    };
    // One after the other: each writes all of them.
    let _turn = inner.noting_fillers.lock().await;
    if let Err(error) = noted.await {
        warn!(%peer, %error, "release of peer cannot be noted; the log is not cut");
    }
}

async fn cut(inner: &Arc<Inner>, policy: &LogPolicy) -> Result<u64, StoreError> {
    let store = &inner.store;
    let links = inner.links.all();
    let fillers = store.state_fillers()?;
    if !store.filled().has_records() || !links.iter().all(|link| fillers.contains(&link.name)) {
        return Ok(0);
    }
    // Changes that a member has acknowledged to this process; on a node alone all are stable immediately.
    let mut stable = store.vector();
    for link in &links {
        let has = link.has();
        stable = stable.iter().map(|(origin, upto)| (origin, upto.min(has.get(origin)))).collect();
    }
    let (size, mut queue) = reading(store, |store| Ok((mean_size(store)?, oldest(store)?))).await?;
    let mut bytes = store.log_changes().saturating_mul(size);
    let mut removed = 0;
    while let Some(Reverse(Oldest { origin, after, .. })) = queue.pop() {
        let began = BootInstant::now();
        let entries = match reading(store, move |store| store.oldest_changes(origin, after, STEP)).await {
            Ok(entries) => entries,
            Err(error) => {
                warn!(%origin, %error, "the log of this origin cannot be read, and is not cut");
                continue;
            }
        };
        let behind = store.log_begins().get(origin);
        let (upto, is_all) = last_removed(policy, &entries, (behind, stable.get(origin)), &mut bytes);
        if upto > 0 {
            let first = entries.first().map_or(upto, |entry| entry.seq);
            removed += store.cut_log(origin, first..=upto).await?;
        }
        if is_all && entries.len() == STEP {
            // Otherwise the next round continues.
            let next = reading(store, move |store| store.oldest_changes(origin, upto, 1)).await.unwrap_or_default();
            queue.extend(next.first().map(|entry| Reverse(Oldest { made: entry.made, origin, after: upto })));
        }
        // Half of the time is left to calls.
        sleep(began.elapsed().max(Duration::from_millis(1))).await;
    }
    Ok(removed)
}

/// The last of the entries, oldest first, that is removed with all before it, 0 for none; and whether all are removed.
/// Entries up to `behind` are already cut from the log; every member has the entries up to `stable`. Subtracts their bytes
/// from those of the log.
fn last_removed(
    policy: &LogPolicy,
    entries: &[LogEntry],
    (behind, stable): (u64, u64),
    bytes: &mut u64,
) -> (u64, bool) {
    let mut upto = 0;
    for entry in entries {
        if entry.seq > behind && !policy.removes(entry, entry.seq <= stable, *bytes, wall()) {
            return (upto, false);
        }
        upto = entry.seq;
        *bytes = bytes.saturating_sub(entry.bytes);
    }
    (upto, true)
}

/// The origins whose log has changes that can be cut, each with the time of the first.
fn oldest(store: &Store) -> Result<BinaryHeap<Reverse<Oldest>>, StoreError> {
    let mut queue = BinaryHeap::new();
    // Including origins whose changes a fill has put behind the beginning.
    for (origin, _) in store.vector().iter() {
        let first = match store.oldest_changes(origin, 0, 1) {
            // The others are cut all the same.
            Err(error) => {
                warn!(%origin, %error, "the log of this origin cannot be read, and is not cut");
                continue;
            }
            Ok(first) => first,
        };
        queue.extend(first.first().map(|entry| Reverse(Oldest { made: entry.made, origin, after: 0 })));
    }
    Ok(queue)
}

/// The origins with changes in the log, each with the number after which it begins.
fn nonempty(store: &Store) -> Vec<(Origin, u64)> {
    let (begins, vector): (Vector, Vector) = (store.log_begins(), store.vector());
    vector
        .iter()
        .map(|(origin, upto)| (origin, upto, begins.get(origin)))
        .filter(|(_, upto, begins)| begins < upto)
        .map(|(origin, _, begins)| (origin, begins))
        .collect()
}

/// Mean size of the changes in the log, in bytes, of some of them.
fn mean_size(store: &Store) -> Result<u64, StoreError> {
    let (mut count, mut bytes) = (0_u64, 0_u64);
    let origins = nonempty(store);
    let each = (SAMPLE / origins.len().max(1)).max(8);
    for (origin, begins) in origins {
        for entry in store.oldest_changes(origin, begins, each).unwrap_or_default() {
            (count, bytes) = (count + 1, bytes + entry.bytes);
        }
        if count >= SAMPLE as u64 {
            break;
        }
    }
    Ok(bytes / count.max(1))
}

async fn reading<R: Send + 'static>(
    store: &Store,
    read: impl FnOnce(&Store) -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    let store = store.clone();
    blocking(move || read(&store)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_go_in_order_until_one_stays() {
        let hour = Duration::from_secs(3_600);
        let policy = LogPolicy { stable_for: hour, keep_for: hour * 100, keep_bytes: 1_000 };
        let ago = |hours: u64| Timestamp(wall().0.saturating_sub(hours * 3_600_000));
        let entry = |seq, hours| LogEntry { seq, made: ago(hours), bytes: 100 };
        let entries = [entry(1, 200), entry(2, 5), entry(3, 4), entry(4, 0)];
        for (what, stable, size, expected) in [
            ("only the first is too old", 0, 500, (1, false)),
            ("every member has two", 2, 500, (2, false)),
            ("every member has all; the last is too new", 4, 500, (3, false)),
            ("too large by two", 0, 1_150, (2, false)),
            ("far too large", 0, 9_000, (4, true)),
        ] {
            let mut bytes = size;
            assert_eq!(last_removed(&policy, &entries, (0, stable), &mut bytes), expected, "{what}");
        }
        let behind = last_removed(&policy, &entries, (3, 0), &mut 100);
        assert_eq!(behind, (3, false), "no part of the log any more");
    }
}
