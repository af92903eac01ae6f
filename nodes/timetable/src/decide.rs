//! The decision about a job at a moment: run it, skip what was missed, or wait.

use twinbox_ids::Timestamp;

use crate::{Job, JobRun, Missed, RunState};

/// Time after which a due time without a run counts as missed, in milliseconds: longer than a take-over of the duty.
pub const ON_TIME_MS: u64 = 2 * 60 * 1_000;
/// Age of the oldest due times that are looked for, in milliseconds: a week.
pub const LOOK_BACK_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// Maximum number of attempts of one run.
pub const MOST_ATTEMPTS: u64 = 2;

/// A decision about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Run it now.
    Run {
        /// The due time of the run.
        due: Timestamp,
        /// Earlier due times that passed without a run, for which it makes up.
        missed: Vec<Timestamp>,
    },
    /// Note that the due times passed: the latest is the last one.
    Skip {
        /// The missed due times, at least one.
        missed: Vec<Timestamp>,
    },
    /// Nothing is due before that time; `None`: nothing is due at all.
    Wait {
        /// The next due time.
        until: Option<Timestamp>,
    },
}

/// Due times that have no run of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissedTimes {
    /// Due time of the latest run before them, if there is one.
    pub last: Option<Timestamp>,
    /// The first of them.
    pub first: Timestamp,
}

/// A decision about a run whose process died, or whose node lost the duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Attempt it once again.
    RunAgain,
    /// It stays interrupted.
    Leave,
}

/// Decides about a job at `now`. `last` is the latest due time with a run, or with a note that it was skipped. A run by
/// hand is due at its request, also of a job that is not enabled, and is never skipped.
pub fn decide(job: &Job, last: Option<Timestamp>, now: Timestamp) -> Decision {
    let oldest = Timestamp(now.0.saturating_sub(LOOK_BACK_MS));
    let handled = last.unwrap_or_default();
    let after = handled.max(job.since).max(oldest);
    let requested = job.requested.filter(|at| *at > handled && *at > oldest);
    let (mut missed, next) = if job.enabled { due_times(job, after, now) } else { (Vec::new(), None) };
    if let Some(due) = requested.filter(|at| *at <= now) {
        // Earlier due times have their run with it; later ones follow.
        missed.retain(|at| *at < due);
        return Decision::Run { due, missed };
    }
    let Some(due) = missed.pop() else {
        return Decision::Wait { until: requested.into_iter().chain(next).min() };
    };
    let late = now.0.saturating_sub(due.0) > ON_TIME_MS;
    if late && job.missed == Missed::Skip {
        missed.push(due);
        Decision::Skip { missed }
    } else {
        Decision::Run { due, missed }
    }
}

/// Decides about a run that was under way when its process died, or when its node lost the duty. A run whose process
/// died twice is left, because it may be the cause.
pub fn recover(job: &Job, run: &JobRun, now: Timestamp) -> Recovery {
    let recent = now.0.saturating_sub(run.due.0) <= LOOK_BACK_MS;
    let wanted = job.enabled && job.missed == Missed::RunOnce && run.due >= job.since;
    if is_open(run) && recent && wanted && run.attempt < MOST_ATTEMPTS {
        Recovery::RunAgain
    } else {
        Recovery::Leave
    }
}

/// The due times for which the run at `due` makes up; `None`: it is for its own due time alone. `runs` are those of the job
/// that concern this process. Unlike [`decide`], this looks back to the latest run, however long ago that was. A run whose
/// process died, and that was not attempted again because a later due time came, counts as missed.
pub fn missed_before<'a>(
    job: &Job,
    runs: impl IntoIterator<Item = &'a JobRun>,
    due: Timestamp,
) -> Option<MissedTimes> {
    if job.missed == Missed::Skip || !job.enabled {
        return None;
    }
    let is_handled = |run: &&JobRun| run.due < due && (!is_open(run) || run.attempt >= MOST_ATTEMPTS);
    let last = runs.into_iter().filter(is_handled).map(|run| run.due).max();
    let first = job.cron.next_after(last.unwrap_or_default().max(job.since), &job.zone)?;
    (first < due).then_some(MissedTimes { last, first })
}

/// Whether a run has no result.
fn is_open(run: &JobRun) -> bool {
    matches!(run.state, RunState::Running | RunState::Interrupted)
}

/// The due times later than `after` up to `now`, and the next one after that.
fn due_times(job: &Job, after: Timestamp, now: Timestamp) -> (Vec<Timestamp>, Option<Timestamp>) {
    let mut due = Vec::new();
    let mut next = job.cron.next_after(after, &job.zone);
    while let Some(at) = next.filter(|at| *at <= now) {
        due.push(at);
        next = job.cron.next_after(at, &job.zone).filter(|next| *next > at);
    }
    (due, next)
}
