//! Asterisk's voicemail with the callers of `load`, beside which Twinbox is measured: the process pinned to the core of node a, the
//! callers to the other. There is no other node, no message is copied, nothing is synced, and a BYE is answered before the message is
//! filed. So a step counts the messages that are there afterwards, and how many of them lack audio.

use std::{path::Path, time::Duration};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_crowd::{Arrivals, Arrived, Driver};
use twinbox_peer_kit::Asterisk;
use twinbox_testkit::{Loopback, holds, resident_bytes};

use crate::{
    load::{LATE, TONE, WARM_UP, numbers},
    machine,
    report::{Report, Table, ms, percentile},
};

const COLUMNS: &[&str] = &[
    "recording",
    "calls a second",
    "refused",
    "core %",
    "% a call",
    "memory MB",
    "answer p50 ms",
    "answer p99 ms",
    "BYE p50 ms",
    "BYE p99 ms",
    "BYE not 200",
    "lost",
    "short",
    "callers' core %",
    "clean",
];
/// A message that lacks more of what the caller said is short: the tone takes some of it.
const MISSING: Duration = Duration::from_secs(1);
/// Time for the filing of messages after the last BYE.
const FILING: Duration = Duration::from_secs(10);

/// Steps up to the first that is not clean, with the Asterisk in the system at `root`.
pub fn run(
    report: &mut Report,
    root: &Path,
    steps: &[usize],
    seconds: u64,
    message: Duration,
) -> Result<(), String> {
    let program = root.join(Asterisk::PROGRAM);
    if !program.is_file() {
        return Err(format!(
            "no {}: install asterisk, or give the system that has it with --root",
            program.display()
        ));
    }
    // At its start Asterisk asks name servers for the address of this machine: nothing of a benchmark leaves the machine.
    machine::keep_to_loopback().map_err(|error| format!("no network of its own: {error}; run this as root"))?;
    machine::pin(0, machine::ELSEWHERE);
    let (loopback, mailboxes) = (Loopback::claim(), numbers());
    let asterisk = Asterisk::start(root, &loopback.place(1), &mailboxes);
    machine::pin_process(asterisk.pid(), machine::UNDER_TEST);
    machine::prefer();
    let mut driver = Driver::new(&loopback.place(2));
    let mut table = report.table("callers who leave messages on Asterisk", COLUMNS);
    for &calls in steps {
        let rate = calls as f64 / message.as_secs_f64();
        let arrivals = Arrivals { node: asterisk.address(), mailboxes: &mailboxes, rate, stay: TONE + message };
        if !step(&mut table, &asterisk, &mut driver, arrivals, Duration::from_secs(seconds)) {
            break;
        }
    }
    Ok(())
}

/// A row; whether it is clean.
fn step(
    table: &mut Table<'_>,
    asterisk: &Asterisk,
    driver: &mut Driver,
    arrivals: Arrivals<'_>,
    time: Duration,
) -> bool {
    let (rate, message) = (arrivals.rate, arrivals.stay - TONE);
    let calls = rate * message.as_secs_f64();
    driver.crowd.forget_callers();
    let filed = asterisk.messages().len();
    driver.resume();
    driver.arrive(arrivals, WARM_UP + arrivals.stay);
    driver.take_late();
    let cores = || (machine::cpu_of(asterisk.pid()), machine::busy(machine::ELSEWHERE));
    let (used, begun) = (cores(), BootInstant::now());
    let callers = driver.arrive(arrivals, time);
    let (now, wall, memory) = (cores(), begun.elapsed(), resident_bytes(asterisk.pid()));
    let late = driver.take_late();
    driver.finish(arrivals.stay + Duration::from_secs(5));
    if late > LATE {
        table.generator_bound(json!(calls), late);
        return false;
    }
    let Arrived { byes, .. } = driver.outcome(0..driver.crowd.callers.len());
    let there = || asterisk.messages().len() - filed;
    // Messages that are not there in time count as lost.
    let _ = holds(FILING, || (there() >= byes.len()).then_some(()));
    let whole = ((message - MISSING).as_millis() * 8) as u64;
    let lost = byes.len().saturating_sub(there());
    let short = asterisk.messages().iter().filter(|length| **length < whole).count();
    let Arrived { mut answers, mut byes, refusals, unanswered, broken, .. } = driver.outcome(callers);
    let refused = refusals.len() + unanswered;
    let recorded = calls * answers.len() as f64 / (answers.len() + refused).max(1) as f64;
    let percent = |before: Duration, after: Duration| (after - before).as_secs_f64() / wall.as_secs_f64() * 100.0;
    let core = percent(used.0, now.0);
    let clean = refused + broken.len() + lost + short == 0;
    table.row(&[
        json!(calls),
        json!(rate),
        json!(refused),
        json!(core),
        json!(core / recorded),
        json!(memory as f64 / 1e6),
        json!(ms(percentile(&mut answers, 0.5))),
        json!(ms(percentile(&mut answers, 0.99))),
        json!(ms(percentile(&mut byes, 0.5))),
        json!(ms(percentile(&mut byes, 0.99))),
        json!(broken.len()),
        json!(lost),
        json!(short),
        json!(percent(used.1, now.1)),
        json!(clean),
    ]);
    clean
}
