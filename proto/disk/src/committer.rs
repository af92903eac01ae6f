//! The committer: one thread that runs transactions in order, gathers their writes, and makes all waiting ones durable
//! with one write to the journal and one sync.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use twinbox_clock::BootInstant;
use twinbox_journal::{AppendError, Medium, Writer};

use crate::{
    DiskError, Reserve, TransactError, Transaction, batch, flow::Flow, health::Health, index::Index,
    medium::KEPT_FREE, rows::Rows, transaction::Overlay,
};

/// Maximum transactions per sync: bounds the wait of its first transaction.
const GROUP: usize = 1024;

/// Maximum transactions in the queue; further callers wait.
pub(crate) const QUEUE: usize = 4096;

/// Time within which transactions that come soon are committed.
const SOON: Duration = Duration::from_millis(10);

/// Place of a transaction in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// In the order of arrival.
    Now,
    /// In the order of arrival, together with the next others: it has a sync of its own only if none come within 10 ms.
    Soon,
    /// Behind all waiting transactions, one between any two syncs. They should be short: callers wait for one.
    Background,
}

/// A transaction on its way to the committer.
pub(crate) type Queued = (Urgency, Box<dyn Job>);

/// A transaction in the committer.
pub(crate) trait Job: Send {
    /// Runs the transaction; true when its writes are to be committed.
    fn run(&mut self, transaction: &mut Transaction<'_>) -> bool;
    /// Notifies the caller, once the transaction is durable or has failed. A result that the caller does not get is
    /// dropped before that.
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
        let result = match (outcome, result) {
            (Err(error), _) => Err(TransactError::Disk(error)),
            (Ok(()), Some(Err(refused))) => Err(TransactError::Refused(refused)),
            (Ok(()), Some(Ok(result))) => Ok(result),
            (Ok(()), None) => Err(TransactError::Disk(DiskError::Panicked)),
        };
        done(result);
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

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The next transaction, if one comes in time. `waker` wakes this thread.
fn receive_within(queue: &mut mpsc::Receiver<Queued>, within: Duration, waker: &Waker) -> Option<Queued> {
    let begun = BootInstant::now();
    loop {
        match queue.poll_recv(&mut Context::from_waker(waker)) {
            Poll::Ready(next) => return next,
            Poll::Pending => {
                let left = within.checked_sub(begun.elapsed()).filter(|left| !left.is_zero())?;
                thread::park_timeout(left);
            }
        }
    }
}

/// Bytes of keys and values.
fn size(writes: &Overlay) -> usize {
    writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
}

pub(crate) struct Committer<I, M: Medium> {
    pub(crate) rows: Arc<Rows<I, M>>,
    pub(crate) journal: Writer<M>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) health: Arc<Health>,
    /// Bytes of writes after which a group takes no further job.
    pub(crate) group_bytes: usize,
}

impl<I: Index, M: Medium> Committer<I, M> {
    /// Serves until every sender is dropped.
    pub(crate) fn serve(&mut self, mut queue: mpsc::Receiver<Queued>) {
        let (mut jobs, mut background) = (VecDeque::new(), VecDeque::new());
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        // Number of jobs that may wait for others, and the time at which the first of them came.
        let (mut patient, mut since) = (0, BootInstant::now());
        loop {
            let mut next = if jobs.len() > patient || !background.is_empty() {
                queue.try_recv().ok()
            } else if patient > 0 {
                receive_within(&mut queue, SOON.saturating_sub(since.elapsed()), &waker)
            } else {
                Some(match queue.blocking_recv() {
                    Some(first) => first,
                    None => return,
                })
            };
            // Also when the queue has ended.
            let is_time = next.is_none();
            while let Some((urgency, job)) = next {
                match urgency {
                    Urgency::Now => jobs.push_back(job),
                    Urgency::Soon => {
                        since = if patient == 0 { BootInstant::now() } else { since };
                        patient += 1;
                        jobs.push_back(job);
                    }
                    Urgency::Background => background.push_back(job),
                }
                next = if jobs.len() < GROUP { queue.try_recv().ok() } else { None };
            }
            if jobs.len() == patient && background.is_empty() && !is_time && patient < GROUP {
                continue;
            }
            patient = 0;
            // One background job per group: such jobs progress under any load, and callers wait for one of them at most.
            background.pop_front().into_iter().for_each(|job| jobs.push_front(job));
            self.group(&mut jobs);
        }
    }

    /// Runs the waiting jobs, in order, until their writes make a group, and commits these together.
    pub(crate) fn group(&mut self, waiting: &mut VecDeque<Box<dyn Job>>) {
        let (mut writes, mut bytes) = (Overlay::new(), 0);
        let mut ran = Vec::with_capacity(waiting.len());
        let healthy = self.health.check();
        while bytes < self.group_bytes {
            let Some(mut job) = waiting.pop_front() else { break };
            // The group may depend on its reads, so each job runs even if it writes nothing in the end; but a broken
            // store runs nothing.
            let run = if healthy.is_ok() { self.run(job.as_mut(), &writes) } else { Ok(Overlay::new()) };
            bytes += run.as_ref().map_or(0, size);
            let run = run.map(|own| match writes.is_empty() {
                true => writes = own,
                false => writes.extend(own),
            });
            // A job that read and wrote nothing of the group does not depend on its commit.
            let apart = healthy.is_ok() && writes.is_empty();
            ran.push((job, run, apart));
        }
        let outcome = healthy.and_then(|()| self.commit(writes));
        for (job, run, apart) in ran {
            let outcome = run.and_then(|()| if apart { Ok(()) } else { outcome.clone() });
            // A panic in code that runs after a commit must not end the committer.
            if catch_unwind(AssertUnwindSafe(|| job.finish(outcome))).is_err() {
                tracing::error!("callback after a commit panicked");
            }
        }
    }

    /// Runs one job over the writes of its group; its own writes, if it wants them committed.
    fn run(&self, job: &mut dyn Job, group: &Overlay) -> Result<Overlay, DiskError> {
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut transaction = Transaction::new(Some(&*self.rows), group);
            job.run(&mut transaction).then(|| transaction.into_writes())
        }));
        match run {
            Ok(writes) => Ok(writes.unwrap_or_default()),
            Err(_) => {
                tracing::error!("transaction panicked; it writes nothing");
                Err(DiskError::Panicked)
            }
        }
    }

    /// Makes the writes of a group durable, and then visible.
    fn commit(&mut self, writes: Overlay) -> Result<(), DiskError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.flow.wait_for_room();
        // The applier may have failed meanwhile.
        self.health.check()?;
        let encoded = batch::encode(&writes);
        let largest = usize::try_from(self.journal.largest()).unwrap_or(usize::MAX);
        for (header, part) in batch::split(&encoded, largest) {
            if let Err(error) = self.journal.append(&[&header, part]) {
                // A part of the group may be in the journal; a replay ignores it. The applier gets the position after it, so
                // that a checkpoint makes room on a full disk.
                self.rows.layers.publish(Overlay::new(), self.journal.position());
                self.flow.published(1);
                return Err(self.refused(error, encoded.len()));
            }
        }
        self.rows.layers.publish(writes, self.journal.position());
        self.flow.published(encoded.len());
        Ok(())
    }

    fn refused(&self, error: AppendError, length: usize) -> DiskError {
        match error {
            AppendError::Full { .. } => {
                let free = Reserve::new(self.health.dir(), 0).space().map_or(0, |space| space.free);
                let needed = (length as u64).max(self.journal.largest()).saturating_add(KEPT_FREE);
                DiskError::StoreFull { dir: self.health.dir().to_owned(), free, needed }
            }
            AppendError::Broken { detail } => self.health.fail(detail),
            error => self.health.fail(error.to_string()),
        }
    }
}
