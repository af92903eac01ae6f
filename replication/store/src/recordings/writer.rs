//! The writer: one thread that appends the chunks of all recordings to the packs. It never waits for a sync.

mod append;
mod ends;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    iter,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::sync::{oneshot, watch};
use twinbox_ids::BlobHash;
use twinbox_packs::Hashed;
use twinbox_replication_core::BlobRef;
use twinbox_replication_feed::FeedEntry;

pub(super) use self::append::Chunk;
use super::{
    Shared,
    index::{Stage, TakeState},
    load::Loaded,
    moving::Moved,
    sealing::{Ready, Sealing},
    take::{Pieces, TakeKey},
};
use crate::StoreError;

/// Number of ended takes that are remembered, so that a late chunk does not bring one back: those of about a minute at
/// 300 a second, in 2 MiB. A later chunk makes a take that the next check of orphaned recordings removes.
const REMEMBERED: usize = 16_384;

/// Takes in progress from which on a chunk of a peer begins no other: many times the calls of a cluster, in 128 MiB.
const MOST_OPEN: usize = 65_536;

/// Bytes that a chunk counts in the queue in addition to its audio.
pub(super) const CHUNK_BYTES: u64 = 128;

/// Maximum commands that are taken from the queue together.
const BATCH: usize = 256;

/// Bytes of chunks that one append takes, and a chunk more.
const RUN: u64 = 1024 * 1024;

/// The writer looks at takes that wait for a row, and at the first pack that a start needs, after this time at most.
const IDLE_CHECK: Duration = Duration::from_secs(60);

type Reply<R> = oneshot::Sender<Result<R, StoreError>>;

/// A command to the writer. Commands run in order.
pub(super) enum Command {
    /// Begin a take of a recording that this node makes.
    Begin { key: TakeKey, reply: Reply<()> },
    /// Put a chunk in its place.
    Chunk(Chunk),
    /// Close the take and hand it over, to be made durable.
    Seal { key: TakeKey, reply: Reply<Sealing> },
    /// Hand the take over if it assembles to the blob.
    Assemble { key: TakeKey, hash: BlobHash, length: u64, reply: Reply<Option<Sealing>> },
    /// Remove the take, and `tell` the peers.
    Discard { key: TakeKey, tell: bool, reply: Reply<()> },
    /// Reply when all earlier commands are done.
    Flush { reply: Reply<()> },
    /// A change that names this blob of the take is durable: the take need not be remembered any more.
    Filed { key: TakeKey, hash: BlobHash },
    /// Use the copies instead of what takes have in a pack.
    Moved { moved: Moved, reply: Reply<()> },
}

enum State {
    Open(Box<Hashed>),
    /// A blob, or about to become one; no change that names it is durable yet.
    Sealed(Box<watch::Receiver<Option<BlobRef>>>),
    /// Filed or discarded: thousands of these are remembered, so the variant holds no data.
    Ended,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    takes: HashMap<TakeKey, State>,
    /// The takes that have ended, oldest first.
    ended: VecDeque<TakeKey>,
    /// [`REMEMBERED`]
    remembered: usize,
    /// Number of takes by the first pack that a start must scan for them.
    firsts: BTreeMap<u32, usize>,
    /// The first pack that a start must scan, as last set.
    floor: Option<u32>,
    /// Filed takes whose blob has no durable row yet.
    unsettled: BTreeSet<(TakeKey, BlobHash)>,
}

impl Writer {
    /// A writer with the takes that an earlier process left.
    pub(super) fn new(shared: Arc<Shared>, loaded: Loaded) -> Self {
        let Loaded { takes, filed, endings, unreadable } = loaded;
        let mut writer = Self {
            shared,
            takes: HashMap::new(),
            ended: VecDeque::new(),
            remembered: REMEMBERED,
            firsts: BTreeMap::new(),
            floor: None,
            unsettled: BTreeSet::new(),
        };
        // A chunk that comes now would be left out by the next start: it is late.
        endings.values().flatten().chain(&filed).for_each(|key| writer.remember(*key));
        {
            let mut index = writer.shared.index();
            (index.endings, index.unreadable) = (endings, unreadable);
        }
        for (key, pieces) in takes {
            writer.open(key, pieces);
        }
        writer.note_ends(&filed);
        writer
    }

    /// Serves until every sender is dropped.
    pub(super) fn serve(mut self, queue: mpsc::Receiver<Command>) {
        loop {
            self.raise_floor();
            match queue.recv_timeout(IDLE_CHECK) {
                Ok(first) => self.execute_all(iter::once(first).chain(queue.try_iter().take(BATCH))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let named = std::mem::take(&mut *self.shared.named());
            for (key, hash) in std::mem::take(&mut self.unsettled).into_iter().chain(named) {
                self.filed(key, hash);
            }
        }
    }

    /// Executes commands in order; chunks that follow each other with one append.
    fn execute_all(&mut self, commands: impl Iterator<Item = Command>) {
        let (mut run, mut bytes) = (Vec::new(), 0);
        for command in commands {
            match command {
                Command::Chunk(chunk) => {
                    bytes += chunk.bytes.len() as u64;
                    run.push(chunk);
                    if bytes >= RUN {
                        self.write(std::mem::take(&mut run));
                        bytes = 0;
                    }
                }
                command => {
                    self.write(std::mem::take(&mut run));
                    bytes = 0;
                    self.execute(command);
                }
            }
        }
        self.write(run);
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Begin { key, reply } => drop(reply.send(self.begin(key))),
            Command::Chunk(chunk) => self.write(vec![chunk]),
            Command::Seal { key, reply } => drop(reply.send(self.seal(key))),
            Command::Assemble { key, hash, length, reply } => drop(reply.send(self.assemble(key, hash, length))),
            Command::Discard { key, tell, reply } => {
                self.discard(key, tell);
                let _ = reply.send(Ok(()));
            }
            Command::Flush { reply } => drop(reply.send(Ok(()))),
            Command::Filed { key, hash } => self.filed(key, hash),
            Command::Moved { moved, reply } => {
                self.moved(moved);
                let _ = reply.send(Ok(()));
            }
        }
    }

    fn begin(&mut self, key: TakeKey) -> Result<(), StoreError> {
        if self.takes.contains_key(&key) {
            return Err(StoreError::BegunBefore { id: key.0, take: key.1 });
        }
        self.open(key, Pieces::default());
        Ok(())
    }

    fn open(&mut self, key: TakeKey, pieces: Pieces) {
        let first = pieces.first_pack();
        if let Some(first) = first {
            *self.firsts.entry(first).or_default() += 1;
        }
        self.takes.insert(key, State::Open(Box::default()));
        self.shared.index().takes.insert(key, TakeState { pieces, stage: Stage::Open, first });
    }

    /// Reopens a take that could not become a blob (the disk was full), when it is to be sealed or discarded. Never
    /// after a failed sync, which breaks the store (rule A4).
    fn reopen_failed(&mut self, key: TakeKey) -> Result<(), StoreError> {
        let Some(State::Sealed(done)) = self.takes.get(&key) else { return Ok(()) };
        if done.has_changed().is_err() && done.borrow().is_none() {
            self.shared.writable()?;
            self.shared.change(key, |take| take.stage = Stage::Open);
            self.takes.insert(key, State::Open(Box::default()));
        }
        Ok(())
    }

    fn seal(&mut self, key: TakeKey) -> Result<Sealing, StoreError> {
        self.reopen_failed(key)?;
        match self.takes.get(&key) {
            Some(State::Open(_)) => {
                let length = self.fill_holes(key)?;
                self.hand_over(key, length, None)
            }
            Some(State::Sealed(done)) => Ok(Sealing::Elsewhere(*done.clone())),
            Some(State::Ended) | None => Err(StoreError::NoRecording { id: key.0, take: key.1 }),
        }
    }

    fn assemble(&mut self, key: TakeKey, hash: BlobHash, length: u64) -> Result<Option<Sealing>, StoreError> {
        self.reopen_failed(key)?;
        match self.takes.get(&key) {
            // It came as a blob: the chunks of the take are no longer needed.
            Some(State::Open(_)) if self.shared.blobs.has(&hash) => {
                self.end(key);
                Ok(None)
            }
            Some(State::Open(_)) => match self.begins_with(key, length, &hash)? {
                true => self.hand_over(key, length, Some(hash)).map(Some),
                false => Ok(None),
            },
            Some(State::Sealed(done)) => Ok(Some(Sealing::Elsewhere(*done.clone()))),
            Some(State::Ended) | None => Ok(None),
        }
    }

    /// True when the first `length` bytes of the take are here and have this hash.
    fn begins_with(&mut self, key: TakeKey, length: u64, expected: &BlobHash) -> Result<bool, StoreError> {
        let Some(State::Open(known)) = self.takes.get_mut(&key) else { return Ok(false) };
        let (mut anew, is_longer) = (Hashed::default(), known.upto() > length);
        let hashed = if is_longer { &mut anew } else { &mut **known };
        let places = match self.shared.index().open(key) {
            Some(pieces) if pieces.covered().covers(0..length) => pieces.places(hashed.upto()..length),
            _ => return Ok(false),
        };
        hashed.read(self.shared.blobs.packs(), &places).map_err(|error| self.shared.blobs.failed(error))?;
        Ok(hashed.clone().hash() == expected.0)
    }

    fn hand_over(&mut self, key: TakeKey, length: u64, hash: Option<BlobHash>) -> Result<Sealing, StoreError> {
        let missing = || StoreError::NoRecording { id: key.0, take: key.1 };
        let Some(State::Open(hashed)) = self.takes.get_mut(&key) else { return Err(missing()) };
        let hashed = std::mem::take(&mut **hashed);
        let (places, rest) = {
            let mut index = self.shared.index();
            let take = index.takes.get_mut(&key).ok_or_else(missing)?;
            take.stage = Stage::Sealing(None);
            (take.pieces.places(0..length), take.pieces.places(hashed.upto()..length.max(hashed.upto())))
        };
        let (done, watch) = watch::channel(None);
        self.takes.insert(key, State::Sealed(Box::new(watch)));
        Ok(Sealing::Ready(Box::new(Ready { key, length, places, hash, hashed, rest, done })))
    }

    fn discard(&mut self, key: TakeKey, tell: bool) {
        if let Err(error) = self.reopen_failed(key) {
            tracing::warn!(recording = %key.0, take = key.1, %error, "recording that could not be filed stays");
        }
        match self.takes.get(&key) {
            Some(State::Sealed(done)) => {
                // A blob stays a blob.
                if done.borrow().is_some() {
                    self.end(key);
                }
            }
            Some(State::Ended) => {}
            // Remembered although never received: its chunks may still come.
            None => self.remember(key),
            Some(State::Open(_)) => {
                self.end(key);
                if tell {
                    self.shared.feed.append(vec![FeedEntry::Discarded { take: key }]);
                }
            }
        }
    }

    fn filed(&mut self, key: TakeKey, hash: BlobHash) {
        // If the take is still in progress here, another content was filed.
        let Some(State::Sealed(done)) = self.takes.get(&key) else { return };
        match *done.borrow() {
            Some(blob) if blob.hash != hash => return,
            Some(_) if !self.shared.blobs.is_loose(&hash) => {}
            // Being sealed, or without a durable row: the take is the only trace of the audio that a start would find.
            _ => {
                self.unsettled.insert((key, hash));
                return;
            }
        }
        self.end(key);
    }
}

#[cfg(test)]
#[path = "../../tests/unit/writer.rs"]
mod tests;
