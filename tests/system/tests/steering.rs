//! An administrator's hand: the publisher moves, a node goes out of service and comes back, a rolling restart.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_system_tests::slack;
use twinbox_testkit::{Cluster, Pbx, Spec, leave_message, wait_until};

#[test]
fn make_publisher_moves_the_duties_and_the_lights_go_on() {
    let (cluster, pbx) = Cluster::start_with(
        |phones| Spec { lights: Some(phones.port(5070)), ..Spec::default() },
        |phones| Pbx::open(phones, 5070),
    );
    let (publisher, other) = cluster.publisher_and_other();
    let begun = BootInstant::now();
    cluster.cli(&publisher).json(&["cluster", "make-publisher", &other]);
    wait_until("the other to be the publisher", Duration::from_secs(5), || {
        cluster.cli(&publisher).publisher().as_deref() == Some(&other)
    });
    println!("moved in {:?}, as the command line tells", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(1) + slack());
    let duties = cluster.cli(&other).json(&["duty", "list"]);
    wait_until("the duty to run there", Duration::from_secs(5), || {
        let duties = cluster.cli(&other).json(&["duty", "list"]);
        duties["duties"].as_array().into_iter().flatten().all(|d| d["holder"] == *other && d["state"] == "running")
    });
    println!("{duties}");
    assert!(leave_message(cluster.phones(), cluster.sip(&publisher), Cluster::USERS[0].number, 1.2).acknowledged());
    let light = pbx.sees(Cluster::USERS[0].number, 1, Duration::from_secs(5)).expect("the light");
    assert_eq!(light.source.ip(), cluster.sip(&other).ip());
}

#[test]
fn a_deactivated_node_hands_over_and_comes_back() {
    let cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    cluster.cli(&other).json(&["cluster", "deactivate", &publisher]);
    cluster.wait_for_status(&[&publisher], "deactivated");
    assert_eq!(cluster.publisher(&other), other, "duties went to the other");
    assert!(leave_message(cluster.phones(), cluster.sip(&other), Cluster::USERS[0].number, 1.2).acknowledged());
    cluster.cli(&other).json(&["cluster", "activate", &publisher]);
    cluster.wait_in_service();
    cluster.wait_for_messages(&publisher, Cluster::USERS[0].number, 1, Duration::from_secs(5));
}

/// SIGTERM, wait, start, the next: at every moment one node answers, and no message is lost.
#[test]
fn a_rolling_restart_loses_nothing() {
    let mut cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    let mut left = 0;
    for (name, other) in [("a", "b"), ("b", "a"), ("w", "a")] {
        cluster.stop(name);
        assert!(leave_message(cluster.phones(), cluster.sip(other), mailbox, 1.2).acknowledged());
        left += 1;
        cluster.start_member(name);
        cluster.wait_in_service();
    }
    for node in ["a", "b"] {
        cluster.wait_for_messages(node, mailbox, left, Duration::from_secs(10));
    }
}

/// Two nodes without a witness form a cluster too.
#[test]
fn two_nodes_without_a_witness_take_messages() {
    let mut cluster = Cluster::start(&Spec { witness: false, ..Spec::default() });
    let mailbox = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2).acknowledged());
    cluster.kill("a");
    // No majority is left: duties wait, calls go on.
    let alone = leave_message(cluster.phones(), cluster.sip("b"), mailbox, 1.2);
    assert!(alone.acknowledged(), "{:?}", alone.goodbye);
    cluster.wait_for_messages("b", mailbox, 2, Duration::from_secs(2));
    cluster.start_member("a");
    cluster.wait_in_service();
    cluster.wait_for_messages("a", mailbox, 2, Duration::from_secs(10));
}
