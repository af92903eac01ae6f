//! `twinbox store …`.

use std::path::Path;

use tonic::Streaming;
use twinbox_wire::storage::{CheckReply, CheckRequest, CompactReply, CompactRequest, StatsReply, StatsRequest};

use super::backup::{ProgressLine, size};
use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::StoreCommand;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: StoreCommand) -> Result<(), CliError> {
    let mut node = client::storage(socket).await?;
    match command {
        StoreCommand::Check { audio } => {
            let reply = only(node.check(CheckRequest { audio }).await?.into_inner()).await?;
            if json {
                output::json(&reply)?;
            } else {
                println!("{}", checked(&reply));
            }
            outcome(&reply)
        }
        StoreCommand::Stats => {
            let reply = only(node.stats(StatsRequest {}).await?.into_inner()).await?;
            if json {
                return output::json(&reply);
            }
            println!("{}", stats(reply));
            Ok(())
        }
        StoreCommand::Compact => {
            let mut steps = node.compact(CompactRequest {}).await?.into_inner();
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

/// The one answer of a request that takes long.
async fn only<T>(mut answers: Streaming<T>) -> Result<T, CliError> {
    let answer = answers.message().await?;
    answer.ok_or_else(|| CliError::Failed("the node stopped before it answered".to_owned()))
}

fn checked(reply: &CheckReply) -> String {
    let mut lines = vec![format!("{} records, {} recordings", reply.rows, reply.audio)];
    let mut list = |what: &str, count: usize, items: &[String]| {
        if count > 0 {
            lines.push(format!("{count} {what}:"));
            lines.extend(items.iter().map(|item| format!("  {item}")));
        }
    };
    let unreadable = usize::try_from(reply.unreadable).unwrap_or(usize::MAX);
    list("records cannot be read", unreadable, &reply.unreadable_rows);
    list("recordings are missing", reply.missing_audio.len(), &reply.missing_audio);
    list("recordings are damaged", reply.damaged_audio.len(), &reply.damaged_audio);
    if reply.set_aside > 0 {
        lines.push(format!("{} changes are set aside", reply.set_aside));
    }
    lines.join("\n")
}

fn outcome(reply: &CheckReply) -> Result<(), CliError> {
    let whole = reply.unreadable == 0
        && reply.missing_audio.is_empty()
        && reply.damaged_audio.is_empty()
        && reply.set_aside == 0;
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
    let StatsReply { tables, log_changes, log_bytes, audio, audio_bytes, disk_bytes, free_bytes } = reply;
    let rows = tables.into_iter().map(|table| {
        let numbers =
            [table.present, table.deleted, table.unreadable, table.bytes].map(|number| number.to_string());
        std::iter::once(table.table).chain(numbers).collect()
    });
    let table = output::table(&["TABLE", "PRESENT", "DELETED", "UNREADABLE", "BYTES"], rows);
    format!(
        "{table}\n\nlog: {log_changes} changes, {}\nrecordings: {audio}, {}\ndisk: {} used, {} free",
        size(log_bytes),
        size(audio_bytes),
        size(disk_bytes),
        size(free_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_says_what_it_freed() {
        let reply =
            CompactReply { removed: 3, moved_bytes: 1_000_000, freed_bytes: 64_000_000, ..Default::default() };
        assert_eq!(compacted(&reply), "64.0 MB freed: 3 packs removed, 1.0 MB moved");
        assert!(compacted(&CompactReply::default()).contains("nothing to compact"));
    }

    #[test]
    fn check_fails_for_each_kind_of_damage_and_names_it() {
        assert!(outcome(&CheckReply::default()).is_ok());
        let damaged =
            CheckReply { unreadable: 1, unreadable_rows: vec!["message 0x01".to_owned()], ..CheckReply::default() };
        assert!(checked(&damaged).contains("1 records cannot be read:\n  message 0x01"));
        let missing = CheckReply { missing_audio: vec!["ab".to_owned()], ..CheckReply::default() };
        let audio = CheckReply { damaged_audio: vec!["cd".to_owned()], ..CheckReply::default() };
        for reply in [damaged, missing, audio, CheckReply { set_aside: 1, ..CheckReply::default() }] {
            assert!(outcome(&reply).is_err(), "{reply:?}");
        }
    }
}
