//! Threads that only hash PINs.
//!
//! A hash takes a core for tens of milliseconds and, at the default cost, 19 MiB. The runtime may have hundreds of
//! blocking threads, each of which would come to keep such memory. So a few separate threads compute all hashes, each
//! in memory that it reuses: at most [`HASHING_THREADS`] times the memory of the largest cost. Hashes that a caller waits for
//! go before those of an import.

use std::{
    collections::VecDeque,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::{Semaphore, oneshot};
use twinbox_mailbox::pin::HashMemory;

/// Maximum number of threads: one per core, within these bounds. They are started when needed.
pub const HASHING_THREADS: RangeInclusive<usize> = 2..=8;

/// Maximum hashes queued in each lane; further requests wait for a place, in order.
const QUEUE: usize = 256;

/// Number of hashes computed concurrently.
pub fn threads() -> usize {
    let cores = thread::available_parallelism().map_or(*HASHING_THREADS.start(), usize::from);
    cores.clamp(*HASHING_THREADS.start(), *HASHING_THREADS.end())
}

/// A hash was not computed.
#[derive(Debug, thiserror::Error)]
pub enum HashingError {
    /// No thread can be started.
    #[error("no thread to hash a PIN can be started ({0}): raise the limits of processes and memory")]
    Thread(std::io::Error),
    /// The work was cancelled because the process ends, or it panicked.
    #[error("the hash was not computed: the process is ending")]
    Ending,
}

/// Origin of a request for a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A caller, or an administrator for a single user.
    Caller,
    /// An import of many users.
    Import,
}

type Job = Box<dyn FnOnce(&mut HashMemory) + Send>;

/// The threads. They end when this is dropped and the queue is empty.
pub struct Hashing {
    shared: Arc<Shared>,
    callers: Arc<Semaphore>,
    imports: Arc<Semaphore>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    callers: VecDeque<Job>,
    imports: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Default for Hashing {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(QUEUE));
        Self { shared: Arc::default(), callers: places(), imports: places() }
    }
}

impl Hashing {
    /// Computes something in a thread's memory. Queued work is computed even if its requester was dropped.
    pub async fn compute<R: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&mut HashMemory) -> R + Send + 'static,
    ) -> Result<R, HashingError> {
        let places = match lane {
            Lane::Caller => &self.callers,
            Lane::Import => &self.imports,
        };
        let place = places.clone().acquire_owned().await.map_err(|_| HashingError::Ending)?;
        let (answer, computed) = oneshot::channel();
        let job = Box::new(move |memory: &mut HashMemory| {
            // The requester may have been dropped.
            let _ = answer.send(work(memory));
            drop(place);
        });
        self.shared.push(lane, job)?;
        computed.await.map_err(|_| HashingError::Ending)
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn push(self: &Arc<Self>, lane: Lane, job: Job) -> Result<(), HashingError> {
        let mut state = self.lock();
        let waiting = state.callers.len() + state.imports.len();
        if state.idle <= waiting && state.threads < threads() {
            let shared = self.clone();
            match thread::Builder::new().name("pin-hash".to_owned()).spawn(move || shared.serve()) {
                Ok(_) => state.threads += 1,
                // The existing threads will do the work.
                Err(error) if state.threads > 0 => {
                    tracing::warn!(%error, "another thread to hash PINs cannot be started; the running ones continue")
                }
                Err(error) => return Err(HashingError::Thread(error)),
            }
        }
        match lane {
            Lane::Caller => state.callers.push_back(job),
            Lane::Import => state.imports.push_back(job),
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    fn serve(&self) {
        let mut memory = HashMemory::default();
        while let Some(job) = self.next() {
            // The requester of a job that panics gets an error; the thread continues, in new memory.
            if catch_unwind(AssertUnwindSafe(|| job(&mut memory))).is_err() {
                memory = HashMemory::default();
            }
        }
    }

    /// The next job, a caller's before an import's; `None` when there will be none.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.callers.pop_front() {
                return Some(job);
            }
            if let Some(job) = state.imports.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::mpsc};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn few_threads_compute_hashes_and_keep_their_memory() {
        let hashing = Arc::new(Hashing::default());
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..2 * QUEUE {
            let hashing = hashing.clone();
            waiting.spawn(async move {
                let id = |memory: &mut HashMemory| (thread::current().id(), std::ptr::from_mut(memory) as usize);
                hashing.compute(Lane::Import, id).await.unwrap()
            });
        }
        let used: HashSet<_> = waiting.join_all().await.into_iter().collect();
        assert!(used.len() <= threads(), "{} threads or memories for {}", used.len(), threads());
    }

    fn queued(hashing: &Hashing) -> usize {
        let state = hashing.shared.lock();
        state.callers.len() + state.imports.len()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_have_priority_over_earlier_imports() {
        let hashing = Arc::new(Hashing::default());
        // Every thread is busy until the test releases it.
        let (held, mut go_on) = (Arc::new(Semaphore::new(0)), Vec::new());
        let mut busy = tokio::task::JoinSet::new();
        for _ in 0..threads() {
            let (sender, receiver) = mpsc::channel::<()>();
            let (hashing, held) = (hashing.clone(), held.clone());
            go_on.push(sender);
            busy.spawn(async move {
                let hold = move |_: &mut HashMemory| {
                    held.add_permits(1);
                    let _ = receiver.recv();
                };
                hashing.compute(Lane::Import, hold).await.unwrap();
            });
        }
        drop(held.acquire_many(threads() as u32).await.unwrap());
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        for lane in [Lane::Import, Lane::Import, Lane::Caller] {
            let before = queued(&hashing);
            let (pool, order) = (hashing.clone(), order.clone());
            waiting.spawn(async move {
                pool.compute(lane, move |_| order.lock().unwrap().push(lane)).await.unwrap();
            });
            while queued(&hashing) == before {
                tokio::task::yield_now().await;
            }
        }
        // One thread is released, and does all of it.
        drop(go_on.pop());
        waiting.join_all().await;
        assert_eq!(*order.lock().unwrap(), [Lane::Caller, Lane::Import, Lane::Import]);
        drop(go_on);
        busy.join_all().await;
    }

    #[tokio::test]
    async fn panic_in_a_hash_is_reported_and_the_threads_continue() {
        let hashing = Hashing::default();
        for _ in 0..2 * threads() {
            let failed = hashing.compute(Lane::Caller, |_| -> u8 { panic!("as the test wants it") }).await;
            assert!(matches!(failed, Err(HashingError::Ending)), "{failed:?}");
        }
        assert_eq!(hashing.compute(Lane::Caller, |_| 7).await.unwrap(), 7);
    }
}
