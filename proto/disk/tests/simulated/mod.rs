//! The disks of simulated machines: committed writes stay; uncommitted ones are lost with the process, or stay all the
//! same. A [`Platter`] outlives the process that had it open.
//!
//! A [`NodePlatter`] is a disk with files: a store on it has the real journal, index and runs, and its packs are files of the same
//! disk.

mod folder;
mod node_disk;
mod node_files;
mod node_index;
mod node_platter;
#[path = "../../../journal/tests/journal/stale_batches.rs"]
mod stale_batches;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    DiskError, IndexSpace, Options, Pair, TransactError, Transaction,
    committer::{Job, QUEUE, Task, Urgency, answered},
    disk,
    range::KeyRange,
    rows::Scan,
    transaction::{Overlay, Stored},
};

pub use self::{
    folder::{Folder, OpenFile},
    node_platter::{Fault, NodePlatter, ProcessEnd, Upkeep},
};
use self::{node_disk::NodeDisk, node_platter::mounted};

thread_local! {
    static MACHINES: RefCell<BTreeMap<PathBuf, Platter>> = const { RefCell::new(BTreeMap::new()) };
}

/// Behaviour of one sync.
#[derive(Debug, Clone, Copy)]
pub struct Sync {
    /// Duration.
    pub takes: Duration,
    /// Whether the write is on disk after all if the process dies before the sync is reported.
    pub kept_if_killed: bool,
    /// Whether the disk only reports success: this write and later ones are lost if the process dies before a true
    /// sync.
    pub lies: bool,
}

/// The content of a disk. Clones are one disk.
#[derive(Clone)]
pub struct Platter(Arc<Mutex<Written>>);

struct Written {
    pairs: Overlay,
    /// The content at the last true sync, if the disk has lied since.
    synced: Option<Overlay>,
    syncs: Box<dyn FnMut() -> Sync + Send>,
}

impl Platter {
    /// An empty disk; `syncs` gives the behaviour of each sync.
    pub fn new(syncs: impl FnMut() -> Sync + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Written { pairs: Overlay::new(), synced: None, syncs: Box::new(syncs) })))
    }

    /// Mounts the disk at `dir` for a [`Disk`] that is opened on this thread.
    pub fn mount(&self, dir: &Path) {
        MACHINES.with_borrow_mut(|machines| machines.insert(dir.to_owned(), self.clone()));
    }

    /// Simulates the death of the process that had the disk open.
    pub fn crash(&self) {
        let mut written = self.written();
        if let Some(synced) = written.synced.take() {
            written.pairs = synced;
        }
    }

    /// A copy of the whole content.
    pub fn image(&self) -> Vec<Pair> {
        self.written().pairs.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect()
    }

    /// Replaces the content by a copy; the disk must not be open.
    pub fn restore(&self, image: Vec<Pair>) {
        self.written().pairs = image.into_iter().map(|(key, value)| (key, Some(value))).collect();
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    /// Takes note of the next write with the behaviour of its sync.
    fn sync(&mut self, sync: Sync) {
        self.synced = match sync.lies {
            true => Some(self.synced.take().unwrap_or_else(|| self.pairs.clone())),
            false => None,
        };
    }
}

/// A disk, of this machine or of a simulated one; for the guarantees see the real one.
#[derive(Clone)]
pub struct Disk(Kind);

#[derive(Clone)]
enum Kind {
    Real(disk::Disk),
    Simulated(Arc<Simulated>),
    /// On the disk of a node.
    Node(Arc<NodeDisk>),
}

struct Simulated {
    dir: PathBuf,
    platter: Platter,
    queue: mpsc::Sender<Box<dyn Job>>,
}

impl Disk {
    /// Opens the store in `dir` with the usual settings: a simulated one if one is mounted there.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        Self::open_with(dir, Options::default())
    }

    /// Opens the store in `dir`: a simulated one if one is mounted there, which has no settings but for its appended rows.
    pub fn open_with(dir: &Path, options: Options) -> Result<Self, DiskError> {
        if let Some(platter) = mounted(dir) {
            return NodeDisk::open(&platter, dir, options).map(|disk| Self(Kind::Node(disk)));
        }
        let Some(platter) = MACHINES.with_borrow(|machines| machines.get(dir).cloned()) else {
            return disk::Disk::open_with(dir, options).map(|disk| Self(Kind::Real(disk)));
        };
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(commit(platter.clone(), jobs));
        Ok(Self(Kind::Simulated(Arc::new(Simulated { dir: dir.to_owned(), platter, queue }))))
    }

    /// The same store; a simulated one keeps the order of arrival.
    pub fn at(&self, urgency: Urgency) -> Self {
        match &self.0 {
            Kind::Real(disk) => Self(Kind::Real(disk.at(urgency))),
            Kind::Simulated(_) | Kind::Node(_) => self.clone(),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        match &self.0 {
            Kind::Real(disk) => disk.get(key),
            Kind::Simulated(disk) => Ok(disk.platter.written().pairs.get(key).cloned().flatten()),
            Kind::Node(disk) => disk.rows().get(key),
        }
    }

    /// All keys that begin with `prefix`, with their values, in order.
    pub fn scan(&self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> + Send + use<> {
        let (real, node, simulated) = match &self.0 {
            Kind::Real(disk) => (Some(disk.scan(prefix)), None, Vec::new()),
            Kind::Simulated(disk) => (None, None, disk.pairs(|key| key.starts_with(prefix))),
            Kind::Node(disk) => {
                (None, Some(Scan::new(Arc::clone(disk.rows()), KeyRange::prefix(prefix))), Vec::new())
            }
        };
        let real = real.into_iter().flatten().chain(node.into_iter().flatten());
        real.chain(simulated.into_iter().map(Ok))
    }

    /// The keys in `start..end` with their values, in order.
    pub fn scan_range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> + Send + use<> {
        let (real, node, simulated) = match &self.0 {
            Kind::Real(disk) => (Some(disk.scan_range(start, end)), None, Vec::new()),
            Kind::Simulated(disk) => (None, None, disk.pairs(|key| start <= key && key < end)),
            Kind::Node(disk) => {
                (None, Some(Scan::new(Arc::clone(disk.rows()), KeyRange::between(start, end))), Vec::new())
            }
        };
        let real = real.into_iter().flatten().chain(node.into_iter().flatten());
        real.chain(simulated.into_iter().map(Ok))
    }

    /// Runs `f` in order, seeing all earlier commits.
    pub async fn transact<R, E, F>(&self, f: F) -> Result<R, TransactError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        self.transact_then(f, |result| result).await
    }

    /// Like [`Self::transact`]; `then` runs once the writes are durable, in the order of the commits.
    pub async fn transact_then<R, E, S, F, T>(&self, f: F, then: T) -> Result<S, TransactError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        T: FnOnce(R) -> S + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
        S: Send + 'static,
    {
        let answer = match &self.0 {
            Kind::Real(disk) => return disk.transact_then(f, then).await,
            Kind::Simulated(disk) => {
                let (job, answer) = answered(f, then);
                disk.enqueue(job).await.map_err(TransactError::Disk)?;
                answer
            }
            Kind::Node(disk) => {
                let (job, answer) = answered(f, then);
                disk.commit(job);
                answer
            }
        };
        answer.await.unwrap_or(Err(TransactError::Disk(DiskError::Closed)))
    }

    /// Like [`Self::transact`], but does not wait for the disk; `done` is called once the writes are durable or have
    /// failed.
    pub async fn submit<R, E, F, D>(&self, f: F, done: D) -> Result<(), DiskError>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        D: FnOnce(Result<R, TransactError<E>>) + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        match &self.0 {
            Kind::Real(disk) => disk.submit(f, done).await,
            Kind::Simulated(disk) => disk.enqueue(Box::new(Task::new(f, done))).await,
            Kind::Node(disk) => {
                disk.commit(Box::new(Task::new(f, done)));
                Ok(())
            }
        }
    }

    /// Like [`Self::transact`], for threads. Refused by a [`Platter`], whose machine has no threads.
    pub fn transact_blocking<R, E, F>(&self, f: F) -> Result<R, TransactError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        match &self.0 {
            Kind::Real(disk) => disk.transact_blocking(f),
            Kind::Simulated(_) => Err(TransactError::Disk(DiskError::Closed)),
            Kind::Node(_) => disk::block_on(self.transact(f)),
        }
    }

    /// Stops all writes. A [`Platter`] does not break.
    pub fn mark_broken(&self, detail: &str) {
        match &self.0 {
            Kind::Real(disk) => disk.mark_broken(detail),
            Kind::Simulated(_) => {}
            Kind::Node(disk) => disk.mark_broken(detail),
        }
    }

    /// Reason why no more writes are accepted, if so.
    pub fn broken(&self) -> Option<&str> {
        match &self.0 {
            Kind::Real(disk) => disk.broken(),
            Kind::Simulated(_) => None,
            Kind::Node(disk) => disk.broken(),
        }
    }

    /// The length of the index's file and the bytes of its rows.
    pub fn index_space(&self) -> Option<IndexSpace> {
        match &self.0 {
            Kind::Real(disk) => disk.index_space(),
            Kind::Simulated(_) => None,
            Kind::Node(disk) => disk.rows().space(),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        match &self.0 {
            Kind::Real(disk) => disk.dir(),
            Kind::Simulated(disk) => &disk.dir,
            Kind::Node(disk) => disk.dir(),
        }
    }

    /// Number of syncs of this process on real disks.
    pub fn fsync_count() -> u64 {
        disk::Disk::fsync_count()
    }

    /// Time of these syncs, added up over threads.
    pub fn fsync_time() -> Duration {
        disk::Disk::fsync_time()
    }
}

impl Simulated {
    async fn enqueue(&self, job: Box<dyn Job>) -> Result<(), DiskError> {
        self.queue.send(job).await.map_err(|_| DiskError::Closed)
    }

    fn pairs(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Pair> {
        self.platter.image().into_iter().filter(|(key, _)| wanted(key)).collect()
    }
}

/// The committer of a simulated disk: a task, which dies with its machine.
async fn commit(platter: Platter, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(mut job) = queue.recv().await {
        let (writes, sync) = {
            let mut written = platter.written();
            let mut transaction = Transaction::new(None, &written.pairs);
            let writes = if job.run(&mut transaction) { transaction.into_writes() } else { Overlay::new() };
            (writes, (written.syncs)())
        };
        if !writes.is_empty() {
            platter.written().sync(sync);
            let unsynced = Unsynced { platter: &platter, writes, kept_if_killed: sync.kept_if_killed };
            tokio::time::sleep(sync.takes).await;
            unsynced.write();
        }
        job.finish(Ok(()));
    }
}

/// Writes that have not been reported yet.
struct Unsynced<'a> {
    platter: &'a Platter,
    writes: Overlay,
    kept_if_killed: bool,
}

impl Unsynced<'_> {
    fn write(mut self) {
        self.kept_if_killed = true;
    }
}

impl Drop for Unsynced<'_> {
    fn drop(&mut self) {
        if self.kept_if_killed {
            let mut written = self.platter.written();
            written.pairs.extend(std::mem::take(&mut self.writes));
            written.pairs.retain(|_, value| value.is_some());
        }
    }
}
