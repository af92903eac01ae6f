//! SIPp, which is not our code, leaves and hears messages on both nodes. Its session description names an endpoint
//! of the test kit, which speaks, presses keys, and compares what comes back bit for bit.

use std::{thread::sleep, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_system_tests::assert_kept;
use twinbox_testkit::{
    Cluster, Deposit, Endpoint, Goodbye, Spec, Speech, Transport, User, g711::Law, need, sign_in, sipp::Sipp,
};

/// What of each message must be there, in seconds.
const LONG: f64 = 3.0;

/// SIPp calls `mailbox` and holds; the endpoint skips the greeting and speaks until SIPp hangs up.
fn leave_by_sipp(cluster: &Cluster, node: &str, mailbox: &str, scenario: &str, transport: Transport) -> Deposit {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let hold = Duration::from_secs(7);
    let sipp = Sipp::new(scenario, cluster.sip(node), mailbox, endpoint.address(), hold).over(transport);
    let running = sipp.start(cluster.phones(), cluster.dir());
    endpoint.wait_heard(Duration::from_secs(10));
    sleep(Duration::from_millis(200));
    endpoint.press("#");
    let speech = Speech::unique();
    endpoint.speak(speech);
    let spoken_before = endpoint.spoken();
    running.finish();
    assert!(endpoint.spoken() > spoken_before);
    // SIPp saw 200 to its BYE, else it had failed. It does not say when; speaking a little into the void is harmless.
    let goodbye = Goodbye { status: 200, after: Duration::ZERO };
    Deposit { speech, spoken: endpoint.spoken(), goodbye, at: BootInstant::now(), answered_in: Duration::ZERO }
}

/// SIPp calls `*97` from the mailbox's number; the endpoint signs in and listens.
fn hear_by_sipp(
    cluster: &Cluster,
    node: &str,
    user: User,
    deposit: &Deposit,
    scenario: &str,
    transport: Transport,
) {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let hold = Duration::from_secs(28);
    let sipp =
        Sipp::new(scenario, cluster.sip(node), "*97", endpoint.address(), hold).over(transport).from(user.number);
    let running = sipp.start(cluster.phones(), cluster.dir());
    sign_in(&endpoint, user);
    let heard = endpoint.hears(&deposit.speech, deposit.spoken, LONG, Duration::from_secs(27));
    let heard = heard
        .unwrap_or_else(|| panic!("{node} did not play the message: {} samples heard", endpoint.heard().len()));
    assert!(heard.seconds() >= LONG);
    running.finish();
}

fn leaves_on_one_node_and_hears_on_the_other(scenario: &str, transport: Transport) {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let cluster = Cluster::start(&Spec::default());
    let [one, two] = Cluster::USERS;
    for (leave_on, hear_on, user) in [("a", "b", one), ("b", "a", two)] {
        let deposit = leave_by_sipp(&cluster, leave_on, user.number, scenario, transport);
        for node in ["a", "b"] {
            assert_kept_by_sipp(&cluster, node, user.number, &deposit);
        }
        hear_by_sipp(&cluster, hear_on, user, &deposit, scenario, transport);
    }
}

/// SIPp hangs up at a moment of its own, so the end is not judged here.
fn assert_kept_by_sipp(cluster: &Cluster, node: &str, mailbox: &str, deposit: &Deposit) {
    let limit = Duration::from_secs(2);
    let found = twinbox_testkit::holds(limit, || cluster.find(node, mailbox, &deposit.speech, deposit.spoken));
    let (_, piece, length) = found.unwrap_or_else(|| panic!("{node} does not have the message within {limit:?}"));
    assert_eq!(piece.length, length, "{node}: all of the message is what was said, bit for bit");
    assert!(piece.seconds() >= LONG, "{node}: only {:.2} s", piece.seconds());
}

#[test]
fn over_udp() {
    leaves_on_one_node_and_hears_on_the_other("call-early", Transport::Udp);
}

#[test]
fn over_tcp() {
    leaves_on_one_node_and_hears_on_the_other("call-early", Transport::Tcp);
}

#[test]
fn with_a_late_offer() {
    leaves_on_one_node_and_hears_on_the_other("call-late", Transport::Udp);
}

/// The kit's own caller, which knows when its BYE was answered, finds the end of the message as well.
#[test]
fn a_message_is_kept_to_its_last_packet_on_both_nodes() {
    let cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0];
    let deposit = twinbox_testkit::leave_message(cluster.phones(), cluster.sip("b"), user.number, 2.0);
    assert!(deposit.acknowledged(), "{:?}", deposit.goodbye);
    for node in ["b", "a"] {
        let message = assert_kept(&cluster, node, user.number, &deposit, 2.0, Duration::from_secs(2));
        assert_eq!((message.state.as_str(), message.partial), ("new", false));
        assert_eq!(message.caller, "2001");
    }
}
