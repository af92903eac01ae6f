//! `twinbox prompt …`.

use std::path::Path;

use twinbox_wire::admin::{PromptListRequest, PromptPart, PromptRequest};

use crate::output;
use twinbox_admin_client::{CliError, client, upload};
use twinbox_cli_args::PromptCommand;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: PromptCommand) -> Result<(), CliError> {
    let mut node = client::provisioning(socket).await?;
    match command {
        PromptCommand::Set { name, file } => {
            let wav = upload::read(&file)?;
            let first = PromptPart { name: name.clone(), ..Default::default() };
            let parts = upload::parts(first, wav, |wav| PromptPart { wav, ..Default::default() });
            let reply = node.prompt_set(parts).await.map_err(|status| upload::of_file(&file, status))?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!(
                "every node plays {} as {name} ({})",
                file.display(),
                output::acknowledged(&reply.acknowledged)
            );
        }
        PromptCommand::List { all } => {
            let reply = node.prompt_list(PromptListRequest {}).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            if all {
                println!("{}", reply.names.join("\n"));
                return Ok(());
            }
            let rows = reply.prompts.into_iter().map(|prompt| {
                let playing = if prompt.playing { "yes" } else { "no" };
                vec![prompt.name, prompt.language, prompt.bytes.to_string(), playing.to_owned()]
            });
            println!("{}", output::table(&["PROMPT", "LANGUAGE", "BYTES", "PLAYED HERE"], rows));
        }
        PromptCommand::Remove { name } => {
            let reply = node.prompt_remove(PromptRequest { name: name.clone() }).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!(
                "every node plays the standard prompt {name} again ({})",
                output::acknowledged(&reply.acknowledged)
            );
        }
    }
    Ok(())
}
