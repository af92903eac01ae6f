//! Runs of jobs: the request of one now, and the history.

use prost::Message as _;
use tonic::Status;
use tracing::info;
use twinbox_ids::NodeName;
use twinbox_roles::{Duty, MemberKind, RolesView, Status as MemberStatus};
use twinbox_timetable::{Job, JobPlace, JobRun};
use twinbox_wire::timetable::{self as wire, JobHistoryReply, JobHistoryRequest, JobRunReply};

use super::{
    jobs::{find, refused, served, stored},
    timetable,
};
use crate::{
    AdminHandles,
    admin::{acknowledged, all_records, internal},
};

/// Number of runs in a reply unless the request says otherwise.
const USUAL: u32 = 100;
/// Maximum number of runs in a reply.
const MOST: u32 = 1_000;
/// Approximate maximum size of a reply, in bytes; tonic permits 4 MiB.
const MOST_BYTES: usize = 2 * 1024 * 1024;

/// Requests a run of a job now, from the nodes of its place.
pub async fn run(node: &AdminHandles, name: &str) -> Result<JobRunReply, Status> {
    let job = find(node, name)?;
    served(node).await?;
    let view = node.roles.watch().borrow().clone();
    let nodes = nodes(&view, &job)?;
    let acknowledgement = timetable(node).request_job_run(job.id).await.map_err(refused)?;
    info!(job = %job.id, "administrator requests run of job");
    let requested = stored(node, job.id)?.requested.unwrap_or_default();
    Ok(JobRunReply {
        id: job.id.to_string(),
        due_ms: requested.0,
        nodes: nodes.iter().map(ToString::to_string).collect(),
        acknowledged: acknowledged(&acknowledgement),
    })
}

/// The nodes that run a job when it is due.
fn nodes(view: &RolesView, job: &Job) -> Result<Vec<NodeName>, Status> {
    match job.place {
        JobPlace::EveryNode => {
            let nodes = view.members.iter().filter(|member| member.kind == MemberKind::Node);
            let serving = nodes.filter(|member| member.status == MemberStatus::InService);
            let names: Vec<NodeName> = serving.map(|member| member.name.clone()).collect();
            let none =
                || Status::failed_precondition("no node is in service: 'twinbox cluster status' shows the reason");
            if names.is_empty() { Err(none()) } else { Ok(names) }
        }
        JobPlace::Publisher => {
            let duty = view.duties.iter().find(|duty| duty.duty == Duty::Timetable);
            let holder = duty.and_then(|duty| duty.holder.clone());
            let none = "no node holds the duty timetable: 'twinbox duty list' shows the reason";
            Ok(vec![holder.ok_or_else(|| Status::failed_precondition(none))?])
        }
    }
}

/// The newest runs of a job, or of all jobs.
pub async fn history(node: &AdminHandles, request: &JobHistoryRequest) -> Result<JobHistoryReply, Status> {
    all_records(node)?;
    let most = if request.most == 0 { USUAL } else { request.most.min(MOST) };
    let jobs = match request.name.as_str() {
        "" => timetable(node).jobs().map_err(internal)?,
        name => vec![find(node, name)?],
    };
    let mut runs = Vec::new();
    for job in &jobs {
        let of_job = timetable(node).job_runs(job.id).await.map_err(internal)?;
        runs.extend(of_job.into_iter().map(|run| (run, job)));
    }
    runs.sort_by(|(a, _), (b, _)| (b.due, b.began, &a.node).cmp(&(a.due, a.began, &b.node)));
    runs.truncate(most as usize);
    let mut bytes = 0;
    let shown = runs.iter().map(|(run, job)| shown(run, job)).take_while(|run| {
        bytes += run.encoded_len();
        bytes <= MOST_BYTES
    });
    Ok(JobHistoryReply { runs: shown.collect() })
}

/// A run of this job.
pub fn shown(run: &JobRun, job: &Job) -> wire::Run {
    wire::Run {
        job: job.name.clone(),
        zone: job.zone.to_string(),
        due_ms: run.due.0,
        node: run.node.to_string(),
        began_ms: run.began.0,
        ended_ms: run.ended.map(|at| at.0).unwrap_or_default(),
        state: run.state.word().to_owned(),
        outcome: run.outcome.clone(),
        attempt: run.attempt,
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{Incarnation, JobId, Timestamp};
    use twinbox_timetable::{JobChange, JobKind, RunState};

    use super::*;

    fn run() -> JobRun {
        JobRun {
            job: JobId(7),
            due: Timestamp(5),
            place: JobPlace::Publisher,
            node: "a".parse().expect("a name"),
            incarnation: Incarnation::random(),
            began: Timestamp(6),
            ended: None,
            state: RunState::Running,
            attempt: 1,
            outcome: String::new(),
        }
    }

    #[test]
    fn run_has_name_and_zone_of_its_job_and_no_end_while_it_is_under_way() {
        let cron = JobChange::parse(JobKind::Ageing, "cron=0 3 * * *").expect("a setting");
        let job = Job::new(JobId(7), "nightly", JobKind::Ageing, &[cron], Timestamp(1)).expect("a job");
        let running = shown(&run(), &job);
        assert_eq!((running.job.as_str(), running.zone.as_str(), running.ended_ms), ("nightly", "UTC", 0));
        let ended = shown(&run().ended(RunState::Failed, "no answer", Timestamp(9)), &job);
        assert_eq!((ended.state.as_str(), ended.outcome.as_str(), ended.ended_ms), ("failed", "no answer", 9));
    }
}
