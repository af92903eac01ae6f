//! `twinbox mailbox-sync …`.

mod authorize;
mod server;

use std::path::Path;

use twinbox_wire::mailbox_sync::{
    Account, AccountAddRequest, AccountListReply, AccountListRequest, AccountRunReply, AccountRunRequest,
    AccountSetRequest, AccountShowReply, AccountShowRequest, MessageStates, RunCounts, Setting,
};

use crate::output;
use twinbox_admin_client::{CliError, client, pages};
use twinbox_cli_args::{MailboxSyncCommand, MailboxSyncRunArgs};

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: MailboxSyncCommand) -> Result<(), CliError> {
    let mut node = client::mailbox_syncs(socket).await?;
    let (reply, done) = match command {
        MailboxSyncCommand::List { failing } => return list(&mut node, json, failing).await,
        MailboxSyncCommand::Show { number } => {
            let reply = node.account_show(AccountShowRequest { number }).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("{}", shown(reply));
            return Ok(());
        }
        MailboxSyncCommand::Add { words, server } => return add(&mut node, json, words, server).await,
        MailboxSyncCommand::Run(args) => return run_now(&mut node, json, args).await,
        MailboxSyncCommand::Server(command) => return server::run(&mut node, json, command).await,
        MailboxSyncCommand::Set { number, server, settings } => {
            let done = format!("mail account of mailbox {number} changed");
            let server = server.unwrap_or_default();
            (node.account_set(AccountSetRequest { number, server, settings }).await?, done)
        }
        MailboxSyncCommand::Remove { number } => {
            let done = format!(
                "mailbox {number} has no account of its own any more; if 'users' of a server names it, it is \
                 synchronised there: 'twinbox mailbox-sync set {number} enabled=no' ends that; its messages stay"
            );
            (node.account_remove(AccountShowRequest { number }).await?, done)
        }
    };
    let reply = reply.into_inner();
    if json {
        return output::json(&reply);
    }
    println!("{done} ({})", output::acknowledged(&reply.acknowledged));
    Ok(())
}

async fn list(node: &mut client::MailboxSyncs, json: bool, failing: bool) -> Result<(), CliError> {
    let accounts = pages::all(async |after| {
        node.account_list(AccountListRequest { failing, limit: pages::AS_FIT, after }).await
    });
    let accounts = accounts.await?;
    if json {
        return output::json(&AccountListReply { accounts, ..Default::default() });
    }
    println!("{}", table(accounts));
    Ok(())
}

async fn add(
    node: &mut client::MailboxSyncs,
    json: bool,
    words: Vec<String>,
    server: String,
) -> Result<(), CliError> {
    let (numbers, settings) = numbers_and_settings(words)?;
    let request = AccountAddRequest { numbers: numbers.clone(), server: server.clone(), settings };
    let reply = node.account_add(request).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    let mailboxes = if numbers.len() == 1 { "mailbox" } else { "mailboxes" };
    let acknowledged = output::acknowledged(&reply.acknowledged);
    println!("{mailboxes} {} added to server {server} ({acknowledged})", numbers.join(", "));
    Ok(())
}

/// Mailbox numbers, and settings as `word=value`.
fn numbers_and_settings(words: Vec<String>) -> Result<(Vec<String>, Vec<String>), CliError> {
    let (settings, numbers): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.contains('='));
    match numbers.is_empty() {
        true => Err(CliError::Usage(
            "no mailbox was named: write its number, such as 'twinbox mailbox-sync add 1001 --server NAME'"
                .to_owned(),
        )),
        false => Ok((numbers, settings)),
    }
}

/// Has the holder of the duty synchronise a mailbox, and waits for the end.
async fn run_now(node: &mut client::MailboxSyncs, json: bool, args: MailboxSyncRunArgs) -> Result<(), CliError> {
    let MailboxSyncRunArgs { number, accept_deletions } = args;
    let mut request = AccountRunRequest { number: number.clone(), accept_deletions, wait: false };
    let mut reply = node.account_run(request.clone()).await?.into_inner();
    while !reply.ended {
        request.wait = true;
        reply = node.account_run(request.clone()).await?.into_inner();
    }
    if json {
        output::json(&reply)?;
    } else {
        println!("mailbox {number} on {}: {}: {}", reply.node, reply.outcome, counted(reply.counts.as_ref()));
    }
    judged(&number, &reply)
}

/// The outcome of a run as the outcome of the command.
fn judged(number: &str, reply: &AccountRunReply) -> Result<(), CliError> {
    match reply.outcome.as_str() {
        "done" => Ok(()),
        "held-back" => Err(CliError::Failed(format!(
            "the account of mailbox {number} came back empty, so nothing was deleted here; if that is right, give \
             'twinbox mailbox-sync run {number} --accept-deletions'"
        ))),
        outcome => Err(CliError::Failed(format!("mailbox {number}: {outcome}"))),
    }
}

fn shown(reply: AccountShowReply) -> String {
    let AccountShowReply { account, settings, messages } = reply;
    let folder = account.as_ref().map(|account| account.folder.clone()).unwrap_or_default();
    let since = account.as_ref().map_or(0, |account| account.failing_since_ms);
    let listed = account.as_ref().is_some_and(|account| account.listed);
    let (refused, read_to) = account.as_ref().map(|account| (account.refused, account.read_to)).unwrap_or_default();
    let rewritten = match account.as_ref().map(|account| account.names.as_str()) {
        Some("own-field") => "by the server; mails are known by their field X-Twinbox-Id",
        Some("nothing") => "by the server, and X-Twinbox-Id removed; a mail that is not found is held back",
        _ => "",
    };
    let MessageStates { waiting, appending, synced, gone, held } = messages.unwrap_or_default();
    let row = |word: &str, value: String| vec![word.to_owned(), value];
    let by = if listed { "mailbox-sync add" } else { "setting users of the server" };
    let mut rows = vec![row("folder", folder), row("included by", by.to_owned())];
    if since > 0 {
        rows.push(row("failing since", output::time(since)));
    }
    if !rewritten.is_empty() {
        rows.push(row("Message-IDs rewritten", rewritten.to_owned()));
    }
    if read_to > 0 {
        rows.push(row("first look has come to UID", read_to.to_string()));
    }
    rows.extend(settings.into_iter().map(|Setting { word, value }| vec![word, value]));
    let numbers = [
        ("here and in the account", synced),
        ("waiting", waiting),
        ("append under way", appending),
        ("left the folder", gone),
        ("held back", held),
        ("refused by the server", u64::from(refused)),
    ];
    let numbers = numbers.map(|(state, number)| vec![state.to_owned(), number.to_string()]);
    format!(
        "{}\n\n{}\n\n{}",
        table(account.into_iter().collect()),
        output::table(&["SETTING", "VALUE"], rows),
        output::table(&["MESSAGES", "NUMBER"], numbers)
    )
}

fn table(accounts: Vec<Account>) -> String {
    let rows = accounts.into_iter().map(|account| {
        let synced = if account.synced_ms == 0 { "never".to_owned() } else { output::time(account.synced_ms) };
        let held_back = account.held_back.to_string();
        vec![account.number, account.server, account.account, account.state, held_back, synced, account.error]
    });
    output::table(&["NUMBER", "SERVER", "ACCOUNT", "STATE", "HELD BACK", "LAST SYNC", "ERROR"], rows)
}

fn counted(counts: Option<&RunCounts>) -> String {
    let RunCounts { appended, marked_here, flagged_there, removed_there, held_back } =
        counts.copied().unwrap_or_default();
    format!(
        "{appended} appended, {marked_here} marked here, {flagged_there} flagged there, {removed_there} removed there, \
         {held_back} held back"
    )
}

#[cfg(test)]
#[path = "../../tests/unit/mailbox_sync.rs"]
mod tests;
