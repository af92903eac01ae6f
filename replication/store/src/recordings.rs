//! Recordings in progress (rule C1): chunks by offset, joined by union; the live chunks *are* the blob.
//!
//! One thread appends the chunks of all recordings to the packs, so that a recording call never waits for the disk. Sealing
//! waits for the queued chunks, then for a sync of the packs that concurrent seals share and for which one thread waits. Nothing is
//! moved: the places of the chunks become those of the blob. A start scans the newest packs for takes in progress; the
//! note of a take's end keeps it from being found again.

mod index;
mod load;
mod moving;
mod sealing;
mod take;
mod writer;

use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::sleep};
use twinbox_disk::{Disk, DiskError, Need, Reserve};
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_packs::PackError;
use twinbox_replication_core::{BlobRef, Ranges};
use twinbox_replication_feed::{Feed, Queue};

pub use self::sealing::Sealed;
use self::{
    index::Index,
    sealing::Sealing,
    take::{MAX_LENGTH, TakeKey, TakeState},
    writer::{CHUNK_BYTES, Chunk, Command, GATHERED, Writer},
};
use crate::{Blobs, StoreError, blobs::blocking, store::lock};

/// Maximum bytes of chunks that wait for the writer: twenty seconds of 400 calls.
const QUEUE_BYTES: u64 = 64 * 1024 * 1024;

/// Records naming a sealed blob that are read to find the one of its take: equal audio of thousands of callers must not make
/// each deposit slower. A take that is not found among them is ended by the next start.
const NAMES: usize = 16;

/// Time within which the caller of a seal files the take.
const FILED_WITHIN: Duration = Duration::from_secs(2);

/// A take is begun only if there is room for this much of it: 30 seconds of G.711.
const FIRST: u64 = 240_000;

/// The recordings in progress on this node, its own and those whose chunks peers send.
#[derive(Clone)]
pub struct Recordings(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    queue: Option<Queue<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// State shared by the writer and the callers.
struct Shared {
    disk: Disk,
    blobs: Blobs,
    reserve: Reserve,
    index: Mutex<Index>,
    /// Takes whose blob a record named before it was sealed.
    named: Mutex<BTreeSet<(TakeKey, BlobHash)>>,
    /// Bytes waiting for the writer, with [`CHUNK_BYTES`] of each chunk.
    waiting: AtomicU64,
    /// The writer reached the disk reserve; chunks are refused until there is room.
    full: AtomicBool,
    /// Receives chunks that were recorded here, and discards, for the streams to peers.
    feed: Feed,
}

impl Recordings {
    /// The recordings of a store, with the takes that earlier processes left in its packs.
    pub(crate) fn load(disk: Disk, blobs: Blobs, reserve: Reserve, feed: Feed) -> Result<Self, StoreError> {
        let loaded = load::load(&disk, &blobs)?;
        let (index, named) = (Mutex::default(), Mutex::default());
        let (waiting, full) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { disk, blobs, reserve, index, named, waiting, full, feed });
        let (queue, commands) = Queue::new(GATHERED);
        let writer = Writer::new(Arc::clone(&shared), loaded);
        let thread = thread::Builder::new()
            .name("recordings".to_owned())
            .spawn(move || writer.serve(commands))
            .map_err(|e| DiskError::io("start the writer of recordings in", shared.disk.dir(), &e))?;
        Ok(Self(Arc::new(Inner { shared, queue: Some(queue), thread: Some(thread) })))
    }

    /// Begins a take of a recording that this node makes. Refused when there is no room for 30 seconds of audio.
    pub async fn begin(&self, id: RecordingId, take: u32) -> Result<(), StoreError> {
        self.shared().writable()?;
        self.shared().reserve.check(Need::Data(FIRST))?;
        self.ask(|reply| Command::Begin { key: (id, take), reply }).await
    }

    /// Queues a chunk that was recorded here. Never blocks: the chunk is written soon, and is then in
    /// [`crate::Store::feed`]. A chunk of an ended take is dropped. With a failed disk it is in the feed only.
    pub fn append(&self, id: RecordingId, take: u32, offset: u64, bytes: Bytes) -> Result<(), StoreError> {
        self.chunk((id, take), offset, bytes, true)
    }

    /// Queues a chunk that a peer sent: union with the bytes that are here, in any order. Creates the take if need be,
    /// and drops the chunk of an ended take.
    pub fn insert(&self, id: RecordingId, take: u32, offset: u64, bytes: Bytes) -> Result<(), StoreError> {
        self.chunk((id, take), offset, bytes, false)
    }

    fn chunk(&self, key: TakeKey, offset: u64, bytes: Bytes, own: bool) -> Result<(), StoreError> {
        let shared = self.shared();
        let length = bytes.len() as u64;
        let (end, queued) = (offset.saturating_add(length), length + CHUNK_BYTES);
        if end > MAX_LENGTH {
            return Err(StoreError::NotThere { range: offset..end });
        }
        // With a failed disk, chunks that are recorded here still go to the peers (rule A4).
        if !own {
            shared.writable()?;
        }
        if shared.full.load(Ordering::Relaxed) {
            shared.reserve.check(Need::Data(length))?;
            shared.full.store(false, Ordering::Relaxed);
        }
        let waiting = shared.waiting.fetch_add(queued, Ordering::Relaxed);
        let sent = if waiting.saturating_add(queued) > QUEUE_BYTES {
            Err(StoreError::Overloaded { waiting })
        } else {
            self.send(Command::Chunk(Chunk { key, offset, bytes, own }))
        };
        if sent.is_err() {
            shared.waiting.fetch_sub(queued, Ordering::Relaxed);
        }
        sent
    }

    /// Waits until every chunk queued before is written or lost: [`Self::coverage`] then shows which.
    pub async fn written(&self) -> Result<(), StoreError> {
        self.ask(|reply| Command::Flush { reply }).await
    }

    /// Makes the take a blob: waits for the queued chunks, joins them (holes are filled with silence) and syncs them.
    /// Durable when this resolves. Sealing again gives the same blob. If the process dies before a change that names the
    /// blob is durable, the next process finds the take in progress again.
    pub async fn seal(&self, id: RecordingId, take: u32) -> Result<Sealed, StoreError> {
        let sealing = self.ask(|reply| Command::Seal { key: (id, take), reply }).await?;
        self.finish(sealing, id, take).await
    }

    /// Makes the take that `blob` names that blob, if the chunks here assemble to it; a longer take is cut. Durable when this resolves to
    /// true. If it is false, fetch the blob and call this function again: it then removes the rest of the take and returns true.
    pub async fn seal_from_chunks(&self, blob: BlobRef) -> Result<bool, StoreError> {
        let BlobRef { hash, length, recording } = blob;
        let has = self.shared().blobs.has(&hash);
        let Some((id, take)) = recording else { return Ok(has) };
        match self.ask(|reply| Command::Assemble { key: (id, take), hash, length, reply }).await? {
            None => Ok(self.shared().blobs.has(&hash)),
            // The take may have been sealed with another content, shorter or longer.
            Some(sealing) => Ok(self.finish(sealing, id, take).await?.blob.hash == hash || has),
        }
    }

    async fn finish(&self, sealing: Sealing, id: RecordingId, take: u32) -> Result<Sealed, StoreError> {
        match sealing {
            Sealing::Ready(ready) => {
                let shared = Arc::clone(self.shared());
                // Continues when the caller is dropped. Holds no queue: the writer ends with the store.
                let sealed = tokio::spawn(async move { shared.seal(*ready).await });
                sealed.await.unwrap_or(Err(StoreError::Closed))
            }
            Sealing::Elsewhere(mut done) => match done.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(sealed)) => Ok(*sealed),
                _ => Err(StoreError::NoRecording { id, take }),
            },
        }
    }

    /// Throws a take away, and drops the chunks of it that are still to come. A blob stays a blob.
    pub async fn discard(&self, id: RecordingId, take: u32) -> Result<(), StoreError> {
        self.ask(|reply| Command::Discard { key: (id, take), tell: true, reply }).await
    }

    /// As [`Self::discard`], on this node only: a peer may have more of the take, and keeps it.
    pub async fn discard_here(&self, id: RecordingId, take: u32) -> Result<(), StoreError> {
        self.ask(|reply| Command::Discard { key: (id, take), tell: false, reply }).await
    }

    /// The takes in progress, in order, with the length in bytes of the audio here (up to the last byte; there may be
    /// holes). After a start these are the takes that an earlier process left.
    pub fn open(&self) -> Vec<(RecordingId, u32, u64)> {
        let index = self.shared().index();
        let mut open: Vec<_> = index.all_open().map(|((id, take), pieces)| (id, take, pieces.end())).collect();
        open.sort_unstable();
        open
    }

    /// The bytes of a take that are here; `None` if the take is not in progress here.
    pub fn coverage(&self, id: RecordingId, take: u32) -> Option<Ranges> {
        self.shared().index().open((id, take)).map(|pieces| pieces.ranges().collect())
    }

    /// A part of a take in progress. All of its bytes must be here.
    pub async fn read(&self, id: RecordingId, take: u32, range: Range<u64>) -> Result<Bytes, StoreError> {
        let shared = Arc::clone(self.shared());
        blocking(move || shared.read((id, take), range)).await
    }

    /// The blobs that takes have become, and that no durable change names yet.
    pub(crate) fn unfiled(&self) -> HashSet<BlobHash> {
        self.shared().index().unfiled().collect()
    }

    /// Bytes in a pack that the next start needs: audio of takes that are not filed, and notes of those that ended. `None` for
    /// a pack that this start could not read: it may have audio that exists nowhere else.
    pub(crate) fn bytes_in(&self, pack: u32) -> Option<u64> {
        let blobs = &self.shared().blobs;
        // Before the lock, since it may wait for the disk. If it cannot be read, all packs count as needed; it only rises.
        let floor = blobs.stored_floor().unwrap_or_default();
        let index = self.shared().index();
        (!index.unreadable.contains(&pack)).then(|| index.bytes_in(pack, floor))
    }

    /// Moves the pieces of takes in a pack to the newest one, durably. The pieces of a sealed take stay while its blob has no
    /// row: see [`Self::bytes_in`] and the loose blobs before the pack is removed.
    pub(crate) async fn move_from(&self, pack: u32) -> Result<(), StoreError> {
        let shared = Arc::clone(self.shared());
        let moved = blocking(move || shared.copy_from(pack)).await?;
        self.ask(|reply| Command::Moved { moved, reply }).await
    }

    /// Notes that a change that names this blob of a take is durable.
    pub(crate) fn filed(&self, key: TakeKey, hash: BlobHash) {
        // A writer that has stopped leaves the take to the next start.
        let _ = self.send(Command::Filed { key, hash });
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    fn send(&self, command: Command) -> Result<(), StoreError> {
        let (queue, is_awaited) = (self.0.queue.as_ref().ok_or(StoreError::Closed)?, command.is_awaited());
        queue.send(command, is_awaited).map_err(|_| StoreError::Closed)
    }

    async fn ask<R>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<R, StoreError>>) -> Command,
    ) -> Result<R, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    fn named(&self) -> MutexGuard<'_, BTreeSet<(TakeKey, BlobHash)>> {
        lock(&self.named)
    }

    /// Changes a take that is not filed or discarded.
    fn change(&self, key: TakeKey, change: impl FnOnce(&mut TakeState)) {
        if let Some(take) = self.index().takes.get_mut(&key) {
            change(take);
        }
    }

    fn writable(&self) -> Result<(), StoreError> {
        self.blobs.writable()
    }

    async fn seal(self: Arc<Self>, ready: sealing::Ready) -> Result<Sealed, StoreError> {
        // Otherwise a record has named the blob, or is about to.
        let (key, is_to_be_filed) = (ready.key, ready.hash.is_none());
        let sealed = self.make_blob(ready).await?;
        // The take is a blob from here on: without a row, the next start finds the take again.
        match is_to_be_filed {
            true => drop(tokio::spawn(settle_later(Arc::downgrade(&self), key, sealed.blob.hash))),
            false => self.settle(key, &sealed.blob.hash).await,
        }
        Ok(sealed)
    }

    /// Gives the blob of a take its row if a record names it already, and ends the take if that record names it as this take's.
    async fn settle(&self, key: TakeKey, hash: &BlobHash) {
        let settled = self.blobs.settle_named(hash).await;
        match settled.and_then(|()| load::is_named(&self.disk, hash, key, NAMES)) {
            Ok(true) => drop(self.named().insert((key, *hash))),
            Ok(false) => {}
            Err(error) => tracing::warn!(recording = %key.0, take = key.1, %error, "sealed take has no row yet"),
        }
    }

    fn read(&self, (id, take): TakeKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let mut moved = false;
        loop {
            let places = match self.index().open((id, take)) {
                // Sealed or discarded, perhaps since its coverage was read.
                None => return Err(StoreError::NoRecording { id, take }),
                Some(pieces) if range.start > range.end || !pieces.covers(range.clone()) => {
                    return Err(StoreError::NotThere { range });
                }
                Some(pieces) => pieces.places(range.clone()),
            };
            match self.blobs.packs().read_range(&places, &(0..range.end - range.start)) {
                Ok(bytes) => return Ok(bytes.into()),
                // Compaction moved it after its places were read.
                Err(PackError::NoPack { .. }) if !moved => moved = true,
                Err(error) => return Err(self.blobs.failed(error)),
            }
        }
    }
}

/// Settles a take that was not filed soon after its seal. One that was filed has its row, and needs no search for names.
async fn settle_later(shared: Weak<Shared>, key: TakeKey, hash: BlobHash) {
    sleep(FILED_WITHIN).await;
    let Some(shared) = shared.upgrade() else { return };
    if shared.index().takes.get(&key).is_some() {
        shared.settle(key, &hash).await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.thread.take()
            && writer.join().is_err()
        {
            tracing::error!(dir = %self.shared.disk.dir().display(), "recording writer panicked");
        }
    }
}
