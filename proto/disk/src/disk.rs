//! The disk itself: opens it safely, reads, and passes transactions to the committer.

use std::{
    fs::{self, File},
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use crate::{
    DiskError, IndexSpace, Options, Pair, TransactError, Transaction,
    committer::{Task, Urgency, answered},
    engine::Engine,
    file,
    flow::Limits,
    health::Health,
    index::Index,
    medium::Folder,
    range::KeyRange,
    rows::Scan,
    runs::{self, Runs, Sizes},
    sled_index::SledIndex,
    sync,
    transaction::Stored,
    verify::VerifyRequest,
};

/// An ordered store of keys and values with durable commits. Clones share one store; it closes when the last is
/// dropped.
#[derive(Clone)]
pub struct Disk {
    engine: Arc<Engine<SledIndex, Folder>>,
    urgency: Urgency,
}

impl Disk {
    /// Opens the store in `dir` with the usual settings; for the rest see [`Self::open_with`].
    #[cfg(not(feature = "simulation"))]
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        Self::open_with(dir, Options::default())
    }

    /// Opens the store in `dir`, which is created if it is missing. Refuses a directory that is in use, and a program
    /// whose flush does not reach the disk.
    pub fn open_with(dir: &Path, options: Options) -> Result<Self, DiskError> {
        file::create_dir_durably(dir)?;
        let dir = fs::canonicalize(dir).map_err(|e| DiskError::io("resolve", dir, &e))?;
        let lock = lock(&dir)?;
        let request = VerifyRequest::of(&dir);
        let index = SledIndex::open(&dir, options.left_free)?;
        if request.is_made() {
            tracing::warn!(dir = %dir.display(), "an earlier process failed to write, or found damage: the whole index is read");
            index.verify()?;
        }
        let runs = match options.appended {
            Some(rows) => {
                let folder = Folder::of_index(&runs::folder(&dir))?;
                Some(Runs::open(&dir, folder, (rows, Sizes::USUAL), index.noted_runs()?)?)
            }
            None => None,
        };
        if let Some(runs) = runs.as_ref().filter(|_| request.is_made()) {
            runs.verify()?;
        }
        let journal = Folder::of_journal(&dir.join("journal"))?;
        let health = Arc::new(Health::new(dir));
        let engine = Engine::start(health, (index, runs), journal, options, Limits::of(options), Some(lock))?;
        request.remove()?;
        Ok(Self { engine: Arc::new(engine), urgency: Urgency::Now })
    }

    /// The same store, for transactions of another urgency.
    pub fn at(&self, urgency: Urgency) -> Self {
        Self { urgency, ..self.clone() }
    }

    /// The value of a key. It is durable.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.engine.rows().get(key)
    }

    /// All keys that begin with `prefix`, with their values, in order. Not a snapshot: concurrent writes may be seen or
    /// not. Rows committed before the scan began are seen.
    pub fn scan(&self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> + Send + use<> {
        Scan::new(Arc::clone(self.engine.rows()), KeyRange::prefix(prefix))
    }

    /// The keys in `start..end` with their values, in order; like [`Self::scan`] otherwise.
    pub fn scan_range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> + Send + use<> {
        Scan::new(Arc::clone(self.engine.rows()), KeyRange::between(start, end))
    }

    /// Runs `f` on the committer thread: in order, but for [`Urgency::Background`], seeing all earlier commits. When the
    /// future resolves with `Ok`, its writes are on the disk, and readers see them. With `Err` nothing is written, with one
    /// exception: the writes that [`DiskError::Broken`] refuses are invisible in this process, and there or not after the
    /// next start. Dropping the future does not stop a transaction that was handed over.
    pub async fn transact<R, E, F>(&self, f: F) -> Result<R, TransactError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        self.transact_then(f, |result| result).await
    }

    /// Like [`Self::transact`]; `then` also runs on the committer thread, once the writes are durable, in the order of
    /// the commits. It must be short: all commits wait for it.
    pub async fn transact_then<R, E, S, F, T>(&self, f: F, then: T) -> Result<S, TransactError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        T: FnOnce(R) -> S + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
        S: Send + 'static,
    {
        let (job, answer) = answered(f, then);
        self.engine.enqueue(self.urgency, job).await.map_err(TransactError::Disk)?;
        answer.await.unwrap_or(Err(TransactError::Disk(DiskError::Panicked)))
    }

    /// Like [`Self::transact`], but does not wait for the disk: returns when the transaction is in the queue, behind
    /// all earlier ones. `done` is called on the committer thread, once the writes are durable or have failed, in the
    /// order of the commits. It must be short: all commits wait for it.
    pub async fn submit<R, E, F, D>(&self, f: F, done: D) -> Result<(), DiskError>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        D: FnOnce(Result<R, TransactError<E>>) + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        self.engine.enqueue(self.urgency, Box::new(Task::new(f, done))).await
    }

    /// Like [`Self::transact`], for threads: blocks the calling thread, so in an async runtime use it only at start-up.
    /// Refused within a transaction and its callbacks.
    pub fn transact_blocking<R, E, F>(&self, f: F) -> Result<R, TransactError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        if self.engine.is_committer(thread::current().id()) {
            return Err(TransactError::Disk(DiskError::WaitsForItself));
        }
        block_on(self.transact(f))
    }

    /// Stops all writes: for a caller that sees a sync fail on a file of this store (rule A4).
    pub fn mark_broken(&self, detail: &str) {
        self.engine.health().fail(detail.to_owned());
    }

    /// Reason why no more writes are accepted, if so.
    pub fn broken(&self) -> Option<&str> {
        self.engine.health().failure()
    }

    /// The length of the index's file and the bytes of its rows; `None` while these are being counted.
    pub fn index_space(&self) -> Option<IndexSpace> {
        self.engine.rows().space()
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.engine.health().dir()
    }

    /// Number of syncs of this process, of stores and files together.
    pub fn fsync_count() -> u64 {
        sync::count()
    }

    /// Time of all syncs by this process, added up over threads.
    pub fn fsync_time() -> Duration {
        sync::time()
    }
}

/// Waits for a future on this thread. Unlike tokio's own it may be called within a runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    // Within a task of tokio's, a poll may otherwise end early for the sake of other tasks, and no waker is called.
    let mut future = pin!(tokio::task::coop::unconstrained(future));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Attempts, every 10 ms, to lock the directory of a store.
const LOCK_ATTEMPTS: u32 = 300;

/// The lock of a store's directory, which exists. The threads of a store that was closed, or a process that ends, hold it for
/// some milliseconds more.
pub(crate) fn lock(dir: &Path) -> Result<File, DiskError> {
    let path = dir.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| DiskError::io("open", &path, &e))?;
    for _ in 0..LOCK_ATTEMPTS {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(Duration::from_millis(10)),
            Err(e) => return Err(DiskError::io("lock", &path, &e.into())),
        }
    }
    Err(DiskError::InUse { dir: dir.to_owned() })
}
