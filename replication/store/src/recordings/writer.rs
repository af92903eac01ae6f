//! The writer: one thread that puts the chunks of all recordings in their places.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fs::File,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use twinbox_clock::BootInstant;
use twinbox_disk::{DiskError, Need};
use twinbox_ids::BlobHash;
use twinbox_replication_core::BlobRef;

use super::{
    ChunkEvent, Shared,
    part::{self, Part, TakeKey},
};
use crate::StoreError;

/// Number of ended takes that are remembered, so that a late chunk does not bring one back: those of about a minute at
/// 300 a second, in 2 MiB. A later chunk makes a file that the next check of orphaned recordings removes.
const REMEMBERED: usize = 16_384;

/// The files of a take are closed after this time without a chunk.
const IDLE_CHECK: Duration = Duration::from_secs(60);

type Reply<R> = oneshot::Sender<Result<R, StoreError>>;

/// A command to the writer. Commands run in order.
pub(super) enum Command {
    /// Create a take of a recording that this node makes.
    Begin { key: TakeKey, reply: Reply<()> },
    /// Put a chunk in its place; `own` when it was recorded here.
    Chunk { key: TakeKey, offset: u64, bytes: Bytes, own: bool },
    /// Join the take and hand it over for syncing.
    Seal { key: TakeKey, reply: Reply<Sealing> },
    /// Hand the take over if it assembles to the blob.
    Assemble { key: TakeKey, hash: BlobHash, length: u64, reply: Reply<Option<Sealing>> },
    /// Remove the take, and `tell` the peers.
    Discard { key: TakeKey, tell: bool, reply: Reply<()> },
    /// Reply when all earlier commands are done.
    Flush { reply: Reply<()> },
    /// A change that names the take's blob is durable: the take need not be remembered any more.
    Filed { key: TakeKey },
}

/// A take on its way to being a blob.
pub(super) enum Sealing {
    /// The caller is to make it a blob.
    Ready(Ready),
    /// Another caller makes it a blob, or has done so.
    Elsewhere(watch::Receiver<Option<BlobRef>>),
}

/// A whole take, to be synced and renamed off the writer's thread.
pub(super) struct Ready {
    pub(super) blob: BlobRef,
    pub(super) path: PathBuf,
    pub(super) audio: File,
    /// Notified once the take is a blob; dropped if that fails.
    pub(super) done: watch::Sender<Option<BlobRef>>,
}

enum State {
    Open(Box<Part>),
    /// A blob, or about to become one; no change that names it is durable yet.
    Sealed(Box<watch::Receiver<Option<BlobRef>>>),
    /// Filed or discarded: thousands of these are remembered, so the variant holds no data.
    Ended,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    takes: BTreeMap<TakeKey, State>,
    /// The takes that are no longer open, oldest first.
    closed: VecDeque<TakeKey>,
    /// [`REMEMBERED`]
    remembered: usize,
}

impl Writer {
    /// A writer with the takes that an earlier process left.
    pub(super) fn new(shared: Arc<Shared>, parts: Vec<(TakeKey, Part)>) -> Self {
        let takes = parts.into_iter().map(|(key, part)| (key, State::Open(Box::new(part)))).collect();
        Self { shared, takes, closed: VecDeque::new(), remembered: REMEMBERED }
    }

    /// Serves until every sender is dropped.
    pub(super) fn serve(mut self, queue: mpsc::Receiver<Command>) {
        let mut rested = BootInstant::now();
        loop {
            match queue.recv_timeout(IDLE_CHECK) {
                Ok(command) => self.execute(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if rested.elapsed() >= IDLE_CHECK {
                rested = BootInstant::now();
                self.close_idle();
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Begin { key, reply } => drop(reply.send(self.begin(key))),
            Command::Chunk { key, offset, bytes, own } => self.chunk(key, offset, bytes, own),
            Command::Seal { key, reply } => drop(reply.send(self.seal(key))),
            Command::Assemble { key, hash, length, reply } => drop(reply.send(self.assemble(key, hash, length))),
            Command::Discard { key, tell, reply } => drop(reply.send(self.discard(key, tell))),
            Command::Flush { reply } => drop(reply.send(Ok(()))),
            Command::Filed { key } => self.filed(key),
        }
    }

    /// Closes the files of takes that got no chunk since the last call.
    fn close_idle(&mut self) {
        for state in self.takes.values_mut() {
            if let State::Open(part) = state {
                part.close_idle();
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
                // No receiver is no error: a single node has none.
                let _ = self.shared.live.send(ChunkEvent::Chunk { id, take, offset, bytes });
            }
            Ok(_) => {}
            Err(error) => {
                let (recording, take) = key;
                tracing::error!(%recording, take, offset, %error, "chunk of a recording cannot be stored");
            }
        }
    }

    /// True when the chunk is here now, false when its take has ended.
    fn write(&mut self, key: TakeKey, offset: u64, bytes: &[u8], own: bool) -> Result<bool, StoreError> {
        if let Some(State::Sealed(_) | State::Ended) = self.takes.get(&key) {
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

    /// Reopens a take that could not become a blob (its folder was away, the disk full), when it is to be sealed again.
    /// Never after a failed sync, which breaks the store (rule A4).
    fn reopen_failed(&mut self, key: TakeKey) -> Result<(), StoreError> {
        let Some(State::Sealed(done)) = self.takes.get(&key) else { return Ok(()) };
        if done.has_changed().is_err() && done.borrow().is_none() {
            self.shared.writable()?;
            let part = Part::load(&self.shared.dir, key)?;
            self.closed.retain(|closed| *closed != key);
            self.takes.insert(key, State::Open(Box::new(part)));
        }
        Ok(())
    }

    fn seal(&mut self, key: TakeKey) -> Result<Sealing, StoreError> {
        self.reopen_failed(key)?;
        match self.takes.get_mut(&key) {
            Some(State::Open(part)) => {
                let (hash, length) = part.join()?;
                self.hand_over(key, hash, length)
            }
            Some(State::Sealed(done)) => Ok(Sealing::Elsewhere(*done.clone())),
            Some(State::Ended) | None => Err(StoreError::NoRecording { id: key.0, take: key.1 }),
        }
    }

    fn assemble(&mut self, key: TakeKey, hash: BlobHash, length: u64) -> Result<Option<Sealing>, StoreError> {
        self.reopen_failed(key)?;
        match self.takes.get_mut(&key) {
            // It came as a blob: the chunks of the take are no longer needed.
            Some(State::Open(_)) if self.shared.blobs.has(&hash) => {
                self.remove(key)?;
                Ok(None)
            }
            Some(State::Open(part)) => match part.assemble(length, &hash)? {
                true => self.hand_over(key, hash, length).map(Some),
                false => Ok(None),
            },
            Some(State::Sealed(done)) => Ok(Some(Sealing::Elsewhere(*done.clone()))),
            Some(State::Ended) | None => Ok(None),
        }
    }

    fn hand_over(&mut self, key: TakeKey, hash: BlobHash, length: u64) -> Result<Sealing, StoreError> {
        let (done, watch) = watch::channel(None);
        let Some(State::Open(part)) = self.takes.get_mut(&key) else {
            return Err(StoreError::NoRecording { id: key.0, take: key.1 });
        };
        let (path, audio) = part.take_audio()?;
        self.close(key, State::Sealed(Box::new(watch)));
        Ok(Sealing::Ready(Ready { blob: BlobRef { hash, length, recording: Some(key) }, path, audio, done }))
    }

    fn discard(&mut self, key: TakeKey, tell: bool) -> Result<(), StoreError> {
        match self.takes.get(&key) {
            Some(State::Sealed(_) | State::Ended) => self.filed(key),
            // Remembered although never seen: its chunks may still come.
            None => {
                self.close(key, State::Ended);
            }
            Some(State::Open(_)) => {
                self.remove(key)?;
                if tell {
                    let _ = self.shared.live.send(ChunkEvent::Discarded { id: key.0, take: key.1 });
                }
            }
        }
        Ok(())
    }

    fn filed(&mut self, key: TakeKey) {
        // If the take is still in progress here, another content was filed.
        if let Some(state @ State::Sealed(_)) = self.takes.get_mut(&key)
            && matches!(state, State::Sealed(done) if done.borrow().is_some())
        {
            *state = State::Ended;
            if let Err(error) = part::remove(&part::path(&self.shared.dir, key)) {
                tracing::warn!(%error, "files of a filed recording cannot be removed");
            }
        }
    }

    fn remove(&mut self, key: TakeKey) -> Result<(), DiskError> {
        self.close(key, State::Ended);
        self.shared.index().remove(&key);
        part::remove(&part::path(&self.shared.dir, key))
    }

    fn close(&mut self, key: TakeKey, state: State) {
        self.closed.push_back(key);
        if self.closed.len() > self.remembered
            && let Some(oldest) = self.closed.pop_front()
        {
            self.takes.remove(&oldest);
        }
        self.takes.insert(key, state);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{Store, StoreConfig};

    /// This process's open files in a directory.
    fn open_in(dir: &Path) -> usize {
        let open = fs::read_dir("/proc/self/fd").unwrap();
        open.flatten().filter(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(dir))).count()
    }

    fn store(dir: &Path) -> Store {
        let config = StoreConfig { dir: dir.to_owned(), node: "a".parse().unwrap(), reserve_bytes: 0 };
        Store::open(config).unwrap()
    }

    #[test]
    fn ended_takes_are_remembered_up_to_a_bound_without_open_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let shared = Arc::clone(store.recordings().shared());
        let mut writer = Writer { remembered: 8, ..Writer::new(Arc::clone(&shared), vec![]) };
        let keys: Vec<TakeKey> = (0..30).map(|_| (twinbox_ids::RecordingId::random(), 1)).collect();
        for (n, key) in keys.iter().enumerate() {
            writer.begin(*key).unwrap();
            assert_eq!(writer.write(*key, 0, format!("take {n}").as_bytes(), true), Ok(true));
            if n % 3 == 0 {
                writer.discard(*key, true).unwrap();
                continue;
            }
            let Ok(Sealing::Ready(ready)) = writer.seal(*key) else { panic!("it does not seal") };
            let blob = shared.finish(ready).unwrap();
            let again = writer.seal(*key);
            assert!(matches!(&again, Ok(Sealing::Elsewhere(done)) if *done.borrow() == Some(blob)));
            writer.filed(*key);
        }
        assert_eq!((writer.takes.len(), writer.closed.len()), (8, 8));
        assert!(writer.takes.values().all(|state| matches!(state, State::Ended)));
        assert!(size_of::<State>() <= 16);
        assert!(shared.index().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("recordings")).unwrap().count(), 0, "no file of them stays");
        // A late chunk of a remembered take is dropped.
        assert_eq!(writer.write(keys[29], 0, b"late", false), Ok(false));
        assert_eq!(writer.write(keys[27], 0, b"late", false), Ok(false));
    }

    #[test]
    fn idle_take_closes_its_files_and_continues_at_the_next_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let recordings = dir.path().canonicalize().unwrap().join("recordings");
        let mut writer = Writer::new(Arc::clone(store.recordings().shared()), vec![]);
        let key = (twinbox_ids::RecordingId::random(), 1);
        assert_eq!(writer.write(key, 0, b"first", false), Ok(true));
        writer.close_idle();
        assert_eq!(open_in(&recordings), 2, "a chunk arrived recently");
        writer.close_idle();
        assert_eq!(open_in(&recordings), 0);
        assert_eq!(writer.write(key, 8, b"third", false), Ok(true));
        assert_eq!(writer.write(key, 5, b"2nd", false), Ok(true));
        writer.close_idle();
        writer.close_idle();
        assert_eq!(open_in(&recordings), 0);

        // Another incarnation finds all of it, and does not keep idle files open.
        let part = Part::load(&recordings, key).unwrap();
        assert_eq!(open_in(&recordings), 0);
        let mut writer = Writer::new(Arc::clone(store.recordings().shared()), vec![(key, part)]);
        let Ok(Sealing::Ready(ready)) = writer.seal(key) else { panic!("it does not seal") };
        assert_eq!(ready.blob.hash.0, *blake3::hash(b"first2ndthird").as_bytes());
    }
}
