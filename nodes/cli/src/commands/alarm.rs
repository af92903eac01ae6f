//! `twinbox alarm …`.

use std::{collections::BTreeSet, fmt::Write, path::Path};

use twinbox_wire::events::{Alarm, AlarmAcknowledgeRequest, AlarmListReply, AlarmListRequest};

use crate::output;
use twinbox_admin_client::{CliError, client, pages};
use twinbox_cli_args::AlarmCommand;

/// Runs the subcommand.
pub async fn run(socket: &Path, json: bool, command: AlarmCommand) -> Result<(), CliError> {
    let mut client = client::events(socket).await?;
    match command {
        AlarmCommand::List { all } => {
            let alarms = pages::all(async |after| {
                client.alarm_list(AlarmListRequest { all, limit: pages::AS_FIT, after }).await
            });
            let alarms = alarms.await?;
            if json {
                return output::json(&AlarmListReply { alarms, ..Default::default() });
            }
            print!("{}", render(&alarms));
            Ok(())
        }
        AlarmCommand::Ack { ids, by } => {
            let by = by.or_else(logged_in).unwrap_or_default();
            let reply = client.alarm_acknowledge(AlarmAcknowledgeRequest { ids, by }).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            for alarm in &reply.alarms {
                let more = if alarm.state == "acknowledged" { "" } else { " (cleared already)" };
                println!("{} {} ({}): acknowledged{more}", alarm.id, alarm.code, alarm.subject);
            }
            println!("{}", output::acknowledged(&reply.acknowledged));
            Ok(())
        }
    }
}

fn logged_in() -> Option<String> {
    ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
}

/// Table of alarms, followed by the remedy of each kind.
fn render(alarms: &[Alarm]) -> String {
    if alarms.is_empty() {
        return "no alarms\n".to_owned();
    }
    let rows = alarms.iter().map(|alarm| {
        vec![
            alarm.id.clone(),
            alarm.severity.clone(),
            alarm.code.clone(),
            alarm.subject.clone(),
            alarm.node.clone(),
            output::time(alarm.raised_ms),
            alarm.count.to_string(),
            match alarm.acknowledged_by.as_str() {
                "" => alarm.state.clone(),
                by => format!("{} by {by}", alarm.state),
            },
            alarm.detail.clone(),
        ]
    });
    let header = ["ID", "SEVERITY", "ALARM", "OF", "RAISED BY", "AT", "COUNT", "STATE", "DETAIL"];
    let mut text = output::table(&header, rows) + "\n";
    let mut explained = BTreeSet::new();
    for alarm in alarms.iter().filter(|alarm| alarm.state != "cleared") {
        if explained.insert(&alarm.code) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n{}: {}\n  {}", alarm.code, alarm.summary, alarm.remedy);
        }
    }
    text
}
