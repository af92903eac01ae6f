//! The acknowledgement on two at round trips between the members.
//!
//! Method: a pair with a witness in namespaces, `timing = "wan"`, `ack_timeout` one second. A switch in this process delays every frame
//! between members by half of the round trip; frames of the callers are not delayed. At each round trip callers arrive steadily at node
//! a, speak for two seconds and hang up: the time runs from BYE to `200`. On this machine the switch adds some tenths of a millisecond,
//! which the row of 0 ms shows. At the end both nodes list all messages whose BYE was answered `200`, or the command ends with an error.

use std::{thread::sleep, time::Duration};

use serde_json::json;
use twinbox_crowd::{Arrivals, Driver};
use twinbox_testkit::{Cluster, Lab, Link, Spec};

use crate::{
    kept, load,
    report::{Report, ms, percentile},
    setup::metric_of,
};

/// Callers in a second.
const RATE: f64 = 5.0;
/// Time of each caller from `#` to BYE.
const STAY: Duration = Duration::from_millis(2_400);
/// Time after a change of the links.
const SETTLES: Duration = Duration::from_secs(3);
/// Limit of the answers.
const ANSWERED: Duration = Duration::from_secs(15);

/// Measures `count` messages at each round trip, in milliseconds. The error names messages that were lost.
pub fn run(report: &mut Report, round_trips: &[u64], count: usize) -> Result<(), String> {
    let lab = Lab::switched(&["a", "b", "w"], 1);
    let spec = Spec { timing: "wan", ack_timeout_ms: 1_000, ..load::spec() };
    let cluster = Cluster::start_in(&lab, &spec);
    let mailboxes = load::mailboxes(&cluster);
    let mut driver = Driver::new(cluster.phones());
    let mut acknowledged = 0;
    let columns = &[
        "round trip ms",
        "messages",
        "BYE p50 ms",
        "BYE p99 ms",
        "BYE max ms",
        "p50 / round trip",
        "alone",
        "refused",
        "BYE not 200",
    ];
    let mut table = report.table("acknowledgement on two, by round trip between the nodes", columns);
    for &round_trip in round_trips {
        for (one, other) in [("a", "b"), ("a", "w"), ("b", "w")] {
            lab.set_link(one, other, Link::round_trip(round_trip, 0));
        }
        sleep(SETTLES);
        cluster.wait_in_service();
        let alone = || metric_of(&cluster, "a", "twinbox_acknowledged_total", "alone");
        let before = alone();
        driver.crowd.forget_callers();
        driver.resume();
        let arrivals = Arrivals { node: cluster.sip("a"), mailboxes: &mailboxes, rate: RATE, stay: STAY };
        let callers = driver.arrive(arrivals, Duration::from_secs_f64(count as f64 / RATE));
        driver.finish(ANSWERED);
        let mut arrived = driver.outcome(callers);
        acknowledged += kept::acknowledged(&driver);
        let byes = &mut arrived.byes;
        let median = ms(percentile(byes, 0.5));
        table.row(&[
            json!(round_trip),
            json!(byes.len()),
            json!(median),
            json!(ms(percentile(byes, 0.99))),
            json!(ms(percentile(byes, 1.0))),
            if round_trip > 0 { json!(median / round_trip as f64) } else { json!("none") },
            json!(alone() - before),
            json!(arrived.refusals.len() + arrived.unanswered),
            json!(arrived.broken.len()),
        ]);
    }
    drop(table);
    kept::check(&cluster, acknowledged)
}
