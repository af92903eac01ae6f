//! `twinbox events`.

use std::{
    io::{self, Write},
    path::Path,
};

use serde_json::{Map, Value, json};
use twinbox_wire::events::{FollowReply, FollowRequest};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::EventsArgs;

/// Prints events as they arrive, one line each.
pub async fn run(socket: &Path, json: bool, args: EventsArgs) -> Result<(), CliError> {
    let mut client = client::events(socket).await?;
    let request = FollowRequest { since: args.since, follow: args.follow };
    let mut stream = client.follow(request).await?.into_inner();
    let mut cursor = String::new();
    let lost = loop {
        let reply = match stream.message().await.map_err(CliError::from) {
            Ok(Some(reply)) => reply,
            Ok(None) if args.follow => break "the node was stopped".to_owned(),
            Ok(None) => return Ok(()),
            Err(CliError::Unreachable(why)) => break why,
            Err(refused) => return Err(refused),
        };
        cursor.clone_from(&reply.cursor);
        let line = if json { Some(program_line(reply)?) } else { person_line(&reply) };
        if let Some(line) = line {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CliError::failed)?;
        }
    };
    Err(CliError::Unreachable(format!("{lost}; continue on another node with --since {cursor}")))
}

/// One JSON object per line, each with the cursor that resumes after it.
fn program_line(reply: FollowReply) -> Result<String, CliError> {
    let mut line = match (&reply.event, &reply.gap) {
        (Some(event), _) => match serde_json::to_value(event).map_err(CliError::failed)? {
            Value::Object(fields) => fields,
            _ => Map::new(),
        },
        (None, Some(gap)) => {
            let missing = if gap.missing == 0 { Value::Null } else { gap.missing.into() };
            Map::from_iter([
                ("kind".to_owned(), json!("gap")),
                ("node".to_owned(), json!(gap.node)),
                ("missing".to_owned(), missing),
            ])
        }
        (None, None) => Map::from_iter([("kind".to_owned(), json!("begin"))]),
    };
    line.retain(|name, value| name == "detail" || *value != "");
    line.insert("cursor".to_owned(), reply.cursor.into());
    serde_json::to_string(&line).map_err(CliError::failed)
}

fn person_line(reply: &FollowReply) -> Option<String> {
    if let Some(gap) = &reply.gap {
        let missing = if gap.missing == 0 { "some".to_owned() } else { gap.missing.to_string() };
        return Some(format!("gap: {missing} events of {} are no longer stored", gap.node));
    }
    let event = reply.event.as_ref()?;
    let alarm = if event.code.is_empty() { String::new() } else { format!(" {} {}", event.code, event.alarm) };
    let colon = if event.detail.is_empty() { "" } else { ": " };
    Some(format!(
        "{} {} {}{alarm} ({}){colon}{}",
        output::time(event.at_ms),
        event.node,
        event.kind,
        event.subject,
        event.detail
    ))
}
