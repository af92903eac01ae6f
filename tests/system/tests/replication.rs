//! `twinbox replication status`: what a node lacks that is away, and what is acknowledged without it.

use std::time::Duration;

use serde_json::Value;
use twinbox_system_tests::growing::number;
use twinbox_testkit::{Cluster, Spec, leave_message, wait_until};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);

fn status(cluster: &Cluster) -> Value {
    cluster.cli("a").json(&["replication", "status"])
}

/// The changes, bytes and seconds that node b is behind node a; no number where a cannot tell.
fn lags(status: &Value) -> [Option<u64>; 3] {
    ["lag_changes", "lag_bytes", "lag_seconds"].map(|name| {
        let lag = &status["peers"][0][name];
        (!lag.is_null()).then(|| number(lag))
    })
}

#[test]
fn status_counts_what_a_lost_node_lacks_until_it_is_back_and_has_everything() {
    let mut cluster = Cluster::start(&Spec::default());
    wait_until("b to have everything", SOON, || {
        let status = status(&cluster);
        lags(&status) == [Some(0); 3] && number(&status["peers"][0]["connected_since_ms"]) > 0
    });
    let before = status(&cluster);
    assert!(before["peers"][0]["name"] == "b" && before["peers"][0]["counts"] == true, "{before}");
    assert!(number(&before["on_two"]) > 0, "both nodes have the users: {before}");

    cluster.kill("b");
    let deposit = leave_message(cluster.phones(), cluster.sip("a"), Cluster::USERS[0].number, 1.2);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    for added in ["1101", "1102"] {
        let added = cluster.cli("a").json(&["user", "add", added, "--name", "Test"]);
        assert_eq!(added["acknowledged"], "alone", "{added}");
    }
    wait_until("b to be behind in changes, bytes and seconds", SOON, || {
        let status = status(&cluster);
        let behind = lags(&status).iter().all(|lag| lag.is_some_and(|lag| lag > 0));
        behind && status["peers"][0]["connected_since_ms"].is_null()
    });
    let lost = status(&cluster);
    assert_eq!(lost["peers"][0]["counts"], false, "{lost}");
    println!("without b, it is behind by (changes, bytes, seconds) {:?}", lags(&lost));
    assert!(number(&lost["alone"]) >= number(&before["alone"]) + 3, "a message and two users: {lost}");

    cluster.start_member("b");
    let mut rate = 0.0_f64;
    wait_until("b to have everything, at a rate that was shown", SOON, || {
        let status = status(&cluster);
        rate = rate.max(status["peers"][0]["rate"].as_f64().unwrap_or_default());
        lags(&status) == [Some(0); 3] && rate > 0.0
    });
    println!("b got what it lacked at {rate:.1} changes a second");
    cluster.wait_in_service();
    assert_eq!(cluster.cli("b").messages(Cluster::USERS[0].number).len(), 1);
    assert!(cluster.cli("b").try_messages("1102").is_ok());
}
