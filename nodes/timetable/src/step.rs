//! The next step of a job, from its latest run: the turn of a node's loop.

use twinbox_ids::{Incarnation, NodeName, Timestamp};

use crate::{Decision, Job, JobRun, Recovery, RunState, decide, recover};

/// The process that takes a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// Its node.
    pub node: NodeName,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// The next step of a job that is not under way in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobStep {
    /// This run begins.
    Begin {
        /// The run.
        run: JobRun,
        /// Earlier due times for which it makes up, oldest first.
        missed: Vec<Timestamp>,
    },
    /// This run is written down as skipped.
    Skipped {
        /// The run, of the latest of the missed due times.
        run: JobRun,
        /// All missed due times, oldest first.
        missed: Vec<Timestamp>,
    },
    /// This run has no process any more. The step after it may attempt it again.
    Interrupted(JobRun),
    /// Earliest time of the next step.
    Wait(Timestamp),
}

/// The next step of a job at `now`. `last` is its latest run that concerns this process.
pub fn next_step(job: &Job, last: Option<&JobRun>, runner: &Runner, now: Timestamp) -> JobStep {
    if let Some(run) = last.filter(|run| run.state == RunState::Running) {
        let reason = format!("node {} ended, or lost the duty, while it ran", run.node);
        return JobStep::Interrupted(run.ended(RunState::Interrupted, &reason, now));
    }
    match decide(job, last.map(|run| run.due), now) {
        Decision::Run { due, missed } => {
            let note = match missed.len() {
                0 => String::new(),
                count => format!("makes up for {count} missed runs"),
            };
            JobStep::Begin { run: runner.begun(job, due, 1, note, now), missed }
        }
        Decision::Skip { missed } => {
            let due = missed.last().copied().unwrap_or(now);
            let skipped = runner.begun(job, due, 1, String::new(), now);
            let reason = format!("{} missed runs were skipped", missed.len());
            JobStep::Skipped { run: skipped.ended(RunState::Skipped, &reason, now), missed }
        }
        Decision::Wait { until } => match last {
            Some(run) if recover(job, run, now) == Recovery::RunAgain => {
                let attempt = run.attempt.saturating_add(1);
                let note = format!("attempt {attempt}, because the one before was interrupted");
                JobStep::Begin { run: runner.begun(job, run.due, attempt, note, now), missed: Vec::new() }
            }
            _ => JobStep::Wait(until.unwrap_or(Timestamp(u64::MAX))),
        },
    }
}

impl Runner {
    fn begun(&self, job: &Job, due: Timestamp, attempt: u64, note: String, now: Timestamp) -> JobRun {
        JobRun {
            job: job.id,
            due,
            place: job.place,
            node: self.node.clone(),
            incarnation: self.incarnation,
            began: now,
            ended: None,
            state: RunState::Running,
            attempt,
            outcome: note,
        }
    }
}
