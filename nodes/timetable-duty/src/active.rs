//! Runs under way.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::{Id, JoinSet},
    time::timeout,
};
use twinbox_gate::Permit;
use twinbox_ids::JobId;
use twinbox_timetable::{Job, JobRun};

/// Maximum wait for the end of tasks that were aborted.
const END_WITHIN: Duration = Duration::from_secs(2);

/// A run under way.
pub(crate) struct ActiveRun {
    pub job: Job,
    pub run: JobRun,
    /// Of a publisher's job: the duty is not released before the outcome is recorded.
    pub permit: Option<Arc<Permit>>,
}

/// Runs under way, at most one of each job.
#[derive(Default)]
pub(crate) struct ActiveRuns {
    tasks: JoinSet<()>,
    runs: HashMap<Id, ActiveRun>,
}

impl ActiveRuns {
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn has(&self, job: JobId) -> bool {
        self.runs.values().any(|active| active.job.id == job)
    }

    /// Starts the task of a run.
    pub(crate) fn start(&mut self, active: ActiveRun, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.runs.insert(handle.id(), active);
    }

    /// The job of the next run that ends; `None` when none is under way. Safe to cancel.
    pub(crate) async fn next_ended(&mut self) -> Option<JobId> {
        let ended = self.tasks.join_next_with_id().await?;
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.runs.remove(&id).map(|active| active.job.id)
    }

    /// Ends all tasks; returns their runs, which are without an outcome unless their tasks had recorded it.
    pub(crate) async fn abort(&mut self) -> Vec<ActiveRun> {
        self.tasks.abort_all();
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(END_WITHIN, all_ended).await.is_err() {
            tracing::warn!("jobs do not end although they were cancelled; they write nothing more");
        }
        self.runs.drain().map(|(_, active)| active).collect()
    }
}
