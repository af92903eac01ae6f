//! Behind a proxy: Kamailio, with the configuration of the documentation, distributes calls to both nodes, stays in
//! every dialog, forwards MWI, and tries the other node if one is dead or answers `503`. No call fails.

use std::{thread, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_system_tests::{assert_kept, slack};
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Kamailio, Pbx, Spec, Speech, Transport, begin_to_speak, g711::Law, hang_up,
    http_get, leave_message_with, need, parameter, sdp, sign_in, sipp::Sipp, wait_until,
};

/// The port of the PBX behind the proxy, which receives MWI.
const PBX: u16 = 5070;
/// `fr_timer` of its configuration: timeout of a node's response before it tries the other.
const PATIENCE: Duration = Duration::from_millis(500);

/// A cluster with Kamailio in front, which reaches the nodes over `inner`, and a PBX that receives MWI.
struct Site {
    cluster: Cluster,
    pbx: Pbx,
    kamailio: Kamailio,
}

impl Site {
    fn start(inner: Transport, spec: Spec) -> Self {
        let (cluster, pbx) = Cluster::start_with(
            |phones| {
                let proxy = Kamailio::place(phones).port(5060);
                let kind = if inner == Transport::Tcp { "tcp" } else { "udp" };
                let mwi = format!("mwi = \"sip:{{mailbox}}@{}\"", phones.port(PBX));
                let trunk = vec![mwi, format!("proxy = \"{proxy}\""), format!("transport = \"{kind}\"")];
                Spec { trunk, ..spec }
            },
            |phones| Pbx::open(phones, PBX),
        );
        let nodes = [cluster.sip("a"), cluster.sip("b")];
        let kamailio = Kamailio::start(&Kamailio::place(cluster.phones()), &nodes, inner, cluster.dir());
        Self { cluster, pbx, kamailio }
    }

    /// Calls through the proxy.
    fn dial(&self, outer: Transport, to: &str, from: &str) -> (Endpoint, Call) {
        let endpoint = Endpoint::open(self.cluster.phones(), Law::Mu);
        let invite = Invite::new(to, from, endpoint.address());
        let call = Call::place(self.cluster.phones(), self.kamailio.address(), outer, &invite);
        let call = call.unwrap_or_else(|refused| {
            panic!("refused with {} after {:?}\n{}", refused.status, refused.after, self.kamailio.tail(40))
        });
        (endpoint, call)
    }

    /// The node that answered a call, by its Contact.
    fn who(&self, call: &Call) -> &'static str {
        let contact = call.answer.header("contact").unwrap_or_default();
        ["a", "b"]
            .into_iter()
            .find(|node| contact.contains(&self.cluster.sip(node).to_string()))
            .unwrap_or_else(|| panic!("neither node: {contact}"))
    }

    /// Makes this many calls one after the other, each hung up immediately: none fails, all land on `on`, or on either
    /// if that is `None`. Returns the longest set-up.
    fn calls_land(&self, outer: Transport, count: usize, on: Option<&str>) -> Duration {
        let mut longest = Duration::ZERO;
        for n in 0..count {
            let (_, call) = self.dial(outer, Cluster::USERS[0].number, "2001");
            let who = self.who(&call);
            assert!(on.is_none_or(|node| node == who), "call {n} landed on {who}");
            longest = longest.max(call.answered_in);
            let bye = call.bye();
            assert_eq!(bye.status, 200, "BYE of call {n}");
        }
        longest
    }

    /// Counts of the requests that a node has refused since its start, by reason, from its metrics.
    fn refusals(&self, node: &str) -> String {
        let metrics = http_get(self.cluster.phones(), self.cluster.member(node).metrics(), "/metrics");
        let (_, text) = metrics.unwrap_or_default();
        let refused = |line: &&str| !line.starts_with('#') && line.contains("refused") && !line.ends_with(" 0");
        text.lines().filter(refused).collect::<Vec<_>>().join(", ")
    }

    /// Calls until four in a row land on `node`, which round robin does only when the other takes none; none fails.
    /// Returns the longest set-up.
    fn calls_until_all_land(&self, outer: Transport, node: &str) -> Duration {
        let (mut longest, mut row) = (Duration::ZERO, 0);
        wait_until("calls to land on one node", Duration::from_secs(10), || {
            let (_, call) = self.dial(outer, Cluster::USERS[0].number, "2001");
            longest = longest.max(call.answered_in);
            row = if self.who(&call) == node { row + 1 } else { 0 };
            assert_eq!(call.bye().status, 200);
            row == 4
        });
        longest
    }

    /// Calls until one lands on `node`; none fails. Its set-up time is normal again.
    fn wait_for_calls_on(&self, outer: Transport, node: &str) {
        wait_until("calls on both", Duration::from_secs(20), || {
            let (_, call) = self.dial(outer, Cluster::USERS[0].number, "2001");
            let who = self.who(&call);
            assert_eq!(call.bye().status, 200);
            who == node
        });
    }
}

/// A message is left, raises MWI, is heard and can be put on hold, with every request within the dialogs through the
/// proxy.
fn everything_goes_through_the_proxy(outer: Transport, inner: Transport) {
    if !need::all(&[need::KAMAILIO]) {
        return;
    }
    let site = Site::start(inner, Spec { voicemail: vec!["pin_tries = 1".to_owned()], ..Spec::default() });
    let (phones, user) = (site.cluster.phones(), Cluster::USERS[0]);
    let proxy = site.kamailio.address();

    // A phone that subscribes through the proxy is notified through it, immediately and at every change.
    let phone = Pbx::open(phones, 5071);
    assert_eq!(phone.subscribe(proxy, user.number, 600), 200, "{}", site.kamailio.tail(20));
    let first = phone.wait_for_mwi(user.number, 0, Duration::from_secs(3));
    let first = first.unwrap_or_else(|| panic!("no full state: {:#?}", phone.notifies()));
    assert!(first.subscribed && first.source == proxy, "{first:#?}");

    let mut deposits = Vec::new();
    for new in 1..=2 {
        let invite = |media| Invite::new(user.number, "2001", media);
        let deposit = leave_message_with(phones, proxy, outer, 1.5, invite);
        assert!(deposit.acknowledged(), "{:?}", deposit.bye);
        println!("answered in {:?}, BYE in {:?}", deposit.answered_in, deposit.bye.after);
        for (who, receiver) in [("PBX", &site.pbx), ("subscriber", &phone)] {
            let notify = receiver.wait_for_mwi(user.number, new, Duration::from_secs(5));
            let notify = notify.unwrap_or_else(|| panic!("{who}: no MWI {new}: {:#?}", receiver.notifies()));
            println!("{who}: MWI {new} after {:?}", notify.at.since(deposit.at));
            assert_eq!(notify.source, proxy, "{who} is notified by the proxy");
        }
        deposits.push(deposit);
    }
    for deposit in &deposits {
        for node in ["a", "b"] {
            assert_kept(&site.cluster, node, user.number, deposit, 1.4, Duration::from_secs(2));
        }
    }

    // Heard on the other node too, and nothing is sent during hold.
    let (endpoint, mut call) = site.dial(outer, "*97", user.number);
    endpoint.send_to(call.media);
    sign_in(&endpoint, user);
    let deposit = &deposits[0];
    let heard = endpoint.hears(&deposit.speech, deposit.spoken, 1.0, Duration::from_secs(20));
    assert!(heard.is_some(), "the message is played: {} samples heard", endpoint.heard().len());
    for direction in ["sendonly", "inactive"] {
        let held = call.reinvite(Some(&sdp(endpoint.address(), direction, "0 8"))).expect("hold is answered");
        assert_eq!(held.status(), Some(200), "{held:#?}");
        let (recorded, ours) = (held.header("record-route").is_some(), held.body.contains("a=inactive"));
        assert!(ours || held.body.contains("a=recvonly"), "{direction} is answered in kind: {}", held.body);
        println!("{direction} held; recorded again: {recorded}");
        // Packets under way may still come.
        thread::sleep(Duration::from_millis(100));
        let before = endpoint.packets();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(endpoint.packets(), before, "nothing is sent while on hold");
        let back = call.reinvite(Some(&sdp(endpoint.address(), "sendrecv", "0 8"))).expect("resuming is answered");
        assert_eq!(back.status(), Some(200));
        endpoint.press("1");
        wait_until("sound after hold", Duration::from_secs(10), || endpoint.packets() > before + 10);
    }
    assert_eq!(call.bye().status, 200);
    // Heard: the MWI follows.
    assert!(site.pbx.wait_for_mwi(user.number, 1, Duration::from_secs(5)).is_some(), "{:#?}", site.pbx.notifies());

    // The node's own BYE arrives too: after too many failures the node hangs up.
    let (endpoint, mut call) = site.dial(outer, "*97", user.number);
    endpoint.send_to(call.media);
    endpoint.wait_heard(Duration::from_secs(10));
    endpoint.press("000000#");
    assert!(call.ends(Duration::from_secs(60)), "the node's BYE arrives\n{}", site.kamailio.tail(40));
}

#[test]
fn everything_goes_through_it_over_udp() {
    everything_goes_through_the_proxy(Transport::Udp, Transport::Udp);
}

#[test]
fn everything_goes_through_it_over_tcp() {
    everything_goes_through_the_proxy(Transport::Tcp, Transport::Tcp);
}

/// The proxy changes the transport: two Record-Routes, and each side sees its own.
#[test]
fn everything_goes_through_it_from_udp_to_tcp() {
    everything_goes_through_the_proxy(Transport::Udp, Transport::Tcp);
}

/// Kill, deactivation, SIGTERM during a call: the next calls land on the other node, and none fails.
fn a_lost_node_costs_no_call(transport: Transport) {
    if !need::all(&[need::KAMAILIO]) {
        return;
    }
    let mut site = Site::start(transport, Spec { drain_seconds: 20, ..Spec::default() });
    let user = Cluster::USERS[0];
    let usual = site.calls_land(transport, 6, None);
    site.wait_for_calls_on(transport, "a");
    site.wait_for_calls_on(transport, "b");
    println!("set-up through the proxy: at most {usual:?}");

    // Killed. Before a probe notices, a call to it goes to the other after the proxy's timeout.
    site.cluster.kill("a");
    let after_kill = site.calls_land(transport, 6, Some("b"));
    println!("set-up after a kill: at most {after_kill:?}");
    assert!(after_kill <= PATIENCE + usual + slack(), "{after_kill:?}");
    let later: Vec<Duration> = (0..6).map(|_| site.calls_land(transport, 1, Some("b"))).collect();
    println!("set-up later: {later:?}");
    // Round robin would ask it for each second call.
    let slow = later.iter().filter(|took| **took > PATIENCE).count();
    assert!(slow < 3, "the dead node is not asked any more: {later:?}");
    // Its subscribers reach the other, through the same proxy.
    let phone = Pbx::open(site.cluster.phones(), 5072);
    assert_eq!(phone.subscribe(site.kamailio.address(), user.number, 600), 200);
    assert!(phone.wait_for_mwi(user.number, 0, Duration::from_secs(3)).is_some(), "{:#?}", phone.notifies());
    site.cluster.start_member("a");
    site.cluster.wait_in_service();
    site.wait_for_calls_on(transport, "a");

    // Deactivated: 503, and the other node immediately.
    site.cluster.cli("b").order(&["cluster", "deactivate", "a"]);
    let meanwhile = site.calls_until_all_land(transport, "b");
    site.cluster.wait_for_status(&["a"], "deactivated");
    let after_deactivation = meanwhile.max(site.calls_land(transport, 6, Some("b")));
    println!("set-up after deactivating: at most {after_deactivation:?}");
    assert!(after_deactivation <= usual + slack(), "{after_deactivation:?}");
    site.cluster.cli("b").order(&["cluster", "activate", "a"]);
    site.cluster.wait_in_service();
    site.wait_for_calls_on(transport, "a");

    // Drained: the call in progress continues to its end, new ones go to the other.
    let (endpoint, call) = loop {
        let (endpoint, call) = site.dial(transport, user.number, "2001");
        if site.who(&call) == "b" {
            break (endpoint, call);
        }
        call.bye();
    };
    let speech: Speech = begin_to_speak(&endpoint, &call);
    let process = site.cluster.member_mut("b").process.as_mut().expect("b runs");
    process.signal(libc::SIGTERM);
    let meanwhile = site.calls_until_all_land(transport, "a");
    let drained = meanwhile.max(site.calls_land(transport, 6, Some("a")));
    println!("set-up while the other drains: at most {drained:?}");
    assert!(drained <= usual + slack(), "{drained:?}");
    endpoint.wait_spoken(3.0);
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    assert_kept(&site.cluster, "a", user.number, &deposit, 2.0, Duration::from_secs(2));
    let status = site.cluster.member_mut("b").process.as_mut().and_then(|p| p.wait(Duration::from_secs(20)));
    assert!(status.is_some_and(|s| s.success()), "b ended with {status:?}");
    site.cluster.member_mut("b").process = None;
    let gone = site.calls_land(transport, 4, Some("a"));
    println!("set-up when it is gone: at most {gone:?}");
}

#[test]
fn a_lost_node_costs_no_call_over_udp() {
    a_lost_node_costs_no_call(Transport::Udp);
}

#[test]
fn a_lost_node_costs_no_call_over_tcp() {
    a_lost_node_costs_no_call(Transport::Tcp);
}

/// All members are restarted one after the other while SIPp calls through the proxy without a pause.
#[test]
fn a_rolling_restart_under_load_fails_no_call() {
    if !need::all(&[need::KAMAILIO, need::SIPP]) {
        return;
    }
    let mut site = Site::start(Transport::Udp, Spec { drain_seconds: 20, ..Spec::default() });
    // More calls than a mailbox holds messages would fill it.
    let endpoint = Endpoint::open(site.cluster.phones(), Law::Mu);
    let rate = parameter("TWINBOX_PROXY_RATE", 8) as u32;
    let hold = Duration::from_millis(1500);
    let sipp = Sipp::new("call-early", site.kamailio.address(), Cluster::USERS[0].number, endpoint.address(), hold);
    // It calls until it is stopped.
    let load = sipp.times(rate * 300, rate).start(site.cluster.phones(), site.cluster.dir());
    let begun = BootInstant::now();
    for name in ["a", "b", "w"] {
        let process = site.cluster.member_mut(name).process.as_mut().expect("it runs");
        let status = process.stop(Duration::from_secs(30));
        assert!(status.success(), "{name} ended with {status:?}");
        site.cluster.member_mut(name).process = None;
        site.cluster.start_member(name);
        let back = site.cluster.wait_in_service();
        println!("{name} restarted, in service again after {:.2} s", back.as_secs_f64());
        ["a", "b"].iter().for_each(|node| println!("{node} has refused: {}", site.refusals(node)));
    }
    // It fails unless every call followed its scenario: answered, acknowledged, BYE answered 200.
    let (load, lasted) = (load.stop(), begun.elapsed());
    let (calls, slowest, lasted_for) = (load.calls, load.longest_setup, lasted.as_secs_f64());
    println!(
        "{calls} calls in {lasted_for:.1} s while all were restarted, none failed; set-up at most {slowest:?}"
    );
    assert!(f64::from(calls) > lasted.as_secs_f64() * f64::from(rate) / 2.0, "{calls} calls: no load");
}

/// Both nodes register, with a digest, and the registrar calls one of them; a node that stops removes its registration.
#[test]
fn both_nodes_register_and_are_called() {
    if !need::all(&[need::KAMAILIO]) {
        return;
    }
    let (mut cluster, ()) = Cluster::start_with(
        |phones| {
            let registrar = Kamailio::place(phones).ip;
            let trunk = [
                &format!("proxy = \"{registrar}\""),
                "register = true",
                "username = \"voicemail\"",
                "password = \"secret\"",
            ];
            let trunk = trunk.iter().map(ToString::to_string).collect();
            Spec { trunk, sip: vec!["pilot = [\"*97\", \"voicemail\"]".to_owned()], ..Spec::default() }
        },
        |_| (),
    );
    // The registrar starts after the nodes: they retry.
    let registrar = Kamailio::registrar(&Kamailio::place(cluster.phones()), cluster.dir());
    let contact = |node: &str| format!("REGISTERED <sip:voicemail@{}", cluster.sip(node));
    for expected in [contact("a"), contact("b")] {
        wait_until("both nodes to register", Duration::from_secs(40), || registrar.log().contains(&expected));
    }
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new("voicemail", Cluster::USERS[0].number, endpoint.address());
    let call = Call::place(cluster.phones(), registrar.address(), Transport::Udp, &invite);
    let call = call.unwrap_or_else(|r| panic!("refused with {}\n{}", r.status, registrar.tail(30)));
    endpoint.send_to(call.media);
    endpoint.wait_heard(Duration::from_secs(10));
    assert_eq!(call.bye().status, 200);
    let gone = format!("WITHDRAWN <sip:voicemail@{}", cluster.sip("a"));
    cluster.stop("a");
    wait_until("the registration to be taken back", Duration::from_secs(5), || registrar.log().contains(&gone));
}
