//! Resident memory of both nodes of a pair over many short calls.
//!
//! Method: open loop. Callers leave messages of about 0.5 s (a call of 1.5 s) on node `a` at a steady rate, each acknowledged on two, in
//! many mailboxes in turn. With `--no-messages` they hang up during the tone instead and leave nothing: the difference is the growth by
//! messages. After every [`SAMPLES`]th part of the calls the resident memory of both nodes is read from `/proc`. Before the first call a
//! process of the benchmark writes `before` imported messages into the store of node a, node b receives them, and both nodes read all of
//! their records: the caches of their indexes are full. Memory is *flat* when it does not grow with calls once caches are full: over the
//! second half of the run the line through the samples (least squares) rises by less than [`FLAT`] bytes per call, in addition to the
//! bounded growth that [`STATED`] names. A run that is not flat ends with an error.

use std::time::Duration;

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_crowd::{Arrivals, Driver};
use twinbox_testkit::{Cluster, resident_bytes, wait_until};

use crate::{load, machine, population::Population, report::Report, writer::write_and_kill};

/// Limit of the waits before the first call.
const PATIENCE: Duration = Duration::from_secs(600);
/// Mailboxes of the messages before the first call.
const MAILBOXES_BEFORE: usize = 1_000;

/// From `#` to BYE: the tone and half a second of speech.
const STAY: Duration = Duration::from_millis(1_400);
/// From `#` to BYE of a caller who leaves nothing: the tone is still playing.
const STAY_WITHOUT_MESSAGE: Duration = Duration::from_millis(100);
/// Readings of memory over a run.
const SAMPLES: usize = 20;
/// Growth below this, in bytes per call, is flat: the index uses memory of that order for each message on disk.
const FLAT: f64 = 64.0;
/// Stated growth in bytes per message, which has a bound: the pin of its blob for an hour (64 of 47 to 94, by the fill of
/// the table), and its share in the count of its mailbox, for 100,000 messages at most (50 of 38 to 75).
const STATED: f64 = 64.0 + 50.0;
/// One failed call in this many is too many: the run would have made too few calls.
const FAILED_OF: usize = 20;

/// Makes `calls` calls at `rate` a second, each of which leaves a message if `messages`, with `before` messages in the
/// stores. The error names the nodes whose memory is not flat.
pub fn run(report: &mut Report, calls: usize, rate: u32, messages: bool, before: usize) -> Result<(), String> {
    let (stay, stated) = if messages { (STAY, STATED) } else { (STAY_WITHOUT_MESSAGE, 0.0) };
    let mut cluster = load::cluster();
    fill_caches(&mut cluster, before);
    let numbers = load::mailboxes(&cluster);
    machine::prefer();
    let (node, pids) = (cluster.sip("a"), ["a", "b"].map(|name| cluster.member(name).pid()));
    let mut table = report.table(
        if messages {
            "resident memory over calls that leave a message"
        } else {
            "resident memory over calls that leave nothing"
        },
        &["calls", "failed", "a second", "node a MB", "node b MB"],
    );
    let mut driver = Driver::new(cluster.phones());
    let (mut samples, mut failed) = ([Vec::new(), Vec::new()], 0);
    let (part, mut placed) = ((calls / SAMPLES).max(1), 0);
    while placed < calls {
        let (first, begun) = (driver.crowd.callers.len(), BootInstant::now());
        driver.resume();
        let arrivals = Arrivals { node, mailboxes: &numbers, rate: f64::from(rate), stay };
        let callers =
            driver.arrive(arrivals, Duration::from_secs_f64(part.min(calls - placed) as f64 / f64::from(rate)));
        placed += callers.len();
        let rate = part as f64 / begun.elapsed().as_secs_f64();
        // The calls of this part have ended, so that a sample is of a node without calls.
        driver.finish(stay + Duration::from_secs(5));
        let over = |caller: &twinbox_crowd::Caller| matches!(caller.bye, Some((200, _)));
        failed += driver.crowd.callers[first..].iter().filter(|caller| !over(caller)).count();
        let memory = pids.map(resident_bytes);
        for (samples, memory) in samples.iter_mut().zip(memory) {
            samples.push((placed as f64, memory as f64));
        }
        let [a, b] = memory.map(|bytes| json!(bytes as f64 / 1e6));
        table.row(&[json!(placed), json!(failed), json!(rate), a, b]);
        driver.crowd.forget_callers();
    }
    drop(table);
    assert!(failed * FAILED_OF <= calls, "{failed} of {calls} calls were not acknowledged");
    let columns = &["node", "bytes a call", "of these stated", "flat"];
    let mut table = report.table("growth over the second half of the calls", columns);
    let mut grown = Vec::new();
    for (name, samples) in ["a", "b"].iter().zip(&samples) {
        let growth = slope(&samples[samples.len() / 2..]);
        let flat = growth - stated < FLAT;
        table.row(&[json!(name), json!(growth), json!(stated), json!(flat)]);
        if !flat {
            grown.push(format!("node {name} grows by {growth:.0} bytes a call"));
        }
    }
    match grown.is_empty() {
        true => Ok(()),
        false => Err(format!("memory is not flat: {} ({stated} are stated, {FLAT} are flat)", grown.join("; "))),
    }
}

/// Writes this many messages, and has both nodes read them.
fn fill_caches(cluster: &mut Cluster, messages: usize) {
    if messages == 0 {
        return;
    }
    cluster.kill_all();
    let store = cluster.member("a").data_dir.join("store");
    let population =
        Population { mailboxes: MAILBOXES_BEFORE, messages, audio: 1_600, imported: true, deleted: false };
    write_and_kill(&store, &cluster.dir().join("writer.log"), population);
    cluster.start_all();
    machine::pin_process(cluster.member("a").pid(), machine::UNDER_TEST);
    for name in ["a", "b"] {
        let cli = cluster.cli(name);
        wait_until(&format!("node {name} to list all messages"), PATIENCE, || {
            let listed = cli.try_json(&["user", "list"]).unwrap_or_default();
            let users = listed["users"].as_array().into_iter().flatten();
            users.filter_map(|user| user["new_messages"].as_u64()).sum::<u64>() >= messages as u64
        });
        let checked = cli.run(&["store", "check"]);
        assert!(checked.status.success(), "{checked:?}");
    }
}

/// Slope of the line through these points (least squares).
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (mut rise, mut run) = (0.0, 0.0);
    for (px, py) in points {
        rise += (px - x) * (py - y);
        run += (px - x) * (px - x);
    }
    if run == 0.0 { 0.0 } else { rise / run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slope_is_that_of_the_regression_line() {
        assert_eq!(slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]), 2.0);
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 1.0)]), 0.0);
        assert_eq!(slope(&[(4.0, 1.0)]), 0.0);
    }
}
