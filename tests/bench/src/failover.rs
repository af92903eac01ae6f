//! Kill of the publisher to the other's first act.
//!
//! Method: a PBX wants message lights. A message waits, so that the first act of whoever takes the notifier over is a
//! NOTIFY that says so. `kill -9` of the publisher's process; the time is from the signal to the first NOTIFY that the
//! PBX receives from the other node, judged by the receiver. Then the victim is started again, and once it is in
//! service the next publisher is killed. The Raft leader is not always the publisher, so both kinds are among them.

use std::time::Duration;

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Pbx, Spec, leave_message};

use crate::report::{Report, ms, percentile};

/// Kills this often.
pub fn run(report: &mut Report, kills: usize) {
    let (mut cluster, pbx) = Cluster::start_with(
        |phones| Spec { log: "warn", ack_timeout_ms: 250, lights: Some(phones.port(5070)), ..Spec::default() },
        |phones| Pbx::open(phones, 5070),
    );
    let mailbox = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2).acknowledged());
    assert!(pbx.sees(mailbox, 1, Duration::from_secs(10)).is_some(), "the light is told once");
    let mut times = Vec::new();
    for _ in 0..kills {
        let (victim, other) = cluster.publisher_and_other();
        pbx.forget();
        let killed = BootInstant::now();
        cluster.kill(&victim);
        let ip = cluster.sip(&other).ip();
        let first = twinbox_testkit::wait_for("the other's first act", Duration::from_secs(30), || {
            pbx.lights().into_iter().find(|l| l.source.ip() == ip && l.at >= killed)
        });
        times.push(first.at.since(killed));
        cluster.start_member(&victim);
        cluster.wait_in_service();
    }
    let mut table = report
        .table("publisher killed to the other's first act", &["kills", "min ms", "p50 ms", "p90 ms", "max ms"]);
    let [min, p50, p90, max] = [0.0, 0.5, 0.9, 1.0].map(|p| json!(ms(percentile(&mut times, p))));
    table.row(&[json!(kills), min, p50, p90, max]);
}
