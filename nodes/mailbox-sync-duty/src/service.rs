//! The duty as a service of the node: it can be replaced while the process runs.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use twinbox_alarms::Alarms;
use twinbox_duty_service::{DutyTask, orders::OrderRefused};
use twinbox_gate::Gate;
use twinbox_handle::Handle;
use twinbox_ids::{ClusterId, MailboxId};
use twinbox_mailbox_sync_store::MailboxSyncStore;
use twinbox_mailstore::Mailstore;

use crate::{
    duty_loop::DutyLoop,
    orders::{Orders, SyncReport},
};

/// Settings of the duty.
#[derive(Clone)]
pub struct MailboxSyncConfig {
    /// The cluster, which Message-IDs name.
    pub cluster: ClusterId,
    /// Present address of the senders of all mails, whose display names are those of the callers; `None`, or an invalid
    /// one: an address that does not exist.
    pub from: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

/// Counts since the start of the process, and the present connections.
#[derive(Debug, Default)]
pub struct MailboxSyncCounts {
    /// Rounds that ended with success.
    pub done: AtomicU64,
    /// Rounds that failed.
    pub failed: AtomicU64,
    /// Messages that were appended to folders.
    pub appended: AtomicU64,
    /// Messages that were changed here.
    pub marked_here: AtomicU64,
    /// Messages whose flags were changed on the server.
    pub flagged_there: AtomicU64,
    /// Messages that were removed on the server.
    pub removed_there: AtomicU64,
    /// Connections now.
    pub connections: AtomicU64,
    /// Connections that wait for changes now (IDLE).
    pub watching: AtomicU64,
}

/// Handle to the duty `mailbox-sync` of this node. Cheap to clone.
#[derive(Clone)]
pub struct MailboxSyncDuty(Handle<Inner>);

struct Inner {
    parts: DutyParts,
    task: DutyTask,
}

/// The parts of the node that the duty uses, and the objects that it reports to.
#[derive(Clone)]
pub(crate) struct DutyParts {
    pub mailstore: Mailstore,
    pub store: MailboxSyncStore,
    pub gate: Gate,
    pub alarms: Alarms,
    pub config: Arc<MailboxSyncConfig>,
    pub orders: Orders,
    pub counts: Arc<MailboxSyncCounts>,
}

impl MailboxSyncDuty {
    /// The duty behind this gate, without a running task; [`Self::restart`] starts one.
    pub fn new(mailstore: Mailstore, gate: Gate, alarms: Alarms, config: MailboxSyncConfig) -> Self {
        let store = MailboxSyncStore::of(&mailstore);
        let (orders, counts) = (Orders::default(), Arc::new(MailboxSyncCounts::default()));
        let parts = DutyParts { mailstore, store, gate, alarms, config: Arc::new(config), orders, counts };
        Self(Handle::new(Inner { parts, task: DutyTask::default() }))
    }

    /// Starts the task of the duty; an earlier one ends, with its connections.
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
    pub fn counts(&self) -> Arc<MailboxSyncCounts> {
        self.0.parts.counts.clone()
    }

    /// Takes an order to look at an account now, also during a pause after failures. With `accept_deletions`, deletions
    /// that are held back are carried out here.
    ///
    /// # Errors
    /// This node does not hold the duty, or too many orders wait.
    pub fn sync_now(&self, mailbox: MailboxId, accept_deletions: bool) -> Result<(), OrderRefused> {
        self.0.parts.orders.take(mailbox, accept_deletions)
    }

    /// The report on the latest order for a mailbox as soon as its round has ended, or its state after this time; `None`
    /// if this node knows no order: the duty moved, or it was long ago.
    pub async fn report(&self, mailbox: MailboxId, within: Duration) -> Option<SyncReport> {
        self.0.parts.orders.report(mailbox, within).await
    }
}
