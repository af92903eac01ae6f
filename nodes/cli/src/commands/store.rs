//! `twinbox store …`.

use std::path::Path;

use serde_json::json;
use tonic::Streaming;
use twinbox_config::NodeConfig;
use twinbox_stopped_node::NoFillSource;
use twinbox_wire::storage::{CheckReply, CheckRequest, CompactReply, CompactRequest, StatsReply, StatsRequest};

use super::backup::{ProgressLine, size};
use crate::output::{self, counted};
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::{OverwriteArgs, StoreCommand};

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: StoreCommand) -> Result<(), CliError> {
    match command {
        StoreCommand::OverwriteData(args) => overwrite(json, args).await,
        StoreCommand::Check { audio } => {
            let reply =
                only(client::storage(socket).await?.check(CheckRequest { audio }).await?.into_inner()).await?;
            if json {
                output::json(&reply)?;
            } else {
                println!("{}", checked(&reply));
            }
            outcome(&reply)
        }
        StoreCommand::Stats => {
            let reply = only(client::storage(socket).await?.stats(StatsRequest {}).await?.into_inner()).await?;
            if json {
                return output::json(&reply);
            }
            println!("{}", stats(reply));
            Ok(())
        }
        StoreCommand::Compact => {
            let mut steps = client::storage(socket).await?.compact(CompactRequest {}).await?.into_inner();
            let line = ProgressLine::new();
            while let Some(step) = steps.message().await? {
                if !step.done {
                    line.show("packs", step.looked_at, step.packs, step.freed_bytes);
                    continue;
                }
                line.clear();
                if json {
                    return output::json(&step);
                }
                println!("{}", compacted(&step));
                return Ok(());
            }
            Err(CliError::Failed("the node stopped before it had compacted everything".to_owned()))
        }
    }
}

/// Sets the data of a stopped node aside, and begins an empty store with what the other nodes may lack.
async fn overwrite(json: bool, args: OverwriteArgs) -> Result<(), CliError> {
    let OverwriteArgs { from, config, yes } = args;
    let config = NodeConfig::load(&config).map_err(|error| CliError::Usage(error.to_string()))?;
    twinbox_stopped_node::check_fill_source(&config, &from).await.map_err(|error| match &error {
        NoFillSource::NoNode { .. } => CliError::Usage(error.to_string()),
        NoFillSource::Silent { .. } => CliError::Unreachable(error.to_string()),
        _ => CliError::Failed(error.to_string()),
    })?;
    if !yes {
        eprintln!(
            "The data of {name} in {dir} is set aside, and {name} fills from the other nodes at its next start. Until then it \
             answers callers 503. What only {name} has is taken over first, as far as it can be read.",
            name = config.name,
            dir = config.data_dir.display()
        );
        output::confirm("Type the name of this node to confirm: ", config.name.as_str())?;
    }
    let done = twinbox_stopped_node::overwrite_data(&config).await.map_err(super::run::report)?;
    let (taken, folder) = (&done.taken_over, done.folder.display().to_string());
    if json {
        output::json(&json!({
            "node": config.name.as_str(),
            "folder": folder,
            "changes": taken.changes,
            "audio": taken.audio,
            "unreadable": (!taken.is_whole()).then(|| taken.to_string()),
            "left_log": done.cut,
        }))?;
    } else {
        println!("{}: taken over: changes {}, recordings {}", config.name, taken.changes, taken.audio);
        match done.cut {
            Some(0) => {}
            Some(cut) => println!(
                "{cut} older changes have left the log, after all nodes had them or log_keep_hours had passed: what no other node \
                 has of these is only in {folder}"
            ),
            None => println!("The old index cannot be opened: what it had beyond that is not known."),
        }
        println!(
            "The old data is in {folder}. Start the node; when 'twinbox replication status' says that all data is here, compare \
             ('twinbox replication verify --audio') and remove that folder."
        );
    }
    match taken.is_whole() {
        true => Ok(()),
        false => Err(CliError::Incomplete(format!("warning: not all of the old data can be read: {taken}"))),
    }
}

/// The one answer of a request that takes long.
async fn only<T>(mut answers: Streaming<T>) -> Result<T, CliError> {
    let answer = answers.message().await?;
    answer.ok_or_else(|| CliError::Failed("the node stopped before it answered".to_owned()))
}

fn checked(reply: &CheckReply) -> String {
    let mut lines = vec![format!("{}, {}", counted(reply.rows, "record"), counted(reply.audio, "recording"))];
    let mut list = |noun: &str, what: &str, count: u64, items: &[String]| {
        if count > 0 {
            lines.push(format!("{} {what}:", counted(count, noun)));
            lines.extend(items.iter().map(|item| format!("  {item}")));
            let more = count.saturating_sub(items.len() as u64);
            lines.extend((more > 0).then(|| format!("  and {more} more")));
        }
    };
    let owned = |hashes: &[String]| -> Vec<String> { hashes.iter().map(|hash| with_owners(reply, hash)).collect() };
    list("record", "cannot be read", reply.unreadable, &reply.unreadable_rows);
    let [missing, damaged] = counts(reply);
    list("recording", "missing", missing, &owned(&reply.missing_audio));
    list("recording", "damaged", damaged, &owned(&reply.damaged_audio));
    if reply.awaited > 0 {
        lines.push(format!(
            "{} still being received from the other nodes ('twinbox replication status')",
            counted(reply.awaited, "recording")
        ));
    }
    if reply.set_aside > 0 {
        lines.push(format!("{} set aside", counted(reply.set_aside, "change")));
    }
    lines.join("\n")
}

/// Hash of a recording, and the records that name it.
fn with_owners(reply: &CheckReply, hash: &str) -> String {
    let owners = reply.owners.iter().filter(|owners| owners.audio == hash).flat_map(|owners| &owners.rows);
    let rows: Vec<&str> = owners.map(String::as_str).collect();
    if rows.is_empty() { hash.to_owned() } else { format!("{hash}: {}", rows.join(", ")) }
}

/// Number of missing, and of damaged recordings; a node of an earlier release only lists them.
fn counts(reply: &CheckReply) -> [u64; 2] {
    let CheckReply { missing, damaged, missing_audio, damaged_audio, .. } = reply;
    [(missing, missing_audio), (damaged, damaged_audio)].map(|(count, listed)| *count.max(&(listed.len() as u64)))
}

fn outcome(reply: &CheckReply) -> Result<(), CliError> {
    let whole = reply.unreadable == 0 && counts(reply) == [0, 0] && reply.set_aside == 0;
    match whole {
        true => Ok(()),
        false => Err(CliError::Failed(
            "data of this node is damaged: 'twinbox replication verify --audio' gets it from the other nodes"
                .to_owned(),
        )),
    }
}

fn compacted(reply: &CompactReply) -> String {
    let CompactReply { removed, moved_bytes, freed_bytes, .. } = reply;
    match removed {
        0 => "nothing to compact: no pack is less than half full".to_owned(),
        _ => format!("{} freed: {removed} packs removed, {} moved", size(*freed_bytes), size(*moved_bytes)),
    }
}

fn stats(reply: StatsReply) -> String {
    let StatsReply { tables, log_changes, log_bytes, audio, audio_bytes, disk_bytes, free_bytes, index } = reply;
    let rows = tables.into_iter().map(|table| {
        let numbers =
            [table.present, table.deleted, table.unreadable, table.bytes].map(|number| number.to_string());
        std::iter::once(table.table).chain(numbers).collect()
    });
    let table = output::table(&["TABLE", "PRESENT", "DELETED", "UNREADABLE", "BYTES"], rows);
    let index = index.map_or_else(String::new, |index| {
        let rewriting = if index.rewriting { ", which is being rewritten" } else { "" };
        let [log, rows, file] = [index.log_files_bytes, index.rows_bytes, index.file_bytes].map(size);
        format!(" in files of {log}\nindex: {rows} of rows in a file of {file}{rewriting}")
    });
    format!(
        "{table}\n\nrecordings: {audio}, {}\nlog: {log_changes} changes, {}{index}\ndisk: {} used, {} free",
        size(audio_bytes),
        size(log_bytes),
        size(disk_bytes),
        size(free_bytes)
    )
}

#[cfg(test)]
#[path = "../../tests/unit/store.rs"]
mod tests;
