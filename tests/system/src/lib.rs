//! System tests: real processes, real telephone protocol, real faults. Each file of `tests/` is one subject. Each test
//! has a separate cluster and needs only the binary (`TWINBOX_BIN`, or the one next to it) and the requirements that it
//! states by [`twinbox_testkit::need`].
//!
//! This file has only the steps and checks that several of those files share.

pub mod growing;

pub mod acts;

pub mod bench;

pub mod memory;

use std::{fmt::Write, fs, ops::Range, process::Output, time::Duration};

use serde_json::Value;
use twinbox_testkit::{Cluster, Deposit, Found, StoredMessage, leave_message, parameter, wait_for};

/// Time that a loaded test machine may add to a promised time before a test fails. Promises themselves are not
/// stretched: tests print the measured times.
pub fn slack() -> Duration {
    Duration::from_millis(parameter("TWINBOX_SLACK_MS", 2000))
}

/// Maximum wait of a caller for the answer to BYE (rule A1): `ack_timeout` plus 100 ms.
pub fn longest_goodbye(ack_timeout_ms: u64) -> Duration {
    Duration::from_millis(ack_timeout_ms + 100) + slack()
}

/// Imports users with these numbers on a node, all with this name.
pub fn import_users(cluster: &Cluster, node: &str, numbers: Range<u32>, name: &str) {
    let table = numbers.fold("number,name\n".to_owned(), |mut table, number| {
        writeln!(table, "{number},{name}").expect("written");
        table
    });
    let path = cluster.dir().join("users.csv");
    fs::write(&path, table).expect("written");
    cluster.cli(node).json(&["user", "import", &path.to_string_lossy()]);
}

/// Leaves a message of a second or more on a node, which acknowledges it.
pub fn leave(cluster: &Cluster, node: &str, mailbox: &str) -> Deposit {
    let deposit = leave_message(cluster.phones(), cluster.sip(node), mailbox, 1.2);
    assert!(deposit.acknowledged(), "{node}: {deposit:?}");
    deposit
}

/// The messages of a mailbox by their ids, once both nodes list the same ones, and at least this many.
pub fn wait_for_same_messages(
    cluster: &Cluster,
    mailbox: &str,
    count: usize,
    limit: Duration,
) -> Vec<StoredMessage> {
    wait_for("both nodes to list the same messages", limit, || {
        let [mut one, mut other] =
            ["a", "b"].map(|node| cluster.cli(node).try_messages(mailbox).unwrap_or_default());
        for messages in [&mut one, &mut other] {
            messages.sort_by(|a, b| a.id.cmp(&b.id));
        }
        (one.len() >= count && one == other).then_some(one)
    })
}

/// Checks that `node` has the message of `deposit` whole: only the spoken bytes, bit for bit, at least `seconds` long,
/// up to the hang-up. Waits for it at most `limit`.
pub fn assert_kept(
    cluster: &Cluster,
    node: &str,
    mailbox: &str,
    deposit: &Deposit,
    seconds: f64,
    limit: Duration,
) -> StoredMessage {
    let mut last = None;
    let whole = twinbox_testkit::holds(limit, || {
        // A partial message may come first: another node filed its chunks while this one was unreachable (rule C2).
        last = cluster.find(node, mailbox, &deposit.speech, deposit.spoken);
        last.clone().filter(|(_, piece, _)| is_whole(deposit, piece))
    });
    let Some((message, piece, length)) = whole.or_else(|| last.clone()) else {
        let there = cluster.cli(node).try_messages(mailbox);
        panic!("{node} has no message of what was said to {mailbox} within {limit:?}; it has {there:#?}");
    };
    judge(node, deposit, (&message, &piece, length), seconds);
    message
}

/// The same for many deposits, at less cost: each message is fetched once and is that of one deposit, and only messages still
/// incomplete are polled.
pub fn assert_all_kept(
    cluster: &Cluster,
    node: &str,
    mailbox: &str,
    deposits: &[Deposit],
    seconds: f64,
    limit: Duration,
) {
    // For one that is not there yet, all would be fetched repeatedly.
    let all = || cluster.cli(node).try_messages(mailbox).ok().filter(|there| there.len() >= deposits.len());
    drop(twinbox_testkit::holds(limit, all));
    let mut there = cluster.heard(node, mailbox);
    // In the order of the list: each is found among its first ones.
    let mut deposits: Vec<&Deposit> = deposits.iter().collect();
    deposits.sort_by_key(|deposit| deposit.at);
    for deposit in deposits {
        let found = deposit.speech.find_first(deposit.spoken, there.iter().map(|(_, audio)| audio));
        match found.filter(|(_, piece)| is_whole(deposit, piece)) {
            Some((at, piece)) => {
                let (message, audio) = there.remove(at);
                judge(node, deposit, (&message, &piece, audio.len()), seconds);
            }
            None => drop(assert_kept(cluster, node, mailbox, deposit, seconds, limit)),
        }
    }
}

fn is_whole(deposit: &Deposit, piece: &Found) -> bool {
    deposit.said.saturating_sub(piece.until()) <= CLIPPED
}

fn judge(node: &str, deposit: &Deposit, (message, piece, length): (&StoredMessage, &Found, usize), seconds: f64) {
    assert_eq!(piece.length, length, "{node}: all of the message is what was said, bit for bit ({piece:?})");
    assert!(piece.seconds() >= seconds, "{node}: {:.2} s kept of a message of {seconds} s", piece.seconds());
    let lost = deposit.said.saturating_sub(piece.until());
    assert!(
        is_whole(deposit, piece),
        "{node}: the last {lost} samples before the hang-up are missing in {message:?}"
    );
}

/// Maximum audio in flight between mouth and recorder at a hang-up, in samples: 100 ms.
const CLIPPED: usize = 800;

/// A piece of a message as text, for a failure.
pub fn in_words(piece: &Found) -> String {
    format!("{:.2} s from {:.2} s on", piece.seconds(), piece.from as f64 / 8000.0)
}

/// Ten times what a comparison takes once both nodes run.
pub const COMPARED_WITHIN: Duration = Duration::from_secs(60);

/// The first comparison of the stores that is completed, by `replication verify` on `node`, with its output.
pub fn verify(cluster: &Cluster, node: &str) -> (Output, Value) {
    wait_for("the stores to be compared", COMPARED_WITHIN, || {
        let output = cluster.cli(node).run(&["--json", "replication", "verify"]);
        let compared: Value = serde_json::from_slice(&output.stdout).ok()?;
        let done = compared.as_array()?.first()?["problem"].as_str()?.is_empty();
        done.then(|| (output, compared[0].clone()))
    })
}

/// Checks that both nodes have the same rows, as `node` finds them.
pub fn assert_equal_stores(cluster: &Cluster, node: &str) {
    let (output, comparison) = verify(cluster, node);
    assert_eq!((output.status.code(), &comparison["equal"]), (Some(0), &Value::Bool(true)), "{comparison}");
}

/// Waits until no call is left on a node.
pub fn wait_for_no_calls(cluster: &Cluster, node: &str, limit: Duration) {
    let calls = || {
        let status = cluster.cli(node).status()?;
        let members = status["members"].as_array()?.clone();
        let own = members.into_iter().find(|m| m["name"] == node)?;
        let calls = &own["info"]["calls"];
        calls.as_u64().or_else(|| calls.as_str()?.parse().ok())
    };
    twinbox_testkit::wait_until("no call to be left", limit, || calls() == Some(0));
}
