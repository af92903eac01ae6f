//! Begins the runs that are due, and records their outcomes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};
use twinbox_alarms::{Alarms, Code};
use twinbox_clock::wall;
use twinbox_duty_service::Progress;
use twinbox_gate::{Gate, Permit};
use twinbox_ids::{Epoch, JobId, Timestamp};
use twinbox_mailstore::{MailError, Mailstore};
use twinbox_timetable::{
    Job, JobPlace, JobRun, JobStep, MissedTimes, Recovery, RunState, Runner, missed_before, next_step, recover,
};
use twinbox_timetable_store::{TimetableChange, TimetableStore};

use crate::{
    JobOrder, Works,
    active::{ActiveRun, ActiveRuns},
};

/// Interval of the loop, and so the maximum delay of a due job that could begin.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Pause before the store is used again after an error.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Maximum number of runs at a time, in each of the two loops of a node.
const MOST_AT_ONCE: usize = 16;
/// Maximum time to record the interruption of a run when the duty is lost.
const RECORD_WITHIN: Duration = Duration::from_secs(2);
/// Maximum length of a reason in an alarm, in characters.
const LONGEST_REASON: usize = 300;

pub(crate) struct RunLoop {
    pub mailstore: Mailstore,
    pub timetable: TimetableStore,
    pub gate: Gate,
    pub alarms: Alarms,
    pub works: Arc<Works>,
    pub place: JobPlace,
    pub progress: Arc<Progress>,
}

/// A job with its latest run.
struct JobState {
    job: Job,
    last: Option<JobRun>,
    /// Earliest time of the next step.
    quiet_until: Timestamp,
}

impl RunLoop {
    pub(crate) async fn serve(self) {
        let this = Arc::new(self);
        match this.place {
            JobPlace::EveryNode => this.hold(None, &mut ActiveRuns::default()).await,
            JobPlace::Publisher => this.serve_duty().await,
        }
    }

    /// Works whenever this node holds the duty, until the gate or the store is closed for good.
    async fn serve_duty(self: &Arc<Self>) {
        let mut holding = self.gate.holding();
        loop {
            self.progress.turn();
            let epoch = match timeout(HEARTBEAT, holding.wait_for(Option::is_some)).await {
                Ok(Ok(epoch)) => epoch.clone(),
                Ok(Err(_)) => return,
                Err(_) => continue,
            };
            let Some(epoch) = epoch else { continue };
            info!(%epoch, "duty held; running the jobs of the timetable");
            let mut active = ActiveRuns::default();
            let open = tokio::select! {
                biased;
                _ = holding.wait_for(|held| held.as_ref() != Some(&epoch)) => true,
                () = self.hold(Some(&epoch), &mut active) => false,
            };
            self.interrupt(active).await;
            info!(%epoch, "duty not held any more");
            if !open {
                return;
            }
        }
    }

    /// Runs what is due until it is dropped or the store is closed.
    async fn hold(self: &Arc<Self>, epoch: Option<&Epoch>, active: &mut ActiveRuns) {
        // Subscribed before the read, so that no change is missed.
        let mut changes = self.timetable.watch_timetable();
        let (mut known, mut read) = (BTreeMap::new(), true);
        let mut before = wall();
        loop {
            self.progress.turn();
            let now = wall();
            // The due times that are known hold only while the clock goes forward.
            read |= now < before;
            before = now;
            if read {
                match self.read_all().await {
                    Ok(all) => (known, read) = (all, false),
                    Err(error) => {
                        warn!(%error, "timetable cannot be read; retrying");
                        sleep(TRY_AGAIN).await;
                        continue;
                    }
                }
            }
            self.begin_due(&mut known, epoch, active);
            let changed = tokio::select! {
                change = changes.next() => match change {
                    Some(TimetableChange::Job(job)) => Some(job),
                    Some(TimetableChange::Everything) => {
                        read = true;
                        None
                    }
                    None => return,
                },
                Some(job) = active.next_ended() => Some(job),
                () = sleep(HEARTBEAT) => None,
            };
            if let Some(job) = changed
                && let Err(error) = self.refresh(&mut known, job).await
            {
                warn!(%error, "job of the timetable cannot be read; retrying");
                read = true;
            }
        }
    }

    async fn read_all(&self) -> Result<BTreeMap<JobId, JobState>, MailError> {
        // A job whose runs are not here yet must not run again.
        if !self.mailstore.has_all_records() {
            return Err(MailError::LacksRecords);
        }
        let mut known = BTreeMap::new();
        for job in self.timetable.jobs()? {
            self.progress.turn();
            self.refresh(&mut known, job.id).await?;
        }
        Ok(known)
    }

    /// Reads a job and its latest run again.
    async fn refresh(&self, known: &mut BTreeMap<JobId, JobState>, id: JobId) -> Result<(), MailError> {
        let job = match self.timetable.job(id) {
            Ok(job) => job.filter(|job| job.place == self.place),
            // Of a newer release: a node that can read it runs it.
            Err(MailError::View(_)) => None,
            Err(error) => return Err(error),
        };
        match job {
            Some(job) => {
                let last = self.timetable.last_job_run(&job).await?;
                known.insert(id, JobState { job, last, quiet_until: Timestamp(0) });
            }
            None => {
                known.remove(&id);
            }
        }
        Ok(())
    }

    /// Takes the next step of each job that is not under way.
    fn begin_due(
        self: &Arc<Self>,
        known: &mut BTreeMap<JobId, JobState>,
        epoch: Option<&Epoch>,
        active: &mut ActiveRuns,
    ) {
        let now = wall();
        let settings = self.mailstore.settings();
        let runner = Runner { node: settings.node.clone(), incarnation: settings.incarnation };
        for known in known.values_mut() {
            if active.len() >= MOST_AT_ONCE {
                return;
            }
            if now < known.quiet_until || active.has(known.job.id) {
                continue;
            }
            let step = next_step(&known.job, known.last.as_ref(), &runner, now);
            let run = match &step {
                JobStep::Wait(until) => {
                    known.quiet_until = *until;
                    continue;
                }
                JobStep::Begin { run, .. } | JobStep::Skipped { run, .. } | JobStep::Interrupted(run) => {
                    run.clone()
                }
            };
            let permit = match epoch.map(|epoch| self.gate.enter(epoch)) {
                Some(Ok(permit)) => Some(Arc::new(permit)),
                Some(Err(_)) => return,
                None => None,
            };
            let job = known.job.clone();
            let task = self.clone().carry_out(job.clone(), step, permit.clone());
            active.start(ActiveRun { job, run, permit }, task);
        }
    }

    /// Carries out a step, from its durable beginning to its durable outcome.
    async fn carry_out(self: Arc<Self>, job: Job, step: JobStep, permit: Option<Arc<Permit>>) {
        let taken = match step {
            JobStep::Begin { run, .. } => self.run(&job, run, permit).await,
            JobStep::Skipped { run, .. } => {
                info!(job = %job.id, "missed runs of a job are skipped");
                self.timetable.write_job_run(run).await.map(drop)
            }
            JobStep::Interrupted(run) => self.note_interrupted(&job, run).await,
            JobStep::Wait(_) => Ok(()),
        };
        if let Err(error) = taken {
            warn!(job = %job.id, %error, "store refuses a run of a job; retrying");
            sleep(TRY_AGAIN).await;
        }
    }

    async fn note_interrupted(&self, job: &Job, run: JobRun) -> Result<(), MailError> {
        let again = recover(job, &run, wall()) == Recovery::RunAgain;
        let reason = run.outcome.clone();
        // The process may be an earlier one of this node: its run has another incarnation, which stays in the row.
        if self.timetable.end_job_run(run).await? && !again {
            self.alarm(job, &reason);
        }
        Ok(())
    }

    async fn run(&self, job: &Job, run: JobRun, permit: Option<Arc<Permit>>) -> Result<(), MailError> {
        // Read before the row of this run replaces an earlier one.
        let missed = self.missed_before(job, run.due).await?;
        if !self.timetable.write_job_run(run.clone()).await? {
            return Ok(());
        }
        info!(job = %job.id, kind = job.kind.word(), attempt = run.attempt, "job begins");
        let order = JobOrder::new(job.clone(), run.due, missed, permit.clone());
        let (state, text) = match self.work(order).await {
            Ok(text) => (RunState::Done, text),
            // The work may see the loss of the duty before this task is ended because of it.
            Err(reason) if permit.as_ref().is_some_and(|permit| permit.check().is_err()) => {
                (RunState::Interrupted, reason)
            }
            Err(reason) => (RunState::Failed, reason),
        };
        let outcome = if run.outcome.is_empty() { text.clone() } else { format!("{text} ({})", run.outcome) };
        let ended = run.ended(state, &outcome, wall());
        // The work is done: only a record of that prevents a repeat.
        while let Err(error) = self.timetable.end_job_run(ended.clone()).await {
            warn!(job = %job.id, %error, "outcome of a job is not recorded yet; retrying");
            sleep(TRY_AGAIN).await;
        }
        info!(job = %job.id, kind = job.kind.word(), state = state.word(), "job ended");
        let left = state == RunState::Interrupted && recover(job, &ended, wall()) == Recovery::Leave;
        if state == RunState::Failed || left {
            self.alarm(job, &text);
        }
        Ok(())
    }

    /// The due times for which the run at `due` makes up.
    async fn missed_before(&self, job: &Job, due: Timestamp) -> Result<Option<MissedTimes>, MailError> {
        let (runs, node) = (self.timetable.job_runs(job.id).await?, &self.mailstore.settings().node);
        let of_place = runs.iter().filter(|run| run.place == job.place && run.is_of(node));
        Ok(missed_before(job, of_place, due))
    }

    /// The work of a run, within its time limit. A panic in it ends only the run.
    async fn work(&self, order: JobOrder) -> Result<String, String> {
        order.check()?;
        let (kind, limit) = (order.job.kind, order.job.limit_s);
        let Some(work) = self.works.of(kind) else {
            return Err(format!("this node cannot run jobs of kind '{}': upgrade it", kind.word()));
        };
        // Dropped at the limit, or with this task: then the work ends.
        let mut task = JoinSet::new();
        task.spawn(work.run(order));
        match timeout(Duration::from_secs(limit), task.join_next()).await {
            Ok(Some(Ok(outcome))) => outcome,
            Ok(_) => Err("its work ended by a panic: report what the log of the node shows".to_owned()),
            Err(_) => Err(format!("it took longer than its limit of {limit} seconds, and was ended")),
        }
    }

    /// Records that the runs under way were interrupted, because the duty was lost. The duty is released after that.
    async fn interrupt(&self, mut active: ActiveRuns) {
        for ActiveRun { job, run, permit } in active.abort().await {
            self.progress.turn();
            let reason = format!("node {} lost the duty while it ran", run.node);
            let ended = run.ended(RunState::Interrupted, &reason, wall());
            match timeout(RECORD_WITHIN, self.note_interrupted(&job, ended)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(job = %job.id, %error, "interruption of a job is not recorded"),
                Err(_) => warn!(job = %job.id, "interruption of a job is not recorded in time"),
            }
            drop(permit);
        }
    }

    fn alarm(&self, job: &Job, reason: &str) {
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        let detail = format!("job '{}' ({}): {reason}", job.name, job.kind.word());
        self.alarms.raise(Code::JobFailed, &job.name, detail);
    }
}
