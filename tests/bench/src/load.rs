//! Calls that record on a node of a pair, with replication and fsync switched on.
//!
//! Method: a cluster of two nodes and a witness, node `a` pinned to a core, everything else to the other. N calls to
//! `a` skip the greeting and speak for as long as the step lasts (no silence ends them). Then for some seconds: node
//! a's processor time (utime + stime of the process) and resident memory; its own histogram of how late packets were
//! handled; and beside the load four more calls a second, each answered, recorded for two seconds and hung up, whose
//! INVITE → 200 and BYE → 200 (the acknowledgement on two) are measured at the caller. What a call costs is the
//! difference to the step with none.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Spec, http_get, resident_bytes};

use crate::{
    driver::{Driver, LATE},
    machine,
    report::{Report, ms, percentile},
};

/// The histogram that tells how late a node handled packets.
const LATENESS: &str = "twinbox_rtp_lateness_seconds";
/// Calls a second while the load is built up.
const RAMP: u32 = 25;
/// How often a step is measured again because the generator itself was late.
pub const ATTEMPTS: usize = 3;
/// A probe's stay: tone and two seconds of speech.
const STAY: Duration = Duration::from_millis(3200);

/// A cluster for measuring: long messages, many of them, little logging; node `a` alone on its core.
pub fn cluster() -> Cluster {
    machine::pin(0, machine::ELSEWHERE);
    let cluster = Cluster::start(&Spec {
        log: "warn",
        ack_timeout_ms: 250,
        max_calls: 10_000,
        rtp_ports: "10000-30000",
        voicemail: ["max_message_seconds = 7200", "silence_seconds = 0", "max_messages = 100000"]
            .map(String::from)
            .to_vec(),
        ..Spec::default()
    });
    machine::pin_process(cluster.member("a").pid(), machine::UNDER_TEST);
    cluster
}

/// Cumulative buckets of the lateness histogram: upper bound in milliseconds → packets. Empty when the node tells none.
fn lateness(cluster: &Cluster) -> BTreeMap<u64, u64> {
    let page =
        http_get(cluster.phones(), cluster.member("a").metrics(), "/metrics").map_or(String::new(), |(_, t)| t);
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix(LATENESS)?.strip_prefix("_bucket{le=\"")?.split_once("\"} ")?;
        let bound =
            bound.parse::<f64>().map_or(u64::MAX, |s| if s.is_finite() { (s * 1e6) as u64 } else { u64::MAX });
        Some((bound, count.parse::<f64>().ok()? as u64))
    };
    page.lines().filter_map(bucket).collect()
}

/// Runs the steps.
pub fn run(report: &mut Report, steps: &[usize], seconds: u64) {
    let cluster = cluster();
    let (node, pid, mailbox) = (cluster.sip("a"), cluster.member("a").pid(), Cluster::USERS[0].number);
    let mut driver = Driver::new(cluster.phones());
    let mut load: Vec<usize> = Vec::new();
    let mut idle: Option<(f64, u64)> = None;
    let mut table = report.table(
        "calls recording on a node of a pair",
        &[
            "calls",
            "core %",
            "% a call",
            "memory MB",
            "KB a call",
            "answer p50 ms",
            "answer p99 ms",
            "BYE p50 ms",
            "BYE p99 ms",
            "late p99 ms",
            "over 20 ms",
        ],
    );
    for &calls in steps {
        // Build up, a little at a time.
        let mut ramp = BootInstant::now();
        let mut waiting: Vec<usize> = Vec::new();
        driver.resume();
        while load.len() < calls {
            driver.drive(Duration::from_millis(20), |d| {
                if load.len() + waiting.len() < calls && ramp.elapsed() > Duration::from_secs(1) / RAMP {
                    ramp = BootInstant::now();
                    waiting.push(d.crowd.call(node, mailbox, "2001"));
                }
                waiting.retain(|n| match d.crowd.callers[*n].answer {
                    Some((200, _)) => {
                        d.speak(*n, None);
                        load.push(*n);
                        false
                    }
                    Some((status, _)) => panic!("the node refused a call of the load: {status}"),
                    None => true,
                });
            });
        }
        driver.drive(Duration::from_secs(4), |_| {});

        let mut measured = None;
        let mut late = Duration::ZERO;
        for _ in 0..ATTEMPTS {
            let step = measure(&cluster, &mut driver, seconds);
            late = driver.take_late();
            if late <= LATE {
                measured = Some(step);
                break;
            }
        }
        let Some(Step { probes, core, before }) = measured else {
            table.generator_bound(json!(calls), late);
            break;
        };
        let after = lateness(&cluster);
        let memory = resident_bytes(pid);
        let (idle_core, idle_memory) = *idle.get_or_insert((core, memory));
        let a_call = |n: f64| if calls == 0 { 0.0 } else { n / calls as f64 };
        let mut answers: Vec<Duration> = Vec::new();
        let mut goodbyes: Vec<Duration> = Vec::new();
        for caller in probes.iter().map(|n| &driver.crowd.callers[*n]) {
            answers.extend(caller.answer.map(|(_, at)| at.since(caller.called)));
            if let (Some(left), Some((200, at))) = (caller.left, caller.goodbye) {
                goodbyes.push(at.since(left));
            }
        }
        let (p99, over) = of_histogram(&before, &after);
        table.row(&[
            json!(calls),
            json!(core),
            json!(a_call(core - idle_core)),
            json!(memory as f64 / 1e6),
            json!(a_call(memory.saturating_sub(idle_memory) as f64 / 1e3)),
            json!(ms(percentile(&mut answers, 0.5))),
            json!(ms(percentile(&mut answers, 0.99))),
            json!(ms(percentile(&mut goodbyes, 0.5))),
            json!(ms(percentile(&mut goodbyes, 0.99))),
            p99.map_or(json!("not told"), |p| json!(p)),
            over.map_or(json!("not told"), |o| json!(o)),
        ]);
        if over.is_some_and(|o| o > 0) {
            break;
        }
    }
    load.iter().for_each(|n| driver.hush(*n));
    for n in load {
        driver.crowd.hang_up(n);
        driver.drive(Duration::from_millis(5), |_| {});
    }
}

/// What was measured while the load was held.
struct Step {
    /// The calls beside the load.
    probes: Vec<usize>,
    /// Processor time in percent of a core.
    core: f64,
    /// The lateness histogram before.
    before: BTreeMap<u64, u64>,
}

/// Holds the load for some seconds, with probes beside it.
fn measure(cluster: &Cluster, driver: &mut Driver, seconds: u64) -> Step {
    let (node, pid, before) = (cluster.sip("a"), cluster.member("a").pid(), lateness(cluster));
    driver.resume();
    let (used, begun) = (machine::cpu_of(pid), BootInstant::now());
    let (mut probes, mut unanswered, mut next) = (Vec::new(), Vec::new(), BootInstant::now());
    let last_call = Duration::from_secs(seconds.max(6)) - STAY - Duration::from_secs(1);
    driver.drive(Duration::from_secs(seconds.max(6)), |d| {
        if BootInstant::now() >= next && begun.elapsed() < last_call {
            next = next + Duration::from_millis(250);
            unanswered.push(d.crowd.call(node, Cluster::USERS[1].number, "2002"));
        }
        unanswered.retain(|n| match d.crowd.callers[*n].answer {
            Some((200, _)) => {
                d.speak(*n, Some(STAY));
                probes.push(*n);
                false
            }
            Some(_) => false,
            None => true,
        });
    });
    let used = machine::cpu_of(pid) - used;
    Step { probes, core: used.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0, before }
}

/// The 99th percentile in milliseconds (a bucket's bound) and the packets over 20 ms, between two readings.
fn of_histogram(before: &BTreeMap<u64, u64>, after: &BTreeMap<u64, u64>) -> (Option<f64>, Option<u64>) {
    let since: Vec<(u64, u64)> = after.iter().map(|(b, n)| (*b, n - before.get(b).copied().unwrap_or(0))).collect();
    let Some(&(_, all)) = since.last() else { return (None, None) };
    let p99 = since.iter().find(|(_, n)| *n as f64 >= all as f64 * 0.99).map(|(b, _)| *b as f64 / 1000.0);
    let within = since.iter().find(|(b, _)| *b >= 20_000).map_or(all, |(_, n)| *n);
    (p99, Some(all - within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_between_two_readings() {
        let before = BTreeMap::from([(1_000, 10), (20_000, 12), (u64::MAX, 12)]);
        let after = BTreeMap::from([(1_000, 109), (20_000, 1_011), (u64::MAX, 1_013)]);
        assert_eq!(of_histogram(&before, &after), (Some(20.0), Some(2)));
        assert_eq!(of_histogram(&BTreeMap::new(), &BTreeMap::new()), (None, None));
    }
}
