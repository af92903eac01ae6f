//! Costs at rest of mailboxes with devices, each with a notification that waits.
//!
//! Method: two pairs with a witness, side by side in the same seconds, so that a busy host strikes both. Both have the same mailboxes
//! with a message each. In one of them each mailbox has a mail device with a schedule and a delay of an hour, hence a notification in the
//! outbox that is not due. Processor time of every member over the same seconds, and the ratio; the aim is a ratio near 1.

use std::{thread::sleep, time::Duration};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Spec, wait_until};

use crate::{
    machine,
    report::Report,
    setup::{self, SMTP},
    smtp_client::Mails,
};

/// Settings of each device.
const SETTINGS: [&str; 2] = ["delay=3600", "when=mon-fri 08:00-18:00"];
/// Time after the last message, so that its costs are not counted.
const SETTLES: Duration = Duration::from_secs(15);
/// Seconds of sound in a message.
const SOUND: usize = 2;

/// Watches pairs with this many mailboxes for this many seconds.
pub fn run(report: &mut Report, count: usize, seconds: u64) {
    // No server listens there: within the hour of the delay no mail is due.
    let pair = || {
        Cluster::start_with(
            |phones| Spec {
                log: "warn",
                ack_timeout_ms: 250,
                voicemail: setup::voicemail(),
                mail: setup::mail(Some(phones.port(SMTP))),
                ..Spec::default()
            },
            |_| (),
        )
        .0
    };
    let (with, without) = (pair(), pair());
    let numbers = setup::mailboxes(&with, count);
    setup::mailboxes(&without, count);
    setup::add_devices(&with, &numbers, &SETTINGS);
    for cluster in [&with, &without] {
        let node = cluster.member("b").place.port(SMTP);
        Mails::new(SOUND).fill(cluster.phones(), node, &numbers, numbers.len());
    }
    let members = [&with, &without].map(|cluster| {
        let (publisher, other) = cluster.publisher_and_other();
        [publisher, other, "w".to_owned()]
    });
    let waiting =
        |cluster: &Cluster, node: &str| setup::metric_of(cluster, node, "twinbox_outbox_waiting", "duty=\"mta\"");
    let expected = numbers.len() as f64;
    wait_until("all notifications to wait", Duration::from_secs(60), || waiting(&with, &members[0][0]) == expected);
    sleep(SETTLES);
    let used = || {
        [(&with, &members[0]), (&without, &members[1])]
            .map(|(cluster, names)| [0, 1, 2].map(|n| machine::cpu_of(cluster.member(&names[n]).pid())))
    };
    let (before, begun) = (used(), BootInstant::now());
    sleep(Duration::from_secs(seconds));
    let (after, passed) = (used(), begun.elapsed().as_secs_f64());
    let columns = &["member", "mailboxes", "with %", "without %", "ratio"];
    let mut table = report.table("mailboxes at rest, with and without devices", columns);
    for (n, member) in ["publisher", "other node", "witness"].into_iter().enumerate() {
        let [with, without] = [0, 1].map(|pair| (after[pair][n] - before[pair][n]).as_secs_f64() / passed * 100.0);
        table.row(&[json!(member), json!(numbers.len()), json!(with), json!(without), json!(with / without)]);
    }
    drop(table);
    assert_eq!(waiting(&with, &members[0][0]), expected, "the notifications still wait");
}
