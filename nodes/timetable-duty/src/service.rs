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
use twinbox_timetable::Place;
use twinbox_timetable_store::TimetableStore;

use crate::{Works, run_loop::RunLoop};

/// Handle to the duty `timetable`. Cheap to clone.
#[derive(Clone)]
pub struct TimetableDuty(Arc<Inner>);

struct Inner {
    mailstore: Mailstore,
    gate: Gate,
    alarms: Alarms,
    works: Arc<Works>,
    /// The loop of the publisher's jobs and that of every node's.
    running: Mutex<Vec<Running>>,
}

struct Running {
    progress: Arc<Progress>,
    task: JoinHandle<()>,
}

/// Progress of a loop, for health checks.
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

impl TimetableDuty {
    /// The duty behind this gate, without running tasks; [`Self::restart`] starts them.
    pub fn new(mailstore: Mailstore, gate: Gate, alarms: Alarms, works: Works) -> Self {
        Self(Arc::new(Inner { mailstore, gate, alarms, works: Arc::new(works), running: Mutex::default() }))
    }

    /// Starts the tasks of the duty; earlier ones end, with their runs.
    pub fn restart(&self) {
        let mut running = self.running();
        running.clear();
        running.extend(Place::ALL.map(|place| {
            let progress = Arc::new(Progress::new());
            let inner = &self.0;
            let run_loop = RunLoop {
                mailstore: inner.mailstore.clone(),
                timetable: TimetableStore::of(&inner.mailstore),
                gate: inner.gate.clone(),
                alarms: inner.alarms.clone(),
                works: inner.works.clone(),
                place,
                progress: progress.clone(),
            };
            Running { progress, task: tokio::spawn(run_loop.serve()) }
        }));
    }

    /// Ends the tasks of the duty, because the process stops.
    pub fn stop(&self) {
        self.running().clear();
    }

    /// Time since the last turn of the slower loop, with or without the duty; `None` if one has ended.
    pub fn still_for(&self) -> Option<Duration> {
        let running = self.running();
        let still = |running: &Running| {
            let turned = BootInstant::from_nanos(running.progress.turned.load(Relaxed));
            (!running.task.is_finished()).then(|| turned.elapsed())
        };
        let loops: Option<Vec<Duration>> = running.iter().map(still).collect();
        loops?.into_iter().max()
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
