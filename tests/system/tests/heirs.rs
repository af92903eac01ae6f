//! After a node's death an administrator sees how many calls were on it, and the heir of these calls (rules C3 and C4).

use std::time::Duration;

use serde_json::Value;
use twinbox_clock::BootInstant;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Lab, Spec, Speech, Transport, begin_to_speak, g711::Law, hang_up, http_get,
    metric, need, wait_for, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until an event of the survivor states that it has the victim's calls, with these words among others.
fn wait_told(cluster: &Cluster, survivor: &str, victim: &str, words: &str) {
    let is_it = |event: &Value| {
        event["kind"] == "calls-inherited"
            && (&event["subject"], &event["node"]) == (&victim.into(), &survivor.into())
            && event["detail"].as_str().is_some_and(|detail| detail.contains(words))
    };
    wait_until("the event", PATIENCE, || {
        let told = cluster.cli(survivor).run(&["--json", "events"]).stdout;
        String::from_utf8_lossy(&told)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .any(|event| is_it(&event))
    });
}

/// Two calls on the publisher, which is killed; returns the survivor's report of them.
fn the_survivor_tells_of_two_calls(spec: &Spec) -> (String, String, Value) {
    let cluster = Cluster::start(spec);
    let (victim, survivor) = cluster.publisher_and_other();
    let phones = cluster.phones().clone();
    let calls: Vec<_> = Cluster::USERS[..2]
        .iter()
        .map(|user| {
            let endpoint = Endpoint::open(&phones, Law::Mu);
            let invite = Invite::new(user.number, "2001", endpoint.address());
            let call = Call::place(&phones, cluster.sip(&victim), Transport::Udp, &invite).expect("answered");
            let speech = begin_to_speak(&endpoint, &call);
            endpoint.wait_spoken(3.0);
            (endpoint, call, speech)
        })
        .collect();
    cluster.kill_child(&victim);
    let heir = wait_for("an heir of the calls", PATIENCE, || {
        let status = cluster.cli(&survivor).status()?;
        status["heirs"].as_array()?.iter().find(|heir| heir["node"] == victim.as_str()).cloned()
    });
    assert_eq!(
        (&heir["heir"], &heir["calls"], &heir["cause"]),
        (&survivor.as_str().into(), &2.into(), &"exit".into())
    );
    let text = String::from_utf8_lossy(&cluster.cli(&survivor).run(&["cluster", "status"]).stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with(&format!("calls of {victim} (incarnation ")));
    let line = line.unwrap_or_else(|| panic!("no line of the calls: {text}"));
    assert!(line.contains(&format!("heir {survivor}, ")) && line.contains("2 at the last report"), "{line}");
    wait_told(&cluster, &survivor, &victim, "2 calls at the last report");
    drop(calls);
    // The dead node's next incarnation does not inherit its own calls, and the heir does not change. An heir that was
    // not agreed on is known only to the survivor.
    cluster.wait_in_service();
    for node in if spec.witness { vec![&victim, &survivor] } else { vec![&survivor] } {
        let heirs = wait_for("what is agreed", PATIENCE, || {
            let heirs = cluster.cli(node).status()?["heirs"].as_array()?.clone();
            heirs.iter().any(|h| h["incarnation"] == heir["incarnation"]).then_some(heirs)
        });
        let of_it: Vec<_> = heirs.iter().filter(|h| h["incarnation"] == heir["incarnation"]).collect();
        assert_eq!((of_it.len(), &of_it[0]["heir"]), (1, &survivor.as_str().into()), "{node}: {heirs:?}");
    }
    (victim, survivor, heir)
}

#[test]
fn with_a_majority_the_heir_is_agreed_on_in_an_epoch() {
    let (_, survivor, heir) = the_survivor_tells_of_two_calls(&Spec::default());
    assert!(heir["epoch"].as_str().is_some_and(|epoch| epoch.ends_with(&format!("@{survivor}"))), "{heir}");
}

#[test]
fn in_a_pair_without_a_witness_the_survivor_is_it_by_proof_alone() {
    let (_, _, heir) = the_survivor_tells_of_two_calls(&Spec { witness: false, ..Spec::default() });
    assert_eq!(heir["epoch"], "", "{heir}");
}

/// A call being recorded on this node.
fn call_on(cluster: &Cluster, node: &str) -> (Endpoint, Call, Speech) {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(Cluster::USERS[0].number, "2001", endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip(node), Transport::Udp, &invite).expect("answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(3.0);
    (endpoint, call, speech)
}

/// Waits until these members know the SIP address of this node: a member that has not learned it in time reports
/// nothing of it.
fn wait_until_known(cluster: &Cluster, node: &str, by: &[&str]) {
    let line = format!("node reported its SIP addresses node={node}");
    let knows = |member: &&str| cluster.member(member).log().contains(&line);
    wait_until("the others know where the node answers SIP", PATIENCE, || by.iter().all(knows));
}

fn heirs_of(cluster: &Cluster, asked: &str, node: &str) -> Vec<Value> {
    let status = cluster.cli(asked).status().expect("the status");
    let heirs = status["heirs"].as_array().expect("a list").iter().filter(|heir| heir["node"] == node);
    heirs.cloned().collect()
}

/// The heir agreed on without a proof, as the survivor reports it.
fn silent_heir(cluster: &Cluster, victim: &str, survivor: &str) -> Value {
    let heir =
        wait_for("an heir of the calls", PATIENCE, || heirs_of(cluster, survivor, victim).into_iter().next());
    assert_eq!((&heir["heir"], &heir["cause"]), (&survivor.into(), &"missed-keep-alives".into()), "{heir}");
    heir
}

#[test]
fn lost_host_has_an_heir_once_two_members_report_its_address_silent() {
    let mut cluster = Cluster::start(&Spec::default());
    let (victim, survivor) = cluster.publisher_and_other();
    wait_until_known(&cluster, &victim, &[&survivor, "w"]);
    let call = call_on(&cluster, &victim);
    let host = cluster.member_mut(&victim).process.as_mut().expect("it runs");
    let lost = BootInstant::now();
    host.hold();
    host.signal_child(libc::SIGSTOP);
    let heir = silent_heir(&cluster, &victim, &survivor);
    println!("{survivor} is the heir {:?} after {victim} was lost", lost.elapsed());
    assert_eq!(heir["calls"], 1, "{heir}");
    assert!(heir["epoch"].as_str().is_some_and(|epoch| epoch.ends_with(&format!("@{survivor}"))), "{heir}");
    for member in [&survivor, "w"] {
        let log = cluster.member(member).log();
        assert!(
            log.contains(&format!("node is unreachable and answers at none of its SIP addresses node={victim}")),
            "{member}: {log}"
        );
    }
    wait_told(&cluster, &survivor, &victim, "missed-keep-alives");
    drop(call);
}

/// A cut between members is no death: while the node's SIP address answers, its calls stay its own.
#[test]
fn a_node_whose_peers_alone_are_cut_off_keeps_its_calls() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let cluster = Cluster::start_in(&lab, &Spec::default());
    let (victim, survivor) = cluster.publisher_and_other();
    wait_until_known(&cluster, &victim, &[&survivor, "w"]);
    let (endpoint, call, speech) = call_on(&cluster, &victim);
    // The ports of members and of supervisors.
    lab.cut_ports(&victim, 7070, 7071);
    wait_until("the node counts as lost", PATIENCE, || {
        let status = cluster.cli(&survivor).status().expect("the status");
        let is = |m: &Value| m["name"] == victim.as_str() && m["status"] == "not-functioning";
        status["members"].as_array().is_some_and(|members| members.iter().any(is))
    });
    let rounds = |answer: &str| {
        let page = http_get(cluster.phones(), cluster.member(&survivor).metrics(), "/metrics");
        let labels = format!("node=\"{victim}\",answer=\"{answer}\"");
        metric(&page.expect("its figures").1, "twinbox_sip_probes_total", &labels).unwrap_or(0.0)
    };
    wait_until("two rounds of the survivor", PATIENCE, || rounds("yes") >= 2.0);
    let said = format!("node is unreachable but answers SIP: its calls stay with it node={victim}");
    wait_until("a round of the witness", PATIENCE, || cluster.member("w").log().contains(&said));
    assert_eq!((rounds("no"), rounds("unknown")), (0.0, 0.0));
    assert_eq!(heirs_of(&cluster, &survivor, &victim), [] as [Value; 0]);
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    // One of the two members that still gets an answer is enough.
    lab.cut("w", &victim);
    let said = format!("node is unreachable and answers at none of its SIP addresses node={victim}");
    wait_until("the witness to get no answer", PATIENCE, || cluster.member("w").log().contains(&said));
    let before = rounds("yes");
    wait_until("another round of the survivor", PATIENCE, || rounds("yes") > before);
    assert_eq!(heirs_of(&cluster, &survivor, &victim), [] as [Value; 0]);
    // Only that answer had kept the heir away.
    lab.cut(&survivor, &victim);
    silent_heir(&cluster, &victim, &survivor);
    // Both sides live: a member that is reachable again is not probed any more.
    lab.heal();
    cluster.wait_in_service();
}
