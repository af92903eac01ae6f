//! Change of a mailbox to the NOTIFY at the PBX.
//!
//! Method: a pair with a witness; a PBX takes unsolicited NOTIFYs, which the publisher sends. On the publisher, then on
//! the other node, one message after the other is left by a call; then their owner, in one call, saves one after the
//! other by a key, which makes it an old message. For a message the time runs from BYE; its `200` is the
//! acknowledgement on two. For a key it runs from its INFO. Each change waits for its NOTIFY before the next begins.

use std::{thread::sleep, time::Duration};

use serde_json::{Value, json};
use twinbox_clock::BootInstant;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, MwiNotify, Pbx, Spec, Transport, User, g711::Law, leave_message,
};

use crate::{
    report::{Report, ms, percentile},
    setup,
};

/// Port of the PBX.
const PBX: u16 = 5070;
/// Timeout of a NOTIFY.
const SOON: Duration = Duration::from_secs(10);
/// Pause of the owner between two keys, for the conversation to go on.
const PAUSE: Duration = Duration::from_millis(250);

/// Times of messages that were left.
#[derive(Default)]
struct Left {
    /// BYE → `200`.
    acknowledged: Vec<Duration>,
    /// BYE → NOTIFY.
    notified: Vec<Duration>,
    /// `200` → NOTIFY; zero if the NOTIFY was first.
    after: Vec<Duration>,
}

/// Measures `count` changes of each kind on each node.
pub fn run(report: &mut Report, count: usize) {
    let (cluster, pbx) = Cluster::start_with(
        |phones| Spec {
            log: "warn",
            ack_timeout_ms: 250,
            mwi: Some(phones.port(PBX)),
            voicemail: setup::voicemail(),
            ..Spec::default()
        },
        |phones| Pbx::open(phones, PBX),
    );
    let (publisher, other) = cluster.publisher_and_other();
    let columns = &[
        "node",
        "change",
        "changes",
        "on two p50 ms",
        "NOTIFY p50 ms",
        "NOTIFY p99 ms",
        "NOTIFY max ms",
        "after it p50 ms",
        "after it p99 ms",
    ];
    let mut table = report.table("change of a mailbox to the NOTIFY at the PBX", columns);
    for (role, node, user) in
        [("publisher", &publisher, Cluster::USERS[0]), ("other node", &other, Cluster::USERS[1])]
    {
        let Left { acknowledged, notified, after } = leave(&cluster, &pbx, node, user, count);
        let [on_two, after_p50, after_p99] =
            [(acknowledged, 0.5), (after.clone(), 0.5), (after, 0.99)].map(|(times, share)| of(times, share));
        let mut cells = row(role, "message left", notified, on_two);
        cells.extend([after_p50, after_p99]);
        table.row(&cells);
        // The caller of a key gets no answer on two.
        let mut cells = row(role, "message saved", save(&cluster, &pbx, node, user, count), json!("-"));
        cells.extend([json!("-"), json!("-")]);
        table.row(&cells);
    }
}

fn row(role: &str, change: &str, notified: Vec<Duration>, on_two: Value) -> Vec<Value> {
    let count = notified.len();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| of(notified.clone(), share));
    vec![json!(role), json!(change), json!(count), on_two, p50, p99, max]
}

fn of(mut times: Vec<Duration>, share: f64) -> Value {
    json!(ms(percentile(&mut times, share)))
}

fn wait(pbx: &Pbx, user: User, new: usize) -> MwiNotify {
    let notify = pbx.wait_for_mwi(user.number, new as u32, SOON);
    notify.unwrap_or_else(|| panic!("no NOTIFY with {new} new messages of {}: {:#?}", user.number, pbx.notifies()))
}

fn leave(cluster: &Cluster, pbx: &Pbx, node: &str, user: User, count: usize) -> Left {
    let mut left = Left::default();
    for n in 0..count {
        pbx.forget();
        let deposit = leave_message(cluster.phones(), cluster.sip(node), user.number, 1.2);
        assert!(deposit.acknowledged(), "{deposit:?}");
        let notify = wait(pbx, user, n + 1);
        // `at` is the time of the answer to the BYE.
        let hung_up = deposit.at - deposit.bye.after;
        left.acknowledged.push(deposit.bye.after);
        left.notified.push(notify.at.since(hung_up));
        left.after.push(notify.at.since(deposit.at));
    }
    left
}

/// The owner saves `count` new messages.
fn save(cluster: &Cluster, pbx: &Pbx, node: &str, user: User, count: usize) -> Vec<Duration> {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new("*97", user.number, endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip(node), Transport::Udp, &invite);
    let mut call = call.unwrap_or_else(|refused| panic!("{node} refused the call to *97: {}", refused.status));
    endpoint.send_to(call.media);
    endpoint.wait_heard(SOON);
    sleep(PAUSE);
    user.pin.chars().chain(['#']).for_each(|key| press(&mut call, key));
    // The node hashes the PIN.
    sleep(Duration::from_secs(2));
    press(&mut call, '1');
    sleep(PAUSE);
    let mut notified = Vec::new();
    for n in 0..count {
        pbx.forget();
        // 9 saves, 6 goes to the next message, in the key map `asterisk`.
        let pressed = BootInstant::now();
        press(&mut call, '9');
        notified.push(wait(pbx, user, count - n - 1).at.since(pressed));
        sleep(PAUSE);
        press(&mut call, '6');
        sleep(PAUSE);
    }
    call.bye();
    notified
}

/// Presses a key by INFO: it is complete when it arrives, unlike a key among the audio.
fn press(call: &mut Call, key: char) {
    let status = call.ask("INFO", &[], "application/dtmf", &key.to_string());
    assert_eq!(status, 200, "the key {key} was refused");
}
