//! A node whose disk was lost takes over the others' data: until all records are there it is `replicating`, and never
//! answers a caller that a mailbox or message does not exist (rule D13).

use std::{
    ops::Range,
    process::Output,
    thread::{self, JoinHandle},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_system_tests::{growing::words, import_users};
use twinbox_testkit::{
    Call, Cluster, Deposit, Endpoint, Invite, Lab, Link, Refused, Spec, Transport, g711::Law, leave_message,
    listen, need, parameter, wait_until,
};

/// Users enough to keep a slow link busy for seconds.
const IMPORTED: Range<u32> = 34_000..40_000;
/// An existing mailbox, among the last that are imported.
const KNOWN: &str = "39999";
/// A mailbox that does not exist.
const UNKNOWN: &str = "40000";
/// Number for the sign-in of owners.
const PILOT: &str = "*97";
/// From the agreement that node b is in service to b's knowledge of it: some round trips of the slow link.
const AGREED: Duration = Duration::from_secs(2);

/// Status of the answer to a call to `number` on `node`; a refusal must have a retry time.
fn answered(cluster: &Cluster, node: &str, number: &str) -> u16 {
    let phones = cluster.phones();
    let endpoint = Endpoint::open(phones, Law::Mu);
    let invite = Invite::new(number, "2001", endpoint.address());
    match Call::place(phones, cluster.sip(node), Transport::Udp, &invite) {
        Ok(call) => {
            call.bye();
            200
        }
        Err(Refused { status, response, .. }) => {
            let retry = response.as_ref().is_some_and(|response| response.header("retry-after").is_some());
            assert!(status != 503 || retry, "503 without Retry-After: {response:?}");
            status
        }
    }
}

/// Runs `cluster status --wait in-service` on a node; gives its output and the time when it ended.
fn wait_in_service(cluster: &Cluster, node: &str) -> JoinHandle<(Output, BootInstant)> {
    let cli = cluster.cli(node);
    thread::spawn(move || {
        let output = cli.run(&["cluster", "status", "--wait", "in-service", "--timeout", "90"]);
        (output, BootInstant::now())
    })
}

#[test]
fn a_node_whose_disk_was_lost_answers_503_until_all_records_are_there() {
    if !need::all(&[need::NAMESPACES, need::TAP]) {
        return;
    }
    let lab = Lab::switched(&["a", "b", "w"], parameter("TWINBOX_SEED", 1));
    let mut cluster = Cluster::start_in(&lab, &Spec::default());
    import_users(&cluster, "a", IMPORTED, "User");
    let user = Cluster::USERS[0];
    let deposits: Vec<Deposit> =
        (0..4).map(|_| leave_message(cluster.phones(), cluster.sip("a"), user.number, 1.0)).collect();
    assert!(deposits.iter().all(Deposit::acknowledged));
    cluster.kill("b");
    cluster.wipe("b");
    let begun = BootInstant::now();
    lab.set_link("a", "b", Link::round_trip(100, 0));
    cluster.start_member("b");
    let waits = ["a", "b"].map(|node| wait_in_service(&cluster, node));
    wait_until("node b to answer its administrator", Duration::from_secs(20), || {
        cluster.cli("b").try_json(&["service", "list"]).is_ok()
    });
    let (mut refused, mut last_refused, mut replicating) = (0, begun, false);
    loop {
        let waited = waits.iter().all(JoinHandle::is_finished);
        replicating |= cluster.cli("a").status_of("b").as_deref() == Some("replicating");
        let asked = BootInstant::now();
        let (known, unknown, pilot) =
            (answered(&cluster, "b", KNOWN), answered(&cluster, "b", UNKNOWN), answered(&cluster, "b", PILOT));
        if waited {
            assert_eq!((known, unknown, pilot), (200, 404, 200), "at once when both nodes say in-service");
            break;
        }
        assert!([200, 503].contains(&known), "a mailbox that there is: {known}");
        assert!([404, 503].contains(&unknown), "a mailbox that there is not: {unknown}");
        assert!([200, 503].contains(&pilot), "an owner: {pilot}");
        if known == 503 {
            (refused, last_refused) = (refused + 1, asked);
        }
        // A partial list of messages is not shown either.
        if let Ok(messages) = cluster.cli("b").try_messages(user.number) {
            assert_eq!(messages.len(), deposits.len());
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "neither wait has ended");
    }
    for (node, wait) in ["a", "b"].into_iter().zip(waits) {
        let (output, ended) = wait.join().expect("the command line runs");
        assert!(output.status.success(), "{node}: {}", String::from_utf8_lossy(&output.stderr));
        // Node a's table has b's status from before the kill, too: that is no reason to end.
        assert!(ended + AGREED > last_refused, "the wait on {node} ended before b answered callers");
    }
    println!(
        "in service {:.1} s after its start; {refused} callers were asked to call again",
        begun.elapsed().as_secs_f64()
    );
    assert!(refused > 0 && replicating, "{refused} refused, replicating was seen: {replicating}");
    let heard = listen(cluster.phones(), cluster.sip("b"), user, &deposits, 0.9, Duration::from_secs(60));
    assert!(heard.iter().all(Option::is_some), "{heard:?}");
}

/// The only other node is given up in the middle of the fill: the data here is served, and an alarm is raised.
#[test]
fn a_fill_whose_last_source_is_given_up_ends_with_an_alarm() {
    if !need::all(&[need::NAMESPACES, need::TAP]) {
        return;
    }
    let lab = Lab::switched(&["a", "b", "w"], parameter("TWINBOX_SEED", 1));
    let mut cluster = Cluster::start_in(&lab, &Spec::default());
    import_users(&cluster, "a", IMPORTED, "User");
    cluster.kill("b");
    cluster.wipe("b");
    lab.set_link("a", "b", Link::round_trip(200, 0));
    cluster.start_member("b");
    wait_until("b to be replicating", Duration::from_secs(30), || {
        cluster.cli("b").status_of("b").as_deref() == Some("replicating")
    });
    cluster.kill("a");
    wait_until("b to know that a is lost", Duration::from_secs(30), || {
        cluster.cli("b").status_of("a").as_deref() == Some("not-functioning")
    });
    // No other node serves, and nothing is answered about mailboxes that are not here.
    assert_eq!(answered(&cluster, "b", KNOWN), 503);
    assert_eq!(answered(&cluster, "b", UNKNOWN), 503);
    let removed = cluster.cli("b").run(&["cluster", "remove", "a", "--lost"]);
    let text = words(&removed);
    assert!(removed.status.success(), "{text}");
    for part in
        ["a took or recorded alone after its last contact with this node", "this node still lacks data itself"]
    {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    wait_until("b to be in service", Duration::from_secs(30), || {
        cluster.cli("b").status_of("b").as_deref() == Some("in-service")
    });
    assert_eq!(answered(&cluster, "b", UNKNOWN), 404);
    wait_until("the alarm", Duration::from_secs(10), || {
        cluster.cli("b").json(&["alarm", "list"]).to_string().contains("fill-incomplete")
    });
}
