//! Jobs: list, add, change, remove.

use tonic::Status;
use tracing::info;
use twinbox_admin_kit::{holder, named};
use twinbox_clock::wall;
use twinbox_ids::{JobId, Timestamp};
use twinbox_mailstore::Acknowledgement;
use twinbox_roles::Duty;
use twinbox_timetable::{Job, JobChange, JobError, JobKind};
use twinbox_timetable_store::TimetableError;
use twinbox_wire::timetable::{self as wire, JobAddRequest, JobArgument, JobChanged, JobListReply, JobSetRequest};

use super::{runs::shown as shown_run, timetable};
use crate::{
    AdminHandles,
    admin::{acknowledged, all_records, internal, mail},
};

/// Number of due times that are shown.
const SHOWN_TIMES: usize = 3;

/// All jobs, with their next due times and their last runs.
pub async fn list(node: &AdminHandles) -> Result<JobListReply, Status> {
    all_records(node)?;
    let (mut jobs, now) = (Vec::new(), wall());
    for job in timetable(node).jobs().map_err(internal)? {
        let runs = timetable(node).job_runs(job.id).await.map_err(internal)?;
        let last = runs.first().map(|run| shown_run(run, &job));
        jobs.push(wire::Job { last, ..shown(&job, now) });
    }
    Ok(JobListReply { jobs })
}

/// Adds a job.
pub async fn add(node: &AdminHandles, request: JobAddRequest) -> Result<JobChanged, Status> {
    all_records(node)?;
    let JobAddRequest { name, kind, mut settings } = request;
    let kind = JobKind::from_word(&kind).ok_or_else(|| wrong(JobError::Kind(kind)))?;
    // First, so that a zone of the request counts.
    settings.insert(0, format!("zone={}", node.mailstore.live().usual.timezone));
    let now = wall();
    let job = Job::new(JobId::random(), &name, kind, &read(kind, &settings)?, now).map_err(wrong)?;
    served(node).await?;
    let acknowledgement = timetable(node).add_job(job.clone()).await.map_err(refused)?;
    info!(job = %job.id, kind = kind.word(), "administrator adds job");
    Ok(changed(&job, now, &acknowledgement))
}

/// Changes settings of a job.
pub async fn set(node: &AdminHandles, request: JobSetRequest) -> Result<JobChanged, Status> {
    let job = find(node, &request.name)?;
    let changes = read(job.kind, &request.settings)?;
    if changes.is_empty() {
        return Err(Status::invalid_argument("no setting was named: write word=value, such as enabled=no"));
    }
    let acknowledgement = timetable(node).change_job(job.id, changes).await.map_err(refused)?;
    info!(job = %job.id, "administrator changes job");
    let job = stored(node, job.id)?;
    Ok(changed(&job, wall(), &acknowledgement))
}

/// Removes a job.
pub async fn remove(node: &AdminHandles, name: &str) -> Result<JobChanged, Status> {
    let job = find(node, name)?;
    let acknowledgement = timetable(node).remove_job(job.id).await.map_err(refused)?;
    info!(job = %job.id, "administrator removes job");
    Ok(JobChanged { next_ms: Vec::new(), ..changed(&job, wall(), &acknowledgement) })
}

/// The job as it is stored now.
pub fn stored(node: &AdminHandles, id: JobId) -> Result<Job, Status> {
    let job = timetable(node).job(id).map_err(internal)?;
    job.ok_or_else(|| refused(TimetableError::None(id)))
}

/// The job with that name, or that id.
pub fn find(node: &AdminHandles, name: &str) -> Result<Job, Status> {
    all_records(node)?;
    let add = "twinbox timetable add NAME --job KIND --cron TIMES";
    let jobs = timetable(node).jobs().map_err(internal)?;
    named::find(jobs, name, |job| (job.name.as_str(), job.id.to_string()), "job", add)
}

/// Refuses what no member would run yet, because the cluster does not assign the duty before all members know it.
pub async fn served(node: &AdminHandles) -> Result<(), Status> {
    holder::served(&node.roles, Duty::Timetable, "no member runs jobs").await
}

fn read(kind: JobKind, settings: &[String]) -> Result<Vec<JobChange>, Status> {
    settings.iter().map(|text| JobChange::parse(kind, text).map_err(wrong)).collect()
}

fn wrong(error: JobError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Refusal of the store.
pub fn refused(error: TimetableError) -> Status {
    match error {
        TimetableError::Mail(error) => mail(error),
        TimetableError::None(_) => Status::not_found(error.to_string()),
        TimetableError::Job(error) => wrong(error),
        error => Status::failed_precondition(error.to_string()),
    }
}

/// The next due times, in milliseconds since 1970.
fn next(job: &Job, now: Timestamp) -> Vec<u64> {
    let first = job.cron.next_after(now, &job.zone).filter(|_| job.enabled);
    let times = std::iter::successors(first, |at| job.cron.next_after(*at, &job.zone).filter(|next| next > at));
    times.take(SHOWN_TIMES).map(|at| at.0).collect()
}

fn changed(job: &Job, now: Timestamp, acknowledgement: &Acknowledgement) -> JobChanged {
    JobChanged {
        id: job.id.to_string(),
        acknowledged: acknowledged(acknowledgement),
        next_ms: next(job, now),
        zone: job.zone.to_string(),
    }
}

fn shown(job: &Job, now: Timestamp) -> wire::Job {
    let argument = |(word, value): (&String, &String)| JobArgument { word: word.clone(), value: value.clone() };
    wire::Job {
        id: job.id.to_string(),
        name: job.name.clone(),
        kind: job.kind.word().to_owned(),
        arguments: job.arguments.iter().map(argument).collect(),
        cron: job.cron.to_string(),
        zone: job.zone.to_string(),
        place: job.place.word().to_owned(),
        missed: job.missed.word().to_owned(),
        enabled: job.enabled,
        next_ms: next(job, now),
        last: None,
        limit_s: job.limit_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-10-24 12:00 UTC, the day before the clock goes back in Berlin.
    const NOW: Timestamp = Timestamp(1_792_843_200_000);

    fn job(settings: &[&str]) -> Job {
        let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        let changes = read(JobKind::Ageing, &settings).expect("valid settings");
        Job::new(JobId(7), "nightly", JobKind::Ageing, &changes, NOW).expect("a job")
    }

    #[test]
    fn due_times_follow_the_clock_of_the_zone_and_a_disabled_job_has_none() {
        let berlin = job(&["cron=0 3 * * *", "zone=Europe/Berlin"]);
        // 3 o'clock is 2 o'clock UTC from the 25th on.
        let hours: Vec<u64> = next(&berlin, NOW).iter().map(|ms| (ms - NOW.0) / 3_600_000).collect();
        assert_eq!(hours, [14, 38, 62]);
        assert!(next(&job(&["cron=0 3 * * *", "enabled=no"]), NOW).is_empty());
    }

    #[test]
    fn wrong_setting_is_refused_with_the_input() {
        let wrong = [("cron=61 3 * * *", "'61'"), ("zone=Mars/Base", "'Mars/Base'"), ("zonne=UTC", "'zonne'")];
        for (text, part) in wrong {
            let refused = read(JobKind::Ageing, &[text.to_owned()]).expect_err(text);
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }
}
