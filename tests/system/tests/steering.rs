//! Orders of an administrator: the publisher moves, a node goes out of service and comes back, a rolling restart.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_system_tests::slack;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Pbx, Spec, Transport, g711::Law, leave_message, need, sipp::Sipp, wait_until,
};

#[test]
fn make_publisher_moves_the_duties_and_mwi_continues() {
    let (cluster, pbx) = Cluster::start_with(
        |phones| Spec { mwi: Some(phones.port(5070)), ..Spec::default() },
        |phones| Pbx::open(phones, 5070),
    );
    let (publisher, other) = cluster.publisher_and_other();
    let begun = BootInstant::now();
    cluster.cli(&publisher).order(&["cluster", "make-publisher", &other]);
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
    let notify = pbx.wait_for_mwi(Cluster::USERS[0].number, 1, Duration::from_secs(5)).expect("the MWI");
    assert_eq!(notify.source.ip(), cluster.sip(&other).ip());
}

#[test]
fn a_deactivated_node_hands_over_and_comes_back() {
    let cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    cluster.cli(&other).order(&["cluster", "deactivate", &publisher]);
    cluster.wait_for_status(&[&publisher], "deactivated");
    assert_eq!(cluster.publisher(&other), other, "duties went to the other");
    assert!(leave_message(cluster.phones(), cluster.sip(&other), Cluster::USERS[0].number, 1.2).acknowledged());
    cluster.cli(&other).order(&["cluster", "activate", &publisher]);
    cluster.wait_in_service();
    cluster.wait_for_messages(&publisher, Cluster::USERS[0].number, 1, Duration::from_secs(5));
}

/// SIGTERM, wait, start, then the next member: at every moment one node answers, and no message is lost.
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

/// Two nodes without a witness also form a cluster.
#[test]
fn two_nodes_without_a_witness_take_messages() {
    let mut cluster = Cluster::start(&Spec { witness: false, ..Spec::default() });
    let mailbox = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2).acknowledged());
    cluster.kill("a");
    // No majority is left: duties wait, calls continue.
    let alone = leave_message(cluster.phones(), cluster.sip("b"), mailbox, 1.2);
    assert!(alone.acknowledged(), "{:?}", alone.bye);
    cluster.wait_for_messages("b", mailbox, 2, Duration::from_secs(2));
    cluster.start_member("a");
    cluster.wait_in_service();
    cluster.wait_for_messages("a", mailbox, 2, Duration::from_secs(10));
}

/// The answer to an INVITE to a node: its final status, and `Retry-After` if it has one.
fn answer(cluster: &Cluster, node: &str) -> (u16, Option<u32>) {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(Cluster::USERS[0].number, "2001", endpoint.address());
    match Call::place(cluster.phones(), cluster.sip(node), Transport::Udp, &invite) {
        Ok(call) => {
            call.bye();
            (200, None)
        }
        Err(refused) => {
            let after = refused.response.as_ref().and_then(|r| r.header("retry-after")?.trim().parse().ok());
            (refused.status, after)
        }
    }
}

fn set(cluster: &Cluster, node: &str, pairs: &[&str]) {
    cluster.cli(node).json(&[&["cluster", "set"], pairs].concat());
    for member in cluster.members().iter().filter(|m| m.name != "w") {
        wait_until("the setting is in force", Duration::from_secs(5), || {
            let all = member.cli().json(&["cluster", "settings"]);
            let is = |name: &str, value: &str| {
                all["settings"].as_array().into_iter().flatten().any(|s| s["name"] == name && s["value"] == value)
            };
            pairs.chunks(2).all(|pair| is(pair[0], pair[1]))
        });
    }
}

#[test]
fn a_passive_node_leaves_calls_to_the_active_one_until_that_is_lost() {
    let mut cluster = Cluster::start(&Spec::default());
    let (active, passive) = cluster.publisher_and_other();
    set(&cluster, &passive, &["mode", "active-passive"]);
    wait_until("the passive one refuses", Duration::from_secs(5), || answer(&cluster, &passive).0 == 503);
    // Either node shows the passive one.
    for asked in [&active, &passive] {
        let status = cluster.cli(asked).json(&["cluster", "status"]);
        assert_eq!(status["mode"], "active-passive", "{status}");
        for member in status["members"].as_array().into_iter().flatten() {
            assert_eq!(member["info"]["passive"], member["name"] == passive.as_str(), "{member}");
        }
        let page = cluster.cli(asked).run(&["cluster", "status"]);
        let page = String::from_utf8_lossy(&page.stdout).into_owned();
        assert!(page.contains(&format!("publisher {active}, active-passive, ")), "{page}");
        let row = page.lines().find(|line| line.starts_with(&format!("{passive} "))).unwrap_or_default();
        assert!(row.contains("subscriber, passive"), "{page}");
    }
    let (status, after) = answer(&cluster, &passive);
    assert_eq!((status, after.is_some()), (503, true), "told when to try again");
    assert_eq!(answer(&cluster, &active).0, 200);
    assert!(cluster.member(&passive).log().contains("a call has reached this passive node"));
    let alarmed = || cluster.cli(&passive).json(&["alarm", "list"]).to_string().contains("passive-called");
    wait_until("the alarm of it", Duration::from_secs(5), alarmed);
    // Administrators are admitted all the same.
    cluster.cli(&passive).json(&["user", "list"]);

    // Its host is lost: no supervisor reports it.
    let begun = BootInstant::now();
    cluster.kill(&active);
    wait_until("the passive one answers", Duration::from_secs(20), || answer(&cluster, &passive).0 == 200);
    println!("the passive node answers {:?} after the active one was lost", begun.elapsed());
    assert!(leave_message(cluster.phones(), cluster.sip(&passive), Cluster::USERS[0].number, 1.2).acknowledged());
    cluster.start_member(&active);
    cluster.wait_in_service();
    wait_until("the other is passive now", Duration::from_secs(10), || answer(&cluster, &active).0 == 503);
    assert_eq!(answer(&cluster, &passive).0, 200, "the role stays where it is");

    // At a call, the passive one takes the call and the role.
    set(&cluster, &passive, &["force-failover-on-call", "on"]);
    wait_until("a call is taken", Duration::from_secs(5), || answer(&cluster, &active).0 == 200);
    wait_until("and the role with it", Duration::from_secs(5), || {
        cluster.cli(&passive).publisher().as_deref() == Some(&active)
    });
    let moves = cluster.cli(&passive).json(&["cluster", "moves"]);
    let last = moves["moves"].as_array().into_iter().flatten().rfind(|moved| moved["what"] == "publisher");
    assert_eq!(last.map(|moved| moved["cause"].clone()), Some("call".into()), "{moves}");
    set(&cluster, &passive, &["mode", "active-active"]);
    wait_until("both answer", Duration::from_secs(5), || {
        answer(&cluster, &active).0 == 200 && answer(&cluster, &passive).0 == 200
    });
}

/// Two nodes, no witness, one is lost and comes back, in both policies: every call is answered throughout.
#[test]
fn of_a_pair_the_survivor_refuses_no_call_and_goes_on_alone_if_it_may() {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let mut cluster = Cluster::start(&Spec { witness: false, ..Spec::default() });
    let mailbox = Cluster::USERS[0].number;
    for policy in ["hold", "assume"] {
        let (victim, survivor) = cluster.publisher_and_other();
        set(&cluster, &survivor, &["on-quorum-loss", policy]);
        let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
        let sipp = Sipp::new(
            "call-early",
            cluster.sip(&survivor),
            mailbox,
            endpoint.address(),
            Duration::from_millis(700),
        );
        let sipp = sipp.times(600, 2).start(cluster.phones(), cluster.dir());
        let duty = || cluster.cli(&survivor).json(&["duty", "list"])["duties"][0].clone();
        let before = duty();
        let messages = cluster.cli(&survivor).messages(mailbox).len();
        cluster.kill(&victim);
        let cli = cluster.cli(&survivor);
        let duty = || cli.json(&["duty", "list"])["duties"][0].clone();
        if policy == "hold" {
            wait_until("it waits", Duration::from_secs(20), || duty()["state"] == "waiting");
        } else {
            wait_until("it goes on alone", Duration::from_secs(20), || {
                let now = duty();
                now["state"] == "running" && now["holder"] == *survivor && now["epoch"] != before["epoch"]
            });
        }
        println!("{policy}: {}", duty()["reason"]);
        let alone = leave_message(cluster.phones(), cluster.sip(&survivor), mailbox, 1.2);
        assert!(alone.acknowledged(), "{:?}", alone.bye);
        let refused = cli.try_json(&["cluster", "set", "missed", "6"]).expect_err("no majority");
        assert!(refused.contains("2 of the 2 members"), "{refused}");
        cluster.start_member(&victim);
        cluster.wait_in_service();
        let finished = sipp.stop();
        println!("{policy}: {} calls, the longest set-up {:?}", finished.calls, finished.longest_setup);
        for node in [&victim, &survivor] {
            cluster.wait_for_messages(node, mailbox, messages + 1, Duration::from_secs(10));
        }
        if policy == "assume" {
            // Both have their former status, until the end of the split is agreed on.
            wait_until("the two sides to be one", Duration::from_secs(10), || {
                cluster.cli(&survivor).json(&["cluster", "moves"]).to_string().contains("heal")
            });
            wait_until("the split is told", Duration::from_secs(10), || {
                let alarms = ["a", "b"].map(|node| cluster.cli(node).json(&["alarm", "list"]).to_string());
                alarms.iter().any(|alarms| alarms.contains("\"split\"") && alarms.contains("alone for"))
            });
        }
    }
}
