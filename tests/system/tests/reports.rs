//! Reports of real calls, the same on both nodes, with a call of a node that was killed.

use std::time::Duration;

use serde_json::Value;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Spec, Transport, begin_to_speak, g711::Law, leave_message, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The rows of a report on a node.
fn rows(cluster: &Cluster, node: &str, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["report"], arguments].concat();
    let reply = cluster.cli(node).try_json(&arguments);
    reply.ok().and_then(|rows| rows.as_array().cloned()).unwrap_or_default()
}

/// Sum of a column of traffic.
fn sum(cluster: &Cluster, node: &str, column: &str) -> u64 {
    let rows = rows(cluster, node, &["traffic", "--last", "1h", "--by", "hour"]);
    rows.iter().map(|row| row[column].as_u64().expect(column)).sum()
}

/// Waits until both nodes report this number in a column of traffic.
fn wait_for_sum(cluster: &Cluster, column: &str, number: u64) {
    for node in ["a", "b"] {
        wait_until(column, PATIENCE, || sum(cluster, node, column) == number);
    }
}

fn place(cluster: &Cluster, node: &str, to: &str, from: &str) -> (Endpoint, Call) {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(to, from, endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip(node), Transport::Udp, &invite).expect("answered");
    endpoint.send_to(call.media);
    (endpoint, call)
}

#[test]
fn calls_of_both_nodes_and_of_a_killed_one_are_in_the_reports_of_each_node() {
    let cluster = Cluster::start(&Spec::default());
    let (victim, survivor) = cluster.publisher_and_other();
    let (user, other) = (Cluster::USERS[0], Cluster::USERS[1]);

    let left = leave_message(cluster.phones(), cluster.sip(&victim), user.number, 3.0);
    assert!(left.acknowledged());
    wait_for_sum(&cluster, "message_left", 1);

    let (endpoint, call) = place(&cluster, &survivor, other.number, "2002");
    endpoint.wait_heard(Duration::from_secs(10));
    assert_eq!(call.bye().status, 200);
    wait_for_sum(&cluster, "hung_up", 1);

    // Three wrong PINs: then the node ends the call.
    let (endpoint, mut call) = place(&cluster, &survivor, "*97", user.number);
    endpoint.wait_heard(Duration::from_secs(10));
    endpoint.press("000999#000998#000997#");
    assert!(call.ends(Duration::from_secs(120)), "the node lets the caller go on");
    wait_for_sum(&cluster, "failed_sign_in", 1);

    // In the middle of a message.
    let (endpoint, call) = place(&cluster, &victim, user.number, "2003");
    let _speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(4.0);
    cluster.kill_child(&victim);
    drop(call);
    cluster.wait_in_service();
    wait_for_sum(&cluster, "node_died", 1);

    for node in ["a", "b"] {
        let counts = ["calls", "message_left", "hung_up", "failed_sign_in", "node_died", "refused", "failed"];
        let found = counts.map(|column| sum(&cluster, node, column));
        assert_eq!(found, [4, 1, 1, 1, 1, 0, 0], "{node}: each call once");
        let unanswered = rows(&cluster, node, &["unanswered"]);
        let shown: Vec<_> = unanswered
            .iter()
            .map(|row| ["node", "mailbox", "caller", "outcome"].map(|name| row[name].as_str().unwrap_or("-")))
            .collect();
        assert_eq!(
            shown,
            [
                [survivor.as_str(), other.number, "2002", "hung-up"],
                [victim.as_str(), user.number, "2003", "node-died"],
            ],
            "{node}"
        );
        let failed = rows(&cluster, node, &["sign-ins", "--last", "1h"]);
        let [failed] = failed.as_slice() else { panic!("{node}: {failed:?}") };
        assert!(failed["mailbox"] == user.number && failed["caller"] == user.number, "{node}: {failed}");
        let users = rows(&cluster, node, &["users"]);
        let calls: Vec<_> = users.iter().map(|row| (row["mailbox"].as_str(), row["calls"].as_u64())).collect();
        assert_eq!(calls, [(Some(user.number), Some(3)), (Some(other.number), Some(1))], "{node}");
        wait_until("the heir of the calls", PATIENCE, || {
            let moves = rows(&cluster, node, &["fail-overs"]);
            moves.iter().any(|row| row["event"] == "calls-inherited" && row["subject"] == victim.as_str())
        });
    }

    let csv = cluster.cli("a").run(&["report", "unanswered", "--csv", "--zone", "Europe/Berlin"]);
    let csv = String::from_utf8(csv.stdout).expect("UTF-8");
    assert!(csv.starts_with("time,node,mailbox,caller,outcome,seconds\r\n"), "{csv}");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let refused = cluster.cli("a").run(&["report", "traffic", "--zone", "Berlin"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("'Berlin'"), "{told}");
}
