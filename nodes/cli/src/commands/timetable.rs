//! `twinbox timetable …`.

use std::{path::Path, time::Duration};

use jiff::tz::TimeZone;
use twinbox_clock::BootInstant;
use twinbox_wire::timetable::{
    Job, JobAddRequest, JobChanged, JobHistoryReply, JobHistoryRequest, JobListRequest, JobNameRequest,
    JobRunReply, JobSetRequest, Run,
};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::TimetableCommand;

/// Poll interval while a run has no outcome.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Runs among which the requested one is found, although other due times pass meanwhile.
const LATEST: u32 = 1_000;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: TimetableCommand) -> Result<(), CliError> {
    let mut node = client::timetables(socket).await?;
    let (reply, name, done) = match command {
        TimetableCommand::List => {
            let reply = node.job_list(JobListRequest {}).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("{}", jobs(reply.jobs));
            return Ok(());
        }
        TimetableCommand::History { name, most } => {
            let request = JobHistoryRequest { name: name.unwrap_or_default(), most };
            let reply = node.job_history(request).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("{}", runs(reply.runs));
            return Ok(());
        }
        TimetableCommand::Run { name, timeout } => return run_now(node, json, &name, timeout).await,
        TimetableCommand::Add { name, kind, cron, settings } => {
            let request = JobAddRequest { name: name.clone(), kind, settings: settings.with_cron(Some(cron)) };
            (node.job_add(request).await?.into_inner(), name, "added")
        }
        TimetableCommand::Set { name, cron, settings } => {
            let request = JobSetRequest { name: name.clone(), settings: settings.with_cron(cron) };
            (node.job_set(request).await?.into_inner(), name, "changed")
        }
        TimetableCommand::Remove { name } => {
            (node.job_remove(JobNameRequest { name: name.clone() }).await?.into_inner(), name, "removed")
        }
    };
    if json {
        return output::json(&reply);
    }
    println!("job {name} {done} ({})", output::acknowledged(&reply.acknowledged));
    if done != "removed" {
        println!("{}", due(&reply));
    }
    Ok(())
}

/// Requests a run, and waits for its outcome on all nodes that run it.
async fn run_now(mut node: client::Timetables, json: bool, name: &str, timeout: Duration) -> Result<(), CliError> {
    let request = JobNameRequest { name: name.to_owned() };
    let JobRunReply { id, due_ms, nodes, .. } = node.job_run(request).await?.into_inner();
    let began = BootInstant::now();
    let ended = loop {
        let request = JobHistoryRequest { name: id.clone(), most: LATEST };
        // A job that came due meanwhile has one run for both.
        let all = node.job_history(request).await?.into_inner().runs.into_iter().rev();
        let mut ended: Vec<Run> = all.filter(|run| run.due_ms >= due_ms && run.ended_ms > 0).collect();
        ended.sort_by(|a, b| a.node.cmp(&b.node));
        ended.dedup_by(|a, b| a.node == b.node);
        if ended.len() >= nodes.len() || began.elapsed() > timeout {
            break ended;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    let failed = ended.iter().filter(|run| run.state != "done");
    let mut problems: Vec<_> = failed.map(|run| format!("{}: {}", run.node, run.state)).collect();
    let silent = nodes.iter().filter(|node| !ended.iter().any(|run| run.node == **node));
    let silent = silent.take(nodes.len().saturating_sub(ended.len()));
    problems.extend(silent.map(|node| format!("{node}: no outcome after {} s", timeout.as_secs())));
    if json {
        output::json(&JobHistoryReply { runs: ended })?;
    } else {
        println!("{}", runs(ended));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(format!("job {name}: {}; see 'twinbox timetable history {name}'", problems.join("; "))))
}

fn jobs(jobs: Vec<Job>) -> String {
    let rows = jobs.into_iter().map(|job| {
        let next = match job.next_ms.first() {
            Some(ms) => local(*ms, &job.zone),
            None if job.enabled => "never".to_owned(),
            None => "disabled".to_owned(),
        };
        let last = job.last.map_or_else(|| "-".to_owned(), |run| run.state);
        let arguments: Vec<_> = job.arguments.iter().map(|arg| format!("{}={}", arg.word, arg.value)).collect();
        vec![job.name, job.kind, job.cron, job.zone, job.place, job.missed, next, last, arguments.join(" ")]
    });
    output::table(&["JOB", "KIND", "CRON", "ZONE", "ON", "MISSED", "NEXT", "LAST", "ARGUMENTS"], rows)
}

fn runs(runs: Vec<Run>) -> String {
    let rows = runs.into_iter().map(|run| {
        let seconds = match run.ended_ms.checked_sub(run.began_ms) {
            Some(ms) if run.state != "skipped" => format!("{}.{:03} s", ms / 1_000, ms % 1_000),
            _ => "-".to_owned(),
        };
        vec![local(run.due_ms, &run.zone), run.job, run.node, run.state, seconds, run.outcome]
    });
    output::table(&["DUE", "JOB", "NODE", "STATE", "TOOK", "OUTCOME"], rows)
}

/// The next due times of a job that was added or changed.
fn due(reply: &JobChanged) -> String {
    match reply.next_ms.as_slice() {
        [] => "due: never".to_owned(),
        times => {
            let times: Vec<_> = times.iter().map(|ms| format!("due {}", local(*ms, &reply.zone))).collect();
            times.join("\n")
        }
    }
}

/// Time in the zone of a job; in UTC, if the zone is unknown here.
fn local(ms: u64, zone: &str) -> String {
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    let at = output::timestamp(ms).map(|at| at.to_zoned(zone));
    at.map(|at| at.strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-10-25 00:30 UTC, in the first of two hours from 2 to 3 o'clock.
    const TWICE: u64 = 1_792_888_200_000;
    const HOUR: u64 = 3_600_000;

    #[test]
    fn due_times_are_in_the_zone_of_the_job_with_its_offset_of_that_day() {
        let (next_ms, zone) = (vec![TWICE, TWICE + HOUR], "Europe/Berlin".to_owned());
        let reply = JobChanged { next_ms, zone, ..Default::default() };
        assert_eq!(due(&reply), "due Sun 2026-10-25 02:30:00 CEST\ndue Sun 2026-10-25 02:30:00 CET");
        assert_eq!(due(&JobChanged::default()), "due: never");
        assert_eq!(local(TWICE, "Nowhere/Atall"), "Sun 2026-10-25 00:30:00 UTC");
    }

    #[test]
    fn skipped_run_has_no_duration_and_a_job_without_due_times_says_why() {
        let run = Run { state: "done".into(), began_ms: 1_000, ended_ms: 2_250, ..Default::default() };
        assert!(runs(vec![run.clone()]).contains("1.250 s"));
        assert!(!runs(vec![Run { state: "skipped".into(), ..run }]).contains("1.250"));
        let job = Job { zone: "UTC".into(), ..Default::default() };
        assert!(jobs(vec![job.clone()]).contains("disabled"));
        assert!(jobs(vec![Job { enabled: true, ..job }]).contains("never"));
    }
}
