//! The supervisor: the exit proof that it sends when the node's process ends, its own death without harm to calls, and
//! its forwarding of signals and exit notices.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Pbx, Spec, Transport, begin_to_speak, binary, g711::Law, hang_up, holds,
    leave_message, parameter, wait_for, wait_until,
};

/// The log text of a received proof.
const PROOF: &str = "exit proof received";
const PATIENCE: Duration = Duration::from_secs(20);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

fn with_pbx() -> (Cluster, Pbx) {
    Cluster::start_with(
        |phones| Spec { mwi: Some(phones.port(5070)), ..Spec::default() },
        |phones| Pbx::open(phones, 5070),
    )
}

/// The first acting node after `since`, and the time until then.
fn first_act(cluster: &Cluster, pbx: &Pbx, since: BootInstant) -> (String, Duration) {
    let first = wait_for("a first act", Duration::from_secs(30), || {
        pbx.notifies().into_iter().find(|notify| notify.at >= since)
    });
    let node = ["a", "b"].into_iter().find(|node| cluster.sip(node).ip() == first.source.ip()).expect("a node's");
    (node.to_owned(), first.at.since(since))
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

/// The pid of a node's own process, by its status.
fn node_pid(cluster: &Cluster, node: &str) -> Option<u64> {
    let status = cluster.cli(node).status()?;
    let own = status["members"].as_array()?.iter().find(|member| member["name"] == node)?.clone();
    own["info"]["pid"].as_u64().or_else(|| own["info"]["pid"].as_str()?.parse().ok())
}

/// Waits until a node reports that it has become the publisher, with this cause.
fn wait_for_cause(cluster: &Cluster, node: &str, cause: &str) {
    let words = format!(" to {node}: {cause};");
    wait_until("the alarm that names the cause", PATIENCE, || {
        cluster.member(node).log().lines().any(|l| l.contains("role-moved") && l.contains(&words))
    });
}

/// The publisher's process is killed repeatedly: by the proof its duties run long before the lease expires, and it
/// returns to service automatically. The duties run on the other node, or on itself if it is back before Raft has a new
/// leader.
#[test]
fn a_killed_process_is_proved_dead_and_started_again() {
    let (cluster, pbx) = with_pbx();
    let mailbox = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2).acknowledged());
    assert!(pbx.wait_for_mwi(mailbox, 1, Duration::from_secs(10)).is_some(), "the MWI is sent once");
    let mut times = Vec::new();
    for _ in 0..parameter("TWINBOX_EXIT_KILLS", 4) {
        let (victim, other) = cluster.publisher_and_other();
        pbx.forget();
        let killed = BootInstant::now();
        let before = cluster.kill_child(&victim);
        let (acts, took) = first_act(&cluster, &pbx, killed);
        times.push(took);
        assert!(cluster.member(&other).log().contains(PROOF), "the other was told");
        if acts == other {
            wait_for_cause(&cluster, &other, "exit");
        }
        wait_until("the killed node to be back", PATIENCE, || {
            node_pid(&cluster, &victim).is_some_and(|pid| pid != u64::from(before))
        });
        // A node that has just started has the state from before the kill.
        wait_until("both to know who is publisher now", PATIENCE, || {
            ["a", "b"].iter().all(|node| cluster.cli(node).publisher().as_ref() == Some(&acts))
        });
        cluster.wait_in_service();
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("killed to the first act of the next holder: median {median:?}, worst {worst:?} of {times:?}");
    assert!(worst < Duration::from_secs(10), "{times:?}: ten times what is promised");
}

/// The survivor files a recording in progress immediately (rule C2), and its own node completes it after its return:
/// one message.
#[test]
fn a_recording_of_a_dead_process_is_filed_on_proof() {
    let cluster = Cluster::start(&Spec::default());
    let (victim, survivor) = cluster.publisher_and_other();
    let (phones, mailbox) = (cluster.phones().clone(), Cluster::USERS[0].number);
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let call = Call::place(&phones, cluster.sip(&victim), Transport::Udp, &invite).expect("the call is answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(3.0);
    let spoken = endpoint.spoken();
    let killed = BootInstant::now();
    cluster.kill_child(&victim);
    let filed = || cluster.find(&survivor, mailbox, &speech, spoken + 1600);
    let (message, ..) = holds(Duration::from_secs(10), filed).expect("it is filed by the survivor");
    println!("filed {:?} after the kill, partial: {}", killed.elapsed(), message.partial);
    wait_until("the log to say why", PATIENCE, || {
        cluster
            .member(&survivor)
            .log()
            .lines()
            .any(|l| l.contains("as partial messages") && l.contains("exited=true"))
    });
    drop((call, endpoint));
    cluster.wait_in_service();
    for node in [&victim, &survivor] {
        let messages = cluster.wait_for_messages(node, mailbox, 1, PATIENCE);
        assert_eq!(messages[0].id, message.id, "{node}: one message, from either filing");
    }
}

/// The supervisor is killed in the middle of a call, which continues and is acknowledged. The next supervisor watches
/// the same process, and proves its death later.
#[test]
fn a_supervisor_takes_no_call_with_it_and_the_next_one_watches_on() {
    let mut cluster = Cluster::start(&Spec::default());
    let (phones, mailbox) = (cluster.phones().clone(), Cluster::USERS[0].number);
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let call = Call::place(&phones, cluster.sip("a"), Transport::Udp, &invite).expect("the call is answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(1.0);
    let pid = cluster.lose_supervisor("a");
    endpoint.wait_spoken(2.0);
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    assert!(leave_message(&phones, cluster.sip("a"), mailbox, 1.2).acknowledged(), "new calls too");

    cluster.replace_supervisor("a");
    wait_until("the next supervisor to find the node", PATIENCE, || {
        cluster.member("a").log().contains("watching a node started by an earlier supervisor")
    });
    assert_eq!(node_pid(&cluster, "a"), Some(u64::from(pid)), "the same process");
    assert!(leave_message(&phones, cluster.sip("a"), mailbox, 1.2).acknowledged());

    assert!(!cluster.member("b").log().contains(PROOF), "nothing has exited so far");
    // SAFETY: kill takes two numbers and touches no memory.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    wait_until("b to be told", PATIENCE, || cluster.member("b").log().contains(PROOF));
    wait_until("the node to be started again", PATIENCE, || {
        node_pid(&cluster, "a").is_some_and(|now| now != u64::from(pid))
    });
    cluster.wait_in_service();
    cluster.wait_for_messages("b", mailbox, 3, PATIENCE);
    cluster.stop("a");
}

/// SIGTERM also reaches a node that a later supervisor took over.
#[test]
fn a_node_that_was_found_stops_with_its_supervisor() {
    let mut cluster = Cluster::start(&Spec { witness: false, ..Spec::default() });
    let pid = cluster.lose_supervisor("a");
    cluster.replace_supervisor("a");
    wait_until("the next supervisor to find the node", PATIENCE, || {
        cluster.member("a").log().contains("watching a node started by an earlier supervisor")
    });
    let status = cluster.member_mut("a").process.as_mut().map(|p| p.stop(PATIENCE));
    println!("ended with {status:?}");
    wait_until("the node to be over", PATIENCE, || !is_alive(pid));
    assert!(cluster.member("a").log().contains("INFO twinbox_app::node: stopped"));
}

/// With both dead, there is no proof: the lease decides, as for a host.
#[test]
fn with_the_supervisor_gone_too_the_lease_decides() {
    let (mut cluster, pbx) = with_pbx();
    let mailbox = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2).acknowledged());
    assert!(pbx.wait_for_mwi(mailbox, 1, Duration::from_secs(10)).is_some(), "the MWI is sent once");
    let (victim, other) = cluster.publisher_and_other();
    let pid = cluster.lose_supervisor(&victim);
    pbx.forget();
    let killed = BootInstant::now();
    // SAFETY: kill takes two numbers and touches no memory.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    let (acts, took) = first_act(&cluster, &pbx, killed);
    println!("the other's first act {took:?} after the kill");
    assert_eq!(acts, other);
    assert!(took > Duration::from_millis(450), "a keep-alive interval before the kill, its lease ran");
    assert!(!cluster.member(&other).log().contains(PROOF));
    wait_for_cause(&cluster, &other, "missed-keep-alives");
}

/// A stopped process has not exited: the lease ends its duties, nothing is proved, nothing is started.
#[test]
fn a_process_that_stands_still_has_not_exited() {
    let cluster = Cluster::start(&Spec::default());
    let (victim, other) = cluster.publisher_and_other();
    let pid = cluster.member(&victim).pid();
    let signal = |signal| cluster.member(&victim).process.iter().for_each(|p| p.signal_child(signal));
    signal(libc::SIGSTOP);
    wait_until("the other to be the publisher", PATIENCE, || {
        cluster.cli(&other).publisher().as_ref() == Some(&other)
    });
    signal(libc::SIGCONT);
    cluster.wait_in_service();
    assert!(!cluster.member(&other).log().contains(PROOF));
    assert_eq!(cluster.member(&victim).pid(), pid, "the same process");
}

/// The next incarnation reports the exit notice: in the log, in a file, as an alarm.
#[test]
fn last_words_are_told() {
    let cluster = Cluster::start(&Spec { witness: false, ..Spec::default() });
    cluster.member("a").process.iter().for_each(|p| p.signal_child(libc::SIGABRT));
    let how = "signal 6 (SIGABRT)";
    wait_until("the next life to say how the one before ended", PATIENCE, || {
        cluster
            .member("a")
            .log()
            .lines()
            .any(|l| l.contains("previous incarnation of this node failed") && l.contains(how))
    });
    let kept = fs::read_to_string(cluster.member("a").data_dir.join("last-words")).expect("a file");
    assert!(kept.contains(how), "{kept}");
    wait_until("the alarm", PATIENCE, || {
        let list = cluster.cli("b").try_json(&["alarm", "list"]);
        list.is_ok_and(|list| list.to_string().contains("exited") && list.to_string().contains(how))
    });
}

/// A fatal start error is reported once, with its exit code, and no process is left running.
#[test]
fn a_start_that_cannot_succeed_is_not_repeated() {
    let mut cluster = Cluster::start(&Spec { witness: false, raw: true, ..Spec::default() });
    wait_until("the node to run", PATIENCE, || cluster.member("a").log().contains("the node runs"));
    cluster.stop("a");
    let (config, place) = (cluster.member("a").config.clone(), cluster.member("a").place.clone());
    let run = |config: &std::path::Path| {
        Command::new(binary()).args(["node", "--config"]).arg(config).output().expect("the program runs")
    };
    let taken = TcpListener::bind(place.port(7070)).expect("the port is free now");
    let output = run(&config);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let says: Vec<String> =
        said(&output).lines().filter(|l| l.starts_with("twinbox: ")).map(str::to_owned).collect();
    assert!(says.len() == 1 && says[0].contains(&place.port(7070).to_string()), "one line: {says:?}");
    drop(taken);

    let wrong = config.with_file_name("wrong.toml");
    let text = fs::read_to_string(&config).expect("the configuration");
    fs::write(&wrong, text.replace("drain_seconds", "drain_secnds")).expect("written");
    let output = run(&wrong);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert_eq!(said(&output).lines().count(), 1, "{}", said(&output));
}

/// SIGTERM to the supervisor ends both, in order, and no exit is reported to other members.
#[test]
fn sigterm_stops_both() {
    let mut cluster = Cluster::start(&Spec::default());
    let pid = cluster.member("a").pid();
    cluster.stop("a");
    assert!(!is_alive(pid));
    let log = cluster.member("a").log();
    assert!(log.contains("INFO twinbox_app::node: stopped") && log.contains("the node has stopped"), "{log}");
    cluster.start_member("a");
    cluster.wait_in_service();
    assert!(!cluster.member("a").log().contains("previous incarnation of this node failed"));
}
