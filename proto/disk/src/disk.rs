//! The disk itself: opens it safely, reads, and passes transactions to the committer.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Wake, Waker},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    DiskError, Pair, TransactError, Transaction,
    committer::{Committer, Job, QUEUE, Task, answered, index_error},
    file, leftovers, sync,
};

/// Segment size of the index. A page over a quarter of it would not be synced: see [`crate::MAX_VALUE`].
const SEGMENT: usize = 4 * 1024 * 1024;

/// Cache size of the index, in bytes.
const CACHE: u64 = 64 * 1024 * 1024;

/// Maximum attempts, every 10 ms, to take a lock that threads of this process still hold.
const LOCK_TRIES: u32 = 500;

/// Written at opening, to check that a flush syncs. Removed immediately.
const SELF_TEST: &[u8] = b"\0self-test";

/// An ordered store of keys and values with durable commits. Clones share one store; it closes when the last is
/// dropped.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    broken: Arc<OnceLock<String>>,
    // In this order: no more jobs, the thread ends, the index closes, the lock is released.
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    db: sled::Db,
    _lock: File,
}

impl Disk {
    /// Opens the store in `dir`, which is created if it is missing. Refuses a directory that is in use, and a program
    /// whose flush does not reach the disk.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        file::create_dir_durably(dir)?;
        let dir = fs::canonicalize(dir).map_err(|e| DiskError::io("resolve", dir, &e))?;
        let lock = lock(&dir)?;
        let db = open_index(&dir)?;
        self_test(&dir, &db)?;
        let broken = Arc::new(OnceLock::new());
        let (queue, jobs) = mpsc::channel(QUEUE);
        let committer = Committer { db: db.clone(), dir: dir.clone(), broken: Arc::clone(&broken) };
        let thread = thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.serve(jobs))
            .map_err(|e| DiskError::io("start the committer of", &dir, &e))?;
        Ok(Self(Arc::new(Inner { dir, broken, queue: Some(queue), thread: Some(thread), db, _lock: lock })))
    }

    /// The value of a key. Its sync may still be under way.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        match self.0.db.get(key) {
            Ok(value) => Ok(value.map(|value| value.to_vec())),
            Err(error) => Err(index_error(&self.0.dir, &error)),
        }
    }

    /// All keys that begin with `prefix`, with their values, in order. Not a snapshot: concurrent writes may be seen or
    /// not.
    pub fn scan(&self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> + Send + use<> {
        self.pairs(self.0.db.scan_prefix(prefix))
    }

    /// The keys in `start..end` with their values, in order; like [`Self::scan`] otherwise.
    pub fn scan_range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> + Send + use<> {
        // sled refuses a range that ends before it begins.
        self.pairs(self.0.db.range(start..end.max(start)))
    }

    fn pairs(&self, iter: sled::Iter) -> impl DoubleEndedIterator<Item = Result<Pair, DiskError>> + Send + use<> {
        let dir = self.0.dir.clone();
        iter.map(move |entry| match entry {
            Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
            Err(error) => Err(index_error(&dir, &error)),
        })
    }

    /// Runs `f` on the committer thread: in order, seeing all earlier commits. When the future resolves with `Ok`, its
    /// writes are on the disk. With `Err` nothing is written. Dropping the future does not stop a transaction that was
    /// handed over.
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
        self.enqueue(job).await.map_err(TransactError::Disk)?;
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
        self.enqueue(Box::new(Task::new(f, done))).await
    }

    async fn enqueue(&self, job: Box<dyn Job>) -> Result<(), DiskError> {
        match &self.0.queue {
            Some(queue) => queue.send(job).await.map_err(|_| DiskError::Closed),
            None => Err(DiskError::Closed),
        }
    }

    /// Like [`Self::transact`], for threads: blocks the calling thread, so in an async runtime use it only at start-up.
    pub fn transact_blocking<R, E, F>(&self, f: F) -> Result<R, TransactError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        block_on(self.transact(f))
    }

    /// Stops all writes: for a caller that sees a sync fail on a file of this store (rule A4).
    pub fn mark_broken(&self, detail: &str) {
        if self.0.broken.set(detail.to_owned()).is_ok() {
            tracing::error!(dir = %self.0.dir.display(), detail, "store refuses further writes; check the disk and restart");
        }
    }

    /// Reason why no more writes are accepted, if so.
    pub fn broken(&self) -> Option<&str> {
        self.0.broken.get().map(String::as_str)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Number of syncs of this process, of stores and files together.
    pub fn fsync_count() -> u64 {
        sync::count()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(committer) = self.thread.take() {
            // The last clone may be dropped by a transaction, on the committer thread itself.
            if committer.thread().id() != thread::current().id() && committer.join().is_err() {
                tracing::error!(dir = %self.dir.display(), "committer thread panicked");
            }
        }
    }
}

/// Waits for a future on this thread. Unlike tokio's own it may be called within a runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn lock(dir: &Path) -> Result<File, DiskError> {
    let path = dir.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| DiskError::io("open", &path, &e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DiskError::InUse { dir: dir.to_owned() }),
        Err(e) => Err(DiskError::io("lock", &path, &e.into())),
    }
}

/// Opens sled. Our own lock is held, so a lock that sled finds is still held by its threads of an earlier opening in
/// this process, and half-written files of a start are in use by no process.
fn open_index(dir: &Path) -> Result<sled::Db, DiskError> {
    let index = dir.join("index");
    leftovers::remove(&index)?;
    let config = sled::Config::new()
        .path(&index)
        .segment_size(SEGMENT)
        .cache_capacity(CACHE)
        .flush_every_ms(None)
        .mode(sled::Mode::LowSpace);
    let mut tries = 0;
    loop {
        match config.open() {
            Ok(db) => {
                leftovers::keep(&index)?;
                return Ok(db);
            }
            Err(sled::Error::Io(e)) if tries < LOCK_TRIES && e.to_string().contains("acquire lock") => {
                tries += 1;
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(index_error(dir, &error)),
        }
    }
}

fn self_test(dir: &Path, db: &sled::Db) -> Result<(), DiskError> {
    let failed = |detail| DiskError::NotSynced { dir: dir.to_owned(), detail };
    if !sync::is_linked() {
        return Err(failed("sync_file_range is the C library's"));
    }
    let before = sync::count();
    let flushed = db.insert(SELF_TEST, &b"1"[..]).and_then(|_| db.remove(SELF_TEST)).and_then(|_| db.flush());
    flushed.map_err(|error| index_error(dir, &error))?;
    if sync::count() == before {
        return Err(failed("a write was flushed and no sync was seen"));
    }
    file::fsync_dir(&dir.join("index"))?;
    file::fsync_dir(dir)
}
