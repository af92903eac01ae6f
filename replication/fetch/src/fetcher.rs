//! Gets the blobs that changes name: from the live chunks that are here, else from a node that has the blob.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore, SemaphorePermit},
    time::sleep,
};
use tonic::transport::Channel;
use tracing::{debug, error, info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{Backoff, BlobHash, NodeName};
use twinbox_pki::PkiError;
use twinbox_replication_core::{AudioPatience, AudioWaits, BlobRef};
use twinbox_replication_store::Store;

use crate::{
    MAX_BLOB,
    ask::Asker,
    error::{AskError, FetchError, TooLarge},
    no_space::NoSpace,
    receipt::Wanted,
};

/// Maximum concurrent requests.
const REQUESTS: usize = 32;

/// Maximum bytes of blobs that are fetched at once: two of the largest.
const FETCHED: u64 = 2 * MAX_BLOB;

/// Unit of these bytes.
const PIECE: u64 = 64 * 1024;

/// Pauses between attempts to get a blob.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// The other nodes.
pub trait Nodes: Send + Sync {
    /// Their names, in the order in which they are asked.
    fn names(&self) -> Vec<NodeName>;

    /// The present address of a node; `None` when there is no such node.
    fn address(&self, name: &NodeName) -> Option<String>;

    /// A connection to a node at this address, made when it is first used.
    fn connect(&self, name: &NodeName, address: &str) -> Result<Channel, PkiError>;
}

/// Outcome of one round of requests for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// It is here.
    Here,
    /// The node that sent the change, or any node when none is asked first, has purged all records that named it: the
    /// deletion is on its way here.
    GivenUp,
    /// Every other node answered that it does not have it.
    Denied,
    /// A node could not be asked, or its copy was bad.
    Failed,
}

/// Gets blobs. Of several tasks that want one blob, one fetches it and the others wait for that task.
pub struct Fetcher {
    store: Store,
    asker: Asker,
    busy: Mutex<Busy>,
    waits: Mutex<AudioWaits>,
    no_space: Mutex<NoSpace>,
    slots: Semaphore,
    /// A permit for each piece of the blobs that are being fetched.
    pieces: Semaphore,
    assembled: AtomicU64,
    fetched: AtomicU64,
}

/// The locks of blobs.
#[derive(Default)]
struct Busy {
    locks: HashMap<BlobHash, Arc<AsyncMutex<()>>>,
    /// Number of locks at which those of finished tasks are removed next.
    prune_at: usize,
}

impl Fetcher {
    /// Fetches into this store.
    pub fn new(store: Store, nodes: Arc<dyn Nodes>) -> Self {
        Self {
            asker: Asker::new(store.clone(), nodes),
            store,
            busy: Mutex::default(),
            waits: Mutex::default(),
            no_space: Mutex::default(),
            slots: Semaphore::new(REQUESTS),
            pieces: Semaphore::new(pieces(FETCHED) as usize),
            assembled: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
        }
    }

    /// Blobs that were made from live chunks so far, and blobs that came from other nodes.
    pub fn counts(&self) -> (u64, u64) {
        (self.assembled.load(Relaxed), self.fetched.load(Relaxed))
    }

    /// True when the blob is here, or `first`, which sent the change that names it, has given it up since: then the
    /// deletion follows, and would wait behind changes that nothing can fulfil. False when it has waited long enough: for
    /// some minutes every other node answered that it does not have the blob, or a node could not be asked for longer. The
    /// change then comes without its audio. Asks `first` first, then the others.
    pub async fn ensure(&self, blob: &BlobRef, first: &NodeName) -> Result<bool, TooLarge> {
        if blob.length > MAX_BLOB {
            let error = TooLarge { hash: blob.hash, length: blob.length };
            error!(%error, "change set aside");
            return Err(error);
        }
        let mut retry = RETRY;
        loop {
            let got = self.get(blob, Some(first)).await;
            let has_ended = match got {
                Got::Here | Got::GivenUp => true,
                Got::Denied | Got::Failed => {
                    let now = BootInstant::now().as_nanos() / 1_000_000;
                    self.waits().failed(blob.hash, got == Got::Denied, now)
                }
            };
            if has_ended {
                self.waits().ended(&blob.hash);
                let is_lost = matches!(got, Got::Denied | Got::Failed);
                if is_lost {
                    let hash = blob.hash;
                    error!(%hash, peer = %first, ?got, "no node sends this audio: its message is stored without it");
                }
                return Ok(!is_lost);
            }
            sleep(retry.failed()).await;
        }
    }

    /// The times after which [`Self::ensure`] ends its wait.
    pub fn patience(&self) -> AudioPatience {
        self.waits().patience()
    }

    /// Sets for how long [`Self::ensure`] waits.
    pub fn set_patience(&self, patience: AudioPatience) {
        self.waits().set_patience(patience);
    }

    fn waits(&self) -> MutexGuard<'_, AudioWaits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries all ways once, each node in turn.
    pub async fn get_from_any(&self, blob: &BlobRef) -> Got {
        self.get(blob, None).await
    }

    async fn get(&self, blob: &BlobRef, first: Option<&NodeName>) -> Got {
        let got = self.get_each(vec![*blob], first, |hash| self.store.blobs().keep(hash)).await;
        got.into_iter().next().map_or(Got::Failed, |(_, got)| got)
    }

    /// Tries all ways once for each of these blobs, which were just listed as missing; a node is asked for all of them together.
    /// Asks `first` first. Returns each blob once.
    pub async fn get_all(&self, blobs: Vec<BlobRef>, first: Option<&NodeName>) -> Vec<(BlobRef, Got)> {
        // One that has come meanwhile comes once more, which is rare; to look for each takes as long as to store it.
        self.get_each(blobs, first, |_| false).await
    }

    async fn get_each(
        &self,
        mut blobs: Vec<BlobRef>,
        first: Option<&NodeName>,
        is_here: impl Fn(&BlobHash) -> bool,
    ) -> Vec<(BlobRef, Got)> {
        // In one order, so that no two tasks wait for each other.
        blobs.sort_by_key(|blob| blob.hash);
        blobs.dedup_by_key(|blob| blob.hash);
        let mut locks = Vec::with_capacity(blobs.len());
        for blob in &blobs {
            locks.push(self.lock(blob.hash).await);
        }
        let was_here: Vec<bool> = blobs.iter().map(|blob| is_here(&blob.hash)).collect();
        let assembled = self.assemble(&blobs).await;
        let (mut got, mut missing) = (Vec::with_capacity(blobs.len()), Vec::new());
        for ((blob, was_here), assembled) in blobs.into_iter().zip(was_here).zip(assembled) {
            self.assembled.fetch_add(u64::from(assembled && !was_here), Relaxed);
            if was_here || assembled {
                self.note_end(&blob.hash, true);
                got.push((blob, Got::Here));
            } else {
                missing.push(blob);
            }
        }
        got.extend(self.fetch(missing, first).await);
        got
    }

    /// Fetches blobs that are not here, and whose locks are held.
    async fn fetch(&self, missing: Vec<BlobRef>, first: Option<&NodeName>) -> Vec<(BlobRef, Got)> {
        if missing.is_empty() {
            return Vec::new();
        }
        let bytes = missing.iter().fold(0_u64, |bytes, blob| bytes.saturating_add(blob.length));
        let Some(_slot) = self.slot(bytes).await else {
            return missing.into_iter().map(|blob| (blob, Got::Failed)).collect();
        };
        let wanted = missing.iter().map(|blob| Wanted::new(blob.hash, Some(blob.length))).collect();
        let outcomes: HashMap<_, _> = self.asker.fetch(wanted, first).await.into_iter().collect();
        let (mut got, mut here) = (Vec::with_capacity(missing.len()), Vec::new());
        for blob in missing {
            got.push(match outcomes.get(&blob.hash) {
                Some(Ok(())) => {
                    self.note_end(&blob.hash, true);
                    here.push(blob);
                    (blob, Got::Here)
                }
                Some(Err(error @ FetchError::GivenUp)) => {
                    debug!(hash = %blob.hash, %error, "blob is not fetched");
                    self.note_end(&blob.hash, false);
                    (blob, Got::GivenUp)
                }
                Some(Err(FetchError::Failed(error))) if error.is_full() => {
                    self.note_no_space(blob.hash, error);
                    (blob, Got::Failed)
                }
                Some(Err(error)) => {
                    warn!(hash = %blob.hash, %error, "blob cannot be fetched; changes that name it wait");
                    self.note_end(&blob.hash, false);
                    (blob, if matches!(error, FetchError::Denied) { Got::Denied } else { Got::Failed })
                }
                None => (blob, Got::Failed),
            });
        }
        self.fetched.fetch_add(here.len() as u64, Relaxed);
        // The rest of their takes is not needed any more.
        self.assemble(&here).await;
        got
    }

    fn no_space(&self) -> MutexGuard<'_, NoSpace> {
        self.no_space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs the first blob that finds no space here. Each that waits is tried every few seconds: a line each would fill the log.
    fn note_no_space(&self, hash: BlobHash, error: &AskError) {
        let is_first = self.no_space().refused(hash, BootInstant::now());
        if is_first {
            warn!(%hash, %error, "no space for audio of other nodes; changes that name it wait");
        } else {
            debug!(%hash, %error, "no space for a blob; changes that name it wait");
        }
    }

    /// Logs when no blob waits for space any more.
    fn note_end(&self, hash: &BlobHash, is_here: bool) {
        if let Some(blobs) = self.no_space().ended(hash, is_here, BootInstant::now()) {
            info!(blobs, "no audio of other nodes waits for space any more");
        }
    }

    /// Asks each node once for a blob of which only the hash is known. A caller waits for it, so it does not queue
    /// behind other blobs. True when the blob is here.
    pub async fn get_now(&self, hash: BlobHash) -> bool {
        let _busy = self.lock(hash).await;
        self.store.blobs().has(&hash) || self.fetch_one(hash, None, "requested blob cannot be fetched").await
    }

    /// Gets a good copy of a blob whose content here is damaged; true when it replaces the damaged one.
    pub async fn replace(&self, blob: &BlobRef) -> bool {
        let _busy = self.lock(blob.hash).await;
        let Some(_slot) = self.slot(blob.length).await else { return false };
        self.fetch_one(blob.hash, Some(blob.length), "damaged blob cannot be replaced").await
    }

    async fn fetch_one(&self, hash: BlobHash, length: Option<u64>, problem: &'static str) -> bool {
        let outcome = self.asker.fetch(vec![Wanted::new(hash, length)], None).await.pop();
        match outcome.map_or(Err(FetchError::Nobody), |(_, outcome)| outcome) {
            Ok(()) => {
                self.fetched.fetch_add(1, Relaxed);
                true
            }
            Err(error) => {
                warn!(%hash, %error, "{problem}");
                false
            }
        }
    }

    /// Waits for the turn of a request for this many bytes, until what is returned is dropped.
    async fn slot(&self, bytes: u64) -> Option<[SemaphorePermit<'_>; 2]> {
        let slot = self.slots.acquire().await.ok()?;
        let bytes = self.pieces.acquire_many(pieces(bytes.min(MAX_BLOB))).await.ok()?;
        Some([slot, bytes])
    }

    /// Waits until no other task fetches this blob.
    async fn lock(&self, hash: BlobHash) -> OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            if busy.locks.len() >= busy.prune_at {
                // A finished task leaves its lock behind.
                busy.locks.retain(|_, lock| Arc::strong_count(lock) > 1);
                busy.prune_at = 2 * busy.locks.len() + REQUESTS;
            }
            busy.locks.entry(hash).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Makes the chunks that are here the blobs that they belong to; removes the rest of the takes of blobs that are here.
    /// True for each blob that is here now by its chunks.
    async fn assemble(&self, blobs: &[BlobRef]) -> Vec<bool> {
        let mut assembled = vec![false; blobs.len()];
        // The chunks came before the change that names the blob, and may still wait to be written.
        if !blobs.iter().any(|blob| blob.recording.is_some()) || self.store.recordings().written().await.is_err() {
            return assembled;
        }
        for (blob, assembled) in blobs.iter().zip(&mut assembled).filter(|(blob, _)| self.leftover(blob)) {
            *assembled = self.store.recordings().seal_from_chunks(*blob).await.unwrap_or_else(|error| {
                debug!(hash = %blob.hash, %error, "chunks of a recording do not match the blob; fetching it");
                false
            });
        }
        assembled
    }

    /// True when a take in progress here is to become this blob, or is left over from it. Not for a take that is longer
    /// than the blob: another node filed a part of it while this node was away (rule C2), and the rest must not be cut
    /// off.
    fn leftover(&self, blob: &BlobRef) -> bool {
        let take = blob.recording.and_then(|(id, take)| self.store.recordings().coverage(id, take));
        take.is_some_and(|here| here.end() <= blob.length)
    }

    /// True when the blob must be fetched or its take joined before a change that names the blob is applied.
    pub fn wants(&self, blob: &BlobRef) -> bool {
        !self.store.blobs().keep(&blob.hash) || self.leftover(blob)
    }
}

fn pieces(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX)
}
