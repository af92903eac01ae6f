//! `twinbox replication …`.

use std::path::Path;

use twinbox_wire::storage::{
    Comparison, ConflictsReply, ConflictsRequest, Difference, PeerReplication, RecordScan, ReplicationStatusReply,
    ReplicationStatusRequest, VerifyRequest,
};

use crate::output::{self, counted};
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::ReplicationCommand;

/// Characters of a progress bar.
const BAR: u64 = 30;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: ReplicationCommand) -> Result<(), CliError> {
    let mut node = client::storage(socket).await?;
    match command {
        ReplicationCommand::Status => {
            let reply = node.replication_status(ReplicationStatusRequest {}).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("{}", status(&reply));
            Ok(())
        }
        ReplicationCommand::Conflicts => {
            let reply = node.conflicts(ConflictsRequest {}).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("{}", conflicts(reply));
            Ok(())
        }
        ReplicationCommand::Verify { audio } => {
            let mut answers = node.verify(VerifyRequest { audio }).await?.into_inner();
            let mut comparisons = Vec::new();
            while let Some(comparison) = answers.message().await? {
                if !json {
                    println!("{}", verified(&comparison));
                }
                comparisons.push(comparison);
            }
            if json {
                output::json(&comparisons)?;
            }
            outcome(&comparisons)
        }
    }
}

fn status(reply: &ReplicationStatusReply) -> String {
    let mut lines = vec![format!(
        "node {}: {}, {}; since its start {} on two, {} alone",
        reply.node,
        match reply.filled.as_str() {
            "complete" => "all data is here",
            "records" => "all records are here, recordings follow",
            _ => "records are being copied",
        },
        counted(reply.changes, "change"),
        counted(reply.on_two, "write"),
        reply.alone,
    )];
    match reply.scan {
        // The other node has just started, and does not know how many it has.
        Some(RecordScan { records, of: 0, rate }) => lines.push(format!("{records} records came, {rate:.0}/s")),
        Some(RecordScan { records, of, rate }) => {
            lines.push(progress(records, of.saturating_sub(records), rate, "records"));
        }
        None if reply.filled == "partly" || reply.missing > 0 => {
            lines.push(progress(reply.changes, reply.missing, reply.rate, "changes"));
        }
        None => {}
    }
    let oldest = reply.log_oldest_ms.map(|oldest| format!(", from {} on", output::time(oldest)));
    lines.push(format!(
        "log: {}, about {} MB{}; cut: {}",
        counted(reply.log_changes, "change"),
        reply.log_bytes.div_ceil(1024 * 1024),
        oldest.unwrap_or_default(),
        reply.log_cut,
    ));
    let header =
        ["PEER", "CONNECTED SINCE", "COUNTS", "LACKS", "BYTES", "BEHIND", "RATE", "LAST COMPARISON", "REPAIRS"];
    lines.push(output::table(&header, reply.peers.iter().map(peer)));
    let stuck = reply.peers.iter().filter(|peer| !peer.stuck.is_empty());
    lines.extend(stuck.map(|PeerReplication { name, stuck, .. }| {
        format!("{name} sends no data ({stuck}); repair it, or remove it: twinbox cluster remove {name}")
    }));
    lines.join("\n")
}

fn peer(peer: &PeerReplication) -> Vec<String> {
    let since = peer.connected_since_ms.map(output::time);
    let behind = peer.lag_seconds.map(|seconds| format!("{seconds} s"));
    vec![
        peer.name.clone(),
        since.unwrap_or_else(|| "not connected".to_owned()),
        if peer.counts { "yes" } else { "no" }.to_owned(),
        counted(peer.lag_changes, "change"),
        peer.lag_bytes.to_string(),
        behind.unwrap_or_else(|| "-".to_owned()),
        format!("{:.0}/s", peer.rate),
        peer.last_comparison.as_ref().map_or_else(|| "-".to_owned(), last),
        peer.repairs.to_string(),
    ]
}

/// Time and result of a comparison in one line.
fn last(comparison: &Comparison) -> String {
    let result = match comparison {
        Comparison { equal: true, .. } => "equal".to_owned(),
        Comparison { problem, .. } if !problem.is_empty() => problem.clone(),
        Comparison { more, repaired, .. } => format!("{more} differences, {repaired} repaired"),
    };
    format!("{}: {result}", output::time(comparison.began_ms))
}

/// A bar of the changes or records that are here, and the time for the others.
fn progress(here: u64, missing: u64, rate: f64, what: &str) -> String {
    let all = here.saturating_add(missing).max(1);
    let done = u128::from(here) * u128::from(BAR) / u128::from(all);
    let bar: String = (0..u128::from(BAR)).map(|at| if at < done { '#' } else { '.' }).collect();
    let left = match (missing, rate) {
        (0, _) => "nothing is known to be missing".to_owned(),
        (missing, rate) if rate >= 1.0 => {
            format!("{missing} {what} missing, {rate:.0}/s, {:.0} s left", (missing as f64 / rate).ceil())
        }
        (missing, _) => format!("{missing} {what} missing, none come now"),
    };
    format!("[{bar}] {}% {left}", u128::from(here) * 100 / u128::from(all))
}

fn conflicts(reply: ConflictsReply) -> String {
    if reply.conflicts.is_empty() {
        return "no conflicts".to_owned();
    }
    let rows = reply
        .conflicts
        .into_iter()
        .map(|conflict| vec![conflict.kind, conflict.name, conflict.holder, conflict.losers.join(" ")]);
    output::table(&["KIND", "NAME", "MAILBOX", "LATER"], rows)
}

fn verified(comparison: &Comparison) -> String {
    let Comparison { took_ms, rows, equal, differences, more, problem, .. } = comparison;
    let (peer, seconds) = (subject(comparison), format!("{}.{:03} s", took_ms / 1_000, took_ms % 1_000));
    if *equal && !comparison.by.is_empty() {
        return format!("{peer}: all there and undamaged ({seconds})");
    }
    if *equal {
        return format!("{peer}: equal, {} ({seconds})", counted(*rows, "record"));
    }
    let mut lines: Vec<String> = differences.iter().map(difference).collect();
    if *more > 0 {
        lines.push(format!("  and {more} more"));
    }
    let found = differences.len() as u64 + more;
    let head = match problem.as_str() {
        "" => format!("{peer}: {found} differences, {} repaired ({seconds})", comparison.repaired),
        problem => format!("{peer}: not compared completely: {problem}"),
    };
    lines.insert(0, head);
    lines.join("\n")
}

/// The node that was compared, or whose recordings were read.
fn subject(comparison: &Comparison) -> String {
    match comparison.by.as_str() {
        "" => comparison.peer.clone(),
        by => format!("recordings of {by}"),
    }
}

fn difference(difference: &Difference) -> String {
    let Difference { table, id, audio, node, fault, fields, deletion, outcome } = difference;
    let subject = if audio.is_empty() { format!("{table} {id}") } else { format!("recording {audio}") };
    let mut parts: Vec<String> = fields.iter().map(|tag| format!("field {tag}")).collect();
    if *deletion {
        parts.push("deletion".to_owned());
    }
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!("  {subject}: {fault} on {node}{parts}: {outcome}")
}

/// Success only if every comparison was completed and found everything equal.
fn outcome(comparisons: &[Comparison]) -> Result<(), CliError> {
    let differ: Vec<String> = comparisons.iter().filter(|c| !c.equal).map(subject).collect();
    match (comparisons, differ.as_slice()) {
        ([], _) => Err(CliError::Failed("there is no other node to compare with".to_owned())),
        (_, []) => Ok(()),
        _ => Err(CliError::Failed(format!(
            "not equal to {}: what was repaired is equal now; compare again, and see 'twinbox alarm list'",
            differ.join(", ")
        ))),
    }
}

#[cfg(test)]
#[path = "../../tests/unit/replication.rs"]
mod tests;
