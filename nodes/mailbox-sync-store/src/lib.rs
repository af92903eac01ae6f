//! Mailbox sync in the store of a node: mail servers, accounts, and the last state seen of each message. The settings,
//! and which accounts are in force, are for every node; states are written by the duty, under its epoch.

mod account_place;
mod accounts;
mod effective;
mod reader;
mod resolve;
mod state;
mod watch;

use std::{collections::BTreeMap, sync::Arc};

use twinbox_ids::MailServerId;
use twinbox_mailbox_sync::{ServerSettings, SettingError, StoredServer, schema};
use twinbox_mailstore::{Acknowledgement, MailError, Mailstore};
use twinbox_replication_core::Edit;
use twinbox_replication_store::Draft;

pub use effective::EffectiveAccounts;
pub use resolve::{LeftOut, LeftOutReason, SyncedMailbox};
pub use state::MarkedHere;
pub use watch::{MailboxSyncWatch, SyncChange};

use resolve::readable_servers;

/// Maximum number of mail servers.
pub const MOST_SERVERS: usize = 100;

/// A server, an account, or a state of one was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MailboxSyncError {
    /// Another server has the name.
    #[error(
        "mail server '{0}' already exists: change it with `twinbox mailbox-sync server set`, or choose another name"
    )]
    Taken(String),
    /// There are too many servers.
    #[error(
        "there are {} mail servers, which is the maximum: remove one with `twinbox mailbox-sync server remove`",
        MOST_SERVERS
    )]
    Many,
    /// There is no such server (any more).
    #[error("mail server {0} does not exist: list the servers with `twinbox mailbox-sync server list`")]
    None(MailServerId),
    /// A new account has no server.
    #[error("the new account has no mail server: name one with `--server NAME`")]
    NoServer,
    /// The mailbox has no account of its own.
    #[error(
        "the mailbox has no account of its own; if a server includes it by `users`, give `twinbox mailbox-sync set \
         NUMBER enabled=no`"
    )]
    NoAccount,
    /// The account was changed or removed while the duty worked on it.
    #[error("the account was changed or removed meanwhile: what was done stays, the rest follows the new settings")]
    AccountChanged,
    /// A setting has no such value, or one is missing.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// Mail servers, accounts and states in the store of a node. Cheap to clone; clones share the accounts that
/// [`Self::effective`] has found.
#[derive(Clone)]
pub struct MailboxSyncStore {
    mailstore: Mailstore,
    cache: Arc<effective::AccountCache>,
}

impl MailboxSyncStore {
    /// Mailbox sync in this store.
    pub fn of(mailstore: &Mailstore) -> Self {
        Self { mailstore: mailstore.clone(), cache: Arc::default() }
    }

    /// All servers, by name. A server that this release cannot read is skipped, and logged.
    pub fn servers(&self) -> Result<Vec<StoredServer>, MailError> {
        Ok(readable_servers(&self.mailstore.store().scan(schema::MAIL_SERVER, &[])?))
    }

    /// A server; `None` when there is none, or it was removed.
    pub fn server(&self, id: MailServerId) -> Result<Option<StoredServer>, MailError> {
        let key = schema::server_key(id);
        let record = self.mailstore.store().get(&key)?;
        Ok(record.map(|record| StoredServer::read(&key, &record)).transpose()?.flatten())
    }

    /// The server of that name; of two servers that got one name on both sides of a split, the earlier one.
    pub fn server_by_name(&self, name: &str) -> Result<Option<StoredServer>, MailError> {
        Ok(self.servers()?.into_iter().find(|server| server.name == name))
    }

    /// Adds a server.
    pub async fn add_server(&self, server: StoredServer) -> Result<Acknowledgement, MailboxSyncError> {
        ServerSettings::from_settings(&server.settings)?;
        let (refused, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let mut others = readable_servers(&draft.scan(schema::MAIL_SERVER, &[])?);
                others.retain(|other| other.id != server.id);
                if others.iter().any(|other| other.name == server.name) {
                    return Ok(Some(MailboxSyncError::Taken(server.name)));
                }
                if others.len() >= MOST_SERVERS {
                    return Ok(Some(MailboxSyncError::Many));
                }
                draft.edit(schema::server_key(server.id), server.edits())?;
                Ok(None)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Changes settings of a server; `None` unsets one. If this changes the host, or the folder of accounts, messages
    /// are found again by their Message-IDs.
    pub async fn change_server(
        &self,
        id: MailServerId,
        changes: BTreeMap<u16, Option<String>>,
    ) -> Result<Acknowledgement, MailboxSyncError> {
        let (refused, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let Some(server) = server_in(draft, id)? else { return Ok(Some(MailboxSyncError::None(id))) };
                if let Err(error) = ServerSettings::from_settings(&changed(&server.settings, &changes)) {
                    return Ok(Some(error.into()));
                }
                let edits: Vec<Edit> = changes
                    .iter()
                    .flat_map(|(number, value)| StoredServer::change(*number, value.as_deref()))
                    .collect();
                draft.edit(schema::server_key(id), edits)?;
                Ok(None)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Removes a server, its accounts, and the states of their messages; messages stay on both sides. Returns the
    /// number of accounts. If it fails in between, the server is removed, and its remaining accounts are left out with
    /// [`LeftOutReason::ServerGone`].
    pub async fn remove_server(&self, id: MailServerId) -> Result<(u64, Acknowledgement), MailboxSyncError> {
        let accounts = self.mailboxes_of(id).await?;
        let (found, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let found = server_in(draft, id)?.is_some();
                if found {
                    draft.edit(schema::server_key(id), StoredServer::removal())?;
                }
                Ok(found)
            })
            .await?;
        if !found {
            return Err(MailboxSyncError::None(id));
        }
        let last = self.release_accounts(id, &accounts).await?;
        Ok((accounts.len() as u64, last.unwrap_or(acknowledgement)))
    }

    /// Watches for changes of servers, accounts and messages. Begin watching before reading them, so that no change is
    /// missed.
    pub fn watch(&self) -> MailboxSyncWatch {
        MailboxSyncWatch::new(&self.mailstore)
    }
}

/// The server as the committer sees it; `None` when there is none.
fn server_in(draft: &Draft<'_>, id: MailServerId) -> Result<Option<StoredServer>, MailError> {
    let key = schema::server_key(id);
    Ok(draft.get(&key)?.map(|record| StoredServer::read(&key, &record)).transpose()?.flatten())
}

/// Settings after changes.
fn changed(settings: &BTreeMap<u16, String>, changes: &BTreeMap<u16, Option<String>>) -> BTreeMap<u16, String> {
    let mut after = settings.clone();
    for (number, value) in changes {
        match value {
            Some(value) => after.insert(*number, value.clone()),
            None => after.remove(number),
        };
    }
    after
}
