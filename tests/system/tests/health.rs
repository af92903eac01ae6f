//! Health of a node, on real processes: a hang is noticed, and duties and new calls move to the other node while calls
//! in progress continue; a blocked SIP path, full disks, a wrong clock and a starved processor are told apart.
//!
//! A test hook that exists only in debug builds makes parts hang (`TWINBOX_TEST_WEDGE`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use serde_json::Value;
use twinbox_clock::BootInstant;
use twinbox_system_tests::{assert_kept, growing::Clock};
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Lab, SmallDisk, Spec, Speech, Transport, begin_to_speak, g711::Law, hang_up,
    holds, http_get, leave_message, listen, metric, need, try_leave_message, wait_for, wait_until,
};

/// Upper limit: noticed within about 6 s, confirmed within the same time, moved within one second.
const MOVED: Duration = Duration::from_secs(60);

/// A cluster whose nodes hang in the part named in `<folder>/<node>`.
struct Wedged {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

impl Wedged {
    fn start(spec: Spec) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let env = ["a", "b"].map(|name| (name, "TWINBOX_TEST_WEDGE", file(name))).to_vec();
        let cluster = Cluster::start(&Spec { env, ..spec });
        Self { cluster, folder }
    }

    fn file(&self, node: &str) -> PathBuf {
        self.folder.path().join(node)
    }

    fn wedge(&self, node: &str, part: &str) {
        fs::write(self.file(node), format!("{part}\n")).expect("written");
    }

    fn release(&self, node: &str) {
        fs::remove_file(self.file(node)).expect("removed");
    }
}

fn recording(cluster: &Cluster, node: &str) -> (Endpoint, Call, Speech) {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(Cluster::USERS[0].number, "2001", endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip(node), Transport::Udp, &invite).expect("answered");
    let speech = begin_to_speak(&endpoint, &call);
    (endpoint, call, speech)
}

/// One service of one node in `service list`, run on `asked`.
fn service(cluster: &Cluster, asked: &str, node: &str, name: &str) -> Option<Value> {
    let list = cluster.cli(asked).try_json(&["service", "list", "--at", node]).ok()?;
    let services = list["nodes"][0]["services"].as_array()?.clone();
    services.into_iter().find(|service| service["name"] == name)
}

fn failed(cluster: &Cluster, asked: &str, node: &str, name: &str, why: &str) -> Option<Value> {
    let service = service(cluster, asked, node, name)?;
    let fits = service["detail"].as_str().is_some_and(|detail| detail.contains(why));
    (service["ok"] == false && fits).then_some(service)
}

fn works(cluster: &Cluster, asked: &str, node: &str, name: &str) -> bool {
    service(cluster, asked, node, name).is_some_and(|service| service["ok"] == true)
}

fn holder(cluster: &Cluster, asked: &str) -> Option<String> {
    let duties = cluster.cli(asked).try_json(&["duty", "list"]).ok()?;
    let notifier = duties["duties"].as_array()?.iter().find(|duty| duty["duty"] == "notifier")?.clone();
    Some(notifier["holder"].as_str()?.to_owned()).filter(|_| notifier["state"] == "running")
}

/// The epoch of the duty, which shows whether it has ever moved.
fn epoch(cluster: &Cluster, asked: &str) -> Value {
    wait_until("the duty to run", MOVED, || holder(cluster, asked).is_some());
    cluster.cli(asked).json(&["duty", "list"])["duties"][0]["epoch"].clone()
}

fn status(cluster: &Cluster, asked: &str, node: &str) -> Option<String> {
    cluster.cli(asked).status_of(node)
}

/// Active alarms, each as one text.
fn alarms(cluster: &Cluster, asked: &str) -> Vec<String> {
    let list = cluster.cli(asked).try_json(&["alarm", "list"]).unwrap_or_default();
    let alarms = list["alarms"].as_array().cloned().unwrap_or_default();
    alarms.iter().map(ToString::to_string).collect()
}

fn wait_for_alarm(cluster: &Cluster, asked: &str, parts: &[&str]) -> String {
    let fits = |alarm: &String| parts.iter().all(|part| alarm.contains(part));
    let found = holds(MOVED, || alarms(cluster, asked).into_iter().find(fits));
    found.unwrap_or_else(|| panic!("no alarm with {parts:?}: {:#?}", alarms(cluster, asked)))
}

#[test]
fn a_wedged_notifier_is_restarted_then_its_duty_moves_and_calls_go_on() {
    let wedged = Wedged::start(Spec::default());
    let cluster = &wedged.cluster;
    let (publisher, other) = cluster.publisher_and_other();
    let (endpoint, call, speech) = recording(cluster, &publisher);
    wait_until("the duty to run", MOVED, || holder(cluster, &other).as_deref() == Some(&publisher));
    let begun = BootInstant::now();
    wedged.wedge(&publisher, "notifier");
    wait_until("the duty to run elsewhere", MOVED, || holder(cluster, &other).as_deref() == Some(&other));
    println!("the duty runs elsewhere {:?} after it was wedged", begun.elapsed());
    let seen = service(cluster, &other, &publisher, "notifier").expect("it is listed");
    assert!(seen["restarts"].as_u64() >= Some(1), "restarted here first: {seen}");
    assert!(seen["last_error"].as_str().is_some_and(|why| why.contains("has not turned")), "{seen}");
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    assert_kept(cluster, &other, Cluster::USERS[0].number, &deposit, 1.5, Duration::from_secs(5));
    wait_for_alarm(cluster, &other, &["service-failed", "notifier"]);
    wedged.release(&publisher);
    wait_until("it to work again", MOVED, || works(cluster, &other, &publisher, "notifier"));
}

#[test]
fn a_wedged_store_takes_the_node_out_and_calls_in_progress_go_on() {
    let wedged = Wedged::start(Spec::default());
    let cluster = &wedged.cluster;
    let (publisher, other) = cluster.publisher_and_other();
    let (endpoint, call, speech) = recording(cluster, &publisher);
    endpoint.wait_spoken(2.0);
    let begun = BootInstant::now();
    wedged.wedge(&publisher, "store");
    wait_until("the role to be elsewhere", MOVED, || cluster.cli(&other).publisher().as_deref() == Some(&other));
    println!("the role is elsewhere {:?} after the store was wedged", begun.elapsed());
    assert_eq!(status(cluster, &other, &publisher).as_deref(), Some("not-functioning"));
    assert!(failed(cluster, &other, &publisher, "store", "has not answered for").is_some());
    // New calls go to the other node; the one in progress is still served with media.
    wait_until("new calls to be refused", MOVED, || {
        let phone = Endpoint::open(cluster.phones(), Law::Mu);
        let invite = Invite::new(Cluster::USERS[0].number, "2002", phone.address());
        let placed = Call::place(cluster.phones(), cluster.sip(&publisher), Transport::Udp, &invite);
        placed.is_err_and(|refused| refused.status == 503)
    });
    let heard = endpoint.packets();
    wait_until("the caller to hear something", MOVED, || endpoint.packets() > heard);
    assert!(leave_message(cluster.phones(), cluster.sip(&other), Cluster::USERS[1].number, 1.2).acknowledged());
    wedged.release(&publisher);
    cluster.wait_in_service();
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    assert_kept(cluster, &publisher, Cluster::USERS[0].number, &deposit, 1.5, Duration::from_secs(5));
    wait_until("the SIP server to take calls", MOVED, || {
        try_leave_message(cluster.phones(), cluster.sip(&publisher), Cluster::USERS[1].number, 1.2)
            .is_ok_and(|deposit| deposit.acknowledged())
    });
}

#[test]
fn an_event_loop_that_stands_still_for_longer_than_a_lease_loses_none() {
    // Two leases, and less than the watchdog's timeout.
    const STANDS_STILL: Duration = Duration::from_millis(1_500);
    let wedged = Wedged::start(Spec::default());
    let cluster = &wedged.cluster;
    let (publisher, other) = cluster.publisher_and_other();
    let moves = || cluster.cli(&other).json(&["cluster", "moves"]);
    let before = moves();
    let begun = BootInstant::now();
    wedged.wedge(&publisher, "executor");
    // The node hangs: it does not answer calls, while the leases are renewed.
    let deposit = || try_leave_message(cluster.phones(), cluster.sip(&publisher), Cluster::USERS[1].number, 0.1);
    wait_until("two leases to pass", MOVED, || begun.elapsed() >= STANDS_STILL);
    wedged.release(&publisher);
    // It refuses new calls at first: it has just seen how late its loop is.
    wait_until("the loop to turn", MOVED, || deposit().is_ok_and(|deposit| deposit.acknowledged()));
    assert_eq!(moves(), before, "nothing has moved");
    assert_eq!(cluster.cli(&other).publisher().as_deref(), Some(publisher.as_str()));
    let metrics = cluster.member(&publisher).metrics();
    let page = http_get(cluster.phones(), metrics, "/metrics");
    let gap = page.and_then(|(_, text)| metric(&text, "twinbox_lease_longest_gap_seconds", ""));
    assert!(gap.is_some_and(|gap| gap < STANDS_STILL.as_secs_f64()), "{gap:?}");
}

#[test]
fn a_hung_event_loop_loses_its_duties_and_ends_when_its_callers_have() {
    let wedged = Wedged::start(Spec::default());
    let cluster = &wedged.cluster;
    let (publisher, other) = cluster.publisher_and_other();
    let (endpoint, call, _) = recording(cluster, &publisher);
    endpoint.wait_spoken(2.0);
    let process = cluster.member(&publisher).pid();
    let begun = BootInstant::now();
    wedged.wedge(&publisher, "executor");
    wait_until("the role to be elsewhere", MOVED, || cluster.cli(&other).publisher().as_deref() == Some(&other));
    println!("the role is elsewhere {:?} after the event loop hung", begun.elapsed());
    // Longer than the timeout of a hanging loop: but the caller speaks, and media flows in both directions.
    let metrics = cluster.member(&publisher).metrics();
    let page = |path: &str| http_get(cluster.phones(), metrics, path);
    while begun.elapsed() < Duration::from_secs(20) {
        assert_eq!(page("/livez").map(|(status, _)| status), Some(200), "no probe may end it");
        sleep(Duration::from_millis(500));
    }
    assert_eq!(page("/readyz").map(|(status, _)| status), Some(503));
    let health = cluster.cli(&publisher).run(&["health"]);
    assert!(health.status.success(), "{health:?}");
    let hung = page("/metrics").and_then(|(_, text)| metric(&text, "twinbox_event_loop_hung", ""));
    assert_eq!(hung, Some(1.0));
    assert_eq!(cluster.member(&publisher).pid(), process, "the same life");
    let heard = endpoint.packets();
    wait_until("the caller to hear something", MOVED, || endpoint.packets() > heard);
    // The caller vanishes: no more media comes.
    drop((endpoint, call));
    let gone = BootInstant::now();
    wait_until("the process to end", MOVED, || {
        !Path::new(&format!("/proc/{process}/stat")).exists() || dead(process)
    });
    println!("the process has ended {:?} after its last caller was heard", gone.elapsed());
    wedged.release(&publisher);
    cluster.wait_in_service();
    assert_ne!(cluster.member(&publisher).pid(), process);
    let log = cluster.member(&publisher).log();
    assert!(log.contains("the event loop hangs and no caller sends audio any more"), "{log}");
    let kept = cluster.wait_for_messages(&other, Cluster::USERS[0].number, 1, MOVED);
    assert!(kept[0].partial && kept[0].length_ms >= 1_500, "{kept:?}");
}

/// Whether the process has ended; a child that was not waited for is a zombie.
fn dead(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

#[test]
fn the_self_test_call_notices_a_blocked_sip_path() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let cluster =
        Cluster::start_in(&lab, &Spec { node: vec!["self_test_seconds = 1".to_owned()], ..Spec::default() });
    let (publisher, other) = cluster.publisher_and_other();
    let passed = |node: &str| {
        let (_, text) = http_get(cluster.phones(), cluster.member(node).metrics(), "/metrics")?;
        metric(&text, "twinbox_self_tests_total", "passed").filter(|passed| *passed >= 2.0).map(|_| text)
    };
    let text = wait_for("self-tests", MOVED, || passed(&publisher));
    for (name, labels) in
        [("twinbox_calls", ""), ("twinbox_rtp_packets_total", ""), ("twinbox_sip_total", "answered")]
    {
        assert_eq!(metric(&text, name, labels).unwrap_or(0.0), 0.0, "a self-test is no call: {name}");
    }
    assert!(!cluster.member(&publisher).log().contains("self-test"), "nor is it in the log");
    lab.drop_udp(&publisher, 5060);
    let begun = BootInstant::now();
    wait_for("the fault", MOVED, || {
        failed(&cluster, &other, &publisher, "calls", "the self-test call failed: udp")
    });
    wait_until("the role to be elsewhere", MOVED, || cluster.cli(&other).publisher().as_deref() == Some(&other));
    println!("the role is elsewhere {:?} after the SIP path was blocked", begun.elapsed());
    lab.heal();
    wait_until("it to work again", MOVED, || works(&cluster, &other, &publisher, "calls"));
    cluster.wait_in_service();
}

/// Rule R9: with both disks full one node stays in service, plays existing messages, and refuses new ones with a
/// prompt.
#[test]
fn with_both_disks_full_the_last_node_serves_what_it_can() {
    if !need::all(&[need::MOUNT]) {
        return;
    }
    let disks = [SmallDisk::new(160), SmallDisk::new(160)];
    // Half of the reserve.
    let left = 16 << 20;
    let data_dirs = ["a", "b"].iter().zip(&disks).map(|(name, disk)| ((*name).to_owned(), disk.data())).collect();
    let cluster = Cluster::start(&Spec { reserve_mb: 32, data_dirs, ..Spec::default() });
    let user = Cluster::USERS[0];
    let deposit = leave_message(cluster.phones(), cluster.sip("a"), user.number, 1.5);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    assert_kept(&cluster, "b", user.number, &deposit, 1.0, Duration::from_secs(5));
    let (publisher, other) = cluster.publisher_and_other();
    let disk = |node: &str| &disks[usize::from(node == "b")];

    disk(&publisher).fill(left);
    wait_until("the role to be elsewhere", MOVED, || cluster.cli(&other).publisher().as_deref() == Some(&other));
    wait_for_alarm(&cluster, &other, &["space", &publisher]);
    disk(&other).fill(left);
    wait_for("space to be short there too", MOVED, || failed(&cluster, &other, &other, "space", "node.reserve_mb"));
    // Long past every grace period.
    sleep(Duration::from_secs(5));
    let serving: Vec<_> =
        ["a", "b"].into_iter().filter(|n| status(&cluster, "a", n).as_deref() == Some("in-service")).collect();
    assert_eq!(serving, [other.as_str()], "the last one is never taken out");
    assert_eq!(holder(&cluster, &other), Some(other.clone()));

    let heard = listen(cluster.phones(), cluster.sip(&other), user, &[deposit], 1.0, Duration::from_secs(30));
    assert!(heard[0].is_some(), "what is there is heard");
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(user.number, "2001", endpoint.address());
    match Call::place(cluster.phones(), cluster.sip(&other), Transport::Udp, &invite) {
        Err(refused) => assert!((480..=503).contains(&refused.status), "{refused:?}"),
        Ok(mut call) => {
            let speech = begin_to_speak(&endpoint, &call);
            let told = call.ends(Duration::from_secs(10));
            assert!(endpoint.heard().len() > 8000, "something is said");
            assert!(told || !hang_up(call, &endpoint, speech).acknowledged(), "nothing is taken that is not kept");
        }
    }
    disks.iter().for_each(SmallDisk::empty);
    cluster.wait_in_service();
    wait_until("messages to be taken again", MOVED, || {
        try_leave_message(cluster.phones(), cluster.sip(&publisher), user.number, 1.2)
            .is_ok_and(|deposit| deposit.acknowledged())
    });
}

/// The clock of one node jumps ahead by an hour: an alarm names the node, nothing moves and nothing is lost.
#[test]
fn a_clock_that_is_stepped_by_an_hour_is_told_and_moves_nothing() {
    if !need::all(&[need::FAKETIME]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    // The leases' clock is no time of day: it cannot be stepped.
    let clock = Clock::new(folder.path());
    let env = clock.environment().map(|(key, value)| ("a", key, value)).to_vec();
    let cluster = Cluster::start(&Spec { env, ..Spec::default() });
    let user = Cluster::USERS[0];
    let before = epoch(&cluster, "b");
    assert!(works(&cluster, "b", "a", "clock"));
    clock.move_to("+1h");
    let fault = wait_for("the clock", MOVED, || failed(&cluster, "b", "a", "clock", "ahead of the median"));
    println!("{fault}");
    assert!(works(&cluster, "b", "b", "clock"), "the others are right");
    wait_for_alarm(&cluster, "b", &["\"clock\"", "\"a\""]);
    for node in ["a", "b"] {
        let deposit = leave_message(cluster.phones(), cluster.sip(node), user.number, 1.2);
        assert!(deposit.acknowledged(), "{:?}", deposit.bye);
        for place in ["a", "b"] {
            assert_kept(&cluster, place, user.number, &deposit, 1.0, Duration::from_secs(5));
        }
    }
    cluster.wait_in_service();
    assert_eq!(epoch(&cluster, "b"), before, "nothing has moved");
    clock.move_to("+0");
    wait_until("the clock to be right", MOVED, || works(&cluster, "b", "a", "clock"));
}

/// Processes that take processor time from others while they live.
struct Busy(Vec<Child>);

impl Busy {
    fn all_cores() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = || {
            let mut command = Command::new("nice");
            command.args(["-n", "-10", "timeout", "10", "sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).spawn().expect("a loop")
        };
        Self((0..cores * 2).map(|_| spin()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// Ten seconds in which others take the processor by priority are no reason for a move.
#[test]
fn a_starved_processor_moves_nothing_needlessly() {
    let cluster = Cluster::start(&Spec::default());
    let before = epoch(&cluster, "a");
    drop(Busy::all_cores());
    cluster.wait_in_service();
    assert_eq!(epoch(&cluster, "a"), before);
    assert!(leave_message(cluster.phones(), cluster.sip("a"), Cluster::USERS[0].number, 1.2).acknowledged());
    let share = || {
        let (_, text) = http_get(cluster.phones(), cluster.member("a").metrics(), "/metrics")?;
        metric(&text, "twinbox_cpu_ratio", "minute").filter(|share| *share > 0.0)
    };
    wait_for("the share to be measured", MOVED, share);
}

#[test]
fn settings_that_differ_and_a_load_too_great_for_the_survivor_are_alarms() {
    let env = vec![("b", "TWINBOX_CLUSTER__NAME", "other".to_owned())];
    let cluster = Cluster::start(&Spec { env, max_calls: 2, ..Spec::default() });
    let drift = wait_for_alarm(&cluster, "b", &["config-drift", "cluster.name", "a and b"]);
    println!("{drift}");
    let others = alarms(&cluster, "b").into_iter().filter(|alarm| alarm.contains("config-drift")).count();
    assert_eq!(others, 1, "{:#?}", alarms(&cluster, "b"));
    let calls = [recording(&cluster, "a"), recording(&cluster, "a"), recording(&cluster, "b")];
    println!("{}", wait_for_alarm(&cluster, "b", &["overload", "the others take 2 calls, and there are 3"]));
    for (endpoint, call, speech) in calls {
        hang_up(call, &endpoint, speech);
    }
    wait_until("the load to be over", MOVED, || {
        !alarms(&cluster, "a").iter().any(|alarm| alarm.contains("\"overload\""))
    });
}

#[test]
fn services_are_listed_and_restarted_and_what_cannot_be_is_refused_in_words() {
    let mut cluster = Cluster::start(&Spec::default());
    let list = cluster.cli("a").json(&["service", "list"]);
    for (node, name) in list["nodes"].as_array().into_iter().flatten().zip(["a", "b"]) {
        assert_eq!(node["node"], name);
        let names: Vec<_> = node["services"].as_array().into_iter().flatten().map(|s| s["name"].clone()).collect();
        let expected = [
            "calls",
            "media",
            "store",
            "replication",
            "space",
            "role-manager",
            "notifier",
            "mta",
            "directory-sync",
            "timetable",
            "mailbox-sync",
            "clock",
            "cpu",
        ];
        assert_eq!(names, expected);
    }
    let table = cluster.cli("a").run(&["service", "list", "--at", "b"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.starts_with("NODE") && table.contains("replication") && !table.contains("\na "), "{table}");
    for (what, parts) in [
        (&["restart", "notifer"][..], &["there is no service 'notifer'", "did you mean 'notifier'?"][..]),
        (&["restart", "store"], &["store cannot be restarted separately", "restart the node"]),
        (&["restart", "notifier", "--at", "bb"], &["there is no node 'bb'", "did you mean 'b'?"]),
        (&["list", "--at", "w"], &["there is no node 'w'", "nodes are a, b"]),
    ] {
        let output = cluster.cli("a").run(&[&["service"], what].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{what:?}: {said}");
    }
    let restarts = |node: &str, name: &str| service(&cluster, "a", node, name).and_then(|s| s["restarts"].as_u64());
    assert_eq!(restarts("b", "notifier"), Some(0));
    cluster.cli("a").json(&["service", "restart", "notifier", "--at", "b"]);
    wait_until("it to be counted", MOVED, || restarts("b", "notifier") == Some(1));

    // The SIP listener: not restarted while a caller speaks.
    let (endpoint, call, speech) = recording(&cluster, "a");
    let refused = cluster.cli("a").try_json(&["service", "restart", "calls"]).expect_err("refused");
    assert!(refused.contains("would end 1 in progress") && refused.contains("--force"), "{refused}");
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    wait_until("the SIP server to be restarted", MOVED, || {
        cluster.cli("a").try_json(&["service", "restart", "calls"]).is_ok()
    });
    // With `--force` it is restarted, though its BYE gets no answer.
    let (_endpoint, _call, _) = recording(&cluster, "a");
    cluster.cli("a").json(&["service", "restart", "calls", "--force"]);
    wait_until("calls to be taken", MOVED, || {
        try_leave_message(cluster.phones(), cluster.sip("a"), Cluster::USERS[0].number, 1.2)
            .is_ok_and(|deposit| deposit.acknowledged())
    });

    // A node that is down: the refusal names it.
    cluster.kill("b");
    let restart = ["service", "restart", "notifier", "--at", "b"];
    let refused = cluster.cli("a").try_json(&restart).expect_err("refused");
    assert!(refused.contains("b does not answer") && refused.contains("check that it runs"), "{refused}");
}
