//! Cuts between machines, each in a separate network namespace: both sides take messages, no caller waits, and after
//! the heal all messages are on both.

use std::{thread, time::Duration};

use twinbox_system_tests::{assert_kept, growing::words, longest_goodbye};
use twinbox_testkit::{
    Call, Cluster, Deposit, Endpoint, Invite, Lab, NetPlace, Spec, Transport, begin_to_speak, g711::Law, hang_up,
    leave_message, need, wait_for, wait_until,
};

const ACK_TIMEOUT_MS: u64 = 250;
const PATIENCE: Duration = Duration::from_secs(60);

/// A caller that is recording when the cut comes and hangs up right after it.
fn caught_by_the_cut(
    phones: &NetPlace,
    nodes: [std::net::SocketAddr; 2],
    mailbox: &'static str,
    cut: impl FnOnce(),
) -> Vec<Deposit> {
    let calls: Vec<_> = nodes
        .iter()
        .map(|node| {
            let endpoint = Endpoint::open(phones, Law::Mu);
            let invite = Invite::new(mailbox, "2001", endpoint.address());
            let call = Call::place(phones, *node, Transport::Udp, &invite).expect("the call is answered");
            let speech = begin_to_speak(&endpoint, &call);
            (endpoint, call, speech)
        })
        .collect();
    calls.iter().for_each(|(endpoint, _, _)| endpoint.wait_spoken(2.5));
    cut();
    let goodbyes: Vec<_> = calls
        .into_iter()
        .map(|(endpoint, call, speech)| thread::spawn(move || hang_up(call, &endpoint, speech)))
        .collect();
    goodbyes.into_iter().map(|t| t.join().expect("hanging up does not panic")).collect()
}

fn cut_and_heal(cut: impl Fn(&Lab)) {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let cluster = Cluster::start_in(&lab, &Spec { ack_timeout_ms: ACK_TIMEOUT_MS, ..Spec::default() });
    let mailbox = Cluster::USERS[0].number;
    let (phones, nodes) = (cluster.phones().clone(), [cluster.sip("a"), cluster.sip("b")]);

    let mut deposits = vec![leave_message(&phones, nodes[0], mailbox, 1.0)];
    deposits.extend(caught_by_the_cut(&phones, nodes, mailbox, || cut(&lab)));
    // Again on both sides concurrently, now that the cut is known.
    let later: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (phones, node) = (phones.clone(), *node);
            thread::spawn(move || leave_message(&phones, node, mailbox, 1.5))
        })
        .collect();
    deposits.extend(later.into_iter().map(|t| t.join().expect("a caller does not panic")));

    for (n, deposit) in deposits.iter().enumerate() {
        println!("message {n}: BYE answered {} after {:?}", deposit.bye.status, deposit.bye.after);
        assert!(deposit.acknowledged(), "message {n}: {:?}", deposit.bye);
        assert!(deposit.bye.after <= longest_goodbye(ACK_TIMEOUT_MS), "message {n}: {:?}", deposit.bye);
    }
    // Each side has its own messages during the cut.
    for (node, deposit) in [("a", &deposits[1]), ("b", &deposits[2]), ("a", &deposits[3]), ("b", &deposits[4])] {
        assert_kept(&cluster, node, mailbox, deposit, 0.9, Duration::from_secs(2));
    }
    lab.heal();
    for node in ["a", "b"] {
        for deposit in &deposits {
            assert_kept(&cluster, node, mailbox, deposit, 0.9, Duration::from_secs(30));
        }
        cluster.wait_for_messages(node, mailbox, deposits.len(), Duration::from_secs(5));
    }
    cluster.wait_in_service();
    let after = leave_message(&phones, nodes[1], mailbox, 1.0);
    assert_kept(&cluster, "a", mailbox, &after, 0.9, Duration::from_secs(2));
}

#[test]
fn a_from_b_with_the_witness_in_reach_of_both() {
    cut_and_heal(|lab| lab.cut("a", "b"));
}

#[test]
fn everybody_from_everybody() {
    cut_and_heal(|lab| {
        lab.cut("a", "b");
        lab.cut("a", "w");
        lab.cut("b", "w");
    });
}

#[test]
fn a_is_not_heard_by_b_but_hears_it() {
    cut_and_heal(|lab| lab.cut_one_way("a", "b"));
}

/// A firewall that answers for a living process proves nothing about that process: no node takes its duties.
#[test]
fn a_refused_connection_is_no_proof_of_death() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let cluster = Cluster::start_in(&lab, &Spec { ack_timeout_ms: ACK_TIMEOUT_MS, ..Spec::default() });
    let (publisher, other) = cluster.publisher_and_other();
    lab.refuse(&publisher, &other);
    lab.refuse(&other, &publisher);
    let deposit = leave_message(cluster.phones(), cluster.sip(&other), Cluster::USERS[1].number, 2.0);
    assert!(deposit.acknowledged() && deposit.bye.after <= longest_goodbye(ACK_TIMEOUT_MS), "{:?}", deposit.bye);
    lab.heal();
    assert_kept(&cluster, &publisher, Cluster::USERS[1].number, &deposit, 1.5, Duration::from_secs(30));
    cluster.wait_in_service();
}

/// A node is removed while the other one does not reach it: it stays until its message is elsewhere too (rule D2).
#[test]
fn removed_node_stays_until_another_one_has_the_message_that_it_took_alone() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let mut cluster = Cluster::start_in(&lab, &Spec { ack_timeout_ms: ACK_TIMEOUT_MS, ..Spec::default() });
    let mailbox = Cluster::USERS[0].number;
    lab.cut("a", "b");
    let deposit = leave_message(cluster.phones(), cluster.sip("b"), mailbox, 1.5);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    assert!(cluster.cli("a").messages(mailbox).is_empty(), "b alone has it");
    // Led by the witness, which reaches both, b learns of an order at a.
    let led = |node: &str| cluster.cli(node).status().is_some_and(|s| s["leader"] == "w" && s["quorum"] == true);
    let took = wait_until("the witness to lead both nodes", PATIENCE, || led("a") && led("b"));
    println!("the witness leads both nodes {took:?} after the message");

    let remove = ["cluster", "remove", "b", "--timeout", "5"];
    let answer = wait_for("b to be leaving", PATIENCE, || {
        let removed = cluster.cli("a").run(&remove);
        (words(&removed).contains("b is still leaving") && !removed.status.success()).then(|| words(&removed))
    });
    println!("for b itself it is {:?}; a says: {answer}", cluster.cli("b").status_of("b"));
    assert!(answer.contains("It leaves when another node has all of its data"), "{answer}");
    assert_eq!(cluster.cli("a").status_of("b").as_deref(), Some("leaving"));
    let handed_over = |cluster: &Cluster| cluster.member("b").log().contains("other nodes have all its data");
    assert!(!handed_over(&cluster), "{}", cluster.member("b").log());
    assert!(cluster.cli("a").messages(mailbox).is_empty(), "b alone has it");

    lab.heal();
    let b = cluster.member_mut("b").process.as_mut().expect("it runs");
    let ended = b.wait(PATIENCE).unwrap_or_else(|| panic!("b runs on\n{}", b.tail(40)));
    assert!(ended.success() && handed_over(&cluster), "b ended with {ended:?}\n{}", cluster.member("b").log());
    cluster.member_mut("b").process = None;
    let members = cluster.cli("a").status().expect("a answers")["members"].as_array().cloned().unwrap_or_default();
    assert!(!members.is_empty() && members.iter().all(|member| member["name"] != "b"), "{members:#?}");
    assert_kept(&cluster, "a", mailbox, &deposit, 1.0, Duration::from_secs(5));
}
