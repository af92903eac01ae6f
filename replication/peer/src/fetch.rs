//! Gets the blobs that changes name: from the live chunks that are here, else from a node that has the blob.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};
use tonic::{Code, transport::Channel};
use tracing::{debug, error, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{BlobHash, NodeName};
use twinbox_replication_core::{AudioPatience, AudioWaits, BlobRef};
use twinbox_replication_store::{Store, StoreError};
use twinbox_wire::replication::{FetchBlobRequest, replication_client::ReplicationClient};

use crate::{
    config::{PeerConfig, limits},
    error::StreamError,
    peers::Links,
};

/// A blob exceeds the maximum size of a fetch: the change that names it is not applied.
#[derive(Debug, thiserror::Error)]
#[error("blob {hash} has {length} bytes according to its record; the maximum is {}", limits::BLOB)]
pub(crate) struct TooLarge {
    hash: BlobHash,
    length: u64,
}

/// Outcome of one round of requests for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
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

pub(crate) struct Fetcher {
    store: Store,
    config: Arc<PeerConfig>,
    links: Arc<Links>,
    /// Separate connections: a blob must not hold up a live change in the stream's flow control.
    clients: Mutex<BTreeMap<NodeName, ReplicationClient<Channel>>>,
    /// One task fetches a blob; others wait for that task.
    busy: Mutex<HashMap<BlobHash, Arc<AsyncMutex<()>>>>,
    waits: Mutex<AudioWaits>,
    slots: Semaphore,
    /// A permit for each piece of the blobs that are being fetched.
    pieces: Semaphore,
    pub(crate) assembled: AtomicU64,
    pub(crate) fetched: AtomicU64,
}

impl Fetcher {
    pub(crate) fn new(store: Store, config: Arc<PeerConfig>, links: Arc<Links>) -> Self {
        Self {
            store,
            config,
            links,
            clients: Mutex::default(),
            busy: Mutex::default(),
            waits: Mutex::default(),
            slots: Semaphore::new(limits::FETCHES),
            pieces: Semaphore::new(pieces(limits::FETCHED) as usize),
            assembled: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
        }
    }

    /// True when the blob is here, or `first`, which sent the change that names it, has given it up since: then the
    /// deletion follows, and would wait behind changes that nothing can fulfil. False when it has waited long enough: for
    /// some minutes every other node answered that it does not have the blob, or a node could not be asked for longer. The
    /// change then comes without its audio. Asks `first` first, then the others.
    pub(crate) async fn ensure(&self, blob: &BlobRef, first: &NodeName) -> Result<bool, TooLarge> {
        if blob.length > limits::BLOB {
            let error = TooLarge { hash: blob.hash, length: blob.length };
            error!(%error, "change set aside");
            return Err(error);
        }
        let mut pause = limits::RETRY_BLOB.0;
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
            sleep(pause).await;
            pause = limits::RETRY_BLOB.1.min(pause * 2);
        }
    }

    pub(crate) fn set_patience(&self, patience: AudioPatience) {
        self.waits().set_patience(patience);
    }

    fn waits(&self) -> MutexGuard<'_, AudioWaits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries all ways once, each node in turn.
    pub(crate) async fn get_from_any(&self, blob: &BlobRef) -> Got {
        self.get(blob, None).await
    }

    /// Asks each node once for a blob of which only the hash is known. A caller waits for it, so it does not queue
    /// behind other blobs. True when the blob is here.
    pub(crate) async fn get_now(&self, hash: BlobHash) -> bool {
        let busy = self.busy(hash);
        let _busy = busy.lock().await;
        if self.store.blobs().has(&hash) {
            return true;
        }
        match self.fetch(hash, None, None).await {
            Ok(()) => {
                self.fetched.fetch_add(1, Relaxed);
                true
            }
            Err(error) => {
                warn!(%hash, %error, "requested blob cannot be fetched");
                false
            }
        }
    }

    /// Gets a good copy of a blob whose content here is damaged; true when it replaces the damaged one.
    pub(crate) async fn replace(&self, blob: &BlobRef) -> bool {
        let busy = self.busy(blob.hash);
        let _busy = busy.lock().await;
        let Some(_slot) = self.slot(blob.length).await else { return false };
        match self.fetch(blob.hash, Some(blob.length), None).await {
            Ok(()) => {
                self.fetched.fetch_add(1, Relaxed);
                true
            }
            Err(error) => {
                warn!(hash = %blob.hash, %error, "damaged blob cannot be replaced");
                false
            }
        }
    }

    /// Waits for the turn of a blob of this length, until what is returned is dropped.
    async fn slot(&self, length: u64) -> Option<[SemaphorePermit<'_>; 2]> {
        let slot = self.slots.acquire().await.ok()?;
        let bytes = self.pieces.acquire_many(pieces(length.min(limits::BLOB))).await.ok()?;
        Some([slot, bytes])
    }

    /// The lock of one blob.
    fn busy(&self, hash: BlobHash) -> Arc<AsyncMutex<()>> {
        let mut all = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // A finished task leaves its lock behind; they are few, and the next fetch removes them.
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        all.entry(hash).or_default().clone()
    }

    async fn get(&self, blob: &BlobRef, first: Option<&NodeName>) -> Got {
        let busy = self.busy(blob.hash);
        let _busy = busy.lock().await;
        let was_here = self.store.blobs().keep(&blob.hash);
        if self.assemble(blob).await {
            self.assembled.fetch_add(u64::from(!was_here), Relaxed);
            return Got::Here;
        }
        if was_here {
            return Got::Here;
        }
        let Some(_slot) = self.slot(blob.length).await else { return Got::Failed };
        match self.fetch(blob.hash, Some(blob.length), first).await {
            Ok(()) => {
                self.fetched.fetch_add(1, Relaxed);
                // The rest of the take is not needed any more.
                self.assemble(blob).await;
                Got::Here
            }
            Err(error @ FetchError::GivenUp) => {
                debug!(hash = %blob.hash, %error, "blob is not fetched");
                Got::GivenUp
            }
            Err(error) => {
                warn!(hash = %blob.hash, %error, "blob cannot be fetched; changes that name it wait");
                if matches!(error, FetchError::Denied) { Got::Denied } else { Got::Failed }
            }
        }
    }

    /// Makes the chunks that are here the blob; when the blob is here, removes the rest of its take.
    async fn assemble(&self, blob: &BlobRef) -> bool {
        // The chunks came before the change that names the blob, and may still wait to be written.
        if blob.recording.is_some() && self.store.recordings().written().await.is_err() {
            return false;
        }
        self.leftover(blob)
            && self.store.recordings().seal_from_chunks(*blob).await.unwrap_or_else(|error| {
                debug!(hash = %blob.hash, %error, "chunks of a recording do not match the blob; fetching it");
                false
            })
    }

    /// True when a take in progress here is to become this blob, or is left over from it. Not for a take that is longer
    /// than the blob: another node filed a part of it while this node was away (rule C2), and the rest must not be cut
    /// off.
    fn leftover(&self, blob: &BlobRef) -> bool {
        let take = blob.recording.and_then(|(id, take)| self.store.recordings().coverage(id, take));
        take.is_some_and(|here| here.end() <= blob.length)
    }

    /// True when the blob must be fetched or its take joined before a change that names the blob is applied.
    pub(crate) fn wants(&self, blob: &BlobRef) -> bool {
        !self.store.blobs().keep(&blob.hash) || self.leftover(blob)
    }

    /// Asks one node after the other; the next node continues a partial transfer.
    async fn fetch(&self, hash: BlobHash, length: Option<u64>, first: Option<&NodeName>) -> Result<(), FetchError> {
        let links = self.links.all();
        let others = links.iter().map(|link| &link.name).filter(|name| Some(*name) != first);
        let mut bytes = Vec::new();
        let (mut last, mut all_denied, mut given_up) = (FetchError::Nobody, true, false);
        for name in first.into_iter().chain(others) {
            let continues = !bytes.is_empty();
            let mut result = self.fetch_whole(name, hash, length, &mut bytes).await;
            if continues && matches!(result, Err(FetchError::Store(_))) {
                // The beginning was another node's, and may be wrong: this node sends all of it.
                result = self.fetch_whole(name, hash, length, &mut bytes).await;
            }
            match result {
                Ok(()) => return Ok(()),
                Err(error) => {
                    debug!(peer = %name, %hash, %error, "peer does not send the blob");
                    if error.code() == Some(Code::OutOfRange) {
                        // It had the audio and knows that it is purged: what others answer changes nothing.
                        if Some(name) == first {
                            return Err(FetchError::GivenUp);
                        }
                        given_up |= first.is_none();
                    }
                    all_denied &= matches!(error.code(), Some(Code::NotFound | Code::OutOfRange));
                    last = error;
                }
            }
        }
        Err(match last {
            _ if given_up => FetchError::GivenUp,
            FetchError::Nobody => FetchError::Nobody,
            _ if all_denied => FetchError::Denied,
            last => last,
        })
    }

    /// Fetches the rest of a blob after these bytes, and stores all of it. They are gone when it does not have the hash.
    async fn fetch_whole(
        &self,
        name: &NodeName,
        hash: BlobHash,
        length: Option<u64>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), FetchError> {
        self.fetch_from(name, hash, length, bytes).await?;
        // It is verified before it is stored.
        let whole = Bytes::from(std::mem::take(bytes));
        self.store.blobs().put_as(hash, whole).await.map(drop).map_err(FetchError::Store)
    }

    async fn fetch_from(
        &self,
        name: &NodeName,
        hash: BlobHash,
        length: Option<u64>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), FetchError> {
        let mut client = self.client(name)?;
        let request = FetchBlobRequest { hash: Bytes::copy_from_slice(&hash.0), offset: bytes.len() as u64 };
        let mut parts = in_time(client.fetch_blob(request)).await?.into_inner();
        while let Some(part) = in_time(parts.message()).await? {
            bytes.extend_from_slice(&part.data);
            if bytes.len() as u64 > length.unwrap_or(limits::BLOB) {
                bytes.clear();
                return Err(FetchError::Length);
            }
        }
        // If the length is unknown, the hash decides.
        let whole = length.is_none_or(|length| bytes.len() as u64 >= length);
        if whole { Ok(()) } else { Err(FetchError::Length) }
    }

    fn client(&self, name: &NodeName) -> Result<ReplicationClient<Channel>, FetchError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(name) {
            return Ok(client.clone());
        }
        let link = self.links.get(name).ok_or(FetchError::Nobody)?;
        let endpoint = self.config.tls.endpoint(name, &link.address).map_err(StreamError::from)?;
        let client = ReplicationClient::new(endpoint.connect_lazy()).max_decoding_message_size(limits::MESSAGE);
        clients.insert(name.clone(), client.clone());
        Ok(client)
    }
}

fn pieces(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(limits::PIECE)).unwrap_or(u32::MAX)
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no reachable node has it")]
    Nobody,
    #[error("every other node answers that it does not have it")]
    Denied,
    #[error("the records that named it were deleted and purged")]
    GivenUp,
    #[error("the peer sent data of another length")]
    Length,
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("{0}")]
    Store(StoreError),
}

impl FetchError {
    /// The code of a peer's own answer.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Stream(StreamError::Rpc(status)) => Some(status.code()),
            _ => None,
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, FetchError> {
    const TIMEOUT: Duration = limits::SILENCE;
    match timeout(TIMEOUT, answer).await {
        Ok(answer) => Ok(answer.map_err(StreamError::from)?),
        Err(_) => Err(StreamError::Silent.into()),
    }
}
