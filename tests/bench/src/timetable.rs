//! Costs at rest of a timetable.
//!
//! Method: two pairs with a witness, side by side in the same seconds, so that a busy host strikes both. One of them has hourly jobs,
//! none of which is due within the first [`QUIET_MINUTES`]. Processor time of both nodes of each pair over the same seconds, and the
//! ratio; the aim is a ratio near 1. The kernel counts in steps of 10 ms: `--seconds 120` makes the ratio finer.

use std::{thread::sleep, time::Duration};

use serde_json::json;
use twinbox_clock::{BootInstant, wall};
use twinbox_testkit::{Cluster, Spec, wait_until};

use crate::{machine, report::Report};

/// Minutes in which no job is due.
const QUIET_MINUTES: u64 = 20;
/// Minutes of the hour after these over which the jobs are spread.
const SPREAD_MINUTES: u64 = 30;
/// Time after the last job was added, so that its costs are not counted.
const SETTLES: Duration = Duration::from_secs(15);

/// Watches a pair with this many jobs, and one without, for this many seconds.
pub fn run(report: &mut Report, count: usize, seconds: u64) {
    let pair = || Cluster::start(&Spec { log: "warn", ack_timeout_ms: 250, ..Spec::default() });
    let (with, without) = (pair(), pair());
    add_jobs(&with, count);
    let pids = [&with, &without].map(|cluster| {
        let (publisher, other) = cluster.publisher_and_other();
        [publisher, other].map(|name| cluster.member(&name).pid())
    });
    sleep(SETTLES);
    let used = || pids.map(|pair| pair.map(machine::cpu_of));
    let (before, begun) = (used(), BootInstant::now());
    sleep(Duration::from_secs(seconds));
    let (after, passed) = (used(), begun.elapsed().as_secs_f64());
    let history = with.cli("a").json(&["timetable", "history", "--most", "1000"]);
    let runs = history["runs"].as_array().map_or(0, Vec::len);
    let columns = &["node", "jobs", "runs", "with %", "without %", "ratio"];
    let mut table = report.table("nodes at rest, with and without hourly jobs", columns);
    for (n, node) in ["publisher", "other node"].into_iter().enumerate() {
        let [with, without] = [0, 1].map(|pair| (after[pair][n] - before[pair][n]).as_secs_f64() / passed * 100.0);
        table.row(&[json!(node), json!(count), json!(runs), json!(with), json!(without), json!(with / without)]);
    }
}

/// Adds hourly jobs, known to both nodes.
fn add_jobs(cluster: &Cluster, count: usize) {
    let (cli, now) = (cluster.cli("a"), wall().0 / 60_000);
    for n in 0..count {
        let minute = (now + QUIET_MINUTES + n as u64 % SPREAD_MINUTES) % 60;
        let (name, cron) = (format!("job-{n}"), format!("{minute} * * * *"));
        cli.json(&["timetable", "add", &name, "--job", "ageing", "--cron", &cron, "--zone", "UTC"]);
    }
    wait_until("both nodes know the jobs", Duration::from_secs(60), || {
        ["a", "b"].iter().all(|name| {
            let list = cluster.cli(name).try_json(&["timetable", "list"]).unwrap_or_default();
            list["jobs"].as_array().map_or(0, Vec::len) == count
        })
    });
}
