//! Mails that the duty `mta` sends in a second, and the end of an outage of its smarthost.
//!
//! Method: a pair with a witness, the publisher pinned to a core, everything else to the other. 200 mailboxes have a mail
//! device each, half of them with the recording. Mails to the other node leave the messages. The receiver is
//! [`crate::smtp_receiver`], not Postfix, which would be the limit.
//!
//! For the rate the receiver greets no client until all notifications are due; then the time runs from its first greeting to its last
//! mail. For the outage it closes every connection until each notification has failed at least once and the given time has passed; then
//! the time runs to the last mail. Most of it are the pauses between attempts: the column with the latest due time shows that part.

use std::{thread::sleep, time::Duration};

use serde_json::{Value, json};
use twinbox_clock::{BootInstant, wall};
use twinbox_testkit::{Cluster, Spec, wait_until};

use crate::{
    machine,
    report::{Report, ms, percentile},
    setup::{self, SMTP},
    smtp_client::Mails,
    smtp_receiver::{MailServer, ServerState, TakenMail, distinct},
};

/// Number of mailboxes with a device, half of them with the recording.
const MAILBOXES: usize = 200;
/// Seconds of sound in a message.
const SOUND: usize = 10;
/// Labels of the duty in metrics.
const MTA: &str = "duty=\"mta\"";
const FAILED: &str = "duty=\"mta\",outcome=\"failed\"";

/// A pair, its receiver and its mailboxes.
struct Bench {
    cluster: Cluster,
    receiver: MailServer,
    publisher: String,
    other: String,
}

/// Sends `count` mails of each kind, and after an outage of this length.
pub fn run(report: &mut Report, count: usize, outage: Duration) {
    let bench = Bench::start();
    let numbers = setup::mailboxes(&bench.cluster, MAILBOXES);
    let (plain, sound) = numbers.split_at(MAILBOXES / 2);
    setup::add_devices(&bench.cluster, plain, &[]);
    setup::add_devices(&bench.cluster, sound, &["audio=yes"]);
    let columns = &["kind", "mails", "seconds", "mails a second", "kB a mail", "twice", "failed", "core %"];
    let mut table = report.table("notifications by mail that are due at once, to a receiver in memory", columns);
    for (kind, numbers) in [("text", plain), ("10 s of sound", sound)] {
        bench.receiver.set(ServerState::Held);
        bench.leave(numbers, count);
        wait_until("all notifications to wait", Duration::from_secs(120), || bench.waiting() >= count as f64);
        let (failed, used, begun) = (bench.failed(), bench.used(), BootInstant::now());
        bench.receiver.set(ServerState::Open);
        let mails = bench.receiver.wait_for(count, patience(count));
        let core = (bench.used() - used).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
        let took = last(&mails, begun).as_secs_f64();
        let bytes: usize = mails.iter().map(|mail| mail.bytes).sum();
        table.row(&[
            json!(kind),
            json!(distinct(&mails)),
            json!(took),
            json!(count as f64 / took),
            json!(bytes as f64 / mails.len().max(1) as f64 / 1e3),
            json!(mails.len() - distinct(&mails)),
            json!(bench.failed() - failed),
            json!(core),
        ]);
        bench.until_done();
    }
    drop(table);
    bench.after_outage(report, plain, count, outage);
}

impl Bench {
    fn start() -> Self {
        machine::pin(0, machine::ELSEWHERE);
        let (cluster, receiver) = Cluster::start_with(
            |phones| Spec {
                log: "warn",
                ack_timeout_ms: 250,
                voicemail: setup::voicemail(),
                mail: setup::mail(Some(phones.port(SMTP))),
                ..Spec::default()
            },
            |phones| MailServer::open(phones, SMTP),
        );
        let (publisher, other) = cluster.publisher_and_other();
        machine::pin_process(cluster.member(&publisher).pid(), machine::UNDER_TEST);
        Self { cluster, receiver, publisher, other }
    }

    /// Leaves this many messages through the other node.
    fn leave(&self, numbers: &[String], count: usize) {
        self.receiver.forget();
        let node = self.cluster.member(&self.other).place.port(SMTP);
        Mails::new(SOUND).fill(self.cluster.phones(), node, numbers, count);
    }

    fn waiting(&self) -> f64 {
        setup::metric_of(&self.cluster, &self.publisher, "twinbox_outbox_waiting", MTA)
    }

    fn failed(&self) -> f64 {
        setup::metric_of(&self.cluster, &self.publisher, "twinbox_outbox_attempts_total", FAILED)
    }

    fn used(&self) -> Duration {
        machine::cpu_of(self.cluster.member(&self.publisher).pid())
    }

    /// Outcomes are recorded after the receiver has the mails.
    fn until_done(&self) {
        wait_until("the outbox to be empty", Duration::from_secs(120), || self.waiting() == 0.0);
    }

    fn after_outage(&self, report: &mut Report, numbers: &[String], count: usize, outage: Duration) {
        self.receiver.set(ServerState::Away);
        let (failed, away) = (self.failed(), BootInstant::now());
        self.leave(numbers, count);
        wait_until("each notification to have failed", patience(count), || self.failed() - failed >= count as f64);
        sleep(outage.saturating_sub(away.elapsed()));
        let (lasted, attempts, latest) = (away.elapsed(), self.failed() - failed, self.latest_due());
        let begun = BootInstant::now();
        self.receiver.set(ServerState::Open);
        // Longest pause between attempts: half an hour, and a quarter of jitter.
        let mails = self.receiver.wait_for(count, Duration::from_secs(2_400) + patience(count));
        let columns = &[
            "outage s",
            "mails",
            "failed before",
            "latest due s",
            "first ms",
            "half s",
            "99 % s",
            "all s",
            "twice",
        ];
        let mut table = report.table("notifications after an outage of the smarthost", columns);
        let mut times: Vec<Duration> = mails.iter().map(|mail| mail.at.since(begun)).collect();
        let [half, most] = [0.5, 0.99].map(|share| json!(percentile(&mut times, share).as_secs_f64()));
        table.row(&[
            json!(lasted.as_secs_f64()),
            json!(distinct(&mails)),
            json!(attempts),
            json!(latest.as_secs_f64()),
            json!(times.first().map_or(0.0, |first| ms(*first))),
            half,
            most,
            json!(last(&mails, begun).as_secs_f64()),
            json!(mails.len() - distinct(&mails)),
        ]);
    }

    /// Time until the last failed notification is due.
    fn latest_due(&self) -> Duration {
        let list = self.cluster.cli(&self.publisher).json(&["outbox", "list", "--state", "failed"]);
        let due = list["effects"].as_array().into_iter().flatten().map(|effect| number(&effect["due_ms"])).max();
        Duration::from_millis(due.unwrap_or(0).saturating_sub(wall().0))
    }
}

/// Time from `begun` to the last mail.
fn last(mails: &[TakenMail], begun: BootInstant) -> Duration {
    mails.iter().map(|mail| mail.at.since(begun)).max().unwrap_or_default()
}

/// Limit of waits for this many mails.
fn patience(count: usize) -> Duration {
    Duration::from_secs(120) + Duration::from_millis(100) * count as u32
}

/// A number, which protobuf's JSON may write as a string.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}
