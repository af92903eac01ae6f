//! `twinbox cos …`.

use std::path::Path;

use twinbox_wire::admin::{Class, ClassListReply, ClassListRequest, ClassRequest};

use crate::output;
use twinbox_admin_client::{CliError, client, pages};
use twinbox_cli_args::CosCommand;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: CosCommand) -> Result<(), CliError> {
    let mut node = client::provisioning(socket).await?;
    let (reply, name, done) = match command {
        CosCommand::List => {
            let classes = list(&mut node).await?;
            if json {
                return output::json(&ClassListReply { classes, ..Default::default() });
            }
            println!("{}", table(classes));
            return Ok(());
        }
        CosCommand::Show { name } => {
            let classes = list(&mut node).await?;
            let class = classes.into_iter().find(|class| !class.name_lost && class.name == name.to_lowercase());
            let class = class.ok_or_else(|| {
                CliError::Failed(format!("there is no class of service '{name}': see `twinbox cos list`"))
            })?;
            if json {
                return output::json(&class);
            }
            println!("{}", table(vec![class]));
            return Ok(());
        }
        CosCommand::Add { name, rules } => {
            (node.class_add(ClassRequest { name: name.clone(), rules }).await?.into_inner(), name, "added")
        }
        CosCommand::Set { name, rules } => {
            (node.class_set(ClassRequest { name: name.clone(), rules }).await?.into_inner(), name, "changed")
        }
        CosCommand::Remove { name } => {
            let request = ClassRequest { name: name.clone(), rules: Vec::new() };
            (node.class_remove(request).await?.into_inner(), name, "removed")
        }
    };
    if json {
        return output::json(&reply);
    }
    println!("class of service {name} {done} ({})", output::acknowledged(&reply.acknowledged));
    Ok(())
}

async fn list(node: &mut client::Provisioning) -> Result<Vec<Class>, CliError> {
    let classes = pages::all(async |after| node.class_list(ClassListRequest { limit: pages::AS_FIT, after }).await);
    Ok(classes.await?)
}

fn table(classes: Vec<Class>) -> String {
    let rows = classes.into_iter().map(|class| {
        let rules: Vec<_> = class.rules.iter().map(|rule| format!("{}={}", rule.word, rule.value)).collect();
        let name = if class.name_lost { format!("{} (name lost)", class.name) } else { class.name };
        vec![name, class.users.to_string(), if rules.is_empty() { "-".to_owned() } else { rules.join(" ") }]
    });
    output::table(&["CLASS", "USERS", "RULES"], rows)
}
