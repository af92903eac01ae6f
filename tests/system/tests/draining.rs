//! A node is taken out of service during a call that does not end on its own.

use std::time::Duration;

use serde_json::Value;
use twinbox_clock::BootInstant;
use twinbox_system_tests::{
    growing::{number, words},
    slack,
};
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Spec, Speech, Transport, begin_to_speak, g711::Law, hang_up, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A caller that talks without end.
fn talker(cluster: &Cluster, node: &str, mailbox: &str) -> (Endpoint, Call, Speech) {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip(node), Transport::Udp, &invite).expect("it is answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(2.5);
    (endpoint, call, speech)
}

fn member(cluster: &Cluster, asked: &str, name: &str) -> Value {
    let status = cluster.cli(asked).status().unwrap_or_default();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    members.into_iter().find(|m| m["name"] == name).unwrap_or_default()
}

#[test]
fn calls_that_are_left_after_the_stated_time_are_ended_and_what_was_said_is_kept() {
    let cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    let mailbox = Cluster::USERS[0].number;
    let (endpoint, mut call, speech) = talker(&cluster, &other, mailbox);

    let out = cluster.cli(&publisher).run(&["cluster", "deactivate", &other]);
    assert!(out.status.success() && words(&out).contains("without a time limit"), "{}", words(&out));
    wait_until("it drains", PATIENCE, || member(&cluster, &publisher, &other)["status"] == "draining");
    let reason = member(&cluster, &publisher, &other)["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("1 call is left, to end without a limit"), "{reason}");

    // Another order sets a time.
    let ordered = BootInstant::now();
    let within = Duration::from_secs(4);
    let out = cluster.cli(&publisher).run(&["cluster", "deactivate", &other, "--within", "4s"]);
    assert!(out.status.success() && words(&out).contains("after 4 s"), "{}", words(&out));
    wait_until("the time that is left is shown", PATIENCE, || {
        let reason = member(&cluster, &publisher, &other)["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains("1 call is left, ended in ")
    });
    assert!(number(&member(&cluster, &publisher, &other)["info"]["drain_left_ms"]) <= 4_000);
    assert!(call.ends(within + PATIENCE), "the node hangs up");
    let took = ordered.elapsed();
    println!("ended {took:?} after the order");
    assert!(took >= within && took <= within + Duration::from_millis(1_500) + slack(), "{took:?}");
    let farewell = call.farewell.clone().expect("its BYE");
    let reason = farewell.header("reason").unwrap_or_default();
    assert!(reason.starts_with("SIP;cause=503"), "{reason}");
    wait_until("nothing is left", PATIENCE, || member(&cluster, &publisher, &other)["status"] == "deactivated");
    // The audio so far is a message, whole, on both.
    let said = endpoint.spoken();
    for node in [&publisher, &other] {
        wait_until("the message", PATIENCE, || cluster.find(node, mailbox, &speech, said).is_some());
        let (message, piece, length) = cluster.find(node, mailbox, &speech, said).expect("the message");
        assert!(!message.partial, "{message:?}");
        assert!(piece.length == length && piece.seconds() > 4.0, "{piece:?} of {length}");
    }
    cluster.cli(&publisher).order(&["cluster", "activate", &other]);
    cluster.wait_in_service();
}

/// While calls end, duties are given back already, and no other node can take them: no service counts as failed.
#[test]
fn an_orderly_stop_of_a_node_that_is_alone_raises_no_alarm_and_restarts_nothing() {
    let mut cluster = Cluster::start(&Spec { drain_seconds: 30, ..Spec::default() });
    let (publisher, other) = cluster.publisher_and_other();
    let (endpoint, call, speech) = talker(&cluster, &publisher, Cluster::USERS[0].number);
    cluster.kill(&other);
    cluster.kill("w");
    cluster.member_mut(&publisher).process.as_mut().expect("it runs").signal(libc::SIGTERM);
    wait_until("new calls to be refused", PATIENCE, || {
        let phone = Endpoint::open(cluster.phones(), Law::Mu);
        let invite = Invite::new(Cluster::USERS[0].number, "2002", phone.address());
        let placed = Call::place(cluster.phones(), cluster.sip(&publisher), Transport::Udp, &invite);
        placed.is_err_and(|refused| refused.status == 503)
    });
    // Services are checked five times a second.
    endpoint.wait_spoken(endpoint.spoken() as f64 / 8_000.0 + 2.0);
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    cluster.stop(&publisher);

    cluster.start_all();
    cluster.wait_in_service();
    let cli = cluster.cli(&publisher);
    let alarms = cli.json(&["alarm", "list", "--all"]);
    let failed = alarms["alarms"].as_array().into_iter().flatten().find(|a| a["code"] == "service-failed");
    assert_eq!(failed, None);
    let events = cli.run(&["events"]);
    assert!(!words(&events).contains("service-restarted"), "{}", words(&events));
}

#[test]
fn a_node_that_is_removed_ends_its_calls_after_the_stated_time() {
    let mut cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    let mailbox = Cluster::USERS[0].number;
    let (endpoint, mut call, speech) = talker(&cluster, &other, mailbox);
    let removed = std::thread::scope(|scope| {
        let cli = cluster.cli(&publisher);
        let name = other.clone();
        let removing = scope.spawn(move || cli.run(&["cluster", "remove", &name, "--within", "3s"]));
        assert!(call.ends(PATIENCE), "the node hangs up");
        removing.join().expect("the command ends")
    });
    assert!(removed.status.success(), "{}", words(&removed));
    let said = endpoint.spoken();
    wait_until("the message is handed over", PATIENCE, || {
        cluster.find(&publisher, mailbox, &speech, said).is_some()
    });
    cluster.kill(&other);
}
