//! The first fill of a store: records first, then the audio that they name (rule D13).
//!
//! A node that joins, or whose disk was lost, has all records when each source that it follows has sent the changes
//! that it had when the stream began. A source is a peer whose own first fill has ended. Where no peer is a source (all
//! are filling, or the sources have been removed), nodes must not wait for each other: the data that they have together
//! then counts as complete.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    task::{JoinError, JoinSet},
    time::sleep,
};
use tracing::{error, info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_replication_core::{BlobRef, Vector};
use twinbox_replication_store::{Filled, Store, StoreError};

use crate::{config::limits, fetch::Got, peers::Inner};

/// Concurrent fetches of a fill; the other slots are for blobs that a caller waits for.
const CONCURRENT: usize = 4;
/// Pause between rounds when some audio could not be fetched: first value, doubling up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Poll interval for the end of a fill, in addition to notifications.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Time from the start after which a member that has never been a peer in this process counts as removed: until then the
/// list of members may be an old one.
const MEMBERS: Duration = Duration::from_secs(60);

/// The state of a followed peer for the first fill.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Its own first fill was in progress when the stream began.
    pub(crate) lacks_records: bool,
    /// The changes that it had then.
    pub(crate) vector: Vector,
    /// All of these have come, applied or set aside.
    pub(crate) sent_all: bool,
    /// Beginning of its log then.
    pub(crate) log_begins: Vector,
    /// Time at which the stream began.
    pub(crate) opened: BootInstant,
}

/// State of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Wait,
    /// All changes of the sources are here.
    Filled,
    /// No peer is a source, and all changes of the peers are here.
    NoSource,
}

/// `peers` are all other nodes: `None` for a node that is not followed, else whether it is a source, and whether all
/// that it had is here.
fn progress(peers: &[Option<(bool, bool)>]) -> Progress {
    let followed = || peers.iter().flatten();
    let all_given =
        |by_sources: bool| followed().filter(|(source, _)| *source == by_sources).all(|(_, given)| *given);
    if followed().any(|(source, _)| *source) {
        return if all_given(true) { Progress::Filled } else { Progress::Wait };
    }
    // A node that is not followed may be a source; a removed one is no peer any more. Without peers, only
    // [`end_without_source`] ends the fill.
    let all_followed = !peers.is_empty() && peers.iter().all(Option::is_some);
    if all_followed && all_given(false) { Progress::NoSource } else { Progress::Wait }
}

/// Runs each fill to its end, then fetches its audio: the first one, and one after each long absence.
pub(crate) async fn run(inner: Arc<Inner>) {
    let peers = names(&inner);
    let mut mark = inner.store.watch_filled();
    loop {
        if let Err(error) = records(&inner).await {
            error!(%error, "end of the first fill cannot be stored");
            return;
        }
        let rest = async { tokio::join!(audio(&inner), hear_missed(&inner, peers.clone())) };
        let reopened = async {
            // The guard of the value is dropped at once.
            mark.wait_for(|filled| !filled.has_records()).await.map(|_| ()).is_ok()
        };
        // Nothing is left to do after the rest, until the mark falls.
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
    while !mark.borrow_and_update().has_records() {
        let own = inner.store.vector();
        let peers: Vec<_> = inner
            .all_links()
            .iter()
            .map(|link| {
                let Source { lacks_records, vector, sent_all, .. } = link.source()?;
                Some((!lacks_records, sent_all || vector.missing_from(&own).is_empty()))
            })
            .collect();
        match progress(&peers) {
            Progress::Filled => {
                inner.store.end_fill(unheard(inner)).await?;
                info!("first fill: all records are stored here");
            }
            Progress::NoSource => end_without_source(inner).await?,
            Progress::Wait => {
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

/// The members that have not sent all that they had when this node began to follow them, or are not followed.
fn unheard(inner: &Inner) -> BTreeSet<NodeName> {
    let own = inner.store.vector();
    let heard = |source: Source| source.sent_all || source.vector.missing_from(&own).is_empty();
    let links = inner.all_links();
    links.iter().filter(|link| !link.source().is_some_and(heard)).map(|link| link.name.clone()).collect()
}

fn names(inner: &Inner) -> BTreeSet<NodeName> {
    inner.all_links().iter().map(|link| link.name.clone()).collect()
}

/// Waits for the members that the first fill went without: until then this node may lack what it had acknowledged to them
/// with an earlier disk. One that is removed is not waited for. `peers` are those of the start.
async fn hear_missed(inner: &Inner, mut peers: BTreeSet<NodeName>) {
    let began = BootInstant::now();
    loop {
        let missed = inner.store.fill_missed();
        if missed.is_empty() {
            return;
        }
        peers.extend(names(inner));
        let (unheard, members_known) = (unheard(inner), began.elapsed() >= MEMBERS);
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
    let (mut pause, began) = (RETRY.0, BootInstant::now());
    while inner.store.filled() < Filled::Complete {
        match both_rounds(inner, began.elapsed() >= limits::DENIED).await {
            Ok(0) => {
                match inner.store.set_filled(Filled::Complete).await {
                    Ok(()) => info!("first fill: all audio is stored here"),
                    Err(error) => error!(%error, "end of the first fill cannot be stored"),
                }
                return;
            }
            Ok(missing) => warn!(missing, next_in = ?pause, "first fill: some audio cannot be fetched; retrying"),
            Err(error) => warn!(%error, next_in = ?pause, "first fill: missing audio cannot be listed; retrying"),
        }
        sleep(pause).await;
        pause = RETRY.1.min(pause * 2);
    }
}

/// Fetches once what is missing of the audio that records name; what cannot be had now is left to the daily check.
pub(crate) async fn fetch_missing(inner: Arc<Inner>) {
    match both_rounds(&inner, false).await {
        Ok(0) => {}
        Ok(missing) => warn!(missing, "some audio of the rows of a peer cannot be fetched"),
        Err(error) => warn!(%error, "missing audio cannot be listed"),
    }
}

/// Asks once for each missing blob, those of present records first; returns the number still missing. Audio of a deleted
/// record is wanted as long as the record can be undeleted, but may be gone for good: it is not waited for when one node
/// answers that it has purged it, or every other node that it does not have it. The latter counts for present records as
/// well once the fill has `waited` (rule D12).
async fn both_rounds(inner: &Arc<Inner>, waited: bool) -> Result<usize, StoreError> {
    Ok(round(inner, false, waited).await? + round(inner, true, waited).await?)
}

async fn round(inner: &Arc<Inner>, deleted: bool, waited: bool) -> Result<usize, StoreError> {
    let (mut fetching, mut failed) = (JoinSet::new(), 0);
    let fails = |got: Result<Got, JoinError>| match got {
        Ok(Got::Here) => false,
        Ok(Got::Denied) => !deleted && !waited,
        Ok(Got::GivenUp) => !deleted,
        _ => true,
    };
    for blob in missing(inner.store.clone(), deleted).await? {
        while fetching.len() >= CONCURRENT
            && let Some(got) = fetching.join_next().await
        {
            failed += usize::from(fails(got));
        }
        let inner = inner.clone();
        fetching.spawn(async move {
            let got = inner.fetcher.get_from_any(&blob).await;
            if got == Got::Denied && waited && !deleted {
                match inner.store.apply_without(Vec::new(), vec![blob]).await {
                    Ok(()) => inner.lost_audio.add([blob]),
                    Err(error) => warn!(hash = %blob.hash, %error, "missing audio cannot be noted"),
                }
            }
            got
        });
    }
    while let Some(got) = fetching.join_next().await {
        failed += usize::from(fails(got));
    }
    Ok(failed)
}

async fn missing(store: Store, deleted: bool) -> Result<Vec<BlobRef>, StoreError> {
    match tokio::task::spawn_blocking(move || store.missing_blobs(deleted)).await {
        Ok(missing) => missing,
        // The runtime shuts down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_ends_when_a_source_sent_all_or_no_source_is_possible() {
        let (source, filling) = (|given| Some((true, given)), |given| Some((false, given)));
        let away = None;
        for (peers, expected) in [
            (vec![], Progress::Wait),
            (vec![away], Progress::Wait),
            (vec![source(false)], Progress::Wait),
            (vec![source(true)], Progress::Filled),
            // An absent node causes no delay while another is a source.
            (vec![source(true), away], Progress::Filled),
            (vec![source(true), source(false)], Progress::Wait),
            (vec![source(true), filling(false)], Progress::Filled),
            // Two filling nodes do not wait for each other; the third may have all.
            (vec![filling(true)], Progress::NoSource),
            (vec![filling(false)], Progress::Wait),
            (vec![filling(true), away], Progress::Wait),
            (vec![filling(true), filling(true)], Progress::NoSource),
        ] {
            assert_eq!(progress(&peers), expected, "{peers:?}");
        }
    }
}
