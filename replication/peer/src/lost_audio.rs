//! Requests, until it comes, for audio that changes were applied, or rows copied, without (rule D12).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{Backoff, BlobHash};
use twinbox_replication_core::BlobRef;
use twinbox_replication_fetch::Got;
use twinbox_replication_store::{Store, StoreError};

use crate::{Peers, peers::Inner, state_scan::blocking};

/// Pauses between attempts to get a blob.
const RETRY: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(600));

/// The blobs that are not here, by hash, and the next attempt for each.
#[derive(Default)]
pub(crate) struct LostAudio {
    state: Mutex<BTreeMap<BlobHash, Wanted>>,
    added: Notify,
}

#[derive(Clone, Copy)]
struct Wanted {
    blob: BlobRef,
    next: BootInstant,
    retry: Backoff,
}

impl LostAudio {
    fn state(&self) -> MutexGuard<'_, BTreeMap<BlobHash, Wanted>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds blobs that are noted in the store.
    pub(crate) fn add(&self, blobs: impl IntoIterator<Item = BlobRef>) {
        let mut retry = RETRY;
        let next = BootInstant::now() + retry.failed();
        let mut state = self.state();
        for blob in blobs {
            state.entry(blob.hash).or_insert(Wanted { blob, next, retry });
        }
        drop(state);
        self.added.notify_one();
    }

    /// A node can be asked that may have been away: none of the blobs waits longer than after a first failure.
    pub(crate) fn ask_soon(&self) {
        let soon = BootInstant::now() + RETRY.after(1);
        self.state().values_mut().for_each(|wanted| wanted.next = wanted.next.min(soon));
        self.added.notify_one();
    }

    fn remove(&self, hash: &BlobHash) {
        self.state().remove(hash);
    }

    pub(crate) fn count(&self) -> u64 {
        self.state().len() as u64
    }

    /// A blob whose next attempt is due.
    fn due(&self, now: BootInstant) -> Option<BlobRef> {
        let mut state = self.state();
        let wanted = state.values_mut().find(|wanted| wanted.next <= now)?;
        wanted.next = now + wanted.retry.failed();
        Some(wanted.blob)
    }

    fn pause(&self, now: BootInstant) -> Duration {
        let next = self.state().values().map(|wanted| wanted.next).min();
        next.map_or(RETRY.longest(), |next| if next > now { next.since(now) } else { Duration::ZERO })
    }
}

/// Removes the notes of audio that is here, and requests the rest until it comes.
pub(crate) async fn request_noted(inner: &Inner) {
    let noted = inner.store.lost_blobs().unwrap_or_else(|error| {
        warn!(%error, "notes of missing audio cannot be read; the daily check asks for it");
        Vec::new()
    });
    for blob in noted {
        if !inner.store.blobs().has(&blob.hash) || inner.store.forget_lost(blob.hash).await.is_err() {
            inner.lost_audio.add([blob]);
        }
    }
}

/// Requests the lost blobs until dropped.
pub(crate) async fn run(inner: Arc<Inner>) {
    request_noted(&inner).await;
    loop {
        while let Some(blob) = inner.lost_audio.due(BootInstant::now()) {
            match look_for(&inner, &blob).await {
                Ok(true) => inner.lost_audio.remove(&blob.hash),
                Ok(false) => {}
                Err(error) => warn!(hash = %blob.hash, %error, "note of missing audio cannot be removed; retrying"),
            }
        }
        let pause = inner.lost_audio.pause(BootInstant::now());
        tokio::select! {
            () = sleep(pause) => {}
            () = inner.lost_audio.added.notified() => {}
        }
    }
}

/// True when the blob is not lost any more: it is here, or no present record names it.
async fn look_for(inner: &Inner, blob: &BlobRef) -> Result<bool, StoreError> {
    let store = &inner.store;
    let is_unwanted = store.is_indexed() && !store.is_referenced(&blob.hash)?;
    if !is_unwanted {
        match inner.fetcher.get_from_any(blob).await {
            Got::Here => info!(hash = %blob.hash, "audio that was missing has come"),
            // A node that the change has not reached yet answers the same as one that has purged its record.
            Got::GivenUp if is_named(store, blob.hash).await? => return Ok(false),
            Got::GivenUp => {}
            Got::Denied | Got::Failed => return Ok(false),
        }
    }
    store.forget_lost(blob.hash).await?;
    Ok(true)
}

/// True when a present row names the blob, or one that is not in the index of references yet may do so.
async fn is_named(store: &Store, hash: BlobHash) -> Result<bool, StoreError> {
    let reader = store.clone();
    let rows = blocking(move || reader.rows_naming(&hash, 1)).await;
    Ok(!store.is_indexed() || !rows?.is_empty())
}

impl Peers {
    /// True for audio that a message is stored without, since no node that could be asked had it.
    pub fn is_audio_lost(&self, hash: &BlobHash) -> bool {
        self.inner().lost_audio.state().contains_key(hash)
    }
}
