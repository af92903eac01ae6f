//! The timetable in the store of a node: jobs, and the history of their runs.

use twinbox_clock::wall;
use twinbox_ids::{JobId, Timestamp};
use twinbox_mailstore::{Acknowledgement, MailError, Mailstore, blocking};
use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::{Draft, LiveError, LiveReader};
use twinbox_timetable::{Job, JobChange, JobError, JobRun, RunState, schema};

/// Maximum number of jobs.
pub const MOST_JOBS: usize = 100;

/// Maximum time by which a run may be due ahead of this clock, in milliseconds: one beyond was made by a wrong clock.
const AHEAD_MS: u64 = 24 * 3_600 * 1_000;

/// A job was not made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum TimetableError {
    /// Another job has the name.
    #[error("job '{0}' already exists: change it with `twinbox timetable set`, or choose another name")]
    Name(String),
    /// There are too many jobs.
    #[error("there are {} jobs, which is the maximum: remove one with `twinbox timetable remove`", MOST_JOBS)]
    Many,
    /// There is no such job (any more).
    #[error("job {0} does not exist: list the jobs with `twinbox timetable list`")]
    None(JobId),
    /// The settings do not make a job.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// A change of the timetable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimetableChange {
    /// This job, or a run of it.
    Job(JobId),
    /// Any job: changes were missed.
    Everything,
}

/// Reports changes of the timetable, made here or by a peer, from its creation on.
pub struct TimetableWatch {
    changes: LiveReader,
}

/// The job that a record belongs to: its own, or that of a run.
fn job_of(key: &Key) -> Option<JobId> {
    schema::job_of(key).or_else(|| Some(schema::run_of(key)?.0))
}

impl TimetableWatch {
    /// The next change; `None` when the store is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<TimetableChange> {
        loop {
            match self.changes.recv().await {
                Ok(change) => {
                    if let Some(job) = job_of(&change.key) {
                        return Some(TimetableChange::Job(job));
                    }
                }
                Err(LiveError::Lagged) => return Some(TimetableChange::Everything),
                Err(LiveError::Closed) => return None,
            }
        }
    }
}

/// The timetable in the store of a node. Cheap to clone.
#[derive(Clone)]
pub struct TimetableStore {
    mailstore: Mailstore,
}

impl TimetableStore {
    /// The timetable in this store.
    pub fn of(mailstore: &Mailstore) -> Self {
        Self { mailstore: mailstore.clone() }
    }

    /// All jobs, by name. One that this release cannot read is skipped, and logged.
    pub fn jobs(&self) -> Result<Vec<Job>, MailError> {
        Ok(readable_jobs(&self.mailstore.store().scan(schema::TIMETABLE_JOB, &[])?))
    }

    /// A job; `None` when there is none, or it was removed.
    pub fn job(&self, id: JobId) -> Result<Option<Job>, MailError> {
        let key = schema::job_key(id);
        let record = self.mailstore.store().get(&key)?;
        Ok(record.map(|record| Job::read(&key, &record)).transpose()?.flatten())
    }

    /// Adds a job.
    pub async fn add_job(&self, job: Job) -> Result<Acknowledgement, TimetableError> {
        let (refused, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let others = others(draft, job.id)?;
                let refused = match others.len() >= MOST_JOBS {
                    true => Some(TimetableError::Many),
                    false => taken(&others, &job.name),
                };
                if refused.is_none() {
                    draft.edit(schema::job_key(job.id), job.edits(None))?;
                }
                Ok(refused)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Changes settings of a job. Due times before a change of the times do not count as missed.
    pub async fn change_job(&self, id: JobId, changes: Vec<JobChange>) -> Result<Acknowledgement, TimetableError> {
        let (refused, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let Some(job) = job_in(draft, id)? else { return Ok(Some(TimetableError::None(id))) };
                let changed = match job.changed(&changes, wall()) {
                    Ok(changed) => changed,
                    Err(error) => return Ok(Some(TimetableError::Job(error))),
                };
                // After a split, two jobs may have one name, and there may be too many: each can still be changed.
                let refused = match changed.name == job.name {
                    true => None,
                    false => taken(&others(draft, id)?, &changed.name),
                };
                if refused.is_none() {
                    draft.edit(schema::job_key(id), changed.edits(Some(&job)))?;
                }
                Ok(refused)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Asks for a run of a job now, by the node or the nodes that run it. A run that is under way ends first.
    pub async fn request_job_run(&self, id: JobId) -> Result<Acknowledgement, TimetableError> {
        let (found, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                if job_in(draft, id)?.is_none() {
                    return Ok(false);
                }
                // A run that a clock ahead of this one has dated later is no answer to the request.
                let latest = latest_due();
                let runs = draft.scan(schema::JOB_RUN, &id.to_bytes())?;
                let due = runs.iter().filter_map(|(key, record)| readable_run(key, record)).map(|run| run.due);
                let last = due.filter(|due| *due <= latest).max().unwrap_or_default();
                let at = wall().max(Timestamp(last.0.saturating_add(1)));
                draft.edit(schema::job_key(id), Job::request(at))?;
                Ok(true)
            })
            .await?;
        if found { Ok(acknowledgement) } else { Err(TimetableError::None(id)) }
    }

    /// Removes a job and the history of its runs. A run that is under way ends, and leaves no trace.
    pub async fn remove_job(&self, id: JobId) -> Result<Acknowledgement, TimetableError> {
        let (found, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                if job_in(draft, id)?.is_none() {
                    return Ok(false);
                }
                for (key, record) in draft.scan(schema::JOB_RUN, &id.to_bytes())? {
                    if record.tombstone().is_none() {
                        draft.edit(key, JobRun::removal())?;
                    }
                }
                draft.edit(schema::job_key(id), Job::removal())?;
                Ok(true)
            })
            .await?;
        if found { Ok(acknowledgement) } else { Err(TimetableError::None(id)) }
    }

    /// Watches for changes of the timetable. Begin watching before reading it, so that no change is missed.
    pub fn watch_timetable(&self) -> TimetableWatch {
        TimetableWatch { changes: self.mailstore.store().live(|change| job_of(&change.key).is_some()) }
    }

    /// The latest runs of a job, latest first: at most [`schema::RUN_SLOTS`], for a job of every node of each node.
    pub async fn job_runs(&self, id: JobId) -> Result<Vec<JobRun>, MailError> {
        let store = self.clone();
        blocking(move || store.job_runs_now(id)).await?
    }

    fn job_runs_now(&self, id: JobId) -> Result<Vec<JobRun>, MailError> {
        let mut runs = Vec::new();
        for row in self.mailstore.store().rows(schema::JOB_RUN, &id.to_bytes()) {
            let (key, record) = row?;
            runs.extend(readable_run(&key, &record));
        }
        runs.sort_by(|a, b| (b.due, &a.node).cmp(&(a.due, &b.node)));
        Ok(runs)
    }

    /// The latest run of a job, for a job of every node that of this one.
    pub async fn last_job_run(&self, job: &Job) -> Result<Option<JobRun>, MailError> {
        let (place, latest) = (job.place, latest_due());
        let runs = self.job_runs(job.id).await?;
        let node = &self.mailstore.settings().node;
        Ok(runs.into_iter().find(|run| run.place == place && run.due <= latest && run.is_of(node)))
    }

    /// Writes a run that begins, or that was skipped: durable here and at a peer before its work begins. False when the
    /// job was removed meanwhile.
    pub async fn write_job_run(&self, run: JobRun) -> Result<bool, MailError> {
        let (written, _) = self
            .mailstore
            .commit(move |draft| {
                let written = job_in(draft, run.job)?.is_some();
                if written {
                    draft.edit(run.key(), run.edits())?;
                }
                Ok(written)
            })
            .await?;
        Ok(written)
    }

    /// Writes the end of a run, unless its row has another run or attempt by now, or was removed; true if it did.
    pub async fn end_job_run(&self, run: JobRun) -> Result<bool, MailError> {
        let (written, _) = self
            .mailstore
            .commit(move |draft| {
                let key = run.key();
                let stored = draft.get(&key)?.and_then(|record| readable_run(&key, &record));
                let same = |stored: &JobRun| {
                    (stored.due, stored.attempt, stored.incarnation) == (run.due, run.attempt, run.incarnation)
                        && stored.state == RunState::Running
                };
                let written = stored.as_ref().is_some_and(same);
                if written {
                    draft.edit(key, run.edits())?;
                }
                Ok(written)
            })
            .await?;
        Ok(written)
    }
}

/// The jobs but this one.
fn others(draft: &Draft<'_>, id: JobId) -> Result<Vec<Job>, MailError> {
    let mut others = readable_jobs(&draft.scan(schema::TIMETABLE_JOB, &[])?);
    others.retain(|other| other.id != id);
    Ok(others)
}

/// The refusal of a name that one of these jobs has.
fn taken(others: &[Job], name: &str) -> Option<TimetableError> {
    others.iter().any(|other| other.name == name).then(|| TimetableError::Name(name.to_owned()))
}

fn job_in(draft: &Draft<'_>, id: JobId) -> Result<Option<Job>, MailError> {
    let key = schema::job_key(id);
    Ok(draft.get(&key)?.map(|record| Job::read(&key, &record)).transpose()?.flatten())
}

fn readable_jobs(rows: &[(Key, Record)]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (key, record) in rows {
        match Job::read(key, record) {
            Ok(job) => jobs.extend(job),
            Err(error) => tracing::warn!(%error, "job of the timetable cannot be read; it is left out"),
        }
    }
    jobs.sort_by(|a, b| (&a.name, a.created, a.id).cmp(&(&b.name, b.created, b.id)));
    jobs
}

fn readable_run(key: &Key, record: &Record) -> Option<JobRun> {
    JobRun::read(key, record).unwrap_or_else(|error| {
        tracing::warn!(%error, "run of a job cannot be read; it is left out");
        None
    })
}

/// Latest due time of a run that counts.
fn latest_due() -> Timestamp {
    Timestamp(wall().0.saturating_add(AHEAD_MS))
}
