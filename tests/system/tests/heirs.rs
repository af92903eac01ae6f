//! After a node's death an administrator reads how many calls were on it, and who answers for them (rules C3 and C4).

use std::time::Duration;

use serde_json::Value;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Spec, Transport, begin_to_speak, g711::Law, wait_for, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two calls on the publisher, which is killed; what the survivor says of them then.
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
    let line = text.lines().find(|line| line.starts_with(&format!("calls of {victim} (life ")));
    let line = line.unwrap_or_else(|| panic!("no line of the calls: {text}"));
    assert!(line.contains(&format!("heir {survivor}, ")) && line.contains("2 at the last report"), "{line}");
    wait_until("the event", PATIENCE, || {
        let told = cluster.cli(&survivor).run(&["--json", "events"]).stdout;
        String::from_utf8_lossy(&told).lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(
            |event| {
                event["kind"] == "calls-inherited"
                    && event["subject"] == victim.as_str()
                    && event["node"] == survivor.as_str()
                    && event["detail"].as_str().is_some_and(|detail| detail.contains("2 calls at the last report"))
            },
        )
    });
    drop(calls);
    // The dead node's next life does not inherit its own calls, and the heir stays who it is. What nobody had to agree on
    // only the survivor knows.
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
