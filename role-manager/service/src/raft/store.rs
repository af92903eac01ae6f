//! Vote and log on disk: durable before Raft answers anybody (rule R8).
//!
//! The log is short (the machine's snapshots see to that), so it is also kept in memory and only written to
//! disk. Every write is one durable transaction, awaited in the order in which Raft asks for it.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use openraft::{
    LogState, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use prost::Message;
use twinbox_disk::{Disk, DiskError, TransactError, Transaction};
use twinbox_wire::roles as wire;

use super::{
    Types, codec,
    types::{Entry, LogId, Vote},
};
use crate::{RolesError, standing::Anew};

const LOG: &[u8] = b"raft/log/";
const VOTE: &[u8] = b"raft/vote";
const COMMITTED: &[u8] = b"raft/committed";
const PURGED: &[u8] = b"raft/purged";
const SNAPSHOT: &[u8] = b"raft/snapshot";

/// The Raft store of one member.
#[derive(Clone)]
pub(crate) struct RaftStore {
    disk: Disk,
    log: Arc<Mutex<Log>>,
    /// Which of the cores that this process has started this is for …
    age: u64,
    /// … and which is the last: what an earlier one still wants to write is not written any more.
    last: Arc<AtomicU64>,
}

/// Why a core that has been followed by another writes nothing.
#[derive(Debug, thiserror::Error)]
#[error("another core has been started since")]
struct Outdated;

#[derive(Default)]
struct Log {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl RaftStore {
    /// Reads what an earlier process left.
    pub(crate) fn open(disk: Disk) -> Result<Self, RolesError> {
        let mut log = Log::default();
        for pair in disk.scan(LOG) {
            let (_, value) = pair?;
            let entry = read(disk.dir(), "log entry", &value, codec::read_entry)?;
            log.entries.insert(entry.log_id.index, entry);
        }
        let value = |key: &[u8]| disk.get(key);
        if let Some(bytes) = value(VOTE)? {
            log.vote = Some(read(disk.dir(), "vote", &bytes, |v| Ok(codec::read_vote(v)))?);
        }
        if let Some(bytes) = value(COMMITTED)? {
            log.committed = Some(read(disk.dir(), "log id", &bytes, |id| Ok(codec::read_log_id(id)))?);
        }
        if let Some(bytes) = value(PURGED)? {
            log.purged = Some(read(disk.dir(), "log id", &bytes, |id| Ok(codec::read_log_id(id)))?);
        }
        Ok(Self { disk, log: Arc::new(Mutex::new(log)), age: 0, last: Arc::default() })
    }

    /// The store for the next core. Whatever earlier ones still write does not count from here on.
    pub(crate) fn next(&self) -> Self {
        Self { age: self.last.fetch_add(1, SeqCst) + 1, ..self.clone() }
    }

    /// Whether no later core has been started.
    pub(crate) fn is_current(&self) -> bool {
        self.age == self.last.load(SeqCst)
    }

    /// What the log holds beyond what has been applied, in order; the last entry of all; and the vote.
    pub(crate) fn beyond(&self, applied: Option<LogId>) -> (Vec<Entry>, Option<LogId>, Option<Vote>) {
        let log = self.log();
        let from = applied.map_or(0, |id| id.index.saturating_add(1));
        let last = log.entries.last_key_value().map(|(_, entry)| entry.log_id).max(log.purged).max(applied);
        (log.entries.range(from..).map(|(_, entry)| entry.clone()).collect(), last, log.vote)
    }

    /// Another store in the place of this one: `snapshot`, which ends with `last`, and nothing else. In one transaction, so
    /// that there is the one or the other on the disk, whenever the machine dies.
    pub(crate) async fn begin_anew(
        &self,
        anew: &Anew,
        snapshot: &wire::Snapshot,
        last: LogId,
        vote: Vote,
    ) -> io::Result<()> {
        // No core that ran before writes after this.
        self.last.fetch_add(1, SeqCst);
        let (anew, snapshot) = (anew.clone(), snapshot.encode_to_vec());
        let (vote_bytes, purged) = (codec::vote(&vote).encode_to_vec(), codec::log_id(&last).encode_to_vec());
        let writing = self.disk.transact(move |t: &mut Transaction<'_>| -> Result<(), DiskError> {
            anew.write(t)?;
            t.scan(LOG)?.into_iter().for_each(|(entry, _)| t.remove(entry));
            t.remove(COMMITTED);
            t.put(PURGED, purged)?;
            t.put(VOTE, vote_bytes)?;
            t.put(SNAPSHOT, snapshot)
        });
        writing.await.map_err(io::Error::other)?;
        *self.log() = Log { vote: Some(vote), purged: Some(last), ..Log::default() };
        Ok(())
    }

    /// Whether Raft has ever written here.
    pub(crate) fn is_empty(&self) -> bool {
        let log = self.log();
        log.vote.is_none() && log.entries.is_empty() && log.purged.is_none()
    }

    pub(crate) fn snapshot(&self) -> io::Result<Option<wire::Snapshot>> {
        let Some(bytes) = self.disk.get(SNAPSHOT).map_err(io::Error::other)? else { return Ok(None) };
        wire::Snapshot::decode(bytes.as_slice()).map(Some).map_err(io::Error::other)
    }

    pub(crate) async fn save_snapshot(&self, snapshot: &wire::Snapshot) -> io::Result<()> {
        let bytes = snapshot.encode_to_vec();
        self.write(move |t| t.put(SNAPSHOT, bytes)).await
    }

    async fn write(
        &self,
        f: impl FnOnce(&mut Transaction<'_>) -> Result<(), DiskError> + Send + 'static,
    ) -> io::Result<()> {
        let (age, current) = (self.age, self.last.clone());
        let writing = self.disk.transact(move |t: &mut Transaction<'_>| -> Result<(), io::Error> {
            if age != current.load(SeqCst) {
                return Err(io::Error::other(Outdated));
            }
            f(t).map_err(io::Error::other)
        });
        writing.await.map_err(|error| match error {
            TransactError::Refused(error) => error,
            TransactError::Disk(error) => io::Error::other(error),
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<M: Message + Default, T>(
    dir: &Path,
    what: &'static str,
    bytes: &[u8],
    convert: impl FnOnce(&M) -> Result<T, codec::Malformed>,
) -> Result<T, RolesError> {
    codec::decode::<M>(bytes, what).and_then(|message| convert(&message)).map_err(|e| RolesError::Unreadable {
        dir: dir.to_owned(),
        what,
        detail: e.to_string(),
    })
}

fn key(index: u64) -> Vec<u8> {
    [LOG, &index.to_be_bytes()].concat()
}

impl RaftLogReader<Types> for RaftStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        // An empty or inverted range makes `BTreeMap::range` panic.
        let empty = match bounds {
            (Bound::Included(from), Bound::Excluded(to)) => from >= to,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
            _ => false,
        };
        if empty {
            return Ok(Vec::new());
        }
        Ok(self.log().entries.range(bounds).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log().vote)
    }
}

impl RaftLogStorage<Types> for RaftStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let log = self.log();
        let last = log.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = codec::vote(vote).encode_to_vec();
        self.write(move |t| t.put(VOTE, bytes)).await?;
        self.log().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        self.log().committed = Some(committed);
        // A hint for the next start, not a promise to anybody: nobody waits for its sync.
        let store = self.clone();
        let bytes = codec::log_id(&committed).encode_to_vec();
        tokio::spawn(async move { store.write(move |t| t.put(COMMITTED, bytes)).await });
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut pairs = Vec::with_capacity(entries.len());
        for entry in &entries {
            let bytes = codec::entry(entry).map_err(io::Error::other)?.encode_to_vec();
            pairs.push((key(entry.log_id.index), bytes));
        }
        self.write(move |t| pairs.into_iter().try_for_each(|(key, bytes)| t.put(key, bytes))).await?;
        self.log().entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        // Persisted first, then answered.
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index.saturating_add(1));
        let gone: Vec<u64> = self.log().entries.range(from..).map(|(index, _)| *index).collect();
        self.remove(gone.clone()).await?;
        let mut log = self.log();
        gone.iter().for_each(|index| drop(log.entries.remove(index)));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let gone: Vec<u64> = self.log().entries.range(..=upto.index).map(|(index, _)| *index).collect();
        let keys: Vec<u64> = gone.clone();
        let bytes = codec::log_id(&upto).encode_to_vec();
        self.write(move |t| {
            keys.into_iter().for_each(|index| t.remove(key(index)));
            t.put(PURGED, bytes)
        })
        .await?;
        let mut log = self.log();
        gone.iter().for_each(|index| drop(log.entries.remove(index)));
        log.purged = log.purged.max(Some(upto));
        Ok(())
    }
}

impl RaftStore {
    async fn remove(&self, gone: Vec<u64>) -> io::Result<()> {
        let removal = self.write(move |t| {
            gone.into_iter().for_each(|index| t.remove(key(index)));
            Ok(())
        });
        removal.await
    }
}
