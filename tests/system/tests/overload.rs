//! More callers than a node can store messages of: it refuses some immediately, and keeps its promises to the others.

use std::{fs, time::Duration};

use twinbox_crowd::{Arrivals, Driver};
use twinbox_testkit::{Cluster, Spec, http_get, metric, parameter, slow_disk, wait_until};

/// Extra duration of each sync of node a's disk: it stores few messages per second.
const SYNC: Duration = Duration::from_millis(8);
/// From the tone to BYE.
const STAY: Duration = Duration::from_secs(3);
/// Callers per second: more than any node with such a disk can serve.
const MANY: f64 = 120.0;
/// A refusal should take less than 0.1 s; this is the limit for a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn a_node_whose_disk_is_slow_refuses_callers_in_time_and_acknowledges_every_message_that_it_took() {
    let folder = tempfile::tempdir().expect("a folder");
    let env = slow_disk(folder.path(), SYNC, None).into_iter().map(|(name, value)| ("a", name, value)).collect();
    let cluster = Cluster::start(&Spec {
        env,
        log: "warn",
        voicemail: vec!["max_messages = 100000".to_owned()],
        ..Spec::default()
    });
    let mailboxes: Vec<String> = Cluster::USERS.iter().map(|user| user.number.to_owned()).collect();
    let arrivals = |rate| Arrivals { node: cluster.sip("a"), mailboxes: &mailboxes, rate, stay: STAY };
    let moves = || cluster.cli("b").json(&["cluster", "moves"]).to_string();
    let before = moves();
    let time = Duration::from_secs(parameter("TWINBOX_OVERLOAD_SECONDS", 15));

    let mut driver = Driver::new(cluster.phones());
    // Until the node has measured its own capacity.
    let rising = driver.arrive(arrivals(MANY / 4.0), Duration::from_secs(15));
    let much = driver.arrive(arrivals(MANY), time);
    let more = driver.arrive(arrivals(MANY * 2.0), time);
    let open = cluster.cli("b").json(&["alarm", "list"]).to_string();
    driver.finish(Duration::from_secs(20));

    let [rising, much, more] = [rising, much, more].map(|callers| driver.outcome(callers));
    for (what, found) in [("much", &much), ("more", &more)] {
        assert_eq!((&found.broken, found.unanswered), (&vec![], 0), "{what}");
        let slowest = found.refusals.iter().max().expect("some are refused");
        assert!(*slowest <= REFUSED_WITHIN, "{what}: {slowest:?}");
    }
    let (first, second) = (much.answers.len(), more.answers.len());
    assert!(second * 10 >= first * 6, "twice the load, and {second} are admitted instead of {first}");
    assert!(open.contains("calls-refused"), "{open}");
    assert_eq!(moves(), before, "no duty moved");
    // A caller who hung up before the tone has left nothing.
    let page =
        http_get(cluster.phones(), cluster.member("a").metrics(), "/metrics").map_or(String::new(), |(_, t)| t);
    let filed = ["filed_on_two", "filed_alone"].map(|what| metric(&page, "twinbox_sip_total", what).unwrap_or(0.0));
    let (filed, hung_up) = (filed.iter().sum::<f64>() as usize, rising.byes.len() + first + second);
    assert!(filed * 10 >= hung_up * 8, "{filed} messages of {hung_up} callers");
    let list = || mailboxes.iter().flat_map(|mailbox| cluster.cli("b").messages(mailbox)).collect::<Vec<_>>();
    wait_until("all messages are listed on the other node", Duration::from_secs(30), || list().len() >= filed);
    let listed = list();
    let cut: Vec<_> = listed.iter().filter(|message| message.partial).collect();
    assert!(cut.is_empty(), "each message is whole: {cut:?}");
}

#[test]
fn node_that_starts_takes_as_many_calls_as_it_carried_before() {
    let mut cluster = Cluster::start(&Spec::default());
    let taken = |cluster: &Cluster| {
        let page = http_get(cluster.phones(), cluster.member("a").metrics(), "/metrics");
        page.and_then(|(_, text)| metric(&text, "twinbox_admission_calls_per_second", "")).unwrap_or(0.0)
    };
    let unknown = taken(&cluster);
    assert!((1.0..50.0).contains(&unknown), "{unknown}");
    cluster.stop("a");
    fs::write(cluster.member("a").data_dir.join("carried-calls-per-minute"), "6000\n").expect("written");
    cluster.start_member("a");
    cluster.wait_in_service();
    wait_until("the limit to be that of before", Duration::from_secs(30), || taken(&cluster) >= 100.0);
}
