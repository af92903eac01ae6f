//! The first fill of a store: records first, then the audio that they name (rule D13).
//!
//! A node that joins, or whose disk was lost, has all records when each source that it follows has sent the changes
//! that it had when the stream began. A source is a peer whose own first fill has ended. Where no peer is a source (all
//! are filling, or the sources have been removed), nodes must not wait for each other: the data that they have together
//! then counts as complete. A source that is connected and sends no data for [`STUCK`] counts as one that is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    task::{JoinError, JoinSet},
    time::sleep,
};
use tracing::{error, info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{Backoff, NodeName};
use twinbox_replication_core::{BlobRef, Holdings, Key, Vector, first_fill::FillStep};
use twinbox_replication_fetch::{Batch, Got, MAX_BLOB, batches};
use twinbox_replication_store::{Filled, MissingAudio, Store, StoreError};

use crate::{link::Link, lost_audio, peers::Inner, state_scan::blocking};

/// Concurrent requests of a fill. The other slots are for blobs that a caller waits for.
const CONCURRENT: usize = 8;
/// Bytes of these requests from which on no further one begins.
const UNDER_WAY: u64 = 16 * 1024 * 1024;
/// Notes of missing audio in one commit.
const NOTES: usize = 1_024;
/// Pauses between rounds when some audio could not be fetched.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// Poll interval for the end of a fill, in addition to notifications.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Time from the start after which a member that has never been a peer in this process counts as removed: until then the
/// list of members may be an old one.
const MEMBERS: Duration = Duration::from_secs(60);

/// Time without progress after which a fill continues without a member that is connected, as without one that is away.
pub(crate) const STUCK: Duration = Duration::from_secs(300);

/// The state of a followed peer for the first fill.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Its own first fill was in progress when the stream began.
    pub(crate) lacks_records: bool,
    /// The changes that it had at that time.
    pub(crate) vector: Vector,
    /// All of these changes have come, applied or set aside.
    pub(crate) sent_all: bool,
    /// Beginning of its log at that time.
    pub(crate) log_begins: Vector,
    /// Time at which the stream began.
    pub(crate) opened: BootInstant,
}

/// The latest progress of a fill from one peer, as long as its stream is open.
struct Patience {
    /// The lowest number of its changes that were missing here.
    missing: u64,
    /// Progress of scans, of any peer: they take turns.
    advanced: u64,
    since: BootInstant,
}

impl Patience {
    /// Notes the number of missing changes; true if none has come for too long.
    fn is_over(&mut self, missing: u64, advanced: u64, now: BootInstant, limit: Duration) -> bool {
        if missing < self.missing || advanced > self.advanced {
            self.since = now;
        }
        (self.missing, self.advanced) = (self.missing.min(missing), advanced);
        now.since(self.since) >= limit
    }
}

/// Runs each fill to its end, then fetches its audio: the first one, and one after each long absence.
pub(crate) async fn run(inner: Arc<Inner>) {
    let peers = names(&inner);
    let mut mark = inner.store.watch_filled();
    loop {
        if let Err(error) = records(&inner).await {
            error!(%error, next_in = ?RETRY.longest(), "end of the first fill cannot be stored; retrying");
            sleep(RETRY.longest()).await;
            continue;
        }
        let rest = async { tokio::join!(audio(&inner), hear_missed(&inner, peers.clone())) };
        let reopened = async {
            // The guard of the value is dropped immediately.
            mark.wait_for(|filled| !filled.has_records()).await.map(|_| ()).is_ok()
        };
        // After the rest no work is left until the mark falls.
        let rest = async {
            rest.await;
            std::future::pending::<bool>().await
        };
        tokio::select! {
            is_open = reopened => if !is_open { return },
            _ = rest => {}
        }
    }
}

async fn records(inner: &Inner) -> Result<(), StoreError> {
    let mut mark = inner.store.watch_filled();
    let mut known = BTreeMap::new();
    while !mark.borrow_and_update().has_records() {
        let own = Holdings::of(&inner.store.vector());
        let links = inner.links.all();
        let peers: Vec<_> = links.iter().map(|link| state_of(inner, link, &own, &mut known)).collect();
        match FillStep::of(&peers) {
            FillStep::Filled => {
                inner.store.end_fill(unheard(inner)).await?;
                info!("first fill: all records are stored here");
            }
            FillStep::NoSource => end_without_source(inner).await?,
            FillStep::Wait => {
                tokio::select! {
                    () = inner.filling.notified() => {}
                    () = sleep(POLL_INTERVAL) => {}
                    _ = mark.changed() => {}
                }
            }
        }
    }
    Ok(())
}

/// The state of a peer for [`FillStep::of`]. One that sends no data for too long counts as away: the fill is noted as one
/// that missed it, and its changes come when it sends them.
fn state_of(
    inner: &Inner,
    link: &Link,
    own: &Holdings,
    known: &mut BTreeMap<NodeName, Patience>,
) -> Option<(bool, bool)> {
    let Some(Source { lacks_records, vector, sent_all, .. }) = link.source() else {
        known.remove(&link.name);
        link.set_stuck(None);
        return None;
    };
    let (missing, advanced, now) = (own.lag(&vector), inner.state_fills.advanced(), BootInstant::now());
    let given = sent_all || missing == 0;
    let patience = known.entry(link.name.clone()).or_insert(Patience { missing, advanced, since: now });
    let limit = Duration::from_millis(inner.source_patience_ms.load(Relaxed));
    let is_stuck = patience.is_over(missing, advanced, now, limit) && !given;
    let nothing_came = || format!("nothing came of {missing} changes for {} s", limit.as_secs());
    let reason = is_stuck.then(|| inner.state_fills.failure(&link.name).unwrap_or_else(nothing_came));
    if link.set_stuck(reason.clone()) {
        let reason = reason.unwrap_or_default();
        error!(peer = %link.name, reason, "first fill: it goes on without this member if another one has all records");
    }
    (!is_stuck).then_some((!lacks_records, given))
}

/// The members that have not sent all that they had when this node began to follow them, or are not followed.
fn unheard(inner: &Inner) -> BTreeSet<NodeName> {
    let own = inner.store.vector();
    let heard = |source: Source| source.sent_all || source.vector.missing_from(&own).is_empty();
    let links = inner.links.all();
    links.iter().filter(|link| !link.source().is_some_and(heard)).map(|link| link.name.clone()).collect()
}

fn names(inner: &Inner) -> BTreeSet<NodeName> {
    inner.links.all().iter().map(|link| link.name.clone()).collect()
}

/// Waits for the members that the first fill missed: until then this node may lack changes that it had acknowledged to them
/// with an earlier disk. A removed member is not waited for. `peers` are those of the start.
async fn hear_missed(inner: &Inner, mut peers: BTreeSet<NodeName>) {
    let began = BootInstant::now();
    loop {
        let (missed, unheard) = (inner.store.fill_missed(), unheard(inner));
        let links = inner.links.all();
        links.iter().filter(|link| !unheard.contains(&link.name)).for_each(|link| {
            link.set_stuck(None);
        });
        if missed.is_empty() {
            return;
        }
        peers.extend(names(inner));
        let members_known = began.elapsed() >= MEMBERS;
        let waits = |name: &NodeName| unheard.contains(name) || !(members_known || peers.contains(name));
        let left: BTreeSet<_> = missed.iter().filter(|name| waits(name)).cloned().collect();
        if left.len() < missed.len() {
            match inner.store.set_fill_missed(left).await {
                Ok(()) => continue,
                Err(error) => warn!(%error, "members heard since the first fill cannot be noted; retrying"),
            }
        }
        tokio::select! {
            () = inner.filling.notified() => {}
            () = sleep(POLL_INTERVAL) => {}
        }
    }
}

/// Ends the fill with the data that is here.
pub(crate) async fn end_without_source(inner: &Inner) -> Result<(), StoreError> {
    if !inner.store.filled().has_records() {
        error!("first fill: no remaining node has all records; serving with incomplete data");
        inner.store.end_fill(unheard(inner)).await?;
        inner.fill_had_no_source.store(true, Relaxed);
    }
    Ok(())
}

/// Fetches the audio that records name, until all of it is here.
async fn audio(inner: &Arc<Inner>) {
    let (mut retry, began) = (RETRY, BootInstant::now());
    while inner.store.filled() < Filled::Complete {
        let pause = retry.failed();
        match both_rounds(inner, began.elapsed() >= inner.fetcher.patience().denied).await {
            Ok(0) => match inner.store.set_filled(Filled::Complete).await {
                Ok(()) => return info!("first fill: all audio is stored here"),
                Err(error) => error!(%error, next_in = ?pause, "end of the first fill cannot be stored; retrying"),
            },
            Ok(missing) => warn!(missing, next_in = ?pause, "first fill: some audio cannot be fetched; retrying"),
            Err(error) => warn!(%error, next_in = ?pause, "first fill: missing audio cannot be listed; retrying"),
        }
        sleep(pause).await;
    }
}

/// Notes the audio that present records name and that is not here.
pub(crate) async fn note_missing(store: &Store) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let MissingAudio { mut blobs, upto, .. } = missing(store.clone(), false, after).await?;
        blobs.retain(|blob| blob.length <= MAX_BLOB);
        for part in blobs.chunks(NOTES) {
            store.apply_without(Vec::new(), part.to_vec()).await?;
        }
        after = upto;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Fetches once the missing audio that records name, and removes its notes; what does not come is requested until it does.
pub(crate) async fn fetch_missing(inner: Arc<Inner>) {
    match both_rounds(&inner, false).await {
        Ok(0) => {}
        Ok(missing) => warn!(missing, "some audio of the rows of a peer cannot be fetched"),
        Err(error) => warn!(%error, "missing audio cannot be listed"),
    }
    lost_audio::request_noted(&inner).await;
}

/// Asks once for each missing blob, those of present records first; returns the number still missing. Audio of a deleted
/// record is wanted as long as the record can be undeleted, but may be lost for good: it is not waited for when one node
/// answers that it has purged it, or every other node that it does not have it, or has a damaged copy. The latter counts for present
/// records as well once the fill has `waited` (rule D12).
async fn both_rounds(inner: &Arc<Inner>, waited: bool) -> Result<usize, StoreError> {
    let (missing, are_deleted) = round(inner, false, waited).await?;
    Ok(missing + if are_deleted { round(inner, true, waited).await?.0 } else { 0 })
}

/// The number of blobs that are still missing, and whether records of the other kind name audio.
async fn round(inner: &Arc<Inner>, deleted: bool, waited: bool) -> Result<(usize, bool), StoreError> {
    let (mut fetching, mut under_way, mut failed, mut others) = (JoinSet::new(), 0_u64, 0, false);
    let mut ended = |fetched: Result<(Batch, usize), JoinError>, under_way: &mut u64| {
        // One that panicked is missing as a whole.
        let (batch, missing) = fetched.unwrap_or((Batch::default(), 1));
        *under_way -= batch.bytes;
        failed += missing;
    };
    let mut part = missing(inner.store.clone(), deleted, None).await?;
    loop {
        others |= part.others;
        let requests = async {
            for batch in batches(part.blobs) {
                while (fetching.len() >= CONCURRENT || under_way >= UNDER_WAY)
                    && let Some(fetched) = fetching.join_next().await
                {
                    ended(fetched, &mut under_way);
                }
                under_way += batch.bytes;
                fetching.spawn(fetch(inner.clone(), batch, deleted, waited));
            }
        };
        if part.upto.is_none() {
            requests.await;
            break;
        }
        // The next part is listed meanwhile.
        let (next, ()) = tokio::join!(missing(inner.store.clone(), deleted, part.upto), requests);
        part = next?;
    }
    while let Some(fetched) = fetching.join_next().await {
        ended(fetched, &mut under_way);
    }
    Ok((failed, others))
}

/// Asks for the blobs of a batch; returns it with the number of those that are still missing.
async fn fetch(inner: Arc<Inner>, batch: Batch, deleted: bool, waited: bool) -> (Batch, usize) {
    let got = inner.fetcher.get_all(batch.blobs.clone(), None).await;
    let denied = got.iter().filter(|(_, got)| *got == Got::Denied && waited && !deleted);
    let denied: Vec<BlobRef> = denied.map(|(blob, _)| *blob).collect();
    let mut unnoted = 0;
    if !denied.is_empty() {
        match inner.store.apply_without(Vec::new(), denied.clone()).await {
            Ok(()) => inner.lost_audio.add(denied),
            Err(error) => {
                warn!(%error, blobs = denied.len(), "missing audio cannot be noted; retrying");
                unnoted = denied.len();
            }
        }
    }
    let is_missing = |got: Got| match got {
        Got::Here => false,
        Got::Denied => !deleted && !waited,
        Got::GivenUp => !deleted,
        Got::Failed => true,
    };
    let missing = got.iter().filter(|(_, got)| is_missing(*got)).count();
    (batch, missing + unnoted)
}

/// A part of the audio that is not here: see [`Store::missing_audio`].
pub(crate) async fn missing(store: Store, deleted: bool, after: Option<Key>) -> Result<MissingAudio, StoreError> {
    blocking(move || store.missing_audio(deleted, after.as_ref())).await
}

#[cfg(test)]
#[path = "../tests/unit/fill.rs"]
mod tests;
