//! The committer: one thread that runs transactions in order, gathers their writes, and makes all waiting ones durable
//! with one sync.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use tokio::sync::{mpsc, oneshot};

use crate::{DiskError, TransactError, Transaction, sync, transaction::Overlay};

/// Maximum transactions per sync: bounds the memory of a group and the wait of its first transaction.
const GROUP: usize = 1024;

/// Maximum transactions in the queue; further callers wait.
pub(crate) const QUEUE: usize = 4096;

/// A transaction in the committer.
pub(crate) trait Job: Send {
    /// Runs the transaction; true when its writes are to be committed.
    fn run(&mut self, transaction: &mut Transaction<'_>) -> bool;
    /// Notifies the caller, once the transaction is durable or has failed.
    fn finish(self: Box<Self>, outcome: Result<(), DiskError>);
}

/// A [`Job`] of two closures: `run` on the committer thread, and `done`, also there, once it is durable or has failed.
pub(crate) struct Task<F, D, R, E> {
    run: Option<F>,
    done: D,
    result: Option<Result<R, E>>,
}

impl<F, D, R, E> Task<F, D, R, E> {
    pub(crate) fn new(run: F, done: D) -> Self {
        Self { run: Some(run), done, result: None }
    }
}

impl<F, D, R, E> Job for Task<F, D, R, E>
where
    F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send,
    D: FnOnce(Result<R, TransactError<E>>) + Send,
    R: Send,
    E: Send,
{
    fn run(&mut self, transaction: &mut Transaction<'_>) -> bool {
        self.result = self.run.take().map(|run| run(transaction));
        matches!(self.result, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, outcome: Result<(), DiskError>) {
        let Self { run, done, result } = *self;
        // Before the caller continues: the caller may be about to close resources that `run` holds.
        drop(run);
        done(match (outcome, result) {
            (Err(error), Some(Ok(_)) | None) => Err(TransactError::Disk(error)),
            (_, Some(Err(refused))) => Err(TransactError::Refused(refused)),
            (Ok(()), Some(Ok(result))) => Ok(result),
            (Ok(()), None) => Err(TransactError::Disk(DiskError::Panicked)),
        });
    }
}

pub(crate) type Answer<S, E> = oneshot::Receiver<Result<S, TransactError<E>>>;

/// A job whose caller waits for `answer`: the result of `then`, called once the transaction is durable.
pub(crate) fn answered<R, E, S, F, T>(run: F, then: T) -> (Box<dyn Job>, Answer<S, E>)
where
    F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
    T: FnOnce(R) -> S + Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
    S: Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let done = move |result: Result<R, TransactError<E>>| {
        // `then` is dropped before the caller continues, too. A caller that was dropped needs no answer.
        let _ = reply.send(result.map(then));
    };
    (Box::new(Task::new(run, done)), answer)
}

pub(crate) struct Committer {
    pub(crate) db: sled::Db,
    pub(crate) dir: PathBuf,
    pub(crate) broken: Arc<OnceLock<String>>,
}

impl Committer {
    /// Serves until every sender is dropped.
    pub(crate) fn serve(self, mut queue: mpsc::Receiver<Box<dyn Job>>) {
        let mut jobs = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            jobs.push(first);
            while jobs.len() < GROUP {
                let Ok(next) = queue.try_recv() else { break };
                jobs.push(next);
            }
            self.group(&mut jobs);
        }
    }

    fn group(&self, jobs: &mut Vec<Box<dyn Job>>) {
        let mut writes = Overlay::new();
        let mut panicked = Vec::with_capacity(jobs.len());
        let broken = self.check();
        for job in jobs.iter_mut() {
            // The group may depend on its reads, so each job runs even if it writes nothing in the end; but a broken
            // store runs nothing.
            panicked.push(broken.is_ok() && !self.run(job.as_mut(), &mut writes));
        }
        let outcome = broken.and_then(|()| self.write(writes));
        for (job, panicked) in jobs.drain(..).zip(panicked) {
            let outcome = if panicked { Err(DiskError::Panicked) } else { outcome.clone() };
            // A panic in code that runs after a commit must not end the committer.
            if catch_unwind(AssertUnwindSafe(|| job.finish(outcome))).is_err() {
                tracing::error!("callback after a commit panicked");
            }
        }
    }

    /// Runs one job over the writes of its group; false when the job panicked.
    fn run(&self, job: &mut dyn Job, writes: &mut Overlay) -> bool {
        let read_error = |error| index_error(&self.dir, &error);
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut transaction = Transaction::new(Some(&self.db), writes, &read_error);
            job.run(&mut transaction).then(|| transaction.into_writes())
        }));
        match run {
            Ok(Some(own)) => writes.extend(own),
            Ok(None) => {}
            Err(_) => {
                tracing::error!("transaction panicked; it writes nothing");
                return false;
            }
        }
        true
    }

    fn write(&self, writes: Overlay) -> Result<(), DiskError> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let written = catch_unwind(AssertUnwindSafe(|| {
            self.db.apply_batch(batch)?;
            self.db.flush().map(|_| ())
        }));
        match written {
            Ok(Ok(())) => self.check(),
            Ok(Err(error)) => Err(self.fail(error.to_string())),
            Err(_) => Err(self.fail("the index panicked".to_owned())),
        }
    }

    /// An error once any write or sync has failed.
    fn check(&self) -> Result<(), DiskError> {
        if self.broken.get().is_none() && sync::failed_under(&self.dir) {
            self.fail("fdatasync of the index failed".to_owned());
        }
        match self.broken.get() {
            None => Ok(()),
            Some(detail) => Err(DiskError::Broken { detail: detail.clone() }),
        }
    }

    fn fail(&self, detail: String) -> DiskError {
        tracing::error!(dir = %self.dir.display(), detail, "store refuses further writes; check the disk and restart");
        let detail = self.broken.get_or_init(|| detail).clone();
        DiskError::Broken { detail }
    }
}

pub(crate) fn index_error(dir: &std::path::Path, error: &sled::Error) -> DiskError {
    DiskError::Index { dir: dir.to_owned(), detail: error.to_string() }
}
