//! IMAP servers as administrators see, change and test them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tonic::Status;
use tracing::info;
use twinbox_admin_kit::named;
use twinbox_clock::wall;
use twinbox_ids::{MailServerId, MailboxId};
use twinbox_mailbox_sync::{ServerSetting, ServerSettings, StoredServer, server_change};
use twinbox_mailbox_sync_duty::probe;
use twinbox_mailbox_sync_store::EffectiveAccounts;
use twinbox_wire::mailbox_sync::{
    Changed, Server, ServerListReply, ServerRequest, ServerTestReply, ServerTestRequest, ServerTestStep, Setting,
};

use super::{MailboxSyncService, changed, changes, refused};
use crate::admin::{all_records, internal, mailbox};

/// Time limit of a whole test: an administrator's command waits 20 seconds.
const TESTED_WITHIN: Duration = Duration::from_secs(18);

/// All servers.
pub async fn list(service: &MailboxSyncService) -> Result<ServerListReply, Status> {
    all_records(&service.node)?;
    let servers = service.store.servers().map_err(internal)?;
    let mut counts: HashMap<MailServerId, (u64, u64)> = HashMap::new();
    if !servers.is_empty() {
        for (account, state) in service.store.effective().await.map_err(internal)?.accounts {
            let (accounts, failing) = counts.entry(account.server).or_default();
            *accounts += 1;
            *failing += u64::from(state.error.is_some());
        }
    }
    let shown = servers.into_iter().map(|server| {
        let (accounts, failing) = counts.get(&server.id).copied().unwrap_or_default();
        Server { accounts, failing, ..shown(server) }
    });
    Ok(ServerListReply { servers: shown.collect() })
}

/// Adds a server.
pub async fn add(service: &MailboxSyncService, request: ServerRequest) -> Result<Changed, Status> {
    all_records(&service.node)?;
    let ServerRequest { name, settings } = request;
    let name = named::checked(&name, "mail server")?;
    let changes = changes(&BTreeMap::new(), &settings, server_change, ServerSettings::from_settings)?;
    let settings = changes.into_iter().filter_map(|(number, text)| Some((number, text?))).collect();
    let id = MailServerId::random();
    let server = StoredServer { id, name, created: wall(), settings };
    let acknowledgement = service.store.add_server(server).await.map_err(refused)?;
    info!(server = %id, "administrator adds mail server");
    Ok(changed(id, &acknowledgement))
}

/// Changes settings of a server.
pub async fn set(service: &MailboxSyncService, request: ServerRequest) -> Result<Changed, Status> {
    let server = find(service, &request.name)?;
    let changes = changes(&server.settings, &request.settings, server_change, ServerSettings::from_settings)?;
    let acknowledgement = service.store.change_server(server.id, changes).await.map_err(refused)?;
    info!(server = %server.id, "administrator changes mail server");
    Ok(changed(server.id, &acknowledgement))
}

/// Removes a server with its accounts.
pub async fn remove(service: &MailboxSyncService, name: &str) -> Result<Changed, Status> {
    let server = find(service, name)?;
    let (accounts, acknowledgement) = service.store.remove_server(server.id).await.map_err(refused)?;
    info!(server = %server.id, accounts, "administrator removes mail server");
    Ok(changed(server.id, &acknowledgement))
}

/// Connects from this node and opens the folder of an account.
pub async fn test(service: &MailboxSyncService, request: ServerTestRequest) -> Result<ServerTestReply, Status> {
    let ServerTestRequest { name, number } = request;
    let server = find(service, &name)?;
    let settings = ServerSettings::from_settings(&server.settings);
    let settings = settings.map_err(|error| Status::failed_precondition(error.to_string()))?;
    let wanted = match number.is_empty() {
        true => None,
        false => Some(mailbox(&service.node, &number).await?.id),
    };
    let EffectiveAccounts { accounts, left_out } = service.store.effective().await.map_err(internal)?;
    let is_meant =
        |of: Option<MailServerId>, id: MailboxId| of == Some(server.id) && wanted.is_none_or(|wanted| wanted == id);
    let account = accounts.into_iter().find(|(account, _)| is_meant(Some(account.server), account.mailbox));
    let Some((account, _)) = account else {
        let left_out = left_out.into_iter().find(|left_out| is_meant(left_out.server, left_out.mailbox));
        let reason = left_out.map(|left_out| left_out.reason.to_string());
        return Err(Status::failed_precondition(reason.unwrap_or_else(|| no_account(&server.name, &number))));
    };
    let steps = tokio::time::timeout(TESTED_WITHIN, probe(&settings, &account)).await.map_err(|_| {
        let seconds = TESTED_WITHIN.as_secs();
        Status::failed_precondition(format!(
            "the server has not answered within {seconds} s: set a shorter timeout=SECONDS to see at which step"
        ))
    })?;
    let ok = !steps.is_empty() && steps.iter().all(|step| step.ok);
    let steps = steps.into_iter().map(|step| ServerTestStep { step: step.step, ok: step.ok, detail: step.detail });
    Ok(ServerTestReply { node: service.node.name.to_string(), ok, steps: steps.collect() })
}

fn no_account(server: &str, number: &str) -> String {
    let missing = match number.is_empty() {
        true => format!("server '{server}' has no account yet"),
        false => format!("mailbox {number} has no account of server '{server}'"),
    };
    format!("{missing}: add one with 'twinbox mailbox-sync add NUMBER --server {server}', then repeat the test")
}

/// The server with that name, or that id.
pub fn find(service: &MailboxSyncService, name: &str) -> Result<StoredServer, Status> {
    all_records(&service.node)?;
    let add = "twinbox mailbox-sync server add NAME host=HOST";
    let servers = service.store.servers().map_err(internal)?;
    named::find(servers, name, |server| (server.name.as_str(), server.id.to_string()), "mail server", add)
}

fn shown(server: StoredServer) -> Server {
    let texts = ServerSetting::ALL.map(|setting| (setting.word(), setting.text(&server.settings)));
    let settings = texts.map(|(word, value)| Setting { word: word.to_owned(), value: value.to_owned() });
    let read = ServerSettings::from_settings(&server.settings);
    Server {
        id: server.id.to_string(),
        settings: Vec::from(settings),
        enabled: read.as_ref().is_ok_and(|settings| settings.enabled),
        // Settings of a newer release.
        error: read.err().map(|error| error.to_string()).unwrap_or_default(),
        name: server.name,
        ..Server::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> StoredServer {
        let settings = BTreeMap::from([(ServerSetting::Host.number(), "imap.test".to_owned())]);
        StoredServer { id: MailServerId(5), name: name.to_owned(), created: wall(), settings }
    }

    #[test]
    fn wrong_settings_are_refused_with_the_input() {
        let stored = server("corp").settings;
        for (text, part) in [("hots=imap.test", "host"), ("port=0", "port"), ("connections=900", "connections")] {
            let refused = changes(&stored, &[text.to_owned()], server_change, ServerSettings::from_settings);
            let refused = refused.expect_err(text);
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }

    #[test]
    fn server_is_shown_with_all_settings_and_the_fault_of_stored_ones() {
        let shown_server = shown(server("corp"));
        assert_eq!((shown_server.settings.len(), shown_server.enabled), (ServerSetting::ALL.len(), true));
        assert_eq!(shown_server.error, "");
        let mut newer = server("corp").settings;
        newer.insert(ServerSetting::Tls.number(), "quantum".to_owned());
        let shown_server = shown(StoredServer { settings: newer, ..server("corp") });
        assert!(shown_server.error.contains("quantum"), "{}", shown_server.error);
    }
}
