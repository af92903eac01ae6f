//! `twinbox setting …`.

use std::path::Path;

use twinbox_wire::settings::{NamedChange, Setting, SettingChangeRequest, SettingListReply, SettingListRequest};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::SettingCommand;
use twinbox_cluster_settings::Key;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: SettingCommand) -> Result<(), CliError> {
    match command {
        SettingCommand::List => {
            let reply = list(socket).await?;
            if json {
                return output::json(&reply);
            }
            println!("{}", table(&reply.settings));
            for setting in reply.settings.iter().filter(|setting| setting.ignored) {
                let Setting { name, file, .. } = setting;
                println!("{name} = {file} in the file of {} has no effect: delete it there", reply.node);
            }
            reply
                .unknown
                .iter()
                .for_each(|name| println!("{name}: the value is not one that this release accepts"));
            reply.mistakes.iter().for_each(|mistake| println!("{mistake}"));
            Ok(())
        }
        SettingCommand::Show { key } => {
            known(&key)?;
            let reply = list(socket).await?;
            let setting = reply.settings.into_iter().find(|setting| setting.name == key);
            let setting = setting.ok_or_else(|| {
                CliError::Failed(format!("node {} does not know '{key}': it has another release", reply.node))
            })?;
            if json {
                return output::json(&setting);
            }
            println!("{}", table(&[setting]));
            Ok(())
        }
        SettingCommand::Set { settings } => {
            let changes = settings.iter().map(|text| match text.split_once('=') {
                Some((name, value)) => change(name, Some(value).filter(|value| value.trim() != "-")),
                None => Err(CliError::Usage(format!("'{text}' has no value: write {text}=VALUE"))),
            });
            send(socket, json, changes.collect::<Result<_, _>>()?).await
        }
        SettingCommand::Unset { keys } => {
            let changes = keys.iter().map(|name| change(name, None));
            send(socket, json, changes.collect::<Result<_, _>>()?).await
        }
    }
}

/// Refuses a typing error before a node is asked.
fn known(name: &str) -> Result<Key, CliError> {
    Key::named(name).map_err(|error| CliError::Usage(error.to_string()))
}

fn change(name: &str, value: Option<&str>) -> Result<NamedChange, CliError> {
    let name = known(name.trim())?.name().to_owned();
    Ok(NamedChange { name, value: value.map(str::to_owned) })
}

async fn list(socket: &Path) -> Result<SettingListReply, CliError> {
    Ok(client::settings(socket).await?.setting_list(SettingListRequest {}).await?.into_inner())
}

async fn send(socket: &Path, json: bool, changes: Vec<NamedChange>) -> Result<(), CliError> {
    let request = SettingChangeRequest { changes };
    let reply = client::settings(socket).await?.setting_change(request).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    let durability = output::acknowledged(&reply.acknowledged);
    for Setting { name, value, effect, .. } in &reply.settings {
        println!("{name} = {} on all nodes ({durability}); effect: {effect}", shown(value));
    }
    Ok(())
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "-" } else { value }
}

fn table(settings: &[Setting]) -> String {
    let rows = settings.iter().map(|setting| {
        let Setting { name, value, default, origin, expected, effect, .. } = setting;
        vec![
            name.clone(),
            shown(value).to_owned(),
            origin.clone(),
            shown(default).to_owned(),
            effect.clone(),
            expected.clone(),
        ]
    });
    output::table(&["SETTING", "VALUE", "FROM", "DEFAULT", "EFFECT", "MAY BE"], rows)
}
