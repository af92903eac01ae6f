//! The duty as a service of the node: it can be replaced while the process runs.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use twinbox_alarms::Alarms;
use twinbox_clock::BootInstant;
use twinbox_gate::Gate;
use twinbox_mailstore::Mailstore;

use crate::{Channels, outbox_loop::OutboxLoop};

/// Counts since the start of the process, and the present depth of the outbox while the duty is held.
#[derive(Debug, Default)]
pub struct DutyCounts {
    /// Effects that were done.
    pub done: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
    /// Effects that were given up.
    pub dead: AtomicU64,
    /// Effects that wait, including those on hold and under way; 0 without the duty.
    pub waiting: AtomicU64,
    /// Time of creation of the oldest effect that waits and is due, in milliseconds since 1970; 0 for none.
    pub oldest_ms: AtomicU64,
}

/// Handle to a duty that works from the outbox. Cheap to clone.
#[derive(Clone)]
pub struct OutboxDuty(Arc<Inner>);

struct Inner {
    start: Box<dyn Fn(Arc<Progress>) -> JoinHandle<()> + Send + Sync>,
    running: Mutex<Option<Running>>,
    counts: Arc<DutyCounts>,
}

struct Running {
    progress: Arc<Progress>,
    task: JoinHandle<()>,
}

/// Progress of the loop, for health checks.
#[derive(Debug)]
pub(crate) struct Progress {
    turned: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Self { turned: AtomicU64::new(BootInstant::now().as_nanos()) }
    }

    pub(crate) fn turn(&self) {
        self.turned.store(BootInstant::now().as_nanos(), Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OutboxDuty {
    /// The duty behind this gate, without a running task; [`Self::restart`] starts one.
    pub fn new<C: Channels>(mailstore: Mailstore, gate: Gate, alarms: Alarms, channels: C) -> Self {
        let (channels, counts) = (Arc::new(channels), Arc::new(DutyCounts::default()));
        let counted = counts.clone();
        let start = move |progress| {
            let outbox_loop = OutboxLoop {
                mailstore: mailstore.clone(),
                gate: gate.clone(),
                alarms: alarms.clone(),
                channels: channels.clone(),
                counts: counted.clone(),
                progress,
                routes: Mutex::default(),
            };
            tokio::spawn(outbox_loop.serve())
        };
        Self(Arc::new(Inner { start: Box::new(start), running: Mutex::new(None), counts }))
    }

    /// Starts the task of the duty; an earlier one ends, with its attempts.
    pub fn restart(&self) {
        let progress = Arc::new(Progress::new());
        let task = (self.0.start)(progress.clone());
        *self.running() = Some(Running { progress, task });
    }

    /// Ends the task of the duty, because the process stops.
    pub fn stop(&self) {
        self.running().take();
    }

    /// Time since the last turn of the loop, with or without the duty; `None` if the task has ended.
    pub fn still_for(&self) -> Option<Duration> {
        let running = self.running();
        let running = running.as_ref().filter(|running| !running.task.is_finished())?;
        Some(BootInstant::from_nanos(running.progress.turned.load(Relaxed)).elapsed())
    }

    /// The counts.
    pub fn counts(&self) -> Arc<DutyCounts> {
        self.0.counts.clone()
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
