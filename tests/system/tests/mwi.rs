//! MWI (RFC 3842, rule E2), judged by the NOTIFYs that a PBX receives and their times.

use std::{thread::sleep, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_system_tests::slack;
use twinbox_testkit::{Cluster, Lab, Pbx, Spec, holds, leave_message, listen, need, wait_until};

/// The port of the PBX; its address is the phones'.
const PBX: u16 = 5070;
/// Maximum delay of an MWI change in these tests. The aim is 10 ms.
const SOON: Duration = Duration::from_millis(500);

/// A cluster whose trunk wants MWI, and that PBX.
fn with_pbx() -> (Cluster, Pbx) {
    Cluster::start_with(
        |phones| Spec { mwi: Some(phones.port(PBX)), ..Spec::default() },
        |phones| Pbx::open(phones, PBX),
    )
}

#[test]
fn a_message_on_either_node_sets_the_mwi() {
    let (cluster, pbx) = with_pbx();
    let [one, two] = Cluster::USERS;
    let mut last = None;
    for (node, user, new) in [("a", one, 1), ("b", one, 2), ("b", two, 1)] {
        let deposit = leave_message(cluster.phones(), cluster.sip(node), user.number, 1.2);
        assert!(deposit.acknowledged());
        let notify = pbx.wait_for_mwi(user.number, new, Duration::from_secs(5));
        let notify = notify.unwrap_or_else(|| {
            panic!("no MWI {new} for {} after a message on {node}: {:#?}", user.number, pbx.notifies())
        });
        let after = notify.at.since(deposit.at);
        println!("message on {node}: MWI after {after:?} from {}", notify.source);
        assert!(notify.waiting);
        assert!(after <= SOON + slack(), "{after:?}");
        last = Some(deposit);
    }
    // Heard: the MWI is cleared.
    let deposit = last.expect("a message was left");
    let heard = listen(cluster.phones(), cluster.sip("a"), two, &[deposit], 1.0, Duration::from_secs(30));
    assert!(heard[0].is_some());
    let dark = pbx.wait_for_mwi(two.number, 0, Duration::from_secs(5));
    assert!(dark.is_some_and(|l| !l.waiting), "{:#?}", pbx.notifies());
}

/// Exactly one node notifies the PBX: a standby's copy would raise MWIs again.
#[test]
fn only_the_publisher_notifies_the_pbx() {
    let (cluster, pbx) = with_pbx();
    let publisher = cluster.publisher("a");
    for node in ["a", "b", "a"] {
        assert!(leave_message(cluster.phones(), cluster.sip(node), Cluster::USERS[0].number, 1.2).acknowledged());
    }
    assert!(pbx.wait_for_mwi(Cluster::USERS[0].number, 3, Duration::from_secs(5)).is_some());
    sleep(Duration::from_millis(500));
    let strangers: Vec<_> =
        pbx.notifies().into_iter().filter(|l| l.source.ip() != cluster.sip(&publisher).ip()).collect();
    assert!(strangers.is_empty(), "{publisher} is the publisher, but others notified: {strangers:#?}");
}

#[test]
fn after_the_publisher_is_killed_the_other_resends_everything() {
    let (mut cluster, pbx) = with_pbx();
    let [one, two] = Cluster::USERS;
    for (node, user) in [("a", one), ("b", two)] {
        assert!(leave_message(cluster.phones(), cluster.sip(node), user.number, 1.2).acknowledged());
        assert!(pbx.wait_for_mwi(user.number, 1, Duration::from_secs(5)).is_some(), "{:#?}", pbx.notifies());
    }
    let (victim, survivor) = cluster.publisher_and_other();
    pbx.forget();
    let killed = BootInstant::now();
    cluster.kill(&victim);
    for user in [one, two] {
        let notify = pbx.wait_for_mwi(user.number, 1, Duration::from_secs(20));
        let notify = notify.unwrap_or_else(|| panic!("{} is not resent: {:#?}", user.number, pbx.notifies()));
        let after = notify.at.since(killed);
        println!("{} resent {after:?} after the kill", user.number);
        assert_eq!(notify.source.ip(), cluster.sip(&survivor).ip());
        assert!(after <= Duration::from_secs(2) + slack(), "{after:?}");
    }
    // Judged by the receiver: after the other's first act the dead one's epoch never sends again.
    cluster.start_member(&victim);
    cluster.wait_in_service();
    let publisher = cluster.publisher(&survivor);
    pbx.forget();
    assert!(leave_message(cluster.phones(), cluster.sip(&victim), one.number, 1.2).acknowledged());
    let notify = pbx.wait_for_mwi(one.number, 2, Duration::from_secs(5)).expect("NOTIFYs continue");
    assert_eq!(notify.source.ip(), cluster.sip(&publisher).ip());
}

#[test]
fn subscribe_is_answered_with_full_state_by_either_node_and_changes_follow() {
    let cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0];
    assert!(leave_message(cluster.phones(), cluster.sip("a"), user.number, 1.2).acknowledged());
    for (node, port, other) in [("a", 5071, "b"), ("b", 5072, "a")] {
        let pbx = Pbx::open(cluster.phones(), port);
        let had = cluster.cli(node).messages(user.number).len() as u32;
        let asked = BootInstant::now();
        let status = pbx.subscribe(cluster.sip(node), user.number, 600);
        assert!(status == 200 || status == 202, "{node}: SUBSCRIBE answered {status}");
        let notify = pbx.wait_for_mwi(user.number, had, Duration::from_secs(3));
        let notify = notify.unwrap_or_else(|| panic!("{node}: no full state: {:#?}", pbx.notifies()));
        println!("{node}: full state {:?} after SUBSCRIBE", notify.at.since(asked));
        assert!(notify.subscribed && notify.waiting && notify.source.ip() == cluster.sip(node).ip());
        assert!(notify.message.header("subscription-state").is_some_and(|s| s.starts_with("active")));
        let deposit = leave_message(cluster.phones(), cluster.sip(other), user.number, 1.2);
        let change = pbx.wait_for_mwi(user.number, had + 1, Duration::from_secs(5));
        let change =
            change.unwrap_or_else(|| panic!("{node}: no change after a message on {other}: {:#?}", pbx.notifies()));
        println!("{node}: change {:?} after a message on {other}", change.at.since(deposit.at));
        assert!(change.cseq > notify.cseq, "in the same dialog");
    }
    let unknown = Pbx::open(cluster.phones(), 5073);
    let status = unknown.subscribe(cluster.sip("a"), "4999", 600);
    assert!((400..500).contains(&status), "no such mailbox: {status}");
}

/// A PBX that did not answer is notified again when it does, with the latest state.
#[test]
fn a_pbx_that_was_silent_gets_the_latest_state_later() {
    let (cluster, pbx) = with_pbx();
    let user = Cluster::USERS[0];
    pbx.set_silent(true);
    for node in ["a", "b"] {
        assert!(leave_message(cluster.phones(), cluster.sip(node), user.number, 1.2).acknowledged());
    }
    pbx.set_silent(false);
    let notify = pbx.wait_for_mwi(user.number, 2, Duration::from_secs(45));
    assert!(notify.is_some(), "{:#?}", pbx.notifies());
    let stale = pbx.notifies().into_iter().rev().find(|l| l.mailbox == user.number).and_then(|l| l.counts);
    assert_eq!(stale.map(|(new, _)| new), Some(2), "the last NOTIFY has the latest state");
}

/// On the node that sends under the other's lease, where the right to send lasts milliseconds.
#[test]
fn a_silent_subscriber_delays_no_notify_to_others() {
    let cluster = Cluster::start(&Spec::default());
    let (user, (publisher, subscriber)) = (Cluster::USERS[0], cluster.publisher_and_other());
    // Several, so that not all of them are notified before the deaf ones by chance.
    let [alert, deaf] = [5080, 5090]
        .map(|first| (first..first + 3).map(|port| Pbx::open(cluster.phones(), port)).collect::<Vec<_>>());
    for pbx in alert.iter().chain(&deaf) {
        assert_eq!(pbx.subscribe(cluster.sip(&subscriber), user.number, 600), 200);
        assert!(pbx.wait_for_mwi(user.number, 0, Duration::from_secs(3)).is_some());
    }
    deaf.iter().for_each(|pbx| pbx.set_silent(true));
    for new in 1..=2 {
        let deposit = leave_message(cluster.phones(), cluster.sip(&publisher), user.number, 1.2);
        for pbx in &alert {
            let notify = pbx.wait_for_mwi(user.number, new, Duration::from_secs(10));
            let notify = notify.unwrap_or_else(|| panic!("{new} not seen: {:#?}", pbx.notifies()));
            println!("MWI {new} after {:?}", notify.at.since(deposit.at));
            assert_eq!(notify.source.ip(), cluster.sip(&subscriber).ip());
        }
    }
    // The deaf ones are retried meanwhile; that must not repeat NOTIFYs to the others.
    sleep(Duration::from_secs(3));
    for pbx in &alert {
        let told = pbx.notifies();
        let twice = |new| told.iter().filter(|l| l.counts == Some((new, 0))).count();
        assert!(twice(1) == 1 && twice(2) == 1, "{told:#?}");
    }
}

/// Leadership leaves the publisher, for the witness if all are equally near: makes each leader publisher until the
/// witness leads.
fn led_by_the_witness(cluster: &Cluster) {
    let leader = || cluster.cli("a").status().and_then(|status| Some(status["leader"].as_str()?.to_owned()));
    wait_until("the witness to lead", Duration::from_secs(60), || match leader().as_deref() {
        Some("w") => true,
        Some(node @ ("a" | "b")) => {
            let _ = cluster.cli(node).try_json(&["cluster", "make-publisher", node]);
            holds(Duration::from_secs(5), || leader().filter(|now| now != node)).is_some_and(|now| now == "w")
        }
        _ => false,
    });
    cluster.wait_in_service();
}

/// The node lives and keeps its dialogs: a change during the cut is sent after it, without another change.
#[test]
fn subscribers_of_the_other_node_get_changes_of_a_cut_after_it() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let cluster = Cluster::start_in(&lab, &Spec::default());
    led_by_the_witness(&cluster);
    let (user, (publisher, other)) = (Cluster::USERS[0], cluster.publisher_and_other());
    let pbx = Pbx::open(cluster.phones(), PBX);
    assert_eq!(pbx.subscribe(cluster.sip(&other), user.number, 600), 200);
    assert!(leave_message(cluster.phones(), cluster.sip(&publisher), user.number, 1.2).acknowledged());
    // The notifier's NOTIFY is the last one before the cut, so that no other node may send after it.
    let by_notifier = |new| {
        let notify = pbx.wait_for_mwi(user.number, new, Duration::from_secs(20));
        let notify = notify.unwrap_or_else(|| panic!("{new} is not notified: {:#?}", pbx.notifies()));
        assert!(notify.subscribed && notify.source.ip() == cluster.sip(&other).ip());
        assert!(notify.message.header("x-twinbox-epoch").is_some_and(|epoch| epoch.ends_with(&publisher)));
    };
    by_notifier(1);
    // The witness still reaches both: the publisher stays.
    lab.cut(&publisher, &other);
    assert!(leave_message(cluster.phones(), cluster.sip(&publisher), user.number, 1.2).acknowledged());
    // Longer than the timeout of the query.
    sleep(Duration::from_secs(8));
    assert!(pbx.notifies().iter().all(|l| l.counts < Some((2, 0))), "{:#?}", pbx.notifies());
    lab.heal();
    by_notifier(2);
    assert_eq!(cluster.publisher(&publisher), publisher, "no new holder resent everything");
}
