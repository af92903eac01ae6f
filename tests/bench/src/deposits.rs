//! Deposits a second of 2 s messages, acknowledged on two.
//!
//! Method: open loop. For some seconds a new caller every 1/rate s to node `a`, each answered, past the greeting by
//! `#`, speaking through the tone and for two seconds more, then BYE. A step is clean when every INVITE and BYE was
//! answered `200`, every acknowledgement was *on two* (the node's counters), the other node lists every message, and
//! the generator was never more than 5 ms late. Ten mailboxes take turns.

use std::time::Duration;

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, http_get, metric};

use crate::{
    driver::{Driver, LATE},
    load, machine,
    report::{Report, ms, percentile},
};

const STAY: Duration = Duration::from_millis(3000);
const MAILBOXES: usize = 10;

fn acknowledged(cluster: &Cluster, how: &str) -> f64 {
    let page =
        http_get(cluster.phones(), cluster.member("a").metrics(), "/metrics").map_or(String::new(), |(_, t)| t);
    metric(&page, "twinbox_acknowledged_total", how).unwrap_or(f64::NAN)
}

/// Runs the steps.
pub fn run(report: &mut Report, rates: &[u32], seconds: u64) {
    let cluster = load::cluster();
    let (node, pid) = (cluster.sip("a"), cluster.member("a").pid());
    let mailboxes: Vec<String> = (0..MAILBOXES).map(|n| format!("30{n:02}")).collect();
    for mailbox in &mailboxes {
        cluster.cli("a").json(&["user", "add", mailbox, "--pin", "602214", "--keep-pin"]);
    }
    let mut table = report.table(
        "deposits a second of 2 s messages",
        &[
            "a second",
            "calls",
            "core %",
            "answer p99 ms",
            "BYE p50 ms",
            "BYE p99 ms",
            "on two",
            "alone",
            "on b",
            "clean",
        ],
    );
    let (mut driver, mut total) = (Driver::new(cluster.phones()), 0);
    let mut attempts = 0;
    let mut steps = rates.iter().copied().peekable();
    while let Some(&rate) = steps.peek() {
        let (two, alone) = (acknowledged(&cluster, "on-two"), acknowledged(&cluster, "alone"));
        let (first, used, begun) = (driver.crowd.callers.len(), machine::cpu_of(pid), BootInstant::now());
        driver.resume();
        let (mut placed, mut unanswered) = (0_u32, Vec::new());
        driver.drive(Duration::from_secs(seconds) + STAY + Duration::from_secs(2), |d| {
            while placed < rate * seconds as u32 && begun.elapsed() >= Duration::from_secs(1) * placed / rate {
                unanswered.push(d.crowd.call(node, &mailboxes[placed as usize % MAILBOXES], "2001"));
                placed += 1;
            }
            unanswered.retain(|n| match d.crowd.callers[*n].answer {
                Some((200, _)) => {
                    d.speak(*n, Some(STAY));
                    false
                }
                Some(_) => false,
                None => true,
            });
        });
        let (used, wall, late) = (machine::cpu_of(pid) - used, begun.elapsed(), driver.take_late());
        let callers = &driver.crowd.callers[first..];
        let mut answers: Vec<Duration> = callers.iter().filter_map(|c| Some(c.answer?.1.since(c.called))).collect();
        let kept = callers.iter().filter(|c| matches!((c.answer, c.goodbye), (Some((200, _)), Some((200, _)))));
        let mut goodbyes: Vec<Duration> = kept.filter_map(|c| Some(c.goodbye?.1.since(c.left?))).collect();
        total += goodbyes.len();
        attempts += 1;
        if late > LATE && attempts < load::ATTEMPTS {
            continue;
        }
        if late > LATE {
            table.generator_bound(json!(rate), late);
            break;
        }
        (attempts, _) = (0, steps.next());
        let listed = |node: &str| mailboxes.iter().map(|m| cluster.cli(node).messages(m).len()).sum::<usize>();
        let on_b = listed("b");
        let (two, alone) = (acknowledged(&cluster, "on-two") - two, acknowledged(&cluster, "alone") - alone);
        let clean = goodbyes.len() == callers.len() && on_b == total && alone == 0.0;
        table.row(&[
            json!(rate),
            json!(callers.len()),
            json!(used.as_secs_f64() / wall.as_secs_f64() * 100.0),
            json!(ms(percentile(&mut answers, 0.99))),
            json!(ms(percentile(&mut goodbyes, 0.5))),
            json!(ms(percentile(&mut goodbyes, 0.99))),
            json!(two),
            json!(alone),
            json!(on_b),
            json!(clean),
        ]);
        if !clean {
            break;
        }
    }
}
