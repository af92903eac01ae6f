//! Recordings in progress (rule C1): chunks by offset, joined by union; the live chunks *are* the blob.
//!
//! One thread writes the chunks of all recordings, so that a recording call never waits for the disk. Sealing waits for
//! the queued chunks, then syncs and renames on the runtime's blocking threads, many takes concurrently: the hash is
//! known by then, since it is computed as the chunks come.

mod part;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use tokio::sync::{broadcast, oneshot};
use twinbox_disk::{Disk, DiskError, Need, Reserve, file};
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_replication_core::{BlobRef, Ranges};

use self::{
    part::{MAX_LENGTH, Part, TakeKey},
    writer::{Command, Ready, Sealing, Writer},
};
use crate::{
    Blobs, StoreError,
    blobs::{blocking, read_at},
    store::lock,
};

/// Maximum bytes of chunks that wait for the writer: twenty seconds of 400 calls.
const QUEUE_BYTES: u64 = 64 * 1024 * 1024;

/// Maximum events that a receiver of [`Recordings::live`] may be behind before it has to read the takes instead.
const LIVE: usize = 4096;

/// A take is begun only if there is room for this much of it: 30 seconds of G.711.
const FIRST: u64 = 240_000;

/// An event of the recordings on this node, for the streams to its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkEvent {
    /// A chunk was recorded here (not received from a peer) and is written, though not yet durable.
    Chunk {
        /// The recording.
        id: RecordingId,
        /// Its take.
        take: u32,
        /// Offset of the chunk, in bytes.
        offset: u64,
        /// The audio.
        bytes: Bytes,
    },
    /// A take that was in progress here was discarded, by this node or by a peer through this node.
    Discarded {
        /// The recording.
        id: RecordingId,
        /// Its take.
        take: u32,
    },
}

/// The recordings in progress on this node, its own and those whose chunks peers send.
#[derive(Clone)]
pub struct Recordings(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// State shared by the writer and the callers.
struct Shared {
    dir: PathBuf,
    disk: Disk,
    blobs: Blobs,
    reserve: Reserve,
    /// The takes in progress, each with the bytes that are here.
    index: Mutex<BTreeMap<TakeKey, Ranges>>,
    /// Bytes waiting for the writer.
    waiting: AtomicU64,
    /// The writer reached the disk reserve; chunks are refused until there is room.
    full: AtomicBool,
    live: broadcast::Sender<ChunkEvent>,
}

impl Recordings {
    pub(crate) fn open_dir(dir: &Path, disk: Disk, blobs: Blobs, reserve: Reserve) -> Result<Self, StoreError> {
        file::create_dir_durably(dir)?;
        let parts = load_parts(dir, &blobs)?;
        let index = parts.iter().map(|(key, part)| (*key, part.covered.clone())).collect();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            disk,
            blobs,
            reserve,
            index: Mutex::new(index),
            waiting: AtomicU64::new(0),
            full: AtomicBool::new(false),
            live: broadcast::Sender::new(LIVE),
        });
        let (queue, commands) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), parts);
        let thread = thread::Builder::new()
            .name("recordings".to_owned())
            .spawn(move || writer.serve(commands))
            .map_err(|e| DiskError::io("start the writer of", dir, &e))?;
        Ok(Self(Arc::new(Inner { shared, queue: Some(queue), thread: Some(thread) })))
    }

    /// Begins a take of a recording that this node makes. Refused when there is no room for 30 seconds of audio.
    pub async fn begin(&self, id: RecordingId, take: u32) -> Result<(), StoreError> {
        self.shared().writable()?;
        self.shared().reserve.check(Need::Data(FIRST))?;
        self.ask(|reply| Command::Begin { key: (id, take), reply }).await
    }

    /// Queues a chunk that was recorded here. Never blocks: the chunk is written soon, and then announced by
    /// [`Self::live`]. A chunk of an ended take is dropped.
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
        let end = offset.saturating_add(length);
        if end > MAX_LENGTH {
            return Err(StoreError::NotThere { range: offset..end });
        }
        shared.writable()?;
        if shared.full.load(Ordering::Relaxed) {
            shared.reserve.check(Need::Data(length))?;
            shared.full.store(false, Ordering::Relaxed);
        }
        let waiting = shared.waiting.fetch_add(length, Ordering::Relaxed);
        let sent = if waiting.saturating_add(length) > QUEUE_BYTES {
            Err(StoreError::Overloaded { waiting })
        } else {
            self.send(Command::Chunk { key, offset, bytes, own })
        };
        if sent.is_err() {
            shared.waiting.fetch_sub(length, Ordering::Relaxed);
        }
        sent
    }

    /// Waits until every chunk queued before is written or lost: [`Self::coverage`] then tells which.
    pub async fn written(&self) -> Result<(), StoreError> {
        self.ask(|reply| Command::Flush { reply }).await
    }

    /// Makes the take a blob: waits for the queued chunks, joins them (holes are filled with silence), syncs and
    /// renames. Durable when this resolves. Sealing again gives the same blob. If the process dies before a change that
    /// names the blob is durable, the next process finds the take in progress again.
    pub async fn seal(&self, id: RecordingId, take: u32) -> Result<BlobRef, StoreError> {
        let sealing = self.ask(|reply| Command::Seal { key: (id, take), reply }).await?;
        self.finish(sealing, id, take).await
    }

    /// Makes the take that `blob` names that blob, if the chunks here assemble to it; a longer take is cut. Durable
    /// when this resolves to true. If it is false, fetch the blob and call this function again: it then removes the
    /// rest of the take and returns true.
    pub async fn seal_from_chunks(&self, blob: BlobRef) -> Result<bool, StoreError> {
        let BlobRef { hash, length, recording } = blob;
        let has = self.shared().blobs.has(&hash);
        let Some((id, take)) = recording else { return Ok(has) };
        match self.ask(|reply| Command::Assemble { key: (id, take), hash, length, reply }).await? {
            None => Ok(self.shared().blobs.has(&hash)),
            // The take may have been sealed with another content, shorter or longer.
            Some(sealing) => Ok(self.finish(sealing, id, take).await?.hash == hash || has),
        }
    }

    async fn finish(&self, sealing: Sealing, id: RecordingId, take: u32) -> Result<BlobRef, StoreError> {
        match sealing {
            Sealing::Ready(ready) => {
                let shared = Arc::clone(self.shared());
                // Continues when the caller is dropped.
                blocking(move || shared.finish(ready)).await
            }
            Sealing::Elsewhere(mut done) => match done.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(blob)) => Ok(*blob),
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

    /// The takes in progress, with the length in bytes of the audio here (up to the last byte; there may be holes).
    /// After a start these are the takes that an earlier process left.
    pub fn open(&self) -> Vec<(RecordingId, u32, u64)> {
        self.shared().index().iter().map(|((id, take), covered)| (*id, *take, covered.end())).collect()
    }

    /// The bytes of a take that are here; `None` if the take is not in progress here.
    pub fn coverage(&self, id: RecordingId, take: u32) -> Option<Ranges> {
        self.shared().index().get(&(id, take)).cloned()
    }

    /// A part of a take in progress. All of its bytes must be here.
    pub async fn read(&self, id: RecordingId, take: u32, range: Range<u64>) -> Result<Bytes, StoreError> {
        let covered = self.coverage(id, take).ok_or(StoreError::NoRecording { id, take })?;
        if range.start > range.end || !covered.covers(range.clone()) {
            return Err(StoreError::NotThere { range });
        }
        let path = part::path(&self.shared().dir, (id, take));
        blocking(move || {
            // Sealed or discarded since the coverage was read.
            let file = File::open(&path).map_err(|_| StoreError::NoRecording { id, take })?;
            read_at(&file, &path, range)
        })
        .await
    }

    /// True when a take has become this blob, and no change that names the blob is durable yet.
    pub(crate) fn is_unfiled(&self, hash: &BlobHash) -> Result<bool, StoreError> {
        for path in file::list(&self.shared().dir)? {
            if path.extension().is_some_and(|extension| extension == "sealed")
                && part::sealed_blob(&path)?.as_ref() == Some(hash)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Chunks and discards from now on. A receiver that lags reads [`Self::coverage`] and [`Self::read`].
    pub fn live(&self) -> broadcast::Receiver<ChunkEvent> {
        self.shared().live.subscribe()
    }

    /// A change that names the blob of this take is durable.
    pub(crate) fn filed(&self, id: RecordingId, take: u32) {
        // A writer that has stopped leaves the take to the next start.
        let _ = self.send(Command::Filed { key: (id, take) });
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    fn send(&self, command: Command) -> Result<(), StoreError> {
        let queue = self.0.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(command).map_err(|_| StoreError::Closed)
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
    fn index(&self) -> MutexGuard<'_, BTreeMap<TakeKey, Ranges>> {
        lock(&self.index)
    }

    fn writable(&self) -> Result<(), StoreError> {
        match self.disk.broken() {
            None => Ok(()),
            Some(detail) => Err(DiskError::Broken { detail: detail.to_owned() }.into()),
        }
    }

    fn finish(&self, ready: Ready) -> Result<BlobRef, StoreError> {
        let Ready { blob, path, audio, done } = ready;
        // Without the marker, a crash before the filing loses audio that was not acknowledged yet: no reason to refuse.
        if let Err(error) = part::mark_sealed(&path, &blob.hash) {
            tracing::warn!(%error, "recording sealed without its marker");
        }
        self.blobs.adopt(&path, &audio, &blob.hash)?;
        if let Some(key) = blob.recording {
            self.index().remove(&key);
        }
        done.send_replace(Some(blob));
        Ok(blob)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.thread.take()
            && writer.join().is_err()
        {
            tracing::error!(dir = %self.shared.dir.display(), "recording writer panicked");
        }
    }
}

/// The takes that earlier processes left. A map without audio remains of a take that was sealed and filed; audio
/// without a map remains of a take that was being discarded.
fn load_parts(dir: &Path, blobs: &Blobs) -> Result<Vec<(TakeKey, Part)>, DiskError> {
    let mut left = BTreeSet::new();
    for path in file::list(dir)? {
        let companion = path.extension().is_some_and(|extension| extension == "map" || extension == "sealed");
        left.extend(part::take_of(&if companion { path.with_extension("") } else { path }));
    }
    let mut parts = Vec::new();
    for key in left {
        let audio = part::path(dir, key);
        let marker = part::marker_path(&audio);
        if marker.is_file() {
            match part::unseal(&audio, blobs) {
                Ok(_) => std::fs::remove_file(&marker).map_err(|e| DiskError::io("remove", marker, &e))?,
                Err(error) => {
                    tracing::warn!(%error, "unfiled recording cannot be loaded; retried at the next start");
                    continue;
                }
            }
        }
        if audio.is_file() && part::map_path(&audio).is_file() {
            parts.push((key, Part::load(dir, key)?));
        } else {
            part::remove(&audio)?;
        }
    }
    Ok(parts)
}
