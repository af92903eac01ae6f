//! The duty as a service of the node: it can be replaced while the process runs.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_duty::{DutyCounts, OutboxDuty};
use twinbox_gate::Gate;
use twinbox_handle::Handle;
use twinbox_ids::MailboxId;
use twinbox_mailstore::Mailstore;

use crate::mwi::{MwiPolicy, MwiSender, Notifier};

/// Handle to the notifier that runs at present. Cheap to clone.
#[derive(Clone)]
pub struct NotifierService(Handle<Inner>);

struct Inner {
    start: Box<dyn Fn() -> Notifier + Send + Sync>,
    running: Mutex<Option<Notifier>>,
    /// Notifications of devices.
    devices: OutboxDuty,
}

impl NotifierService {
    /// Service without running tasks; [`Self::restart`] starts them.
    pub fn new<S>(mailstore: Mailstore, gate: Gate, sender: S, devices: OutboxDuty) -> Self
    where
        S: MwiSender + Clone,
    {
        let start = move || Notifier::start(mailstore.clone(), gate.clone(), sender.clone(), MwiPolicy::default());
        Self(Handle::new(Inner { start: Box::new(start), running: Mutex::new(None), devices }))
    }

    /// Starts the tasks of the duty; earlier ones end.
    pub fn restart(&self) {
        let started = (self.0.start)();
        *self.running() = Some(started);
        self.0.devices.restart();
    }

    /// Ends the tasks of the duty, because the process stops.
    pub fn stop(&self) {
        self.running().take();
        self.0.devices.stop();
    }

    /// Time since the last turn of the slower task, with or without the duty; `None` if one has ended.
    pub fn still_for(&self) -> Option<Duration> {
        let mwi = self.running().as_ref().filter(|notifier| notifier.is_running()).map(Notifier::still_for)?;
        self.0.devices.still_for().map(|devices| devices.max(mwi))
    }

    /// Counts of the notifications of devices.
    pub fn counts(&self) -> Arc<DutyCounts> {
        self.0.devices.counts()
    }

    /// Sends the MWI state of all mailboxes, or of one, again: a PBX may have lost it. The sends keep to the limits of a
    /// take-over. Returns the number of states; `None`: another node holds the duty, or the task has ended.
    pub fn resync(&self, mailbox: Option<MailboxId>) -> Option<usize> {
        self.running().as_ref().filter(|notifier| notifier.is_running())?.resync(mailbox)
    }

    /// Makes the task hang, for tests. Not in release builds.
    #[cfg(debug_assertions)]
    pub fn wedge(&self) {
        self.running().iter().for_each(Notifier::wedge);
    }

    fn running(&self) -> MutexGuard<'_, Option<Notifier>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
