//! The writer: one thread that puts the chunks of all recordings in their places.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fs::File,
    path::PathBuf,
    sync::{Arc, atomic::Ordering, mpsc},
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use twinbox_disk::{DiskError, Need};
use twinbox_ids::BlobHash;
use twinbox_replication_core::BlobRef;

use super::{
    ChunkEvent, Shared,
    part::{self, Part, TakeKey},
};
use crate::StoreError;

/// How many takes that are no longer in progress are remembered, so that a late chunk does not bring one back.
const REMEMBERED: usize = 65_536;

type Reply<R> = oneshot::Sender<Result<R, StoreError>>;

/// What the writer is asked to do, in order.
pub(super) enum Command {
    /// Create a take of a recording that this node makes.
    Begin { key: TakeKey, reply: Reply<()> },
    /// Put a chunk in its place; `own` when it was recorded here.
    Chunk { key: TakeKey, offset: u64, bytes: Bytes, own: bool },
    /// Join the take and hand it over for syncing.
    Seal { key: TakeKey, reply: Reply<Sealing> },
    /// Hand the take over if it assembles to the blob.
    Assemble { key: TakeKey, hash: BlobHash, length: u64, reply: Reply<Option<Sealing>> },
    /// Remove the take.
    Discard { key: TakeKey, reply: Reply<()> },
    /// A change that names the take's blob is durable: nothing more need be remembered of it.
    Filed { key: TakeKey },
}

/// A take on its way to being a blob.
pub(super) enum Sealing {
    /// The caller is to make it one.
    Ready(Ready),
    /// Another caller is at it, or was.
    Elsewhere(watch::Receiver<Option<BlobRef>>),
}

/// A whole take, to be synced and renamed off the writer's thread.
pub(super) struct Ready {
    pub(super) blob: BlobRef,
    pub(super) path: PathBuf,
    pub(super) audio: File,
    /// Told once it is a blob; dropped if it cannot be.
    pub(super) done: watch::Sender<Option<BlobRef>>,
}

enum State {
    Open(Box<Part>),
    Sealed(watch::Receiver<Option<BlobRef>>),
    Discarded,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    takes: BTreeMap<TakeKey, State>,
    closed: VecDeque<TakeKey>,
}

impl Writer {
    /// A writer with what an earlier process left.
    pub(super) fn new(shared: Arc<Shared>, parts: Vec<(TakeKey, Part)>) -> Self {
        let takes = parts.into_iter().map(|(key, part)| (key, State::Open(Box::new(part)))).collect();
        Self { shared, takes, closed: VecDeque::new() }
    }

    /// Serves until every sender is gone.
    pub(super) fn serve(mut self, queue: mpsc::Receiver<Command>) {
        for command in queue {
            match command {
                Command::Begin { key, reply } => drop(reply.send(self.begin(key))),
                Command::Chunk { key, offset, bytes, own } => self.chunk(key, offset, bytes, own),
                Command::Seal { key, reply } => drop(reply.send(self.seal(key))),
                Command::Assemble { key, hash, length, reply } => {
                    drop(reply.send(self.assemble(key, hash, length)));
                }
                Command::Discard { key, reply } => drop(reply.send(self.discard(key))),
                Command::Filed { key } => self.filed(key),
            }
        }
    }

    fn begin(&mut self, key: TakeKey) -> Result<(), StoreError> {
        match self.takes.entry(key) {
            Entry::Occupied(_) => Err(StoreError::BegunBefore { id: key.0, take: key.1 }),
            Entry::Vacant(entry) => {
                entry.insert(State::Open(Box::new(Part::create(&self.shared.dir, key)?)));
                self.shared.index().insert(key, Default::default());
                Ok(())
            }
        }
    }

    fn chunk(&mut self, key: TakeKey, offset: u64, bytes: Bytes, own: bool) {
        self.shared.waiting.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        match self.write(key, offset, &bytes, own) {
            Ok(true) if own => {
                let (id, take) = key;
                // No receiver is no error: a node alone has none.
                let _ = self.shared.live.send(ChunkEvent::Chunk { id, take, offset, bytes });
            }
            Ok(_) => {}
            Err(error) => {
                let (recording, take) = key;
                tracing::error!(%recording, take, offset, %error, "a chunk of a recording is not kept");
            }
        }
    }

    /// True when the chunk is here now, false when its take is over.
    fn write(&mut self, key: TakeKey, offset: u64, bytes: &[u8], own: bool) -> Result<bool, StoreError> {
        if let Some(State::Sealed(_) | State::Discarded) = self.takes.get(&key) {
            return Ok(false);
        }
        if let Err(error) = self.shared.reserve.check(Need::Data(bytes.len() as u64)) {
            self.shared.full.store(true, Ordering::Relaxed);
            return Err(error.into());
        }
        let part = match self.takes.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if own => return Err(StoreError::NoRecording { id: key.0, take: key.1 }),
            Entry::Vacant(entry) => entry.insert(State::Open(Box::new(Part::create(&self.shared.dir, key)?))),
        };
        if let State::Open(part) = part {
            part.write(offset, bytes)?;
            self.shared.index().insert(key, part.covered.clone());
        }
        Ok(true)
    }

    fn seal(&mut self, key: TakeKey) -> Result<Sealing, StoreError> {
        match self.takes.get_mut(&key) {
            Some(State::Open(part)) => {
                let (hash, length) = part.join()?;
                self.hand_over(key, hash, length)
            }
            Some(State::Sealed(done)) => Ok(Sealing::Elsewhere(done.clone())),
            Some(State::Discarded) | None => Err(StoreError::NoRecording { id: key.0, take: key.1 }),
        }
    }

    fn assemble(&mut self, key: TakeKey, hash: BlobHash, length: u64) -> Result<Option<Sealing>, StoreError> {
        match self.takes.get_mut(&key) {
            // It came as a blob: what is here of the take is no longer needed.
            Some(State::Open(_)) if self.shared.blobs.has(&hash) => {
                self.remove(key)?;
                Ok(None)
            }
            Some(State::Open(part)) => match part.assemble(length, &hash)? {
                true => self.hand_over(key, hash, length).map(Some),
                false => Ok(None),
            },
            Some(State::Sealed(done)) => Ok(Some(Sealing::Elsewhere(done.clone()))),
            Some(State::Discarded) | None => Ok(None),
        }
    }

    fn hand_over(&mut self, key: TakeKey, hash: BlobHash, length: u64) -> Result<Sealing, StoreError> {
        let (done, watch) = watch::channel(None);
        let Some(State::Open(part)) = self.close(key, State::Sealed(watch)) else {
            return Err(StoreError::NoRecording { id: key.0, take: key.1 });
        };
        let Part { path, audio, .. } = *part;
        Ok(Sealing::Ready(Ready { blob: BlobRef { hash, length, recording: Some(key) }, path, audio, done }))
    }

    fn discard(&mut self, key: TakeKey) -> Result<(), StoreError> {
        match self.takes.get(&key) {
            Some(State::Sealed(_) | State::Discarded) => self.filed(key),
            // Remembered although never seen: its chunks may be on their way.
            None => {
                self.close(key, State::Discarded);
            }
            Some(State::Open(_)) => {
                self.remove(key)?;
                let _ = self.shared.live.send(ChunkEvent::Discarded { id: key.0, take: key.1 });
            }
        }
        Ok(())
    }

    fn filed(&mut self, key: TakeKey) {
        // Of a take that is still in progress here something else was filed.
        if let Some(State::Sealed(done)) = self.takes.get(&key)
            && done.borrow().is_some()
            && let Err(error) = part::remove(&part::path(&self.shared.dir, key))
        {
            tracing::warn!(%error, "files of a recording that is filed stay");
        }
    }

    fn remove(&mut self, key: TakeKey) -> Result<(), DiskError> {
        self.close(key, State::Discarded);
        self.shared.index().remove(&key);
        part::remove(&part::path(&self.shared.dir, key))
    }

    fn close(&mut self, key: TakeKey, state: State) -> Option<State> {
        self.closed.push_back(key);
        if self.closed.len() > REMEMBERED
            && let Some(oldest) = self.closed.pop_front()
        {
            self.takes.remove(&oldest);
        }
        self.takes.insert(key, state)
    }
}
