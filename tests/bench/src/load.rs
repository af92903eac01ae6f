//! Callers that leave messages on a node of a pair, with replication and fsync switched on.
//!
//! Method: a cluster of two nodes and a witness, node `a` pinned to a core, everything else to the other. Callers arrive at a steady
//! rate, independent of earlier ones; each is answered, skips the greeting by `#`, speaks for the length of a message and hangs up. N
//! calls recording messages of M seconds are N / M callers per second. Callers of the first [`WARM_UP`] and one call's length do not
//! count. Then the following are measured for some seconds: node a's processor time (utime + stime of the process) and resident memory,
//! its own histogram of packet lateness and count of syncs with the time in them, INVITE → 200 and BYE → 200 (the acknowledgement on two)
//! at the caller; of node b its processor time and its time in syncs, and of its core, which it shares with witness and callers, the use.
//! A column names the limit. A step is clean when no call was refused and every BYE was answered `200`, on two. The processor time of a
//! call is that of the process, calls that begin and end included, for each call recording. The growth of memory since before the first
//! step contains what the node keeps of messages in caches; what a call holds is measured at the end: memory with the highest clean load,
//! less that of the same process at [`REST`] after it.
//!
//! At the end both nodes list all messages whose BYE was answered `200`, or the command ends with an error.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_crowd::{Arrivals, Arrived, Driver};
use twinbox_peer_kit::Depositors;
use twinbox_testkit::{Cluster, Spec, http_get, metric, need, resident_bytes};

use crate::{
    kept, machine,
    report::{Report, Table, ms, percentile},
    threads::{self, ThreadTimes},
    together,
};

/// Limit of the generator's lateness ([`Driver::take_late`]): beyond it the figure would measure the generator.
pub const LATE: Duration = Duration::from_millis(5);
/// From `#` to the tone, and time for the tone.
pub const TONE: Duration = Duration::from_millis(400);
/// A step begins this long before its measurement: the overload control lets a load grow over seconds.
pub const WARM_UP: Duration = Duration::from_secs(10);
/// From the last BYE to the measurement of memory at rest: transactions of the calls have ended then (RFC 3261 section
/// 17.2.2, timer J), and the allocator has given freed memory back.
const REST: Duration = Duration::from_secs(36);
/// Maximum measurements of a step, if the generator itself was late.
const ATTEMPTS: usize = 3;
/// Number of mailboxes for the messages.
const MAILBOXES: usize = 200;
/// A shorter message may be too short to be kept.
const KEPT: Duration = Duration::from_secs(2);
/// The histogram of a node's packet lateness.
const LATENESS: &str = "twinbox_rtp_lateness_seconds";

/// The columns of a load.
const COLUMNS: &[&str] = &[
    "recording",
    "calls a second",
    "refused",
    "core %",
    "memory MB",
    "answer p50 ms",
    "answer p99 ms",
    "BYE p50 ms",
    "BYE p99 ms",
    "BYE not 200",
    "alone",
    "late p99 ms",
    "over 20 ms",
    "% a call",
    "growth kB a call",
    "syncs/deposit",
    "in syncs %",
    "b core %",
    "b in syncs %",
    "b's core busy %",
    "limit",
    "clean",
];
/// A core that is busier, in percent, is the limit.
const BUSY: f64 = 95.0;

/// A pair under load.
pub struct Loaded {
    /// The pair.
    pub cluster: Cluster,
    /// The callers.
    pub driver: Driver,
    /// The mailboxes that they call.
    pub mailboxes: Vec<String>,
    /// BYEs of forgotten callers that were answered `200`, those of SIPp included.
    acknowledged: usize,
    /// Memory of node a before the first step, in bytes.
    memory_before: u64,
}

/// Parts of `load` beside its steps.
pub struct Further {
    /// Callers who hang up at one moment, step by step; none: left out.
    pub at_once: Vec<usize>,
    /// Processor time by thread, at half of the highest clean load.
    pub threads: bool,
}

/// A cluster for measurements: long messages, many of them, little logging; node `a` alone on its core. It has a network of its own, if
/// that is permitted: a packet filter of the machine would cost the callers a fifth of their time.
pub fn cluster() -> Cluster {
    if let Err(error) = machine::keep_to_loopback() {
        eprintln!("the machine's own network is used, with its packet filter: {error}");
    }
    machine::pin(0, machine::ELSEWHERE);
    let cluster = Cluster::start(&spec());
    machine::pin_process(cluster.member("a").pid(), machine::UNDER_TEST);
    cluster
}

/// Settings for measurements: long messages, many of them, little logging.
pub fn spec() -> Spec {
    Spec {
        log: "warn",
        ack_timeout_ms: 250,
        max_calls: 10_000,
        sip: vec!["max_calls_per_second = 10000".to_owned()],
        rtp_ports: "10000-30000",
        voicemail: ["max_message_seconds = 7200", "silence_seconds = 0", "max_messages = 100000"]
            .map(String::from)
            .to_vec(),
        ..Spec::default()
    }
}

/// Numbers of the mailboxes for messages.
pub fn numbers() -> Vec<String> {
    (0..MAILBOXES).map(|n| format!("3{n:03}")).collect()
}

/// Mailboxes for messages, known to both nodes.
pub fn mailboxes(cluster: &Cluster) -> Vec<String> {
    let numbers = numbers();
    let table: String = numbers.iter().map(|number| format!("{number},602214\n")).collect();
    let file = cluster.dir().join("users.csv");
    std::fs::write(&file, format!("number,pin\n{table}")).expect("the table of users can be written");
    cluster.cli("a").json(&["user", "import", &file.to_string_lossy()]);
    let last = &numbers[MAILBOXES - 1];
    twinbox_testkit::wait_until("both nodes know the mailboxes", Duration::from_secs(20), || {
        ["a", "b"].iter().all(|name| cluster.cli(name).try_messages(last).is_ok())
    });
    numbers
}

/// Result of a step.
pub struct LoadStep {
    /// The callers that count.
    pub arrived: Arrived,
    /// Node a's processor time in percent of a core.
    pub core: f64,
    late_p99: Option<f64>,
    over_20: u64,
    alone: f64,
    /// Calls recording at once, those of the refused callers left out.
    calls: f64,
    /// Memory of node a at the end of the measurement, in bytes.
    memory: u64,
    /// Syncs of node a for each message that was acknowledged in the measurement.
    syncs: f64,
    /// Time of syncs by node a and by node b, added up over threads, in percent of the measurement.
    in_syncs: [f64; 2],
    /// Node b's processor time in percent of a core.
    core_of_b: f64,
    /// Use of the core of node b, the witness and the callers, in percent.
    elsewhere: f64,
    /// Node a's processor time by thread, and the time of the measurement.
    threads: (Vec<(String, usize, Duration)>, Duration),
}

/// Readings of node a that only rise.
struct Counters {
    lateness: BTreeMap<u64, u64>,
    alone: f64,
    syncs: f64,
    /// Seconds in syncs, of node a and of node b.
    in_syncs: [f64; 2],
}

impl LoadStep {
    /// The limit of the load, as far as these measurements show it.
    fn limit(&self) -> &'static str {
        match self {
            Self { core, .. } if *core >= BUSY => "core of a",
            Self { elsewhere, .. } if *elsewhere >= BUSY => "core of b, witness and callers",
            Self { arrived, .. } if !arrived.refusals.is_empty() => "overload control",
            _ => "none",
        }
    }

    /// Whether the step was clean.
    pub fn clean(&self) -> bool {
        let Arrived { refusals, broken, unanswered, .. } = &self.arrived;
        refusals.is_empty() && broken.is_empty() && *unanswered == 0 && self.alone == 0.0
    }
}

impl Loaded {
    /// A new pair.
    pub fn new() -> Self {
        let cluster = cluster();
        let mailboxes = mailboxes(&cluster);
        machine::prefer();
        let driver = Driver::new(cluster.phones());
        let memory_before = resident_bytes(cluster.member("a").pid());
        Self { cluster, driver, mailboxes, acknowledged: 0, memory_before }
    }

    /// Forgets the callers so far, but for the messages that they were promised.
    pub fn forget_callers(&mut self) {
        self.acknowledged += kept::acknowledged(&self.driver);
        self.driver.crowd.forget_callers();
    }

    /// Callers at this rate with messages of this length, measured for this many seconds.
    pub fn step(&mut self, rate: f64, message: Duration, seconds: u64) -> (LoadStep, Duration) {
        let stay = TONE + message;
        self.forget_callers();
        let arrivals = Arrivals { node: self.cluster.sip("a"), mailboxes: &self.mailboxes, rate, stay };
        let pid = self.cluster.member("a").pid();
        self.driver.resume();
        if rate > 0.0 {
            self.driver.arrive(arrivals, WARM_UP + stay);
        }
        self.driver.take_late();
        let (before, threads) = (self.counters(), ThreadTimes::of(pid));
        let b = self.cluster.member("b").pid();
        let cores = || (machine::cpu_of(pid), machine::cpu_of(b), machine::busy(machine::ELSEWHERE));
        let (used, begun) = (cores(), BootInstant::now());
        let time = Duration::from_secs(seconds);
        let callers = match rate > 0.0 {
            true => self.driver.arrive(arrivals, time),
            false => {
                self.driver.drive(time, |_| {});
                0..0
            }
        };
        let (now, wall, memory) = (cores(), begun.elapsed(), resident_bytes(pid));
        let percent = |seconds: f64| seconds / wall.as_secs_f64() * 100.0;
        let core = |before: Duration, after: Duration| percent((after - before).as_secs_f64());
        let (after, threads) = (self.counters(), ThreadTimes::of(pid).since(&threads));
        let (late_p99, over_20) = of_histogram(&before.lateness, &after.lateness);
        let late = self.driver.take_late();
        let end = begun + wall;
        self.driver.finish(stay + Duration::from_secs(5));
        let in_time = |bye: &Option<(u16, BootInstant)>| bye.is_some_and(|(_, at)| at >= begun && at <= end);
        let deposits = self.driver.crowd.callers.iter().filter(|caller| in_time(&caller.bye)).count();
        let arrived = self.driver.outcome(callers);
        let admitted = arrived.answers.len() as f64 / arrived.offered.max(1) as f64;
        let step = LoadStep {
            arrived,
            core: core(used.0, now.0),
            in_syncs: [0, 1].map(|node| percent(after.in_syncs[node] - before.in_syncs[node])),
            core_of_b: core(used.1, now.1),
            elsewhere: core(used.2, now.2),
            late_p99,
            over_20: over_20.unwrap_or(0),
            alone: self.counters().alone - before.alone,
            calls: rate * message.as_secs_f64() * admitted,
            memory,
            syncs: (after.syncs - before.syncs) / deposits.max(1) as f64,
            threads: (threads, wall),
        };
        (step, late)
    }

    /// As [`Self::step`]; measured again if the generator itself was late, at most [`ATTEMPTS`] times in all.
    pub fn attempt(&mut self, rate: f64, message: Duration, seconds: u64) -> (LoadStep, Duration) {
        let mut last = self.step(rate, message, seconds);
        for _ in 1..ATTEMPTS {
            if last.1 <= LATE {
                break;
            }
            last = self.step(rate, message, seconds);
        }
        last
    }

    fn counters(&self) -> Counters {
        let pages = ["a", "b"].map(|node| {
            let address = self.cluster.member(node).metrics();
            http_get(self.cluster.phones(), address, "/metrics").map_or(String::new(), |(_, text)| text)
        });
        let of = |name: &str, labels: &str| metric(&pages[0], name, labels).unwrap_or(0.0);
        Counters {
            lateness: lateness(&pages[0]),
            alone: of("twinbox_acknowledged_total", "alone"),
            syncs: of("twinbox_syncs_total", ""),
            in_syncs: [0, 1].map(|node| metric(&pages[node], "twinbox_sync_seconds_total", "").unwrap_or(0.0)),
        }
    }

    /// Runs steps up to the first that is not clean, one row each; returns the highest clean rate.
    pub fn steps(&mut self, table: &mut Table<'_>, steps: &[usize], message: Duration, seconds: u64) -> f64 {
        let mut carried = 0.0;
        for &calls in steps {
            let rate = calls as f64 / message.as_secs_f64();
            let (step, late) = self.attempt(rate, message, seconds);
            if late > LATE {
                table.generator_bound(json!(calls), late);
                break;
            }
            self.row(table, json!(calls), rate, &step);
            if !step.clean() {
                break;
            }
            carried = rate;
        }
        carried
    }

    /// Reports the memory that calls at this rate hold while they record.
    fn memory_of_calls(&mut self, report: &mut Report, rate: f64, message: Duration, seconds: u64) {
        let (step, _) = self.attempt(rate, message, seconds);
        self.driver.drive(REST, |_| {});
        let rest = resident_bytes(self.cluster.member("a").pid());
        let held = step.memory.saturating_sub(rest) as f64 / step.calls;
        let mut table = report.table(
            "memory with the highest clean load, and after it",
            &["recording", "MB", "MB after", "kB a call"],
        );
        let megabytes = |bytes: u64| json!(bytes as f64 / 1e6);
        table.row(&[json!(step.calls), megabytes(step.memory), megabytes(rest), json!(held / 1e3)]);
    }

    /// The same rate with SIPp as the generator: the cost on the node, and whether all calls succeeded there too.
    fn with_sipp(&mut self, report: &mut Report, rate: u32, message: Duration, seconds: u64) {
        let (stay, pid) = (TONE + message, self.cluster.member("a").pid());
        let time = WARM_UP + stay + Duration::from_secs(seconds);
        let calls = rate * time.as_secs() as u32;
        let callers: Vec<_> = self.mailboxes.iter().map(|mailbox| (mailbox.clone(), "2001".to_owned())).collect();
        let depositors = Depositors {
            node: self.cluster.sip("a"),
            calls: &callers,
            times: calls,
            rate,
            stay,
            media_port: 30_000,
        };
        let mut running = depositors.start(self.cluster.phones(), &self.cluster.dir().join("sipp"));
        std::thread::sleep(WARM_UP + stay);
        let (used, begun) = (machine::cpu_of(pid), BootInstant::now());
        std::thread::sleep(Duration::from_secs(seconds));
        let core = (machine::cpu_of(pid) - used).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
        let counted = running.finish();
        self.acknowledged += counted.well as usize;
        let mut table =
            report.table("the same from SIPp", &["calls a second", "calls", "as wanted", "otherwise", "core %"]);
        table.row(&[json!(rate), json!(calls), json!(counted.well), json!(counted.badly), json!(core)]);
    }

    /// Adds a row of [`COLUMNS`].
    pub fn row(&self, table: &mut Table<'_>, first: serde_json::Value, rate: f64, step: &LoadStep) {
        let LoadStep { arrived, core, late_p99, over_20, alone, .. } = step;
        let (mut answers, mut byes) = (arrived.answers.clone(), arrived.byes.clone());
        let grown = step.memory.saturating_sub(self.memory_before) as f64 / 1e3;
        let for_each = |sum: f64| if step.calls > 0.0 { json!(sum / step.calls) } else { json!("none") };
        table.row(&[
            first,
            json!(rate),
            json!(arrived.refusals.len() + arrived.unanswered),
            json!(core),
            json!(step.memory as f64 / 1e6),
            json!(ms(percentile(&mut answers, 0.5))),
            json!(ms(percentile(&mut answers, 0.99))),
            json!(ms(percentile(&mut byes, 0.5))),
            json!(ms(percentile(&mut byes, 0.99))),
            json!(arrived.broken.len()),
            json!(alone),
            late_p99.map_or(json!("none"), |late| json!(late)),
            json!(over_20),
            for_each(*core),
            for_each(grown),
            json!(step.syncs),
            json!(step.in_syncs[0]),
            json!(step.core_of_b),
            json!(step.in_syncs[1]),
            json!(step.elsewhere),
            json!(step.limit()),
            json!(step.clean()),
        ]);
    }

    /// The error names messages that a node lacks.
    fn check_kept(&mut self) -> Result<(), String> {
        self.forget_callers();
        kept::check(&self.cluster, self.acknowledged)
    }
}

/// Cumulative buckets of the lateness histogram on a page of metrics: upper bound in microseconds → packets.
fn lateness(page: &str) -> BTreeMap<u64, u64> {
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix(LATENESS)?.strip_prefix("_bucket{le=\"")?.split_once("\"} ")?;
        let micros = |s: f64| if s.is_finite() { (s * 1e6) as u64 } else { u64::MAX };
        Some((bound.parse().map_or(u64::MAX, micros), count.parse::<f64>().ok()? as u64))
    };
    page.lines().filter_map(bucket).collect()
}

/// Runs the steps, and what is further wanted. The error names messages that were lost.
pub fn run(
    report: &mut Report,
    steps: &[usize],
    seconds: u64,
    message: Duration,
    further: &Further,
) -> Result<(), String> {
    let mut loaded = Loaded::new();
    let mut table = report.table("callers who leave messages on a node of a pair", COLUMNS);
    let carried = loaded.steps(&mut table, steps, message, seconds);
    drop(table);
    if carried > 0.0 {
        loaded.memory_of_calls(report, carried, message, seconds);
    }
    if further.threads && carried > 0.0 {
        let (step, _) = loaded.attempt(carried / 2.0, message, seconds);
        let mut table = self::table(report, "the same at half of the highest clean load");
        loaded.row(&mut table, json!("half"), carried / 2.0, &step);
        drop(table);
        threads::table(
            report,
            "half of the highest clean load, by thread of node a",
            &step.threads.0,
            step.threads.1,
        );
    }
    if !further.at_once.is_empty() {
        together::run(report, &mut loaded, &further.at_once);
    }
    if (need::SIPP.there)() && carried >= 1.0 {
        loaded.with_sipp(report, carried as u32, message, seconds);
    }
    match message >= KEPT {
        true => loaded.check_kept(),
        false => Ok(()),
    }
}

/// Begins a table of loads.
pub fn table<'a>(report: &'a mut Report, name: &'static str) -> Table<'a> {
    report.table(name, COLUMNS)
}

/// The 99th percentile in milliseconds (a bucket's bound) and the packets over 20 ms, between two readings.
fn of_histogram(before: &BTreeMap<u64, u64>, after: &BTreeMap<u64, u64>) -> (Option<f64>, Option<u64>) {
    let since: Vec<(u64, u64)> = after.iter().map(|(b, n)| (*b, n - before.get(b).copied().unwrap_or(0))).collect();
    let Some(&(_, all)) = since.last().filter(|(_, all)| *all > 0) else { return (None, None) };
    let p99 = since.iter().find(|(_, n)| *n as f64 >= all as f64 * 0.99).map(|(b, _)| *b as f64 / 1000.0);
    let within = since.iter().find(|(b, _)| *b >= 20_000).map_or(all, |(_, n)| *n);
    (p99, Some(all - within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_difference_of_two_readings_gives_the_percentile() {
        let before = BTreeMap::from([(1_000, 10), (20_000, 12), (u64::MAX, 12)]);
        let after = BTreeMap::from([(1_000, 109), (20_000, 1_011), (u64::MAX, 1_013)]);
        assert_eq!(of_histogram(&before, &after), (Some(20.0), Some(2)));
        assert_eq!(of_histogram(&BTreeMap::new(), &BTreeMap::new()), (None, None));
    }
}
