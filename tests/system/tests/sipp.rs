//! SIPp, a foreign caller, leaves and hears messages on both nodes. Its session description names an endpoint of the
//! test kit, which speaks, presses keys, and compares the received audio bit for bit.

use std::{thread::sleep, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_system_tests::assert_kept;
use twinbox_testkit::{
    ByeResult, Cluster, Deposit, Endpoint, Spec, Speech, Transport,
    g711::Law,
    need, sign_in,
    sipp::{Running, Sipp},
    wait_for, wait_until,
};

/// Minimum length of each message, in seconds.
const LONG: f64 = 3.0;

/// A call of SIPp with the endpoint that its session description names.
struct Caller {
    sipp: Running,
    endpoint: Endpoint,
}

impl Caller {
    /// Calls until the node takes the call: one that has just stood still refuses calls for a moment.
    fn dial(cluster: &Cluster, node: &str, to: &str, from: &str, how: Script, hold: Duration) -> Self {
        wait_for("the node to take the call", Duration::from_secs(20), || {
            let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
            let sipp = Sipp::new(how.scenario, cluster.sip(node), to, endpoint.address(), hold);
            let mut sipp = sipp.over(how.transport).from(from).start(cluster.phones(), cluster.dir());
            wait_until("any audio", Duration::from_secs(10), || endpoint.packets() > 0 || !sipp.runs());
            (endpoint.packets() > 0).then_some(Self { sipp, endpoint })
        })
    }

    /// Skips the greeting and speaks from then on.
    fn speak(&self) -> Speech {
        sleep(Duration::from_millis(200));
        self.endpoint.press("#");
        let speech = Speech::unique();
        self.endpoint.speak(speech);
        speech
    }

    /// Waits for SIPp's end: it received `200` to its BYE, else the test has failed. The time of its BYE is unknown;
    /// later speech is lost.
    fn finish(self, speech: Speech) -> Deposit {
        self.sipp.finish();
        let bye = ByeResult { status: 200, after: Duration::ZERO };
        let (spoken, at) = (self.endpoint.spoken(), BootInstant::now());
        Deposit { speech, spoken, said: 0, bye, at, answered_in: Duration::ZERO }
    }
}

#[derive(Clone, Copy)]
struct Script {
    scenario: &'static str,
    transport: Transport,
}

/// A message left on each node is on both, and is heard on the other one.
fn leaves_on_one_node_and_hears_on_the_other(scenario: &'static str, transport: Transport) {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let (cluster, how) = (Cluster::start(&Spec::default()), Script { scenario, transport });
    let [one, two] = Cluster::USERS;
    let hold = Duration::from_secs(7);
    let calls =
        [("a", one), ("b", two)].map(|(node, user)| Caller::dial(&cluster, node, user.number, "2001", how, hold));
    let speeches = [calls[0].speak(), calls[1].speak()];
    let [first, second] = calls;
    let deposits = [first.finish(speeches[0]), second.finish(speeches[1])];
    for (user, deposit) in [one, two].iter().zip(&deposits) {
        for node in ["a", "b"] {
            assert_kept_by_sipp(&cluster, node, user.number, deposit);
        }
    }
    let hold = Duration::from_secs(24);
    let calls =
        [("b", one), ("a", two)].map(|(node, user)| Caller::dial(&cluster, node, "*97", user.number, how, hold));
    calls.iter().zip([one, two]).for_each(|(call, user)| sign_in(&call.endpoint, user));
    for (call, deposit) in calls.iter().zip(&deposits) {
        let heard = call.endpoint.hears(&deposit.speech, deposit.spoken, LONG, Duration::from_secs(23));
        assert!(heard.is_some(), "the message is not played: {} samples heard", call.endpoint.heard().len());
    }
    for call in calls {
        call.sipp.finish();
    }
}

/// SIPp hangs up at its own time, so the end is not checked here.
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

/// The kit's own caller, which knows the time of the answer to its BYE, checks the end of the message as well.
#[test]
fn a_message_is_kept_to_its_last_packet_on_both_nodes() {
    let cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0];
    let deposit = twinbox_testkit::leave_message(cluster.phones(), cluster.sip("b"), user.number, 2.0);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    for node in ["b", "a"] {
        let message = assert_kept(&cluster, node, user.number, &deposit, 2.0, Duration::from_secs(2));
        assert_eq!((message.state.as_str(), message.partial), ("new", false));
        assert_eq!(message.caller, "2001");
    }
}
