//! The store: one node's records, changes and vector.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{broadcast, watch};
use twinbox_clock::{BootInstant, wall};
use twinbox_disk::{Disk, Need, Reserve, Space, Transaction};
use twinbox_ids::{ClusterId, NodeName, Origin};
use twinbox_replication_core::{BlobRef, Change, Clock, Key, Ranges, Record, Table, Vector};

use crate::{
    Blobs, CommitError, Committed, Draft, Filled, PurgeCounts, Recordings, StoreError,
    apply::apply,
    codec::{self, FORMAT},
    draft::{decode_record, decode_row, decode_upto},
    filled::FillMark,
    index::Indexing,
    keys,
};

/// Maximum changes that a receiver of [`Store::live`] may be behind before it has to read the log instead.
const LIVE: usize = 4096;

/// Approximate maximum of bytes that [`Store::changes_after`] returns.
const BATCH: usize = 1024 * 1024;

/// Directory and owner of a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The directory; created if it is missing.
    pub dir: PathBuf,
    /// The node whose data it holds. The directory remembers it and refuses another.
    pub node: NodeName,
    /// Bytes to leave free on the file system when new data is written (rule A4).
    pub reserve_bytes: u64,
}

/// Health of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreHealth {
    /// Reason why no more writes are accepted, if so: the process is to drain and restart (rule A4).
    pub broken: Option<String>,
    /// Changes that were set aside because their record cannot be read (rule R11).
    pub set_aside: u64,
}

impl StoreHealth {
    /// True when the store accepts writes.
    pub fn ok(&self) -> bool {
        self.broken.is_none()
    }
}

/// One node's copy of all data. Clones share it; the store closes when the last is dropped.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    disk: Disk,
    node: NodeName,
    origin: Origin,
    own: Vec<Origin>,
    cluster: Arc<Mutex<Option<ClusterId>>>,
    filled: Arc<FillMark>,
    indexing: Indexing,
    purged: PurgeCounts,
    reserve: Reserve,
    blobs: Blobs,
    shared: Arc<Shared>,
}

/// Called for each change, on the committer thread.
type Observer = Box<dyn Fn(&Change) + Send + Sync>;

/// State of the committer thread.
struct Shared {
    clock: Mutex<Clock>,
    /// Every change that is durable here, by number.
    have: RwLock<BTreeMap<Origin, Ranges>>,
    live: broadcast::Sender<Arc<Change>>,
    observers: RwLock<Vec<Observer>>,
    recordings: Recordings,
    set_aside: AtomicU64,
}

impl Store {
    /// Opens the store and begins a new incarnation of it: a new origin, durable before its first use (rule D1). Blocks
    /// while the disk works: half a second at most for a store of usual size.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let StoreConfig { dir, node, reserve_bytes } = config;
        let disk = Disk::open(&dir.join("db"))?;
        let reserve = Reserve::new(&dir, reserve_bytes);
        let new = !check_node(&disk, &dir, &node)?;
        let filled = Arc::new(FillMark::read(&disk, new)?);
        let cluster = read_cluster(&disk)?;
        let have = read_have(&disk)?;
        let set_aside = disk.scan(keys::SET_ASIDE).try_fold(0, |count, entry| entry.map(|_| count + 1))?;

        let origin = Origin::random();
        let mut clock = Clock::new(origin);
        if let Some(bytes) = disk.get(keys::CLOCK)? {
            let format = |source| StoreError::Format { what: "the clock's reading", source };
            clock.restore(codec::decode_stamp(&bytes).map_err(format)?);
        }
        let mut own = Vec::new();
        for entry in disk.scan(keys::OWN) {
            own.extend(keys::own_origin(&entry?.0));
        }
        let indexing = Indexing::read(&disk, new, own.len())?;
        own.push(origin);
        let openings = indexing.is_done().then_some(own.len());
        let (name, mark) = (node.to_string(), Arc::clone(&filled));
        disk.transact_blocking(move |transaction| {
            transaction.put(keys::NODE, versioned(name.as_bytes()))?;
            // Together with the name: a store that has a name and no mark was made before the mark existed.
            mark.put(mark.get(), transaction)?;
            openings.map_or(Ok(()), |openings| Indexing::put(openings, transaction))?;
            transaction.put(keys::own(origin), versioned(&wall().0.to_be_bytes()))?;
            Ok::<_, StoreError>(())
        })?;

        let blobs = Blobs::open(&dir.join("blobs"), disk.clone(), reserve.clone())?;
        let recordings =
            Recordings::open_dir(&dir.join("recordings"), disk.clone(), blobs.clone(), reserve.clone())?;
        let shared = Arc::new(Shared {
            clock: Mutex::new(clock),
            have: RwLock::new(have),
            live: broadcast::Sender::new(LIVE),
            observers: RwLock::default(),
            recordings,
            set_aside: AtomicU64::new(set_aside),
        });
        let cluster = Arc::new(Mutex::new(cluster));
        tracing::info!(dir = %dir.display(), %origin, "store opened");
        let purged = PurgeCounts::default();
        let inner = Inner { disk, node, origin, own, cluster, filled, indexing, purged, reserve, blobs, shared };
        Ok(Self(Arc::new(inner)))
    }

    /// The node whose data it holds.
    pub fn node(&self) -> &NodeName {
        &self.0.node
    }

    /// The origin of commits in this incarnation.
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// The origins of all incarnations of this store, this one last. A peer that has more changes of one of them than
    /// [`Self::vector`] has changes that this disk has lost (rule D1).
    pub fn own_origins(&self) -> &[Origin] {
        &self.0.own
    }

    /// The cluster that the data belongs to, once it is set.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        *lock(&self.0.cluster)
    }

    /// Binds the store to a cluster permanently: another cluster is refused later.
    pub async fn set_cluster_id(&self, cluster: ClusterId) -> Result<(), StoreError> {
        let known = Arc::clone(&self.0.cluster);
        let set = move |transaction: &mut Transaction<'_>| {
            let found = *lock(&known);
            match found {
                Some(found) if found != cluster => Err(StoreError::OtherCluster { found, expected: cluster }),
                Some(_) => Ok(()),
                None => Ok(transaction.put(keys::CLUSTER, versioned(&cluster.to_bytes()))?),
            }
        };
        let known = Arc::clone(&self.0.cluster);
        Ok(self.0.disk.transact_then(set, move |()| *lock(&known) = Some(cluster)).await?)
    }

    /// The share of the cluster's data that is here (rule D13).
    pub fn filled(&self) -> Filled {
        self.0.filled.get()
    }

    /// As [`Self::filled`], with its changes.
    pub fn watch_filled(&self) -> watch::Receiver<Filled> {
        self.0.filled.watch()
    }

    /// Raises the mark, durably. For the node that founds a cluster, whose empty store is complete, and for a completed
    /// fill. The mark never falls.
    pub async fn set_filled(&self, to: Filled) -> Result<(), StoreError> {
        let (before, after) = (Arc::clone(&self.0.filled), Arc::clone(&self.0.filled));
        let write = move |transaction: &mut Transaction<'_>| before.put(to, transaction);
        Ok(self.0.disk.transact_then(write, move |()| after.raise(to)).await?)
    }

    /// The blobs that present records name and that are not here, each once; with `deleted` those of deleted records
    /// instead, which may be gone for good. Reads all records: not for a thread that serves calls.
    pub fn missing_blobs(&self, deleted: bool) -> Result<Vec<BlobRef>, StoreError> {
        let mut missing = BTreeMap::new();
        for row in self.0.disk.scan(keys::RECORDS) {
            // An unreadable record is set aside when it comes (rule R11), and does not hold up the others.
            let Ok(record) = decode_record(&row?.1) else { continue };
            if record.is_deleted() != deleted {
                continue;
            }
            let lacks = |blob: &&BlobRef| !self.0.blobs.has(&blob.hash);
            missing.extend(record.blobs().filter(lacks).map(|blob| (blob.hash, *blob)));
        }
        Ok(missing.into_values().collect())
    }

    /// A record, deleted or not. May show a write whose sync is still under way.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.0.disk.get(&keys::record(key))?.map(|bytes| decode_record(&bytes)).transpose()
    }

    /// The records of a table whose id begins with `prefix`, in order, deleted ones included. Not a snapshot:
    /// concurrent commits may be seen or not.
    pub fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Key, Record)>, StoreError> {
        self.rows(table, prefix).collect()
    }

    /// As [`Self::scan`], one record at a time: memory for one, however many there are.
    pub fn rows(
        &self,
        table: Table,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Key, Record), StoreError>> + Send + use<> {
        let rows = self.0.disk.scan(&keys::records(table, prefix));
        rows.map(|row| row.map_err(StoreError::from).and_then(|(key, value)| decode_row(&key, &value)))
    }

    /// The records of a table with an id in `from..to`, one at a time, in order, deleted ones included. Not a snapshot,
    /// as [`Self::scan`].
    pub fn rows_between(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<(Key, Record), StoreError>> + Send + use<> {
        let rows = self.0.disk.scan_range(&keys::records(table, from), &keys::records(table, to));
        rows.map(|row| row.map_err(StoreError::from).and_then(|(key, value)| decode_row(&key, &value)))
    }

    /// Commits the draft of `f`; durable here when it resolves. `f` runs on the committer thread, one commit after the
    /// other, so that it can compare and set; it must be short. With `Err` nothing is written. Dropping the future does
    /// not undo the commit.
    pub async fn commit<R, E, F>(&self, f: F) -> Result<(R, Committed), CommitError<E>>
    where
        F: FnOnce(&mut Draft<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let Inner { disk, node, origin, reserve, shared, .. } = &*self.0;
        let (node, origin, reserve, before) = (node.clone(), *origin, reserve.clone(), Arc::clone(shared));
        let run = move |transaction: &mut Transaction<'_>| {
            let mut clock = lock(&before.clock);
            let mut draft = Draft::new(transaction, &mut clock, &node);
            let result = f(&mut draft).map_err(CommitError::Refused)?;
            let (committed, changes) = draft.finish(origin, &reserve).map_err(CommitError::Store)?;
            Ok((result, committed, changes))
        };
        let after = Arc::clone(shared);
        let then = move |(result, committed, changes)| {
            after.announce(changes);
            (result, committed)
        };
        Ok(disk.transact_then(run, then).await?)
    }

    /// Applies changes, in any order; those that are here already have no effect. Durable when it resolves. Apply a
    /// change that names a blob only when the blob is here.
    pub async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let Inner { disk, reserve, shared, .. } = &*self.0;
        let (reserve, before, after) = (reserve.clone(), Arc::clone(shared), Arc::clone(shared));
        let run = move |transaction: &mut Transaction<'_>| {
            apply(transaction, changes, &mut lock(&before.clock), &reserve, &before.set_aside)
        };
        Ok(disk.transact_then(run, move |new| after.announce(new)).await?)
    }

    /// For each origin the number up to which every change is durable here.
    pub fn vector(&self) -> Vector {
        let have = self.0.shared.have.read().unwrap_or_else(PoisonError::into_inner);
        have.iter().map(|(origin, seqs)| (*origin, seqs.run_end(1) - 1)).collect()
    }

    /// For each origin the numbers of the changes that are durable here: the gap-free prefixes of [`Self::vector`] and
    /// those beyond them, as of one moment.
    pub fn holdings(&self) -> BTreeMap<Origin, Ranges> {
        self.0.shared.have.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True when the change is durable here, within the gap-free prefix or beyond it.
    pub fn has(&self, origin: Origin, seq: u64) -> bool {
        let have = self.0.shared.have.read().unwrap_or_else(PoisonError::into_inner);
        have.get(&origin).is_some_and(|seqs| seqs.contains(seq))
    }

    /// Changes that are durable here and that `theirs` does not cover, by origin in ascending order: at most
    /// `limit` and about a megabyte, but at least one if there is any.
    pub fn changes_after(&self, theirs: &Vector, limit: usize) -> Result<Vec<Change>, StoreError> {
        // Only durable changes: a peer must not know of a change that a power cut here could still undo.
        let have = self.0.shared.have.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut changes = Vec::new();
        let mut bytes = 0;
        for (origin, seqs) in have {
            let start = theirs.get(origin).saturating_add(1);
            let end = seqs.end();
            if start >= end {
                continue;
            }
            for entry in self.0.disk.scan_range(&keys::change(origin, start), &keys::change(origin, end)) {
                if changes.len() >= limit || (bytes >= BATCH && !changes.is_empty()) {
                    return Ok(changes);
                }
                let (key, value) = entry?;
                if keys::change_seq(&key).is_some_and(|seq| seqs.contains(seq)) {
                    bytes += value.len();
                    let format = |source| StoreError::Format { what: "a change in the log", source };
                    changes.push(codec::decode_change(&value).map_err(format)?);
                }
            }
        }
        Ok(changes)
    }

    /// Every change that is committed or applied here from now on, in that order, once it is durable. A receiver that
    /// lags reads [`Self::changes_after`] instead.
    pub fn live(&self) -> broadcast::Receiver<Arc<Change>> {
        self.0.shared.live.subscribe()
    }

    /// Calls `observer` for every change that is committed or applied here from now on, once it is durable. The call
    /// comes before the writer is answered and before [`Self::live`] has the change, so that a receiver of the change
    /// finds the observer's result. It runs on the committer thread: it must be short and must not write to the store.
    pub fn observe(&self, observer: impl Fn(&Change) + Send + Sync + 'static) {
        self.0.shared.observers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(observer));
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// The recordings in progress.
    pub fn recordings(&self) -> &Recordings {
        &self.0.shared.recordings
    }

    /// Health of the store.
    pub fn health(&self) -> StoreHealth {
        StoreHealth {
            broken: self.0.disk.broken().map(str::to_owned),
            set_aside: self.0.shared.set_aside.load(Ordering::Relaxed),
        }
    }

    /// Writes a small value, waits until it is durable, as every commit does, and returns the duration: tests whether
    /// disk and committer still work. [`StoreError::is_full`] when there is no room even for that.
    pub async fn probe(&self) -> Result<Duration, StoreError> {
        let begun = BootInstant::now();
        let reserve = self.0.reserve.clone();
        let write = move |transaction: &mut Transaction<'_>| {
            reserve.check(Need::Small)?;
            Ok::<_, StoreError>(transaction.put(keys::PROBE, versioned(&wall().0.to_be_bytes()))?)
        };
        self.0.disk.transact(write).await?;
        Ok(begun.elapsed())
    }

    /// Stops all writes of this process: for a caller that finds its written data unreliable (rule A4).
    pub fn mark_broken(&self, detail: &str) {
        self.0.disk.mark_broken(detail);
    }

    /// Counts of purged records and audio.
    pub fn purge_counts(&self) -> &PurgeCounts {
        &self.0.purged
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.0.disk
    }

    pub(crate) fn indexing(&self) -> &Indexing {
        &self.0.indexing
    }

    /// Free space of the file system.
    pub fn space(&self) -> Result<Space, StoreError> {
        Ok(self.0.reserve.space()?)
    }
}

impl Shared {
    /// Publishes the changes of a durable commit.
    fn announce(&self, changes: Vec<Change>) {
        let mut have = self.have.write().unwrap_or_else(PoisonError::into_inner);
        for change in &changes {
            have.entry(change.origin).or_default().insert(change.seq..change.seq.saturating_add(1));
        }
        drop(have);
        let observers = self.observers.read().unwrap_or_else(PoisonError::into_inner);
        changes.iter().for_each(|change| observers.iter().for_each(|observer| observer(change)));
        drop(observers);
        for change in changes {
            for (id, take) in change.delta.blobs().filter_map(|blob| blob.recording) {
                self.recordings.filed(id, take);
            }
            // No receiver is no error: a single node has none.
            let _ = self.live.send(Arc::new(change));
        }
    }
}

/// A poisoned lock holds a consistent value: each is changed in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn versioned(bytes: &[u8]) -> Vec<u8> {
    [&[FORMAT][..], bytes].concat()
}

pub(crate) fn unversioned<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], StoreError> {
    let source = match bytes {
        [FORMAT, rest @ ..] => return Ok(rest),
        [found, ..] => codec::DecodeError::Version { found: *found },
        [] => codec::DecodeError::Empty,
    };
    Err(StoreError::Format { what, source })
}

/// Whether the store has its node's name; refused if it is another's.
fn check_node(disk: &Disk, dir: &Path, node: &NodeName) -> Result<bool, StoreError> {
    let Some(bytes) = disk.get(keys::NODE)? else { return Ok(false) };
    let found = String::from_utf8_lossy(unversioned(&bytes, "the node's name")?).into_owned();
    if found == node.as_str() {
        Ok(true)
    } else {
        Err(StoreError::OtherNode { dir: dir.to_owned(), found, expected: node.clone() })
    }
}

fn read_cluster(disk: &Disk) -> Result<Option<ClusterId>, StoreError> {
    let what = "the cluster id";
    let Some(bytes) = disk.get(keys::CLUSTER)? else { return Ok(None) };
    let invalid = StoreError::Format { what, source: codec::DecodeError::Invalid("length") };
    ClusterId::from_slice(unversioned(&bytes, what)?).map(Some).ok_or(invalid)
}

/// The changes here, by origin: the gap-free prefix as stored, and the changes beyond it from the log.
fn read_have(disk: &Disk) -> Result<BTreeMap<Origin, Ranges>, StoreError> {
    let mut have: BTreeMap<Origin, Ranges> = BTreeMap::new();
    for entry in disk.scan(keys::VECTOR) {
        let (key, value) = entry?;
        let Some(origin) = keys::prefix_origin(&key) else { continue };
        have.entry(origin).or_default().insert(1..decode_upto(Some(&value))?.saturating_add(1));
    }
    // An origin of which only later changes are here has no prefix: go from origin to origin.
    let mut from = keys::change(Origin(0), 0);
    let end = keys::change(Origin(u128::MAX), u64::MAX);
    while let Some(entry) = disk.scan_range(&from, &end).next() {
        let Some(origin) = keys::change_origin(&entry?.0) else { break };
        let seqs = have.entry(origin).or_default();
        let beyond = keys::change(origin, seqs.run_end(1));
        for entry in disk.scan_range(&beyond, &keys::change(origin, u64::MAX)) {
            if let Some(seq) = keys::change_seq(&entry?.0) {
                seqs.insert(seq..seq.saturating_add(1));
            }
        }
        from = keys::change(origin, u64::MAX);
    }
    Ok(have)
}
