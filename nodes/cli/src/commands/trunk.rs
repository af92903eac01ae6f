//! `twinbox trunk …`.

use std::path::Path;

use twinbox_wire::settings::{Trunk, TrunkChanged, TrunkListReply, TrunkListRequest, TrunkRequest};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::TrunkCommand;
use twinbox_cluster_settings::Property;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: TrunkCommand) -> Result<(), CliError> {
    let (reply, name, done) = match command {
        TrunkCommand::List => {
            let reply = list(socket).await?;
            if json {
                return output::json(&reply);
            }
            println!("{}", table(&reply.trunks));
            reply.mistakes.iter().for_each(|mistake| println!("{mistake}"));
            return Ok(());
        }
        TrunkCommand::Show { name } => {
            let reply = list(socket).await?;
            let trunk = reply.trunks.into_iter().find(|trunk| trunk.name == name).ok_or_else(|| {
                CliError::Failed(format!("there is no trunk '{name}'; 'twinbox trunk list' shows all"))
            })?;
            if json {
                return output::json(&trunk);
            }
            println!("{}", table(std::slice::from_ref(&trunk)));
            return Ok(());
        }
        TrunkCommand::Add { name, settings } => {
            let request = request(&name, settings)?;
            (client::settings(socket).await?.trunk_add(request).await?.into_inner(), name, "added")
        }
        TrunkCommand::Set { name, settings } => {
            let request = request(&name, settings)?;
            (client::settings(socket).await?.trunk_set(request).await?.into_inner(), name, "changed")
        }
        TrunkCommand::Remove { name } => {
            let request = TrunkRequest { name: name.clone(), settings: Vec::new() };
            (client::settings(socket).await?.trunk_remove(request).await?.into_inner(), name, "removed")
        }
    };
    if json {
        return output::json(&reply);
    }
    let TrunkChanged { acknowledged, .. } = reply;
    println!("trunk {name} {done} on all nodes ({})", output::acknowledged(&acknowledged));
    Ok(())
}

/// Refuses a typing error before a node is asked.
fn request(name: &str, settings: Vec<String>) -> Result<TrunkRequest, CliError> {
    for text in &settings {
        Property::setting(text).map_err(|error| CliError::Usage(error.to_string()))?;
    }
    Ok(TrunkRequest { name: name.to_owned(), settings })
}

async fn list(socket: &Path) -> Result<TrunkListReply, CliError> {
    Ok(client::settings(socket).await?.trunk_list(TrunkListRequest {}).await?.into_inner())
}

fn table(trunks: &[Trunk]) -> String {
    let rows = trunks.iter().map(|trunk| {
        let part = |property: Property| {
            let begin = format!("{}=", property.name());
            trunk.settings.iter().find_map(|text| text.strip_prefix(&begin)).unwrap_or("-").to_owned()
        };
        let named = |text: &&String| {
            let shown = [Property::Addresses, Property::Transport].map(Property::name);
            !text.split_once('=').is_some_and(|(name, _)| shown.contains(&name))
        };
        let rest: Vec<_> = trunk.settings.iter().filter(named).map(String::as_str).collect();
        let used = if trunk.in_force { "yes" } else { "no" };
        vec![
            trunk.name.clone(),
            part(Property::Addresses),
            part(Property::Transport),
            trunk.origin.clone(),
            used.to_owned(),
            rest.join(" "),
        ]
    });
    output::table(&["TRUNK", "ADDRESSES", "TRANSPORT", "FROM", "USED HERE", "SETTINGS"], rows)
}
