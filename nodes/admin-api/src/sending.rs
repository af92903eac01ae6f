//! Locations, and messages that an administrator sends for a user.

mod locations;
mod message;

use tonic::{Request, Response, Status, Streaming};
use twinbox_wire::sending::{
    Changed, LocationListReply, LocationListRequest, LocationRequest, MessageSendPart, MessageSendReply,
    sending_server::{Sending, SendingServer},
};

use crate::{AdminHandles, provisioning::gather};

/// Serves administrators' requests about locations, and sends messages.
pub(crate) struct SendingService(AdminHandles);

impl SendingService {
    /// Creates the service for this node.
    pub(crate) fn new(node: AdminHandles) -> Self {
        Self(node)
    }

    /// Converts it into a service of the administrators' socket.
    pub(crate) fn server(self) -> SendingServer<Self> {
        SendingServer::new(self)
    }
}

#[tonic::async_trait]
impl Sending for SendingService {
    async fn location_list(&self, _: Request<LocationListRequest>) -> Result<Response<LocationListReply>, Status> {
        locations::list(&self.0).map(Response::new)
    }

    async fn location_add(&self, request: Request<LocationRequest>) -> Result<Response<Changed>, Status> {
        locations::add(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn location_set(&self, request: Request<LocationRequest>) -> Result<Response<Changed>, Status> {
        locations::set(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn location_remove(&self, request: Request<LocationRequest>) -> Result<Response<Changed>, Status> {
        locations::remove(&self.0, &request.into_inner().name).await.map(Response::new)
    }

    async fn message_send(
        &self,
        request: Request<Streaming<MessageSendPart>>,
    ) -> Result<Response<MessageSendReply>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.header);
        let header = first.ok_or_else(|| Status::invalid_argument("the first part carries the header"))?;
        let file = gather(parts, message::LARGEST_FILE, |part| part.file).await?;
        message::send(&self.0, header, file).await.map(Response::new)
    }
}
