//! Mails that a node takes in a second.
//!
//! Method: a pair with a witness, node `a` pinned to a core, everything else to the other. Clients in this process, each
//! on one connection and without pipelining, send mails with 10 s of sound (WAV, 160 kB; each another sound) to 200
//! mailboxes in turn. `250` is the acknowledgement on two; its time runs from the last byte of the mail.

use std::time::Duration;

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Spec};

use crate::{
    machine,
    report::{Report, ms, percentile},
    setup::{self, SMTP},
    smtp_client::Mails,
};

/// Number of mailboxes.
const MAILBOXES: usize = 200;
/// Seconds of sound in a mail.
const SOUND: usize = 10;
/// Mails before the first measurement.
const WARM_UP: usize = 20;

/// Sends `count` mails in each step, over these numbers of connections.
pub fn run(report: &mut Report, count: usize, steps: &[usize]) {
    machine::pin(0, machine::ELSEWHERE);
    let cluster = Cluster::start(&Spec {
        log: "warn",
        ack_timeout_ms: 250,
        voicemail: setup::voicemail(),
        mail: setup::mail(None),
        ..Spec::default()
    });
    let node = cluster.member("a");
    machine::pin_process(node.pid(), machine::UNDER_TEST);
    let numbers = setup::mailboxes(&cluster, MAILBOXES);
    let (mails, address) = (Mails::new(SOUND), node.place.port(SMTP));
    mails.fill(cluster.phones(), address, &numbers, WARM_UP);
    let columns = &[
        "connections",
        "mails",
        "mails a second",
        "250 p50 ms",
        "250 p99 ms",
        "250 max ms",
        "not taken",
        "alone",
        "core %",
    ];
    let mut table = report.table("mails with 10 s of sound that a node of a pair takes", columns);
    let alone = || setup::metric_of(&cluster, "a", "twinbox_acknowledged_total", "alone");
    for &connections in steps {
        let (alone_before, used, begun) = (alone(), machine::cpu_of(node.pid()), BootInstant::now());
        let answers = mails.deliver(cluster.phones(), address, &numbers, count, connections);
        let (took, used) = (begun.elapsed().as_secs_f64(), machine::cpu_of(node.pid()) - used);
        let mut times: Vec<Duration> = Vec::new();
        let mut refused = 0;
        for answer in answers {
            match answer {
                Ok(time) => times.push(time),
                Err(reply) => {
                    refused += 1;
                    eprintln!("a mail was not taken: {reply}");
                }
            }
        }
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| json!(ms(percentile(&mut times, share))));
        table.row(&[
            json!(connections),
            json!(count),
            json!(times.len() as f64 / took),
            p50,
            p99,
            max,
            json!(refused),
            json!(alone() - alone_before),
            json!(used.as_secs_f64() / took * 100.0),
        ]);
    }
}
