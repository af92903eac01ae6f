//! Directories: their settings, tests and runs; users' bindings to entries; sign-in with the directory's password.

mod probe;
mod records;
mod runs;
mod users;

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};
use twinbox_admin_kit::holder;
use twinbox_directory_duty::PasswordCheck;
use twinbox_directory_store::DirectoryStore;
use twinbox_ids::DirectoryId;
use twinbox_mailstore::{Acknowledgement, MailError, Mailstore};
use twinbox_roles::Duty;
use twinbox_wire::directory::{
    Changed, DirectoryListReply, DirectoryListRequest, DirectoryRequest, DirectoryRunsReply, DirectoryRunsRequest,
    DirectorySyncReply, DirectorySyncRequest, DirectoryTestReply, UserBindRequest, UserCheckPasswordReply,
    UserCheckPasswordRequest, UserMakeLocalRequest,
    directories_server::{Directories, DirectoriesServer},
};

use crate::{AdminHandles, admin::acknowledged};

pub use runs::DirectoryOrders;
pub(crate) use runs::answer as answer_sync;

/// Names of directories.
pub(crate) type DirectoryNames = BTreeMap<DirectoryId, String>;

/// Serves administrators' requests about directories.
pub(crate) struct DirectoryService {
    node: AdminHandles,
    passwords: PasswordCheck,
}

impl DirectoryService {
    /// Creates the service for this node.
    pub(crate) fn new(node: AdminHandles) -> Self {
        let passwords = PasswordCheck::new(node.mailstore.clone());
        Self { node, passwords }
    }

    /// Converts it into a service of the administrators' socket.
    pub(crate) fn server(self) -> DirectoriesServer<Self> {
        DirectoriesServer::new(self)
    }
}

#[tonic::async_trait]
impl Directories for DirectoryService {
    async fn directory_list(
        &self,
        _: Request<DirectoryListRequest>,
    ) -> Result<Response<DirectoryListReply>, Status> {
        records::list(&self.node).await.map(Response::new)
    }

    async fn directory_add(&self, request: Request<DirectoryRequest>) -> Result<Response<Changed>, Status> {
        served(&self.node).await?;
        records::add(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn directory_set(&self, request: Request<DirectoryRequest>) -> Result<Response<Changed>, Status> {
        served(&self.node).await?;
        records::set(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn directory_remove(&self, request: Request<DirectoryRequest>) -> Result<Response<Changed>, Status> {
        served(&self.node).await?;
        records::remove(&self.node, &request.into_inner().name).await.map(Response::new)
    }

    async fn directory_test(
        &self,
        request: Request<DirectoryRequest>,
    ) -> Result<Response<DirectoryTestReply>, Status> {
        probe::test(&self.node, &request.into_inner().name).await.map(Response::new)
    }

    async fn directory_sync(
        &self,
        request: Request<DirectorySyncRequest>,
    ) -> Result<Response<DirectorySyncReply>, Status> {
        served(&self.node).await?;
        runs::sync(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn directory_runs(
        &self,
        request: Request<DirectoryRunsRequest>,
    ) -> Result<Response<DirectoryRunsReply>, Status> {
        runs::list(&self.node, &request.into_inner().name).map(Response::new)
    }

    async fn user_make_local(&self, request: Request<UserMakeLocalRequest>) -> Result<Response<Changed>, Status> {
        served(&self.node).await?;
        users::make_local(&self.node, &request.into_inner().number).await.map(Response::new)
    }

    async fn user_bind(&self, request: Request<UserBindRequest>) -> Result<Response<Changed>, Status> {
        served(&self.node).await?;
        users::bind(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn user_check_password(
        &self,
        request: Request<UserCheckPasswordRequest>,
    ) -> Result<Response<UserCheckPasswordReply>, Status> {
        served(&self.node).await?;
        users::check_password(&self.node, &self.passwords, request.into_inner()).await.map(Response::new)
    }
}

/// Refuses what members of an older release would not read: they would let users be edited that a directory owns.
async fn served(node: &AdminHandles) -> Result<(), Status> {
    holder::served(&node.roles, Duty::DirectorySync, "not all members know directories").await
}

fn changed(id: impl std::fmt::Display, acknowledgement: &Acknowledgement) -> Changed {
    Changed { id: id.to_string(), acknowledged: acknowledged(acknowledgement) }
}

/// Names of the directories. Blocks.
pub(crate) fn names(mailstore: &Mailstore) -> Result<DirectoryNames, MailError> {
    let directories = DirectoryStore::of(mailstore).directories()?;
    Ok(directories.into_iter().map(|directory| (directory.id, directory.name)).collect())
}
