//! Duration without an acting node: from the fault of the publisher to the other node's first act.
//!
//! Method: a PBX receives MWI. A message is waiting, so that the first act of the node that takes over the notifier is
//! a NOTIFY about it. The time runs from the signal, or from the start of the command line, to the first NOTIFY that
//! the PBX receives from the other node. Before the next round every member is in service again. Right before each
//! fault the benchmark asks whether the victim also leads Raft; each kind has a separate row, next to its formula.
//!
//! Meanwhile calls go through Kamailio, which tries the other node if one does not answer (docs/pbx.md): the number of
//! unanswered calls, and the longest set-up.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Kamailio, Pbx, Spec, Transport, leave_message, wait_for};

use crate::{
    callers::{Callers, SetUp},
    report::{Report, ms, percentile},
};

/// The fault of the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    /// `kill -9` of the node's process; its supervisor lives.
    Process,
    /// `kill -9` of process and supervisor: no supervisor can report it.
    Host,
    /// `cluster make-publisher` of the other node.
    Move,
}

impl Failure {
    const ALL: [Self; 3] = [Self::Process, Self::Host, Self::Move];

    fn words(self, led: bool) -> &'static str {
        match (self, led) {
            (Self::Process, false) => "process killed",
            (Self::Process, true) => "process killed that led Raft",
            (Self::Host, false) => "host lost",
            (Self::Host, true) => "host lost that led Raft",
            (Self::Move, _) => "planned move",
        }
    }
}

/// Runs this many rounds of each kind.
pub fn run(report: &mut Report, rounds: usize) {
    let (mut cluster, pbx) = Cluster::start_with(
        |phones| Spec { log: "warn", ack_timeout_ms: 250, mwi: Some(phones.port(5070)), ..Spec::default() },
        |phones| Pbx::open(phones, 5070),
    );
    let mailbox = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2).acknowledged());
    assert!(pbx.wait_for_mwi(mailbox, 1, Duration::from_secs(10)).is_some(), "MWI is sent once");
    let nodes = [cluster.sip("a"), cluster.sip("b")];
    let proxy = Kamailio::start(&Kamailio::place(cluster.phones()), &nodes, Transport::Udp, cluster.dir());
    let callers = Callers::begin(cluster.phones(), &proxy, Cluster::USERS[1].number);
    let mut seen: BTreeMap<&str, (Vec<Duration>, Vec<SetUp>)> = BTreeMap::new();
    for round in 0..rounds * Failure::ALL.len() {
        let failure = Failure::ALL[round % Failure::ALL.len()];
        callers.wait_for_all(&nodes);
        callers.take();
        let (led, time) = inject(&mut cluster, &pbx, failure);
        let (times, calls) = seen.entry(failure.words(led)).or_default();
        times.push(time);
        calls.extend(callers.take());
    }
    let bounds = cluster.cli("a").json(&["cluster", "timing"]);
    let columns = &["what", "times", "p50 ms", "p99 ms", "max ms", "formula ms"];
    let mut table = report.table("publisher struck to the other's first act", columns);
    for (words, (times, _)) in &mut seen {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|p| json!(ms(percentile(times, p))));
        table.row(&[json!(words), json!(times.len()), p50, p99, max, formula(&bounds, words)]);
    }
    drop(table);
    callers.wait_for_all(&nodes);
    callers.take();
    witness_lost(report, &mut cluster, &pbx, mailbox);
    let mut at_proxy: Vec<(&str, Vec<SetUp>)> =
        seen.into_iter().map(|(words, (_, calls))| (words, calls)).collect();
    at_proxy.push(("witness lost", callers.take()));
    let columns = &["what", "calls", "failed", "p50 ms", "max ms"];
    let mut table = report.table("calls at a proxy, from the blow until all are in service again", columns);
    for (words, calls) in at_proxy {
        let mut set_ups: Vec<Duration> = calls.iter().filter_map(|call| call.ok()).collect();
        for status in calls.iter().filter_map(|call| call.err()) {
            eprintln!("{words}: a call was answered {status} (0: not at all)");
        }
        let [p50, max] = [0.5, 1.0].map(|p| json!(ms(percentile(&mut set_ups, p))));
        table.row(&[json!(words), json!(calls.len()), json!(calls.len() - set_ups.len()), p50, max]);
    }
}

fn inject(cluster: &mut Cluster, pbx: &Pbx, failure: Failure) -> (bool, Duration) {
    let (publisher, other) = cluster.publisher_and_other();
    let led = cluster.cli(&other).status().is_some_and(|status| status["leader"] == *publisher);
    pbx.forget();
    let began = BootInstant::now();
    match failure {
        Failure::Process => drop(cluster.kill_child(&publisher)),
        Failure::Host => cluster.kill(&publisher),
        Failure::Move => drop(cluster.cli(&publisher).json(&["cluster", "make-publisher", &other])),
    }
    let ip = cluster.sip(&other).ip();
    let first = wait_for("the other's first act", Duration::from_secs(30), || {
        pbx.notifies().into_iter().find(|l| l.source.ip() == ip && l.at >= began)
    });
    if failure == Failure::Host {
        cluster.start_member(&publisher);
    }
    cluster.wait_in_service();
    (led, first.at.since(began))
}

/// The formula's value, as the cluster itself reports it.
fn formula(bounds: &Value, words: &str) -> Value {
    let begins = match words {
        "process killed" => "process exited, reported",
        "process killed that led Raft" => "process exited together",
        "host lost" => "host lost (process",
        "host lost that led Raft" => "host lost together",
        _ => "planned move",
    };
    let rows = bounds["bounds"].as_array().into_iter().flatten();
    let row = rows.into_iter().find(|row| row["event"].as_str().is_some_and(|event| event.starts_with(begins)));
    row.map_or(json!("?"), |row| row["value_ms"].clone())
}

/// No duty depends on the witness: the epoch stays, and MWI works as usual.
fn witness_lost(report: &mut Report, cluster: &mut Cluster, pbx: &Pbx, mailbox: &str) {
    let epoch = |cluster: &Cluster| cluster.cli("a").json(&["duty", "list"])["duties"][0]["epoch"].clone();
    let before = epoch(cluster);
    cluster.kill("w");
    pbx.forget();
    let deposit = leave_message(cluster.phones(), cluster.sip("b"), mailbox, 1.2);
    let notify = pbx.wait_for_mwi(mailbox, 2, Duration::from_secs(30));
    let delivered = notify.map_or(json!("not told"), |notify| json!(ms(notify.at.since(deposit.at))));
    cluster.start_member("w");
    cluster.wait_in_service();
    let mut table = report.table("witness lost", &["duty moved", "light told ms"]);
    table.row(&[json!(before != epoch(cluster)), delivered]);
}
