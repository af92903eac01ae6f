//! `twinbox mailbox-sync server …`.

use twinbox_wire::mailbox_sync::{
    Server, ServerListReply, ServerListRequest, ServerRequest, ServerTestReply, ServerTestRequest, Setting,
};

use super::authorize;
use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::MailServerCommand;

/// Sends the request and prints the result.
pub async fn run(node: &mut client::MailboxSyncs, json: bool, command: MailServerCommand) -> Result<(), CliError> {
    let request = |name: &String, settings| ServerRequest { name: name.clone(), settings };
    let (reply, done) = match command {
        MailServerCommand::List => {
            let servers = servers(node).await?;
            if json {
                return output::json(&ServerListReply { servers });
            }
            println!("{}", table(servers));
            return Ok(());
        }
        MailServerCommand::Show { name } => {
            let server = find(node, &name).await?;
            if json {
                return output::json(&server);
            }
            let settings = server.settings.iter().map(|s| vec![s.word.clone(), s.value.clone()]);
            let settings = output::table(&["SETTING", "VALUE"], settings);
            println!("{}\n\n{settings}", table(vec![server]));
            return Ok(());
        }
        MailServerCommand::Test { name, user } => {
            let number = user.unwrap_or_default();
            let reply = node.server_test(ServerTestRequest { name: name.clone(), number }).await?.into_inner();
            return show_test(json, &name, reply);
        }
        MailServerCommand::Authorize(args) => {
            let server = find(node, &args.name).await?;
            return authorize::run(json, &server, args).await;
        }
        MailServerCommand::Add { name, settings } => {
            let reply = node.server_add(request(&name, settings)).await?;
            (reply, format!("server {name} added; next: 'twinbox mailbox-sync add NUMBER --server {name}'"))
        }
        MailServerCommand::Set { name, settings } => {
            (node.server_set(request(&name, settings)).await?, format!("server {name} changed"))
        }
        MailServerCommand::Remove { name } => {
            let reply = node.server_remove(request(&name, Vec::new())).await?;
            (reply, format!("server {name} removed with its accounts; the messages stay, here and there"))
        }
    };
    let reply = reply.into_inner();
    if json {
        return output::json(&reply);
    }
    println!("{done} ({})", output::acknowledged(&reply.acknowledged));
    Ok(())
}

/// Value of a setting; empty if it is unset, which `-` stands for.
pub fn setting<'a>(server: &'a Server, word: &str) -> &'a str {
    let found = server.settings.iter().find(|setting| setting.word == word);
    found.map(|Setting { value, .. }| value.as_str()).filter(|value| *value != "-").unwrap_or_default()
}

async fn servers(node: &mut client::MailboxSyncs) -> Result<Vec<Server>, CliError> {
    Ok(node.server_list(ServerListRequest {}).await?.into_inner().servers)
}

async fn find(node: &mut client::MailboxSyncs, name: &str) -> Result<Server, CliError> {
    let is_it = |server: &Server| server.name.eq_ignore_ascii_case(name) || server.id == name;
    servers(node).await?.into_iter().find(is_it).ok_or_else(|| {
        CliError::Failed(format!("there is no server '{name}': see 'twinbox mailbox-sync server list'"))
    })
}

fn show_test(json: bool, name: &str, reply: ServerTestReply) -> Result<(), CliError> {
    if json {
        output::json(&reply)?;
    } else {
        let result = |ok: bool| if ok { "ok" } else { "FAILED" }.to_owned();
        let rows = reply.steps.into_iter().map(|step| vec![step.step, result(step.ok), step.detail]);
        println!("{}", output::table(&["STEP", "RESULT", "DETAIL"], rows));
    }
    match reply.ok {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{} cannot synchronise with server {name} now", reply.node))),
    }
}

fn table(servers: Vec<Server>) -> String {
    let rows = servers.into_iter().map(|server| {
        let enabled = if server.enabled { "yes" } else { "no" }.to_owned();
        let [host, auth, users] = ["host", "auth", "users"].map(|word| setting(&server, word).to_owned());
        let (accounts, failing) = (server.accounts.to_string(), server.failing.to_string());
        vec![server.name, enabled, host, auth, users, accounts, failing, server.error]
    });
    output::table(&["SERVER", "ENABLED", "HOST", "AUTH", "USERS", "ACCOUNTS", "FAILING", "ERROR"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_and_unknown_settings_are_empty() {
        let set = |word: &str, value: &str| Setting { word: word.to_owned(), value: value.to_owned() };
        let settings = vec![set("host", "imap.test"), set("trash", "-")];
        let server = Server { settings, ..Default::default() };
        for (word, value) in [("host", "imap.test"), ("trash", ""), ("other", "")] {
            assert_eq!(setting(&server, word), value, "{word}");
        }
    }

    #[test]
    fn failed_test_fails_the_command_and_names_node_and_server() {
        let reply = |ok| ServerTestReply { node: "a".to_owned(), ok, ..Default::default() };
        assert!(show_test(false, "corp", reply(true)).is_ok());
        let error = show_test(false, "corp", reply(false)).expect_err("failed").to_string();
        assert!(error.contains("a cannot synchronise with server corp"), "{error}");
    }
}
