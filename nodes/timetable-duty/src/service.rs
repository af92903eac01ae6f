//! The duty as a service of the node: it can be replaced while the process runs.

use std::{sync::Arc, time::Duration};

use twinbox_alarms::Alarms;
use twinbox_duty_service::{DutyTask, Progress};
use twinbox_gate::Gate;
use twinbox_mailstore::Mailstore;
use twinbox_timetable::JobPlace;
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
    task: DutyTask,
}

impl TimetableDuty {
    /// The duty behind this gate, without running tasks; [`Self::restart`] starts them.
    pub fn new(mailstore: Mailstore, gate: Gate, alarms: Alarms, works: Works) -> Self {
        Self(Arc::new(Inner { mailstore, gate, alarms, works: Arc::new(works), task: DutyTask::default() }))
    }

    /// Starts the tasks of the duty; earlier ones end, with their runs.
    pub fn restart(&self) {
        self.0.task.restart_all(JobPlace::ALL.map(|place| {
            let inner = self.0.clone();
            move |progress: Arc<Progress>| {
                let run_loop = RunLoop {
                    mailstore: inner.mailstore.clone(),
                    timetable: TimetableStore::of(&inner.mailstore),
                    gate: inner.gate.clone(),
                    alarms: inner.alarms.clone(),
                    works: inner.works.clone(),
                    place,
                    progress,
                };
                run_loop.serve()
            }
        }));
    }

    /// Ends the tasks of the duty, because the process stops.
    pub fn stop(&self) {
        self.0.task.stop();
    }

    /// Time since the last turn of the slower loop, with or without the duty; `None` if one has ended.
    pub fn still_for(&self) -> Option<Duration> {
        self.0.task.still_for()
    }
}
