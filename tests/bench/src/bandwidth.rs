//! Traffic between the nodes of a pair for each call being recorded.
//!
//! Method: a pair with a witness in namespaces; a switch in this process counts the frames between the two nodes, both
//! directions and Ethernet headers included. First the cluster is at rest, then callers of [`crate::load`] arrive
//! steadily at node a: the traffic has the audio in progress, the changes of calls that begin and end, and the
//! acknowledgements. The audio itself is 64 kbit/s. Calls and media pass the switch, too, but not between the nodes.
//! At the end both nodes list all messages whose BYE was answered `200`, or the command ends with an error.

use std::{thread::sleep, time::Duration};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_crowd::{Arrivals, Driver};
use twinbox_testkit::{Cluster, Lab};

use crate::{
    kept, load,
    report::{Report, ms, percentile},
    setup::metric_of,
};

/// Time after the start, and time at rest that is measured.
const SETTLES: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(10);
/// From `#` to the tone, and time for the tone.
const TONE: Duration = Duration::from_millis(400);
/// G.711, in kbit/s.
const AUDIO: f64 = 64.0;

/// Measures this many calls at once, with messages of this length, for this many seconds. The error names messages that were lost.
pub fn run(report: &mut Report, calls: usize, message: Duration, seconds: u64) -> Result<(), String> {
    let lab = Lab::switched(&["a", "b", "w"], 1);
    let cluster = Cluster::start_in(&lab, &load::spec());
    let mailboxes = load::mailboxes(&cluster);
    let mut driver = Driver::new(cluster.phones());
    sleep(SETTLES);
    let kbit = |bytes: u64, time: Duration| bytes as f64 * 8.0 / 1_000.0 / time.as_secs_f64();
    let (before, begun) = (lab.bytes_between("a", "b"), BootInstant::now());
    sleep(REST);
    let rest = kbit(lab.bytes_between("a", "b") - before, begun.elapsed());

    let (stay, rate) = (TONE + message, calls as f64 / message.as_secs_f64());
    let arrivals = Arrivals { node: cluster.sip("a"), mailboxes: &mailboxes, rate, stay };
    driver.resume();
    driver.arrive(arrivals, SETTLES + stay);
    driver.take_late();
    let alone = || metric_of(&cluster, "a", "twinbox_acknowledged_total", "alone");
    let (alone_before, before, begun) = (alone(), lab.bytes_between("a", "b"), BootInstant::now());
    let callers = driver.arrive(arrivals, Duration::from_secs(seconds));
    let traffic = kbit(lab.bytes_between("a", "b") - before, begun.elapsed());
    let late = driver.take_late();
    driver.finish(stay + Duration::from_secs(10));
    let alone = alone() - alone_before;
    let mut arrived = driver.outcome(callers);
    let columns = &[
        "recording",
        "kbit/s at rest",
        "kbit/s",
        "a call",
        "beyond rest",
        "of its audio",
        "BYE p50 ms",
        "refused",
        "BYE not 200",
        "alone",
        "generator late",
    ];
    let mut table = report.table("traffic between the nodes for each call being recorded, in kbit/s", columns);
    let (whole, beyond) = (traffic / calls as f64, (traffic - rest) / calls as f64);
    table.row(&[
        json!(calls),
        json!(rest),
        json!(traffic),
        json!(whole),
        json!(beyond),
        json!(beyond / AUDIO),
        json!(ms(percentile(&mut arrived.byes, 0.5))),
        json!(arrived.refusals.len() + arrived.unanswered),
        json!(arrived.broken.len()),
        json!(alone),
        json!(ms(late)),
    ]);
    drop(table);
    kept::check(&cluster, kept::acknowledged(&driver))
}
