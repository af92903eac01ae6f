//! The work of jobs, by kind.

use std::{fmt, pin::Pin, sync::Arc};

use twinbox_gate::Permit;
use twinbox_ids::Timestamp;
use twinbox_timetable::{Job, JobKind, MissedTimes};

/// The run of a job: its result as text, or the reason of its failure.
pub type RunFuture = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// A run that is to be carried out.
#[derive(Debug, Clone)]
pub struct JobOrder {
    /// The job.
    pub job: Job,
    /// The due time of the run.
    pub due: Timestamp,
    /// Due times for which the run makes up; `None`: it is for its own due time alone.
    pub missed: Option<MissedTimes>,
    permit: Option<Arc<Permit>>,
}

impl JobOrder {
    /// A run of this job. `permit` is that of the duty; `None` for a job of every node.
    pub(crate) fn new(job: Job, due: Timestamp, missed: Option<MissedTimes>, permit: Option<Arc<Permit>>) -> Self {
        Self { job, due, missed, permit }
    }

    /// Whether the next step may go on: ask before each write and each effect. Not after the duty was lost.
    pub fn check(&self) -> Result<(), String> {
        let held = self.permit.as_ref().is_none_or(|permit| permit.check().is_ok());
        if held { Ok(()) } else { Err("the node lost the duty".to_owned()) }
    }

    /// An argument of the job.
    pub fn argument(&self, word: &str) -> Option<&str> {
        self.job.arguments.get(word).map(String::as_str)
    }
}

/// The work of a kind of job. Functions that take a [`JobOrder`] are such works.
pub trait JobWork: Send + Sync + 'static {
    /// Carries out a run. The future is dropped at the job's time limit, and when the node loses the duty.
    fn run(&self, order: JobOrder) -> RunFuture;
}

impl<F, R> JobWork for F
where
    F: Fn(JobOrder) -> R + Send + Sync + 'static,
    R: Future<Output = Result<String, String>> + Send + 'static,
{
    fn run(&self, order: JobOrder) -> RunFuture {
        Box::pin(self(order))
    }
}

/// The works of all kinds of jobs that this node can run.
#[derive(Clone, Default)]
pub struct Works(Vec<(JobKind, Arc<dyn JobWork>)>);

impl Works {
    /// These works, and one more.
    pub fn with(mut self, kind: JobKind, work: impl JobWork) -> Self {
        self.0.push((kind, Arc::new(work)));
        self
    }

    /// The work of a kind.
    pub(crate) fn of(&self, kind: JobKind) -> Option<&Arc<dyn JobWork>> {
        self.0.iter().find(|(known, _)| *known == kind).map(|(_, work)| work)
    }
}

impl fmt::Debug for Works {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(kind, _)| kind.word())).finish()
    }
}
