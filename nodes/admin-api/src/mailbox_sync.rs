//! Mailboxes in mail accounts: the accounts and their state, runs now, IMAP servers and their tests.

mod accounts;
mod runs;
mod servers;

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};
use twinbox_admin_kit::holder;
use twinbox_mailbox_sync::SettingError;
use twinbox_mailbox_sync_store::{MailboxSyncError, MailboxSyncStore};
use twinbox_mailstore::Acknowledgement;
use twinbox_roles::Duty;
use twinbox_wire::mailbox_sync::{
    AccountAddReply, AccountAddRequest, AccountListReply, AccountListRequest, AccountRunReply, AccountRunRequest,
    AccountSetRequest, AccountShowReply, AccountShowRequest, Changed, ServerListReply, ServerListRequest,
    ServerRequest, ServerTestReply, ServerTestRequest,
    mailbox_syncs_server::{MailboxSyncs, MailboxSyncsServer},
};

use crate::{
    AdminHandles,
    admin::{acknowledged, mail},
};

pub(crate) use runs::answer as answer_run;

/// Serves administrators' requests about mailboxes in mail accounts.
pub(crate) struct MailboxSyncService {
    node: AdminHandles,
    /// One for all requests: it remembers the accounts.
    store: MailboxSyncStore,
}

impl MailboxSyncService {
    /// Creates the service for this node.
    pub(crate) fn new(node: AdminHandles) -> Self {
        let store = MailboxSyncStore::of(&node.mailstore);
        Self { node, store }
    }

    /// Converts it into a service of the administrators' socket.
    pub(crate) fn server(self) -> MailboxSyncsServer<Self> {
        MailboxSyncsServer::new(self)
    }

    /// This service, once all members know its records.
    async fn served(&self) -> Result<&Self, Status> {
        holder::served(&self.node.roles, Duty::MailboxSync, "not all members synchronise mailboxes").await?;
        Ok(self)
    }
}

#[tonic::async_trait]
impl MailboxSyncs for MailboxSyncService {
    async fn account_list(
        &self,
        request: Request<AccountListRequest>,
    ) -> Result<Response<AccountListReply>, Status> {
        accounts::list(self, request.into_inner()).await.map(Response::new)
    }

    async fn account_show(
        &self,
        request: Request<AccountShowRequest>,
    ) -> Result<Response<AccountShowReply>, Status> {
        accounts::show(self, &request.into_inner().number).await.map(Response::new)
    }

    async fn account_add(&self, request: Request<AccountAddRequest>) -> Result<Response<AccountAddReply>, Status> {
        accounts::add(self.served().await?, request.into_inner()).await.map(Response::new)
    }

    async fn account_set(&self, request: Request<AccountSetRequest>) -> Result<Response<Changed>, Status> {
        accounts::set(self.served().await?, request.into_inner()).await.map(Response::new)
    }

    async fn account_remove(&self, request: Request<AccountShowRequest>) -> Result<Response<Changed>, Status> {
        accounts::remove(self.served().await?, &request.into_inner().number).await.map(Response::new)
    }

    async fn account_run(&self, request: Request<AccountRunRequest>) -> Result<Response<AccountRunReply>, Status> {
        runs::run(&self.served().await?.node, request.into_inner()).await.map(Response::new)
    }

    async fn server_list(&self, _: Request<ServerListRequest>) -> Result<Response<ServerListReply>, Status> {
        servers::list(self).await.map(Response::new)
    }

    async fn server_add(&self, request: Request<ServerRequest>) -> Result<Response<Changed>, Status> {
        servers::add(self.served().await?, request.into_inner()).await.map(Response::new)
    }

    async fn server_set(&self, request: Request<ServerRequest>) -> Result<Response<Changed>, Status> {
        servers::set(self.served().await?, request.into_inner()).await.map(Response::new)
    }

    async fn server_remove(&self, request: Request<ServerRequest>) -> Result<Response<Changed>, Status> {
        servers::remove(self.served().await?, &request.into_inner().name).await.map(Response::new)
    }

    async fn server_test(&self, request: Request<ServerTestRequest>) -> Result<Response<ServerTestReply>, Status> {
        servers::test(self, request.into_inner()).await.map(Response::new)
    }
}

/// The changes of settings that `texts` name, as `word=value`: valid together with the stored ones.
fn changes<T>(
    stored: &BTreeMap<u16, String>,
    texts: &[String],
    read: impl Fn(&str) -> Result<(u16, Option<String>), SettingError>,
    check: impl Fn(&BTreeMap<u16, String>) -> Result<T, SettingError>,
) -> Result<BTreeMap<u16, Option<String>>, Status> {
    let invalid = |error: SettingError| Status::invalid_argument(error.to_string());
    let (mut changes, mut all) = (BTreeMap::new(), stored.clone());
    for text in texts {
        let (number, value) = read(text).map_err(invalid)?;
        match value.clone() {
            Some(value) => all.insert(number, value),
            None => all.remove(&number),
        };
        changes.insert(number, value);
    }
    check(&all).map_err(invalid)?;
    Ok(changes)
}

/// The refusal of the store as an answer.
fn refused(error: MailboxSyncError) -> Status {
    match error {
        MailboxSyncError::Mail(error) => mail(error),
        MailboxSyncError::Setting(error) => Status::invalid_argument(error.to_string()),
        MailboxSyncError::None(_) | MailboxSyncError::NoAccount => Status::not_found(error.to_string()),
        error => Status::failed_precondition(error.to_string()),
    }
}

fn changed(id: impl std::fmt::Display, acknowledgement: &Acknowledgement) -> Changed {
    Changed { id: id.to_string(), acknowledged: acknowledged(acknowledgement) }
}
