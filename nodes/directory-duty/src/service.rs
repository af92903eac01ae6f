//! The duty as a service of the node: it can be replaced while the process runs.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use twinbox_alarms::Alarms;
use twinbox_duty_service::{DutyTask, orders::OrderRefused};
use twinbox_gate::Gate;
use twinbox_handle::Handle;
use twinbox_ids::DirectoryId;
use twinbox_mailstore::Mailstore;

use crate::{
    duty_loop::DutyLoop,
    orders::{Orders, RunReport, SyncOrder},
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
pub struct DirectoryDuty(Handle<Inner>);

struct Inner {
    parts: DutyParts,
    task: DutyTask,
}

/// The parts of the node that the duty uses, and what it reports to.
#[derive(Clone)]
pub(crate) struct DutyParts {
    pub mailstore: Mailstore,
    pub gate: Gate,
    pub alarms: Alarms,
    /// Whether mail out is configured now: first PINs can be sent.
    pub mail_out: Arc<dyn Fn() -> bool + Send + Sync>,
    pub orders: Orders,
    pub counts: Arc<DirectoryCounts>,
}

impl DirectoryDuty {
    /// The duty behind this gate, without a running task; [`Self::restart`] starts one. `mail_out`: whether mail
    /// out is configured now, so that first PINs can be sent.
    pub fn new(
        mailstore: Mailstore,
        gate: Gate,
        alarms: Alarms,
        mail_out: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let (orders, counts) = (Orders::default(), Arc::new(DirectoryCounts::default()));
        let mail_out = Arc::new(mail_out);
        let parts = DutyParts { mailstore, gate, alarms, mail_out, orders, counts };
        Self(Handle::new(Inner { parts, task: DutyTask::default() }))
    }

    /// Starts the task of the duty; an earlier one ends, with its runs.
    pub fn restart(&self) {
        let parts = self.0.parts.clone();
        parts.orders.close("the service was restarted");
        self.0.task.restart(|progress| DutyLoop::new(parts, progress).serve());
    }

    /// Ends the task of the duty, because the process stops.
    pub fn stop(&self) {
        self.0.task.stop();
    }

    /// Time since the last turn of the loop, with or without the duty; `None` if the task has ended.
    pub fn still_for(&self) -> Option<Duration> {
        self.0.task.still_for()
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
}
