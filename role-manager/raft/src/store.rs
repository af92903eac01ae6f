//! Vote and log on disk: durable before Raft answers any request (rule R8).
//!
//! The log is short (the machine's snapshots ensure that), so it is also kept in memory and only written to disk. Every
//! write is one durable transaction, and the disk keeps the order of Raft's writes. Raft's core waits only for the
//! write of a vote: an entry is acknowledged by a callback once it is durable, so that a slow disk delays no heartbeat.
//! So memory is ahead of the disk, and a restarted core reads the disk.

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
use twinbox_disk::{Disk, DiskError, MAX_VALUE, TransactError, Transaction};
use twinbox_wire::roles as wire;

use super::{
    StoreError, Types, codec,
    store_identity::NewGroupStore,
    types::{Entry, LogId, Vote},
};

const LOG: &[u8] = b"raft/log/";
const VOTE: &[u8] = b"raft/vote";
const COMMITTED: &[u8] = b"raft/committed";
const PURGED: &[u8] = b"raft/purged";
/// The snapshot: its first part, and behind a slash the others by number. A value has a limit that a state with many operators exceeds.
const SNAPSHOT: &[u8] = b"raft/snapshot";
/// Entries whose commands were set aside, by index.
const ASIDE: &[u8] = b"raft/aside/";

/// The Raft store of one member.
#[derive(Clone)]
pub(crate) struct RaftStore {
    disk: Disk,
    log: Arc<Mutex<Log>>,
    /// Number of this core among those that this process has started.
    start: u64,
    /// Number of the latest core: pending writes of an earlier one are dropped.
    last: Arc<AtomicU64>,
}

/// Reason for which a core writes no more.
#[derive(Debug, thiserror::Error)]
#[error("another core has been started since, or an earlier write of this one has failed")]
struct Outdated;

/// Makes a core outdated when it is dropped, unless its write is durable: later writes after a failed one would leave a
/// hole in the log. The disk may refuse a write that its transaction has accepted, and take the next one: a full disk.
struct Outdating {
    start: u64,
    last: Arc<AtomicU64>,
    written: bool,
}

impl Outdating {
    /// The write is durable.
    fn disarm(mut self) {
        self.written = true;
    }
}

impl Drop for Outdating {
    fn drop(&mut self) {
        if !self.written {
            // If another core has been started, this one was outdated already.
            let _ = self.last.compare_exchange(self.start, self.start + 1, SeqCst, SeqCst);
        }
    }
}

#[derive(Default)]
struct Log {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Whether there is a snapshot.
    snapshot: bool,
}

impl Log {
    fn is_empty(&self) -> bool {
        self.vote.is_none() && self.entries.is_empty() && self.purged.is_none() && !self.snapshot
    }

    fn read(disk: &Disk) -> Result<Self, StoreError> {
        let mut log = Self::default();
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
        log.snapshot = value(SNAPSHOT)?.is_some();
        Ok(log)
    }
}

/// Whether Raft has never written to this disk: nothing was voted, acknowledged or adopted under its Raft id.
pub(crate) fn is_unused(disk: &Disk) -> Result<bool, StoreError> {
    Log::read(disk).map(|log| log.is_empty())
}

impl RaftStore {
    /// Reads the data of an earlier process.
    pub(crate) fn open(disk: Disk) -> Result<Self, StoreError> {
        let log = Arc::new(Mutex::new(Log::read(&disk)?));
        Ok(Self { disk, log, start: 0, last: Arc::default() })
    }

    /// The store for the next core, with the data on disk. Later writes of earlier cores do not count.
    pub(crate) async fn next(&self) -> Result<Self, StoreError> {
        let next = {
            let _log = self.log();
            Self { start: self.last.fetch_add(1, SeqCst) + 1, ..self.clone() }
        };
        // After all writes that earlier cores have passed to the disk.
        let written = next.disk.transact(|_| Ok::<_, DiskError>(())).await;
        written.map_err(|error| match error {
            TransactError::Refused(error) | TransactError::Disk(error) => error,
        })?;
        *next.log() = Log::read(&next.disk)?;
        Ok(next)
    }

    /// Whether no later core has been started.
    pub(crate) fn is_current(&self) -> bool {
        self.start == self.last.load(SeqCst)
    }

    /// Number of started cores.
    #[cfg(test)]
    pub(crate) fn starts(&self) -> u64 {
        self.last.load(SeqCst)
    }

    /// The log entries after `applied`, in order; the last entry of all; and the vote.
    pub(crate) fn beyond(&self, applied: Option<LogId>) -> (Vec<Entry>, Option<LogId>, Option<Vote>) {
        let log = self.log();
        let from = applied.map_or(0, |id| id.index.saturating_add(1));
        let last = log.entries.last_key_value().map(|(_, entry)| entry.log_id).max(log.purged).max(applied);
        (log.entries.range(from..).map(|(_, entry)| entry.clone()).collect(), last, log.vote)
    }

    /// Replaces this store by another: `snapshot`, which ends with `last`, and nothing else. In one transaction, so
    /// that the disk has one or the other, whenever the machine fails.
    pub(crate) async fn replace_by_new_group(
        &self,
        new_store: &NewGroupStore,
        snapshot: &wire::Snapshot,
        last: LogId,
        vote: Vote,
    ) -> io::Result<()> {
        {
            let _log = self.log();
            // No earlier core writes after this.
            self.last.fetch_add(1, SeqCst);
        }
        let (new_store, snapshot) = (new_store.clone(), snapshot.encode_to_vec());
        let (vote_bytes, purged) = (codec::vote(&vote).encode_to_vec(), codec::log_id(&last).encode_to_vec());
        let writing = self.disk.transact(move |t: &mut Transaction<'_>| -> Result<(), DiskError> {
            new_store.write(t)?;
            t.scan(LOG)?.into_iter().chain(t.scan(ASIDE)?).for_each(|(entry, _)| t.remove(entry));
            t.remove(COMMITTED);
            t.put(PURGED, purged)?;
            t.put(VOTE, vote_bytes)?;
            put_snapshot(t, &snapshot)
        });
        writing.await.map_err(io::Error::other)?;
        *self.log() = Log { vote: Some(vote), purged: Some(last), snapshot: true, ..Log::default() };
        Ok(())
    }

    /// Reason for which the disk accepts no more writes, if any.
    pub(crate) fn broken(&self) -> Option<String> {
        self.disk.broken().map(str::to_owned)
    }

    /// Whether Raft has ever written here.
    pub(crate) fn is_empty(&self) -> bool {
        self.log().is_empty()
    }

    pub(crate) fn snapshot(&self) -> io::Result<Option<wire::Snapshot>> {
        loop {
            let Some(first) = self.disk.get(SNAPSHOT).map_err(io::Error::other)? else { return Ok(None) };
            let mut bytes = Vec::new();
            for part in self.disk.scan(SNAPSHOT) {
                bytes.extend(part.map_err(io::Error::other)?.1);
            }
            // A scan is as new as each of its parts. The first one names the last entry, so that no two snapshots share it.
            if self.disk.get(SNAPSHOT).map_err(io::Error::other)? == Some(first) {
                return wire::Snapshot::decode(bytes.as_slice()).map(Some).map_err(io::Error::other);
            }
        }
    }

    /// Stores this snapshot unless a later one is present: a snapshot that took long to build must not replace one sent
    /// by a leader meanwhile, since the log before that one is deleted.
    pub(crate) async fn save_snapshot(&self, snapshot: &wire::Snapshot) -> io::Result<()> {
        let (bytes, last) = (snapshot.encode_to_vec(), last_of(snapshot));
        let replacing = move |t: &mut Transaction<'_>| {
            let present: Vec<u8> = t.scan(SNAPSHOT)?.into_iter().flat_map(|(_, part)| part).collect();
            // An unreadable snapshot is replaced.
            match wire::Snapshot::decode(&*present) {
                Ok(present) if last_of(&present) > last => Ok(()),
                _ => put_snapshot(t, &bytes),
            }
        };
        self.write(replacing).await?;
        self.log().snapshot = true;
        Ok(())
    }

    /// Records that the command of this entry must not be applied; durable when this returns.
    pub(crate) async fn set_aside(&self, entry: LogId) -> io::Result<()> {
        let bytes = codec::log_id(&entry).encode_to_vec();
        self.write(move |t| t.put(aside_key(entry.index), bytes)).await
    }

    /// Whether the command of this entry was set aside.
    pub(crate) fn is_set_aside(&self, entry: LogId) -> io::Result<bool> {
        let note = self.disk.get(&aside_key(entry.index)).map_err(io::Error::other)?;
        let noted =
            note.map(|bytes| wire::LogId::decode(bytes.as_slice())).transpose().map_err(io::Error::other)?;
        Ok(noted.is_some_and(|noted| codec::read_log_id(&noted) == entry))
    }

    /// Writes, and waits until the write is durable.
    async fn write(
        &self,
        f: impl FnOnce(&mut Transaction<'_>) -> Result<(), DiskError> + Send + 'static,
    ) -> io::Result<()> {
        self.disk.transact_then(self.unless_outdated(f), Outdating::disarm).await.map_err(write_error)
    }

    /// Queues a write after all earlier ones; `done` is called once it is durable or has failed.
    async fn write_behind(
        &self,
        f: impl FnOnce(&mut Transaction<'_>) -> Result<(), DiskError> + Send + 'static,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let done = |written: Result<Outdating, _>| done(written.map(Outdating::disarm).map_err(write_error));
        self.disk.submit(self.unless_outdated(f), done).await.map_err(io::Error::other)
    }

    /// A transaction that refuses the writes of an outdated core. Its result makes the core outdated if the disk drops
    /// it: that happens before the transactions of later groups run.
    fn unless_outdated(
        &self,
        f: impl FnOnce(&mut Transaction<'_>) -> Result<(), DiskError> + Send + 'static,
    ) -> impl FnOnce(&mut Transaction<'_>) -> Result<Outdating, io::Error> + Send + 'static {
        let (start, last) = (self.start, self.last.clone());
        move |t: &mut Transaction<'_>| {
            if start != last.load(SeqCst) {
                return Err(io::Error::other(Outdated));
            }
            let unless_written = Outdating { start, last, written: false };
            f(t).map_err(io::Error::other)?;
            Ok(unless_written)
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, if this core is the latest.
    fn own_log(&self) -> io::Result<MutexGuard<'_, Log>> {
        let log = self.log();
        if self.is_current() { Ok(log) } else { Err(io::Error::other(Outdated)) }
    }
}

fn write_error(error: TransactError<io::Error>) -> io::Error {
    match error {
        TransactError::Refused(error) => error,
        TransactError::Disk(error) => io::Error::other(error),
    }
}

fn read<M: Message + Default, T>(
    dir: &Path,
    what: &'static str,
    bytes: &[u8],
    convert: impl FnOnce(&M) -> Result<T, codec::Malformed>,
) -> Result<T, StoreError> {
    codec::decode::<M>(bytes, what).and_then(|message| convert(&message)).map_err(|e| StoreError::Unreadable {
        dir: dir.to_owned(),
        what,
        detail: e.to_string(),
    })
}

/// The last entry that a snapshot covers.
fn last_of(snapshot: &wire::Snapshot) -> Option<LogId> {
    snapshot.meta.as_ref()?.last.as_ref().map(codec::read_log_id)
}

/// Writes a snapshot in the place of the present one.
fn put_snapshot(t: &mut Transaction<'_>, bytes: &[u8]) -> Result<(), DiskError> {
    t.scan(SNAPSHOT)?.into_iter().for_each(|(part, _)| t.remove(part));
    for (number, part) in (0_u32..).zip(bytes.chunks(MAX_VALUE)) {
        let key = if number == 0 { SNAPSHOT.to_vec() } else { [SNAPSHOT, b"/", &number.to_be_bytes()].concat() };
        t.put(key, part)?;
    }
    Ok(())
}

fn key(index: u64) -> Vec<u8> {
    [LOG, &index.to_be_bytes()].concat()
}

fn aside_key(index: u64) -> Vec<u8> {
    [ASIDE, &index.to_be_bytes()].concat()
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
        // Raft's core waits for this write, since it has no callback. A leader saves no vote while it leads.
        self.write(move |t| t.put(VOTE, bytes)).await?;
        self.own_log()?.vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        self.own_log()?.committed = Some(committed);
        // A hint for the next start, not a promise: no caller waits for its sync.
        let bytes = codec::log_id(&committed).encode_to_vec();
        self.write_behind(move |t| t.put(COMMITTED, bytes), drop).await
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
        self.own_log()?.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        // Written durably first, then acknowledged.
        let write = move |t: &mut Transaction<'_>| pairs.into_iter().try_for_each(|(key, bytes)| t.put(key, bytes));
        self.write_behind(write, move |written| callback.io_completed(written)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index.saturating_add(1));
        let removed = self.own_log()?.entries.split_off(&from);
        // The replacing entries are written after it, and acknowledged.
        let removal = move |t: &mut Transaction<'_>| {
            removed.into_keys().for_each(|index| t.remove(key(index)));
            Ok(())
        };
        self.write_behind(removal, drop).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let removed = {
            let mut log = self.own_log()?;
            let rest = log.entries.split_off(&upto.index.saturating_add(1));
            log.purged = log.purged.max(Some(upto));
            std::mem::replace(&mut log.entries, rest)
        };
        let bytes = codec::log_id(&upto).encode_to_vec();
        // Until this is durable the log is longer than necessary, which is harmless.
        let purge = move |t: &mut Transaction<'_>| {
            removed.into_keys().for_each(|index| t.remove(key(index)));
            let notes = t.scan(ASIDE)?.into_iter().map(|(note, _)| note);
            notes.take_while(|note| *note <= aside_key(upto.index)).for_each(|note| t.remove(note));
            t.put(PURGED, bytes)
        };
        self.write_behind(purge, drop).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn snapshot_of_any_size_replaces_an_earlier_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let core = RaftStore::open(Disk::open(dir.path()).expect("a disk")).expect("a store");
        assert_eq!(core.snapshot().expect("a read"), None);
        for (index, length) in [(1, 10), (2, 3 * MAX_VALUE), (3, MAX_VALUE + 1), (4, 20)] {
            let last = wire::LogId { index, ..wire::LogId::default() };
            let meta = wire::SnapshotMeta { last: Some(last), ..wire::SnapshotMeta::default() };
            let snapshot = wire::Snapshot { meta: Some(meta), state: vec![index as u8; length].into() };
            core.save_snapshot(&snapshot).await.expect("a snapshot");
            assert_eq!(core.snapshot().expect("a read"), Some(snapshot), "{length} bytes");
            let parts = core.disk.scan(b"raft/snapshot").count();
            assert_eq!(parts, length / MAX_VALUE + 1, "{length} bytes");
        }
        let earlier =
            wire::Snapshot { meta: Some(wire::SnapshotMeta::default()), state: vec![9; MAX_VALUE].into() };
        core.save_snapshot(&earlier).await.expect("it is left out");
        assert_eq!(core.snapshot().expect("a read").map(|snapshot| snapshot.state), Some(vec![4; 20].into()));
        assert!(Log::read(&core.disk).expect("a log").snapshot);
    }

    #[tokio::test]
    async fn a_core_whose_accepted_write_does_not_become_durable_writes_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(dir.path()).expect("a disk");
        let core = RaftStore::open(disk).expect("a store").next().await.expect("a core");
        core.write(|t| t.put(*b"first", *b"")).await.expect("a write");
        assert!(core.is_current(), "a durable write outdates no core");
        // A group that the disk refuses ends like this: the transaction accepted, and its result is dropped.
        let second = core.unless_outdated(|t| t.put(*b"second", *b""));
        let accepted = core.disk.transact(second).await.expect("accepted");
        assert!(core.is_current());
        drop(accepted);
        assert!(!core.is_current(), "the write is missing, and the core goes on");
        core.write(|t| t.put(*b"third", *b"")).await.expect_err("a refusal");
        assert_eq!(core.disk.get(b"third"), Ok(None));
        let next = core.next().await.expect("the next core");
        next.write(|t| t.put(*b"fourth", *b"")).await.expect("its write");
    }
}
