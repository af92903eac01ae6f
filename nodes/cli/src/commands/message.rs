//! `twinbox message …`.

use std::{
    io::{Write, stdout},
    path::Path,
};

use twinbox_wire::admin::{MessageListReply, MessageListRequest, MessageRequest, UserChanged};

use crate::{output, private_file::PrivateFile};
use twinbox_admin_client::{CliError, client, pages};
use twinbox_cli_args::MessageCommand;

/// Sends the request and prints the result, or writes the file.
pub async fn run(socket: &Path, json: bool, command: MessageCommand) -> Result<(), CliError> {
    match command {
        MessageCommand::Send(args) => super::location::send(socket, json, args).await?,
        MessageCommand::List { number } => {
            let mut node = client::connect(socket).await?;
            let messages = pages::all(async |after| {
                let number = number.clone();
                node.message_list(MessageListRequest { number, limit: pages::AS_FIT, after }).await
            });
            let messages = messages.await?;
            if json {
                return output::json(&MessageListReply { messages, ..Default::default() });
            }
            let rows = messages.into_iter().map(|m| {
                let partial = if m.partial { " (partial)" } else { "" };
                let marks = [(m.urgent, "urgent"), (m.private, "private")];
                let marks: Vec<_> = marks.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
                vec![
                    m.id,
                    m.state,
                    time(m.received_ms),
                    m.caller,
                    m.caller_name,
                    format!("{}.{} s{partial}", m.length_ms / 1_000, m.length_ms % 1_000 / 100),
                    marks.join(" "),
                ]
            });
            let header = ["MESSAGE", "STATE", "RECEIVED (UTC)", "CALLER", "NAME", "LENGTH", "MARKS"];
            println!("{}", output::table(&header, rows));
        }
        MessageCommand::Export { number, id, output: path } => {
            let is_shown = path == Path::new("-");
            if is_shown && json {
                return Err(CliError::Usage(
                    "-o - and --json both write to standard output: name a file".to_owned(),
                ));
            }
            let mut node = client::connect(socket).await?;
            let mut parts = node.message_export(MessageRequest { number, id: id.to_string() }).await?.into_inner();
            let mut wav = Vec::new();
            while let Some(part) = parts.message().await? {
                wav.extend_from_slice(&part.data);
            }
            if is_shown {
                let shown = stdout().write_all(&wav).and_then(|()| stdout().flush());
                return shown.map_err(|error| CliError::Failed(format!("cannot write standard output: {error}")));
            }
            PrivateFile::create(&path)?.finish(&wav)?;
            if json {
                return output::json(
                    &serde_json::json!({ "file": path.display().to_string(), "bytes": wav.len() }),
                );
            }
        }
        MessageCommand::Delete { number, id } => {
            let request = MessageRequest { number, id: id.to_string() };
            let reply = client::connect(socket).await?.message_delete(request).await?;
            return marked(json, "deleted", &reply.into_inner());
        }
        MessageCommand::Undelete { number, id } => {
            let request = MessageRequest { number, id: id.to_string() };
            let reply = client::connect(socket).await?.message_undelete(request).await?;
            return marked(json, "undeleted", &reply.into_inner());
        }
    }
    Ok(())
}

fn marked(json: bool, mark: &str, reply: &UserChanged) -> Result<(), CliError> {
    if json {
        return output::json(reply);
    }
    println!("message {} {mark} ({})", reply.id, output::acknowledged(&reply.acknowledged));
    Ok(())
}

fn time(ms: u64) -> String {
    output::timestamp(ms).map(|at| at.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}
