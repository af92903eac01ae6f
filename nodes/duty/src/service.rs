//! The duty as a service of the node: it can be replaced while the process runs.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use twinbox_alarms::Alarms;
use twinbox_duty_service::{DutyTask, Progress};
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
    serve: Box<dyn Fn(Arc<Progress>) -> Serving + Send + Sync>,
    task: DutyTask,
    counts: Arc<DutyCounts>,
}

/// The loop of the duty, until it ends.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

impl OutboxDuty {
    /// The duty behind this gate, without a running task; [`Self::restart`] starts one.
    pub fn new<C: Channels>(mailstore: Mailstore, gate: Gate, alarms: Alarms, channels: C) -> Self {
        let (channels, counts) = (Arc::new(channels), Arc::new(DutyCounts::default()));
        let counted = counts.clone();
        let serve = move |progress| -> Serving {
            let outbox_loop = OutboxLoop {
                mailstore: mailstore.clone(),
                gate: gate.clone(),
                alarms: alarms.clone(),
                channels: channels.clone(),
                counts: counted.clone(),
                progress,
                routes: Mutex::default(),
                earlier: Mutex::default(),
            };
            Box::pin(outbox_loop.serve())
        };
        Self(Arc::new(Inner { serve: Box::new(serve), task: DutyTask::default(), counts }))
    }

    /// Starts the task of the duty; an earlier one ends, with its attempts.
    pub fn restart(&self) {
        self.0.task.restart(|progress| (self.0.serve)(progress));
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
    pub fn counts(&self) -> Arc<DutyCounts> {
        self.0.counts.clone()
    }
}
