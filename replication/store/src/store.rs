//! The store: one node's records, changes and vector.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use tokio::sync::watch;
use twinbox_clock::{BootInstant, wall};
use twinbox_disk::{Disk, IndexSpace, Need, Options, Reserve, Space, Transaction};
use twinbox_handle::Handle;
use twinbox_ids::{ClusterId, NodeName, Origin};
use twinbox_replication_core::{BlobRef, Change, Clock, Filled, Have, Key, Ranges, Record, Table, Vector};
use twinbox_replication_feed::{Feed, HELD_BYTES, LiveChanges, LiveReader};

use crate::{
    Blobs, PurgeCounts, Recordings, StoreError,
    apply::{Applied, apply},
    audio::open_packs,
    codec::{self, FORMAT},
    draft::{decode_record, decode_row},
    filled::FillMark,
    have,
    identity::{self, check_node, read_cluster},
    index::{self, Indexing},
    keys,
    log::Log,
    lost::note_lost,
    sums::Sums,
};

/// Records or blobs that one transaction removes or moves: commits of callers wait for it.
pub(crate) const IN_A_TRANSACTION: usize = 8;

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
    /// Changes that were set aside because their record cannot be read or would grow too large (rule R11).
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
pub struct Store(Handle<Inner>);

struct Inner {
    disk: Disk,
    node: NodeName,
    origin: Origin,
    own: Vec<Origin>,
    cluster: Arc<Mutex<Option<ClusterId>>>,
    filled: Arc<FillMark>,
    indexing: Indexing,
    log: Log,
    purged: PurgeCounts,
    reserve: Reserve,
    blobs: Blobs,
    shared: Arc<Shared>,
}

/// Called for each change, on the committer thread.
type Observer = Box<dyn Fn(&Change) + Send + Sync>;

/// State of the committer thread.
pub(crate) struct Shared {
    pub(crate) clock: Mutex<Clock>,
    have: RwLock<Have>,
    pub(crate) feed: Feed,
    live: LiveChanges,
    observers: RwLock<Vec<Observer>>,
    recordings: Recordings,
    pub(crate) sums: Sums,
}

impl Store {
    /// Opens the store and begins a new incarnation of it: a new origin, durable before its first use (rule D1). Blocks while the disk
    /// works: half a second at most for a store of usual size, and some seconds more when an earlier release wrote to it.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let StoreConfig { dir, node, reserve_bytes } = config;
        let options = Options::with_reserve(reserve_bytes).appending(keys::LOG, keys::CHANGE_LENGTH);
        let disk = Disk::open_with(&dir.join("db"), options)?;
        let reserve = Reserve::new(&dir, reserve_bytes);
        let new = !check_node(&disk, &dir, &node)?;
        let filled = Arc::new(FillMark::read(&disk, new)?);
        let cluster = read_cluster(&disk)?;
        let (have, log) = (have::read(&disk)?, Log::read(&disk)?);

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
        if !index::is_complete(&disk, keys::PRESENT_INDEXED, new, own.len())? {
            index::list_present(&disk)?;
        }
        own.push(origin);
        let (openings, is_indexed) = (own.len(), indexing.is_done());
        let (name, mark) = (node.to_string(), Arc::clone(&filled));
        disk.transact_blocking(move |transaction| {
            transaction.put(keys::NODE, identity::named(&name))?;
            // Together with the name: a store that has a name and no mark was made before the mark existed.
            mark.put(mark.get(), transaction)?;
            for mark in is_indexed.then_some(keys::INDEXED).into_iter().chain([keys::PRESENT_INDEXED]) {
                index::put_mark(transaction, mark, openings)?;
            }
            transaction.put(keys::own(origin), versioned(&wall().0.to_be_bytes()))?;
            Ok::<_, StoreError>(())
        })?;

        let packs = open_packs(&dir, &disk, &reserve)?;
        let blobs = Blobs::open(packs, disk.clone(), reserve.clone())?;
        let (feed, purged) = (Feed::new(HELD_BYTES), PurgeCounts::default());
        let recordings = Recordings::load(disk.clone(), blobs.clone(), reserve.clone(), feed.clone())?;
        let shared = Arc::new(Shared {
            clock: Mutex::new(clock),
            have: RwLock::new(have),
            feed,
            live: LiveChanges::default(),
            observers: RwLock::default(),
            recordings,
            sums: Sums::default(),
        });
        let cluster = Arc::new(Mutex::new(cluster));
        tracing::info!(dir = %dir.display(), %origin, "store opened");
        let inner =
            Inner { disk, node, origin, own, cluster, filled, indexing, log, purged, reserve, blobs, shared };
        Ok(Self(Handle::new(inner)))
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
    /// fill. Only [`Self::reopen_fill`] lowers it.
    pub async fn set_filled(&self, to: Filled) -> Result<(), StoreError> {
        let (before, after) = (Arc::clone(&self.0.filled), Arc::clone(&self.0.filled));
        let write = move |transaction: &mut Transaction<'_>| before.put(to, transaction);
        Ok(self.0.disk.transact_then(write, move |()| after.raise(to)).await?)
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

    /// Applies changes, in any order; those that are here already have no effect. Durable when it resolves. Apply a
    /// change that names a blob only when the blob is here.
    pub async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.apply_without(changes, Vec::new()).await
    }

    /// As [`Self::apply`], without the blobs in `lost`, which these changes or earlier ones name: blobs that are not here are
    /// noted with them ([`Self::lost_blobs`]).
    pub async fn apply_without(&self, changes: Vec<Change>, lost: Vec<BlobRef>) -> Result<(), StoreError> {
        let Inner { disk, reserve, blobs, shared, .. } = &*self.0;
        let (audio, written) = (blobs.clone(), blobs.clone());
        let (reserve, before, after) = (reserve.clone(), Arc::clone(shared), Arc::clone(shared));
        let run = move |transaction: &mut Transaction<'_>| {
            let applied = apply(transaction, changes, &before, &reserve)?;
            audio.write_rows(transaction, &applied.new)?;
            note_lost(transaction, &audio, &lost)?;
            Ok::<_, StoreError>(applied)
        };
        let then = move |Applied { new, rows, aside }| {
            written.rows_written(&new);
            after.sums.follow(rows);
            after.announce(new, aside);
        };
        Ok(disk.transact_then(run, then).await?)
    }

    /// For each origin the number up to which every change is durable and in its row here: a prefix ends before a change
    /// that was set aside. This vector is reported to peers.
    pub fn vector(&self) -> Vector {
        let have = self.0.shared.have();
        have.vector(&self.begins_for(&have))
    }

    /// For each origin the numbers of the changes that are durable here and in their rows, as of one moment.
    pub fn applied(&self) -> BTreeMap<Origin, Ranges> {
        let have = self.0.shared.have();
        have.applied(&self.begins_for(&have))
    }

    /// The beginning of the log; only changes that were set aside ask for it.
    fn begins_for(&self, have: &Have) -> Vector {
        if have.aside.is_empty() { Vector::new() } else { self.log_begins() }
    }

    /// For each origin the numbers of the changes that are durable here, those that were set aside too, as of one moment.
    pub fn holdings(&self) -> BTreeMap<Origin, Ranges> {
        self.0.shared.have().durable.clone()
    }

    /// True when the change is durable here, set aside or not.
    pub fn has(&self, origin: Origin, seq: u64) -> bool {
        self.first_missing(origin, seq) > seq
    }

    /// The first number from `from` on whose change of this origin is not durable here.
    pub fn first_missing(&self, origin: Origin, from: u64) -> u64 {
        self.0.shared.have().first_missing(origin, from)
    }

    /// True when the change is durable here and in its row.
    pub fn is_applied(&self, origin: Origin, seq: u64) -> bool {
        self.0.shared.have().is_applied(origin, seq)
    }

    /// For the parts of this process, every wanted change that is committed or applied here from now on, in that order, once it is
    /// durable. A reader that lags reads the records again. A change with the number 0 is no change of an origin: a row was repaired
    /// ([`Self::repair`]). `wants` runs on the committer thread, as [`Self::observe`] says. A stream to a peer reads [`Self::feed`].
    pub fn live(&self, wants: impl Fn(&Change) -> bool + Send + Sync + 'static) -> LiveReader {
        self.0.shared.live.reader(wants)
    }

    /// The chunks and discards of recordings and the changes from now on, for the streams to peers. Earlier ones are in
    /// [`Store::vector`] and [`crate::Recordings::open`], read after a reader has begun. A row that was repaired
    /// ([`Store::repair`]) is no change and is not there.
    pub fn feed(&self) -> &Feed {
        &self.0.shared.feed
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
        StoreHealth { broken: self.0.blobs.broken(), set_aside: self.0.shared.have().aside.len() as u64 }
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

    /// Stamps by the cluster's time, which the wall clock here is this many milliseconds behind; 0: by the wall clock.
    pub fn correct_clock(&self, behind_ms: i64) {
        lock(&self.0.shared.clock).correct(behind_ms);
    }

    /// Stops all writes of this process: for a caller that finds its written data unreliable (rule A4).
    pub fn mark_broken(&self, detail: &str) {
        self.0.disk.mark_broken(detail);
    }

    /// Counts of purged records and audio.
    pub fn purge_counts(&self) -> &PurgeCounts {
        &self.0.purged
    }

    /// Length of the index's file and bytes of its rows; `None` while these are being counted.
    pub fn index_space(&self) -> Option<IndexSpace> {
        self.0.disk.index_space()
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.0.disk
    }

    pub(crate) fn fill_mark(&self) -> &Arc<FillMark> {
        &self.0.filled
    }

    pub(crate) fn log(&self) -> &Log {
        &self.0.log
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0.shared)
    }

    pub(crate) fn sums(&self) -> &Sums {
        &self.0.shared.sums
    }

    pub(crate) fn reserve(&self) -> &Reserve {
        &self.0.reserve
    }

    pub(crate) fn indexing(&self) -> &Indexing {
        &self.0.indexing
    }

    /// Folder of its index, on the file system of [`Self::space`].
    pub fn dir(&self) -> &Path {
        self.0.disk.dir()
    }

    /// Free space of the file system.
    pub fn space(&self) -> Result<Space, StoreError> {
        Ok(self.0.reserve.space()?)
    }
}

impl Shared {
    pub(crate) fn have(&self) -> RwLockReadGuard<'_, Have> {
        self.have.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify_observers(&self, changes: &[Change]) {
        let observers = self.observers.read().unwrap_or_else(PoisonError::into_inner);
        changes.iter().for_each(|change| observers.iter().for_each(|observer| observer(change)));
    }

    /// Notifies observers and readers of live changes that rows were repaired, by changes without a number.
    pub(crate) fn tell(&self, repaired: Vec<Change>) {
        self.notify_observers(&repaired);
        self.live.send(repaired);
    }

    /// Notes that all changes of these origins up to these numbers are in their rows.
    pub(crate) fn add_to_have(&self, prefixes: Vec<(Origin, u64)>) {
        let mut have = self.have.write().unwrap_or_else(PoisonError::into_inner);
        for (origin, upto) in prefixes {
            have.durable.entry(origin).or_default().insert(1..upto.saturating_add(1));
        }
    }

    /// Notes that changes that were set aside are in their records now.
    pub(crate) fn clear_set_aside(&self, cleared: &[(Origin, u64)]) {
        let mut have = self.have.write().unwrap_or_else(PoisonError::into_inner);
        have.aside.retain(|change| !cleared.contains(change));
    }

    /// Publishes the changes of a durable commit; those in `aside` are not in their rows.
    pub(crate) fn announce(&self, changes: Vec<Change>, aside: BTreeSet<(Origin, u64)>) {
        let mut have = self.have.write().unwrap_or_else(PoisonError::into_inner);
        for change in &changes {
            let seqs = have.durable.entry(change.origin).or_default();
            seqs.insert(change.seq..change.seq.saturating_add(1));
        }
        have.aside.extend(aside);
        drop(have);
        self.notify_observers(&changes);
        self.feed.append_changes(&changes);
        let blobs = changes.iter().flat_map(|change| change.delta.blobs());
        for (take, hash) in blobs.filter_map(|blob| Some((blob.recording?, blob.hash))) {
            self.recordings.filed(take, hash);
        }
        self.live.send(changes);
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
