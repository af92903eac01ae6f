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
use twinbox_ids::DirectoryId;
use twinbox_mailstore::{Mailstore, NewMailbox};

use crate::{
    duty_loop::DutyLoop,
    orders::{OrderRefused, Orders, RunReport, SyncOrder},
};

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct DirectoryCounts {
    /// Runs that ended with success.
    pub done: AtomicU64,
    /// Runs that failed.
    pub failed: AtomicU64,
    /// Runs that were stopped, because they would disable or delete too many users.
    pub held_back: AtomicU64,
    /// Users that were made, changed, disabled or dropped.
    pub users: AtomicU64,
}

/// Handle to the duty `directory-sync` of this node. Cheap to clone.
#[derive(Clone)]
pub struct DirectoryDuty(Arc<Inner>);

struct Inner {
    parts: DutyParts,
    running: Mutex<Option<Running>>,
}

/// The parts of the node that the duty uses, and what it reports to.
#[derive(Clone)]
pub(crate) struct DutyParts {
    pub mailstore: Mailstore,
    pub gate: Gate,
    pub alarms: Alarms,
    /// Settings of new users where a directory supplies none.
    pub usual: NewMailbox,
    pub orders: Orders,
    pub counts: Arc<DirectoryCounts>,
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

impl DirectoryDuty {
    /// The duty behind this gate, without a running task; [`Self::restart`] starts one. New users have the settings of
    /// `usual` where a directory supplies none.
    pub fn new(mailstore: Mailstore, gate: Gate, alarms: Alarms, usual: NewMailbox) -> Self {
        let (orders, counts) = (Orders::default(), Arc::new(DirectoryCounts::default()));
        let parts = DutyParts { mailstore, gate, alarms, usual, orders, counts };
        Self(Arc::new(Inner { parts, running: Mutex::new(None) }))
    }

    /// Starts the task of the duty; an earlier one ends, with its runs.
    pub fn restart(&self) {
        let progress = Arc::new(Progress::new());
        self.0.parts.orders.close("the service was restarted");
        let task = tokio::spawn(DutyLoop::new(self.0.parts.clone(), progress.clone()).serve());
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
    pub fn counts(&self) -> Arc<DirectoryCounts> {
        self.0.parts.counts.clone()
    }

    /// Takes an order to search the whole directory; returns the number of its run.
    pub fn order(&self, directory: DirectoryId, order: SyncOrder) -> Result<u64, OrderRefused> {
        self.0.parts.orders.take(directory, order)
    }

    /// The report on an ordered run as soon as it has ended, or its state after this time; `None` if this node knows no
    /// such run: the duty moved, or the run was long ago.
    pub async fn report(&self, directory: DirectoryId, run: u64, within: Duration) -> Option<RunReport> {
        self.0.parts.orders.report(directory, run, within).await
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
