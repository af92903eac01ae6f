//! The disk of one node answers with input and output errors (rule A4), to writes or to syncs, or becomes read-only, while callers
//! leave messages on both nodes. The node takes no more writes, says so, and refuses new calls; the other one goes on; nothing
//! acknowledged is lost. The process writes no file again that has failed; it ends when its calls have ended, and the next one serves.
//! A witness, which has no store but Raft's, ends as well.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
    time::Duration,
};

use twinbox_system_tests::assert_kept;
use twinbox_testkit::{
    Call, Cluster, Deposit, Endpoint, Invite, Spec, Strace, Transport, begin_to_speak, g711::Law, hang_up,
    leave_message, need, try_leave_message, wait_for, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Every call that writes or syncs a file that exists.
const WRITES: &str = "trace=pwrite64,pwritev,pwritev2,ftruncate,fdatasync,fsync,sync_file_range";

/// Path of the file of the data folder that a call is for.
fn file(call: &str) -> Option<&str> {
    let (_, rest) = call.split_once('<')?;
    rest.split_once('>').map(|(path, _)| path).filter(|path| path.contains("/data/"))
}

/// Reason why the store of node a has failed, as b shows it.
fn failure(cluster: &Cluster) -> Option<String> {
    let list = cluster.cli("b").try_json(&["service", "list", "--at", "a"]).ok()?;
    let services = list["nodes"][0]["services"].as_array()?.clone();
    let store = services.into_iter().find(|service| service["name"] == "store" && service["ok"] == false)?;
    Some(store["detail"].as_str()?.to_owned())
}

/// Whether b shows that a process of node a has failed. (The exit code of a traced process may reach its tracer alone.)
fn is_told(cluster: &Cluster) -> bool {
    let list = cluster.cli("b").try_json(&["alarm", "list"]).unwrap_or_default();
    let alarms = list["alarms"].as_array().cloned().unwrap_or_default();
    alarms.iter().any(|alarm| alarm["code"] == "exited" && alarm["subject"] == "a")
}

/// The detail of the alarm of b that node a is lost, now or before.
fn alarm(cluster: &Cluster) -> Option<String> {
    let list = cluster.cli("b").try_json(&["alarm", "list", "--all"]).unwrap_or_default();
    let alarms = list["alarms"].as_array()?.clone();
    let of_a = |alarm: &serde_json::Value| {
        alarm["code"] == "member-lost" && alarm["subject"] == "a" && alarm["node"] == "b"
    };
    Some(alarms.into_iter().find(of_a)?["detail"].as_str()?.to_owned())
}

/// A file that failed once is written and synced no more by that process: pages that it wrote may be lost. The calls count in
/// the order in which they begin. Another thread does not know of the failure at once: one call of it may be about to begin.
fn assert_not_written_again(trace: &str, error: &str) {
    // The files, each with the threads that make no further call, and the calls that have begun.
    let (mut failed, mut begun) = (BTreeMap::<&str, BTreeSet<&str>>::new(), HashMap::new());
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let path = match call.starts_with("<... ") {
            true => begun.remove(thread),
            false => {
                let path = file(call);
                let knows = path.and_then(|path| failed.get_mut(path));
                assert!(knows.is_none_or(|threads| threads.insert(thread)), "a file that had failed: {line}");
                path
            }
        };
        let Some(path) = path else { continue };
        if call.ends_with(" <unfinished ...>") {
            begun.insert(thread, path);
        } else if call.rsplit_once(" = ").is_some_and(|(_, result)| result.starts_with(&format!("-1 {error} "))) {
            failed.entry(path).or_default().insert(thread);
        }
    }
    println!("failed: {failed:#?}");
    assert!(failed.keys().any(|path| path.contains("/data/store/")), "{failed:?}");
}

fn assert_all_kept(cluster: &Cluster, node: &str, mailbox: &str, deposits: &[Deposit]) {
    for deposit in deposits.iter().filter(|deposit| deposit.acknowledged()) {
        assert_kept(cluster, node, mailbox, deposit, 1.0, PATIENCE);
    }
}

/// From now on these calls of node a end with this error.
fn play(failing: &str, error: &str) {
    if !need::all(&[need::STRACE]) {
        return;
    }
    // A traced process is slow.
    let cluster = Cluster::start(&Spec { ack_timeout_ms: 2_000, ..Spec::default() });
    let (phones, mailbox) = (cluster.phones(), Cluster::USERS[0].number);
    let left_at = |node: &str| {
        let deposit = leave_message(phones, cluster.sip(node), mailbox, 1.2);
        assert!(deposit.acknowledged(), "{node}: {:?}", deposit.bye);
        deposit
    };
    let mut deposits = vec![left_at("a"), left_at("b")];
    let endpoint = Endpoint::open(phones, Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let call = Call::place(phones, cluster.sip("a"), Transport::Udp, &invite).expect("the call is answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(2.0);
    let process = cluster.member("a").pid();

    let folder = cluster.dir().join("trace");
    fs::create_dir(&folder).expect("a folder");
    let strace = Strace::attach(&[("a", process)], &[WRITES, &format!("inject={failing}:error={error}")], &folder);
    endpoint.wait_spoken(4.0);
    let in_progress = hang_up(call, &endpoint, speech);
    println!("BYE of the call in progress: {:?}", in_progress.bye);
    assert!([200, 500].contains(&in_progress.bye.status), "{:?}", in_progress.bye);
    let status = || cluster.cli("b").status_of("a");
    wait_until("the store of a to fail", PATIENCE, || failure(&cluster).is_some());
    wait_until("a to be out of service", PATIENCE, || status().as_deref() == Some("not-functioning"));
    let alarm = wait_for("the alarm that a is lost", PATIENCE, || alarm(&cluster));
    println!("alarm: {alarm}");
    let refused = try_leave_message(phones, cluster.sip("a"), mailbox, 0.1).expect_err("a has failed");
    assert_eq!(refused.status, 503, "{refused:?}");
    deposits.push(left_at("b"));

    wait_until("the next process", PATIENCE, || {
        let next = cluster.member("a").pid();
        next != process && Path::new(&format!("/proc/{next}")).exists()
    });
    strace.finish();
    let trace = fs::read(folder.join("strace.out")).expect("the trace");
    assert_not_written_again(&String::from_utf8_lossy(&trace), error);
    cluster.wait_in_service();
    wait_until("an alarm", PATIENCE, || is_told(&cluster));
    assert!(cluster.member("a").log().contains("this process ends, and the next one reads from the disk"));
    // The caller's words after the failure are there as well: b still got a's chunks (rule A4).
    wait_until("the message of the call in progress", PATIENCE, || {
        let found = cluster.find("b", mailbox, &in_progress.speech, in_progress.spoken);
        found.is_some_and(|(_, piece, _)| piece.seconds() > 3.0)
    });
    deposits.push(in_progress);
    for node in ["a", "b"] {
        assert_all_kept(&cluster, node, mailbox, &deposits);
    }
    let last = [left_at("a")];
    assert_all_kept(&cluster, "b", mailbox, &last);
}

#[test]
fn node_whose_writes_fail_takes_no_more_until_its_next_start_and_nothing_acknowledged_is_lost() {
    play("pwritev,pwrite64", "EIO");
}

#[test]
fn node_whose_syncs_fail_takes_no_more_writes_until_its_next_start_and_nothing_acknowledged_is_lost() {
    play("fdatasync", "EIO");
}

#[test]
fn node_whose_disk_becomes_read_only_takes_no_more_until_its_next_start_and_nothing_acknowledged_is_lost() {
    play("pwritev,pwrite64,ftruncate", "EROFS");
}

/// Its only store is Raft's. No supervisor starts it again here, as systemd does.
#[test]
fn witness_whose_syncs_fail_ends_and_votes_after_its_next_start() {
    if !need::all(&[need::STRACE]) {
        return;
    }
    let mut cluster = Cluster::start(&Spec::default());
    let folder = cluster.dir().join("trace");
    fs::create_dir(&folder).expect("a folder");
    let process = cluster.member("w").pid();
    let strace = Strace::attach(&[("w", process)], &[WRITES, "inject=fdatasync:error=EIO"], &folder);
    // The nodes are a majority without it.
    cluster.cli("a").json(&["cluster", "set", "missed", "7"]);
    wait_until("the witness to end", PATIENCE, || {
        cluster.member_mut("w").process.as_mut().is_none_or(|process| !process.runs())
    });
    strace.finish();
    assert!(cluster.member("w").log().contains("this process ends, and the next one reads from the disk"));

    // Its vote is one of the two that elect a leader.
    cluster.kill("w");
    cluster.start_member("w");
    cluster.wait_for_status(&["w"], "in-service");
    let (publisher, other) = cluster.publisher_and_other();
    cluster.kill(&publisher);
    wait_until("the survivor to be publisher", PATIENCE, || cluster.publisher(&other) == other);
}
