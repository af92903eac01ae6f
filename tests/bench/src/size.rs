//! A cluster with many mailboxes and messages.
//!
//! Method: a pair with a witness in namespaces. First, with hardly a message, an owner signs in and hears the first message. All members
//! are killed, and a process of the benchmark writes mailboxes and messages into the store of node a through the commit path
//! ([`crate::population`]): recordings with audio of their own (0.2 s), or imports that share a thousand pieces of audio. That process is
//! killed by kill -9, the store is copied file by file for comparison, and node a starts on it, with the witness. Then the disk of node b
//! is emptied, and b fills itself. The stores are compared by command, and by the nodes themselves after they were cut off from each
//! other. Then b loses some rows of messages while it does not run, and gets them back: few, and many.
//!
//! Times of commands include the command line. Bytes of a comparison are those at b's interface beyond what passes there at rest, without
//! those of the connection of the nodes. Records of calls are not among what is written. MWI of all mailboxes is measured by `lights`.
//!
//! The command ends with an error if a message that was written is not listed, if the stores differ after the fill,
//! or if not all rows come back. It never does for a time or a size.

use std::{fs, io, path::Path, thread::sleep, time::Duration};

use serde_json::{Value, json};
use twinbox_clock::BootInstant;
use twinbox_disk::{Disk, DiskError, Transaction};
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Lab, NetPlace, Transport, User, g711::Law, holds, leave_message, listen,
    peak_bytes, resident_bytes, wait_for, wait_until,
};

use crate::{
    folder, kept, load,
    population::{Population, wait_closed},
    report::{Report, ms},
    writer::write_and_kill,
};

/// Limit of each wait.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Limit of one try of a call to a node that starts.
const TRY: Duration = Duration::from_millis(100);
/// Time at rest over which the traffic of an interface is measured.
const REST: Duration = Duration::from_secs(5);
/// Nodes compare ten seconds after they are connected (`replication/peer/src/comparison.rs`). By this time the traffic of the
/// connection itself has passed.
const CONNECTED: Duration = Duration::from_secs(8);
/// Limit of the wait until the last repairs are counted.
const COUNTED_WITHIN: Duration = Duration::from_secs(30);
/// Maximum messages of the spool that is copied. The time for more is reckoned from these, with as many in a mailbox: the files
/// of a million take minutes to remove.
const SPOOL: usize = 100_000;
/// Rows of messages in the index (`nodes/mailbox/src/schema.rs`).
const MESSAGES: &[u8] = b"r\x00\x02";

/// Runs it; this many rows of messages are lost and repaired, step by step. The error names what must hold and did not.
pub fn run(report: &mut Report, population: Population, differences: &[u32], mbit: u32) -> Result<(), String> {
    let lab = Lab::new(&["a", "b", "w"]);
    let mut cluster = Cluster::start_in(&lab, &load::spec());
    let mut table = report.table("a cluster with many mailboxes and messages", &["figure", "unit", "aim", "what"]);
    let mut row = |figure: Value, unit: &str, aim: &str, what: &str| {
        table.row(&[figure, json!(unit), json!(aim), json!(format!(" {what}"))]);
    };
    row(json!(population.mailboxes), "", "", "mailboxes");
    row(
        json!(population.messages),
        "",
        "",
        if population.imported { "messages, imported" } else { "messages, recorded" },
    );
    let few = sign_in(&cluster, Cluster::USERS[0]);

    cluster.kill_all();
    let store = cluster.member("a").data_dir.join("store");
    let times = write_and_kill(&store, &cluster.dir().join("writer.log"), population);
    row(json!(population.mailboxes as f64 / times.mailboxes), "1/s", "", "mailboxes written, each by a commit");
    row(json!(population.messages as f64 / times.messages), "1/s", "", "messages written, by commits 256 at once");
    let (audio, all) = (folder::bytes(&store.join("audio")), folder::bytes(&store));
    let each = |bytes: u64| json!(bytes as f64 / 1e3 / population.messages as f64);
    row(each(all - audio), "kB", "3", "a message on the disk beside its audio, all files of the index counted");
    row(each(audio), "kB", "", "audio of a message on the disk");
    let aside = cluster.dir().join("copy");
    let (copied, took) =
        folder::copy(&store, &aside).map_err(|error| format!("the store cannot be copied: {error}"))?;
    fs::remove_dir_all(&aside).map_err(|error| format!("the copy cannot be removed: {error}"))?;
    let copying = copied as f64 / 1e6 / took.as_secs_f64();
    row(json!(copying), "MB/s", "", "plain copy of its files, each synced");
    let took = at_speed(&lab, mbit, || copy_to_b(&lab, &store, &aside))
        .map_err(|error| format!("the store cannot be sent: {error}"))?;
    fs::remove_dir_all(&aside).map_err(|error| format!("the copy cannot be removed: {error}"))?;
    let sending = copied as f64 / 1e6 / took.as_secs_f64();
    let speed = if mbit == 0 { "no limit".to_owned() } else { format!("{mbit} Mbit/s") };
    let what = format!("the same over the network from a to b ({speed}), by TCP alone, without encryption");
    row(json!(sending), "MB/s", "", &what);
    let spool = cluster.dir().join("spool");
    let times = (population.messages as f64 / SPOOL as f64).max(1.0);
    let [mailboxes, messages] =
        [population.mailboxes, population.messages].map(|all| (all as f64 / times) as usize);
    let spool_copied = folder::copy_spool(&spool, mailboxes, messages, population.audio)
        .map_err(|error| format!("a spool cannot be copied: {error}"))?
        .mul_f64(times);
    fs::remove_dir_all(&spool).map_err(|error| format!("the spool cannot be removed: {error}"))?;
    row(
        json!(spool_copied.as_secs_f64()),
        "s",
        "",
        "copy of a spool of as many messages, two files for each, all synced at its end; of 100,000 at most, and reckoned",
    );

    cluster.start_member("w");
    let after_writer = start(&mut cluster);
    // Roles would leave a node that is busy for a minute, and their next holder asks the other node about the MWI of all mailboxes.
    cluster.cli("a").order(&["cluster", "set", "trigger.cpu", "off"]);
    row(
        json!(after_writer.0.as_secs_f64()),
        "s",
        "5",
        "start after kill -9 of the incarnation that wrote it, to the CLI",
    );
    row(json!(after_writer.1.as_secs_f64()), "s", "", "the same, to the first answered call");
    row(json!(resident(&cluster)), "MB", "500", "resident memory of node a after that");
    let (listed, took) = user_list(&cluster, "a");
    row(json!(took.as_secs_f64()), "s", "", "user list, all mailboxes with counts, first");
    let (_, took) = user_list(&cluster, "a");
    row(json!(took.as_secs_f64()), "s", "", "user list, again");
    row(json!(resident(&cluster)), "MB", "500", "resident memory of node a after that");
    cluster.kill("a");
    let again = start(&mut cluster);
    row(json!(again.0.as_secs_f64()), "s", "", "start after another kill -9, to the CLI");
    let many = sign_in(&cluster, Cluster::USERS[1]);
    row(json!(ms(few.0)), "ms", "", "INVITE to 200, nearly empty store, median of calls to one mailbox");
    row(json!(ms(many.0)), "ms", "as with few", "the same, full store");
    row(json!(few.1.as_secs_f64()), "s", "", "sign-in to the end of the first message, nearly empty store");
    row(json!(many.1.as_secs_f64()), "s", "as with few", "sign-in to the end of the first message, full store");

    let (records, complete) = at_speed(&lab, mbit, || fill(&mut cluster));
    let rate = copied as f64 / 1e6 / complete.as_secs_f64();
    row(json!(records.as_secs_f64()), "s", "", "start of empty node b, until all records are there");
    row(json!(complete.as_secs_f64()), "s", "", "the same, until all audio is there");
    row(json!(rate), "MB/s", "", "filling of node b: bytes of node a's store in that time");
    row(json!(rate / copying), "ratio", "0.5", "the same beside the plain copy");
    row(json!(rate / sending), "ratio", "0.5", "the same beside the copy over the network");
    let beside_spool = spool_copied.as_secs_f64() / complete.as_secs_f64();
    row(json!(beside_spool), "ratio", "0.5", "speed of the filling beside the copy of a spool");
    let pid = cluster.member("b").pid();
    row(json!(resident_bytes(pid) as f64 / 1e6), "MB", "500", "resident memory of node b after that");
    row(json!(peak_bytes(pid) as f64 / 1e6), "MB", "500", "most memory of node b while it was filled");

    let b = lab.place("b");
    for what in ["first `replication verify` of equal stores", "`replication verify` of equal stores"] {
        let rest = at_rest(&b);
        let since = (traffic(&b), BootInstant::now());
        let compared = verify(&cluster, "a");
        let bytes = beyond_rest(&b, rest, since);
        row(milliseconds(&compared), "ms", "", &format!("{what}, which counts all rows and looks for all audio"));
        row(json!(bytes / 1e3), "kB", "10", "traffic of it at node b, beyond that at rest");
        is_equal(&compared)?;
    }
    let rest = at_rest(&b);
    // The first one may look for all audio, as one each day does.
    let [_, (compared, bytes)] = [(); 2].map(|()| reconnected(&lab, &cluster, rest));
    row(milliseconds(&compared), "ms", "100", "comparison of equal stores without a command, as each hour");
    row(
        json!(bytes / 2e3),
        "kB",
        "10",
        "traffic of a comparison without a command at node b: half, as both compare",
    );
    is_equal(&compared)?;
    kept::check(&cluster, population.messages)?;

    let mut unrepaired = Vec::new();
    for count in differences {
        let Repair { lost, repaired, compared, took, bytes } = repair(&mut cluster, &b, rest, *count as usize);
        let mut of = |figure: Value, unit: &str, what: &str| {
            row(figure, unit, "", &format!("repair of lost rows of messages ({lost}): {what}"));
        };
        of(milliseconds(&compared), "ms", "comparison by command");
        of(json!(took.as_secs_f64()), "s", "from the start of node b on");
        of(json!(bytes / 1e3), "kB", "traffic at node b, beyond that at rest");
        of(json!(repaired), "", "rows repaired");
        if repaired < lost {
            unrepaired.push(format!("{repaired} of {lost}"));
        }
    }
    drop(table);
    let equal = verify(&cluster, "b")["equal"] == json!(true);
    kept::check(&cluster, population.messages)?;
    if listed < population.messages {
        return Err(format!("size: {listed} of {} messages are listed after the kill", population.messages));
    }
    if !unrepaired.is_empty() || !equal {
        let rows = unrepaired.join(", ");
        return Err(format!("size: lost rows that were repaired: {rows}; the stores are equal: {equal}"));
    }
    Ok(())
}

fn resident(cluster: &Cluster) -> f64 {
    resident_bytes(cluster.member("a").pid()) as f64 / 1e6
}

/// Runs something while the network to each node has this speed.
fn at_speed<R>(lab: &Lab, mbit: u32, run: impl FnOnce() -> R) -> R {
    let limit = |verb: &str, kind: &[&str]| {
        for port in ["p0", "p1"].iter().filter(|_| mbit > 0) {
            let mut tc = lab.command(Path::new("tc"));
            let status = tc.args(["qdisc", verb, "dev", port, "root"]).args(kind).status();
            assert!(status.is_ok_and(|status| status.success()), "tc (iproute2) cannot limit the network");
        }
    };
    limit("add", &["tbf", "rate", &format!("{mbit}mbit"), "burst", "512kb", "latency", "50ms"]);
    let done = run();
    limit("del", &[]);
    done
}

/// Copies a folder over the network from node a to node b.
fn copy_to_b(lab: &Lab, from: &Path, to: &Path) -> io::Result<Duration> {
    let listener = lab.place("b").listen(0);
    let sender = lab.place("a").tcp(listener.local_addr()?)?;
    // The limit of `tcp` is for the connection; a write waits for the disk of the copy.
    sender.set_write_timeout(None)?;
    let (receiver, _) = listener.accept()?;
    folder::copy_over(from, to, (sender, receiver))
}

/// A number, which protobuf's JSON may write as a string.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn milliseconds(comparison: &Value) -> Value {
    json!(number(&comparison["took_ms"]))
}

/// A caller leaves a message, its owner signs in and hears it, others call: their median INVITE to `200`, and the time of the owner's
/// call.
fn sign_in(cluster: &Cluster, user: User) -> (Duration, Duration) {
    let (phones, node) = (cluster.phones(), cluster.sip("a"));
    let deposit = leave_message(phones, node, user.number, 2.0);
    assert!(deposit.acknowledged(), "the BYE was answered {:?}", deposit.bye);
    let begun = BootInstant::now();
    let heard = listen(phones, node, user, &[deposit], 0.9, Duration::from_secs(60));
    assert!(heard.iter().all(Option::is_some), "the message is heard");
    let took = begun.elapsed();
    let endpoint = Endpoint::open(phones, Law::Mu);
    let mut answered = [(); 21].map(|()| {
        let invite = Invite::new(user.number, "2001", endpoint.address());
        let begun = BootInstant::now();
        let call = Call::place_within(phones, node, Transport::Udp, &invite, PATIENCE).expect("an answer");
        let answered = begun.elapsed();
        call.bye();
        answered
    });
    answered.sort_unstable();
    (answered[answered.len() / 2], took)
}

/// Starts node a; the time until it answers its administrator, and until it answers a call.
fn start(cluster: &mut Cluster) -> (Duration, Duration) {
    let begun = BootInstant::now();
    cluster.start_member("a");
    let cli = cluster.cli("a");
    let administered =
        wait_until("node a to answer its administrator", PATIENCE, || cli.try_json(&["service", "list"]).is_ok());
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    wait_until("node a to answer a call", PATIENCE, || {
        let invite = Invite::new(Cluster::USERS[0].number, "2001", endpoint.address());
        let call = Call::place_within(cluster.phones(), cluster.sip("a"), Transport::Udp, &invite, TRY);
        call.map(Call::bye).is_ok()
    });
    (administered, begun.elapsed())
}

/// The number of new messages that a node lists, and the duration of the list.
fn user_list(cluster: &Cluster, node: &str) -> (usize, Duration) {
    let begun = BootInstant::now();
    let reply = cluster.cli(node).json(&["user", "list"]);
    let took = begun.elapsed();
    let users = reply["users"].as_array().into_iter().flatten();
    (users.map(|user| number(&user["new_messages"])).sum::<u64>() as usize, took)
}

/// Starts node b with an empty disk; the time until all records are there, and until all audio is.
fn fill(cluster: &mut Cluster) -> (Duration, Duration) {
    cluster.wipe("b");
    let begun = BootInstant::now();
    cluster.start_member("b");
    let cli = cluster.cli("b");
    let filled = |marks: &[&str]| {
        wait_until("node b to be filled", PATIENCE, || {
            let status = cli.try_json(&["replication", "status"]).unwrap_or_default();
            status["filled"].as_str().is_some_and(|filled| marks.contains(&filled))
        });
        begun.elapsed()
    };
    (filled(&["records", "complete"]), filled(&["complete"]))
}

/// Compares a node's store with the other's; the first comparison that is completed.
fn verify(cluster: &Cluster, node: &str) -> Value {
    wait_for("the stores to be compared", PATIENCE, || {
        let output = cluster.cli(node).run(&["--json", "replication", "verify"]);
        let compared: Value = serde_json::from_slice(&output.stdout).ok()?;
        let done = compared.as_array()?.first()?["problem"].as_str()?.is_empty();
        done.then(|| compared[0].clone())
    })
}

/// A node's view of the other one in `replication status`.
fn peer(cluster: &Cluster, node: &str) -> Option<Value> {
    Some(cluster.cli(node).try_json(&["replication", "status"]).ok()?["peers"][0].clone())
}

/// The last comparison of a node, if it was completed.
fn last_comparison(cluster: &Cluster, node: &str) -> Option<Value> {
    peer(cluster, node).map(|peer| peer["last_comparison"].clone()).filter(|last| last["problem"] == "")
}

/// Cuts the nodes off from each other for a moment; the comparison that node a then begins, and the bytes of those of both nodes
/// at node b.
fn reconnected(lab: &Lab, cluster: &Cluster, rest: f64) -> (Value, f64) {
    let (nodes, b) = (["a", "b"], lab.place("b"));
    let are = |connected: bool| {
        nodes.iter().all(|node| peer(cluster, node).is_some_and(|peer| (peer["connected"] == true) == connected))
    };
    let began = |node| last_comparison(cluster, node).map_or(0, |last| number(&last["began_ms"]));
    let before = nodes.map(began);
    lab.cut("a", "b");
    wait_until("the nodes to lose each other", PATIENCE, || are(false));
    lab.heal();
    wait_until("the nodes to find each other", PATIENCE, || are(true));
    sleep(CONNECTED);
    let since = (traffic(&b), BootInstant::now());
    wait_until("the comparisons after it", PATIENCE, || (0..2).all(|n| began(nodes[n]) > before[n]));
    let bytes = beyond_rest(&b, rest, since);
    (last_comparison(cluster, "a").unwrap_or_default(), bytes)
}

/// A repair of rows that node b lost.
struct Repair {
    lost: usize,
    repaired: usize,
    /// The comparison.
    compared: Value,
    /// Time from the start of node b on.
    took: Duration,
    /// Bytes at node b since the nodes were connected, beyond those at rest.
    bytes: f64,
}

/// Makes node b lose this many rows, and compare when it runs again.
fn repair(cluster: &mut Cluster, b: &NetPlace, rest: f64, count: usize) -> Repair {
    let lost = lose(cluster, count);
    let start = BootInstant::now();
    let is_connected = || peer(cluster, "b").is_some_and(|peer| peer["connected"] == true);
    wait_until("node b to be connected", PATIENCE, is_connected);
    let since = (traffic(b), BootInstant::now());
    let compared = verify(cluster, "b");
    let (took, bytes) = (start.elapsed(), beyond_rest(b, rest, since));
    // Node a starts a comparison as well, after the nodes connect. Node b counts the rows that it got by either of them.
    let repairs = || peer(cluster, "b").map_or(0, |peer| number(&peer["repairs"]) as usize);
    let repaired = holds(COUNTED_WITHIN, || Some(repairs()).filter(|repaired| *repaired >= lost));
    Repair { lost, repaired: repaired.unwrap_or_else(repairs), compared, took, bytes }
}

fn is_equal(compared: &Value) -> Result<(), String> {
    if compared["equal"] == json!(true) {
        return Ok(());
    }
    Err(format!("size: the stores differ after the fill: {compared}"))
}

/// Bytes in and out at a machine's interface so far.
fn traffic(place: &NetPlace) -> u64 {
    let text = place.inside(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap_or_default();
    bytes_of(&text, "eth0")
}

/// Bytes a second at a machine's interface when nothing is done.
fn at_rest(place: &NetPlace) -> f64 {
    let (before, begun) = (traffic(place), BootInstant::now());
    sleep(REST);
    (traffic(place) - before) as f64 / begun.elapsed().as_secs_f64()
}

/// Bytes at a machine's interface since a count of them, beyond those at rest.
fn beyond_rest(place: &NetPlace, rest: f64, (before, begun): (u64, BootInstant)) -> f64 {
    ((traffic(place) - before) as f64 - rest * begun.elapsed().as_secs_f64()).max(0.0)
}

/// Bytes received and sent by an interface, from `/proc/net/dev`.
fn bytes_of(text: &str, interface: &str) -> u64 {
    let counts = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let fields: Vec<u64> = counts.unwrap_or_default().split_whitespace().map_while(|n| n.parse().ok()).collect();
    [0, 8].iter().filter_map(|field| fields.get(*field)).sum()
}

/// Kills node b, removes this many rows of messages from its index, and starts it. Returns their number.
fn lose(cluster: &mut Cluster, count: usize) -> usize {
    cluster.kill("b");
    let store = cluster.member("b").data_dir.join("store");
    wait_closed(&store);
    let lost = lose_rows(&store.join("db"), count);
    cluster.start_member("b");
    lost
}

fn lose_rows(index: &Path, count: usize) -> usize {
    let disk = Disk::open(index).expect("the index opens");
    let all = disk.scan(MESSAGES).count();
    let every = (all / count.max(1)).max(1);
    let rows: Vec<Vec<u8>> =
        disk.scan(MESSAGES).step_by(every).take(count).map(|row| row.expect("a read").0).collect();
    let lost = rows.len();
    let remove = move |transaction: &mut Transaction<'_>| {
        rows.into_iter().for_each(|row| transaction.remove(row));
        Ok::<_, DiskError>(())
    };
    disk.transact_blocking(remove).expect("the rows are removed");
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_an_interface_are_those_received_and_sent() {
        let text = "Inter-|\n    lo: 5 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 0 0 0 30 1 0 0 0 0 0 0\n";
        assert_eq!(bytes_of(text, "eth0"), 130);
        assert_eq!(bytes_of(text, "eth1"), 0);
    }
}
