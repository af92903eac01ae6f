//! The writer: one thread that appends the chunks of all recordings to the packs. It never waits for a sync.

mod append;
mod ends;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{oneshot, watch};
use twinbox_ids::BlobHash;
use twinbox_packs::{Hashed, Pieces};
use twinbox_replication_feed::{Batches, FeedEntry};

pub(super) use self::append::Chunk;
use super::{
    Shared,
    load::Loaded,
    moving::Moved,
    sealing::{Ready, Sealed, Sealing},
    take::{Slot, Stage, TakeKey, TakeState},
};
use crate::StoreError;

/// Number of ended takes that are remembered, so that a late chunk does not bring one back: those of about a minute at
/// 300 a second, in 2 MiB. A later chunk makes a take that the next check of orphaned recordings removes.
const REMEMBERED: usize = 16_384;

/// Takes in progress from which on a chunk of a peer begins no other: many times the calls of a cluster, in 128 MiB.
const MOST_OPEN: usize = 65_536;

/// Bytes that a chunk counts in the queue in addition to its audio.
pub(super) const CHUNK_BYTES: u64 = 128;

/// Bytes of chunks that one append takes, [`CHUNK_BYTES`] of each included, and a chunk more.
const RUN: u64 = 1024 * 1024;

/// Time for which chunks wait for others, unless a caller waits for an answer: each append costs a wake-up, a write and some locks.
pub(super) const GATHERED: Duration = Duration::from_millis(5);

/// The writer looks at takes that wait for a row, and at the first pack that a start needs, after this time at most.
const IDLE_CHECK: Duration = Duration::from_secs(60);

type Reply<R> = oneshot::Sender<Result<R, StoreError>>;

/// A command to the writer. Commands run in order, but [`Self::Begin`] and [`Self::Filed`] may precede chunks of other takes.
pub(super) enum Command {
    /// Begin a take of a recording that this node makes.
    Begin { key: TakeKey, reply: Reply<()> },
    /// Put a chunk in its place.
    Chunk(Chunk),
    /// Close the take and hand it over, to be made durable.
    Seal { key: TakeKey, reply: Reply<Sealing> },
    /// Hand the take over if it assembles to the blob.
    Assemble { key: TakeKey, hash: BlobHash, length: u64, reply: Reply<Option<Sealing>> },
    /// Remove the take, and notify the peers if `tell`.
    Discard { key: TakeKey, tell: bool, reply: Reply<()> },
    /// Reply when all earlier commands are done.
    Flush { reply: Reply<()> },
    /// A change that names this blob of the take is durable: the take need not be remembered any more.
    Filed { key: TakeKey, hash: BlobHash },
    /// Use the copies instead of the pieces of takes in a pack.
    Moved { moved: Moved, reply: Reply<()> },
}

impl Command {
    /// True when a caller waits for the answer.
    pub(super) fn is_awaited(&self) -> bool {
        !matches!(self, Self::Chunk(_) | Self::Filed { .. })
    }
}

enum State {
    Open(Slot),
    /// A blob, or about to become one; no change that names it is durable yet.
    Sealed(Box<watch::Receiver<Option<Sealed>>>),
    /// Filed or discarded: thousands of these are remembered, so the variant holds no data.
    Ended,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    takes: HashMap<TakeKey, State>,
    /// The hashes of the takes in progress, by slot.
    hashed: Vec<Option<Box<Hashed>>>,
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
    /// Ended takes whose note is not written yet.
    to_note: Vec<TakeKey>,
}

impl Writer {
    /// A writer with the takes that an earlier process left.
    pub(super) fn new(shared: Arc<Shared>, loaded: Loaded) -> Self {
        let Loaded { takes, filed, endings, unreadable } = loaded;
        let mut writer = Self {
            shared,
            takes: HashMap::new(),
            hashed: Vec::new(),
            ended: VecDeque::new(),
            remembered: REMEMBERED,
            firsts: BTreeMap::new(),
            floor: None,
            unsettled: BTreeSet::new(),
            to_note: Vec::new(),
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

    /// Serves until the queue is closed.
    pub(super) fn serve(mut self, queue: Batches<Command>) {
        let mut batch = Vec::new();
        loop {
            self.raise_floor();
            if !queue.take(IDLE_CHECK, &mut batch) {
                return;
            }
            self.execute_all(batch.drain(..));
            let named = std::mem::take(&mut *self.shared.named());
            for (key, hash) in std::mem::take(&mut self.unsettled).into_iter().chain(named) {
                self.filed(key, hash);
            }
            self.note_ended();
        }
    }

    /// Executes commands in order, and chunks that follow each other with one append. Other takes that begin or were filed between
    /// them do not end it: on a busy node that is after every twentieth chunk.
    fn execute_all(&mut self, commands: impl Iterator<Item = Command>) {
        let (mut run, mut bytes) = (Vec::<Chunk>::new(), 0);
        for command in commands {
            match command {
                Command::Chunk(chunk) => {
                    bytes += chunk.bytes.len() as u64 + CHUNK_BYTES;
                    run.push(chunk);
                    if bytes >= RUN {
                        self.write(std::mem::take(&mut run));
                        bytes = 0;
                    }
                }
                Command::Begin { key, .. } | Command::Filed { key, .. }
                    if run.iter().all(|chunk| chunk.key != key) =>
                {
                    self.execute(command);
                }
                command => {
                    self.write(std::mem::take(&mut run));
                    bytes = 0;
                    self.note_ended();
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
            Command::Assemble { key, hash, length, reply } => {
                let assembled = self.assemble(key, hash, length);
                self.note_ended();
                drop(reply.send(assembled));
            }
            Command::Discard { key, tell, reply } => {
                self.discard(key, tell);
                self.note_ended();
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

    fn open(&mut self, key: TakeKey, pieces: Pieces) -> Slot {
        let first = pieces.first_pack();
        if let Some(first) = first {
            *self.firsts.entry(first).or_default() += 1;
        }
        let slot = self.shared.index().takes.insert(key, TakeState { pieces, first, ..TakeState::default() });
        self.begin_hash(slot);
        self.takes.insert(key, State::Open(slot));
        slot
    }

    /// Undoes [`Self::open`] of a take that has no audio.
    fn close(&mut self, key: TakeKey) {
        self.takes.remove(&key);
        let closed = self.shared.index().takes.remove(&key);
        if let Some((slot, _)) = closed {
            self.end_hash(slot);
        }
    }

    fn begin_hash(&mut self, slot: Slot) {
        if self.hashed.len() <= slot {
            self.hashed.resize_with(slot + 1, || None);
        }
        if let Some(hashed) = self.hashed.get_mut(slot) {
            *hashed = Some(Box::default());
        }
    }

    /// The hash of a take of which no more is hashed here.
    fn end_hash(&mut self, slot: Slot) -> Option<Box<Hashed>> {
        self.hashed.get_mut(slot)?.take()
    }

    /// Reopens a take that could not become a blob (the disk was full), when it is to be sealed or discarded. Never
    /// after a failed sync, which breaks the store (rule A4).
    fn reopen_failed(&mut self, key: TakeKey) -> Result<(), StoreError> {
        let Some(State::Sealed(done)) = self.takes.get(&key) else { return Ok(()) };
        if done.has_changed().is_err() && done.borrow().is_none() {
            self.shared.writable()?;
            let Some(slot) = self.shared.index().takes.slot(&key) else { return Ok(()) };
            self.shared.change(key, |take| take.stage = Stage::Open);
            self.begin_hash(slot);
            self.takes.insert(key, State::Open(slot));
        }
        Ok(())
    }

    fn seal(&mut self, key: TakeKey) -> Result<Sealing, StoreError> {
        self.reopen_failed(key)?;
        match self.takes.get(&key) {
            Some(&State::Open(slot)) => {
                let length = self.fill_holes(key, slot)?;
                self.hand_over(key, slot, length, None)
            }
            Some(State::Sealed(done)) => Ok(Sealing::Elsewhere(*done.clone())),
            Some(State::Ended) | None => Err(StoreError::NoRecording { id: key.0, take: key.1 }),
        }
    }

    fn assemble(&mut self, key: TakeKey, hash: BlobHash, length: u64) -> Result<Option<Sealing>, StoreError> {
        self.reopen_failed(key)?;
        match self.takes.get(&key) {
            // The audio came as a blob: the chunks of the take are no longer needed.
            Some(State::Open(_)) if self.shared.blobs.has(&hash) => {
                self.end(key);
                Ok(None)
            }
            Some(&State::Open(slot)) => match self.begins_with(key, slot, length, &hash)? {
                true => self.hand_over(key, slot, length, Some(hash)).map(Some),
                false => Ok(None),
            },
            Some(State::Sealed(done)) => Ok(Some(Sealing::Elsewhere(*done.clone()))),
            Some(State::Ended) | None => Ok(None),
        }
    }

    /// True when the first `length` bytes of the take are here and have this hash.
    fn begins_with(
        &mut self,
        key: TakeKey,
        slot: Slot,
        length: u64,
        expected: &BlobHash,
    ) -> Result<bool, StoreError> {
        let Some(Some(known)) = self.hashed.get_mut(slot) else { return Ok(false) };
        let (mut fresh, is_longer) = (Hashed::default(), known.upto() > length);
        let hashed = if is_longer { &mut fresh } else { &mut **known };
        let places = match self.shared.index().open(key) {
            Some(pieces) if pieces.covers(0..length) => pieces.places(hashed.upto()..length),
            _ => return Ok(false),
        };
        hashed.read(self.shared.blobs.packs(), &places).map_err(|error| self.shared.blobs.failed(error))?;
        Ok(hashed.clone().hash() == expected.0)
    }

    fn hand_over(
        &mut self,
        key: TakeKey,
        slot: Slot,
        length: u64,
        hash: Option<BlobHash>,
    ) -> Result<Sealing, StoreError> {
        let missing = || StoreError::NoRecording { id: key.0, take: key.1 };
        let hashed = *self.end_hash(slot).ok_or_else(missing)?;
        let (whole, places, rest) = {
            let mut index = self.shared.index();
            let take = index.takes.at_mut(slot).ok_or_else(missing)?;
            take.stage = Stage::Sealing(None);
            let rest = take.pieces.places(hashed.upto()..length.max(hashed.upto()));
            (take.whole(), take.pieces.places(0..length), rest)
        };
        let (done, watch) = watch::channel(None);
        self.takes.insert(key, State::Sealed(Box::new(watch)));
        Ok(Sealing::Ready(Box::new(Ready { key, length, whole, places, hash, hashed, rest, done })))
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
            Some(sealed) if sealed.blob.hash != hash => return,
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
