//! Notifications and mail out: devices, the outbox, the test of the way of mail, previews of texts, and the MWI resync.

mod devices;
mod holds;
mod mail_route;
mod mwi;
mod outbox;
mod preview;

use tonic::{Request, Response, Status};
use twinbox_config::nearest;
use twinbox_mailstore::Acknowledgement;
use twinbox_wire::delivery::{
    Changed, DeviceListReply, DeviceListRequest, DeviceRequest, Effect, EffectRequest, FlushReply, FlushRequest,
    HoldRequest, HoldsReply, HoldsRequest, MailTestReply, MailTestRequest, MwiResyncReply, MwiResyncRequest,
    OutboxListReply, OutboxListRequest, OutboxRetryReply, OutboxRetryRequest, PreviewReply, PreviewRequest,
    delivery_server::{Delivery, DeliveryServer},
};

use crate::{AdminHandles, admin::acknowledged};

pub(crate) use devices::served;
pub(crate) use holds::note as holds_note;
pub use mwi::MwiResync;
pub(crate) use mwi::answer as answer_resync;

/// Serves administrators' requests about notifications and mail out.
pub(crate) struct DeliveryService(AdminHandles);

impl DeliveryService {
    /// Creates the service for this node.
    pub(crate) fn new(node: AdminHandles) -> Self {
        Self(node)
    }

    /// Converts it into a service of the administrators' socket.
    pub(crate) fn server(self) -> DeliveryServer<Self> {
        DeliveryServer::new(self)
    }
}

#[tonic::async_trait]
impl Delivery for DeliveryService {
    async fn device_list(&self, request: Request<DeviceListRequest>) -> Result<Response<DeviceListReply>, Status> {
        devices::list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn device_add(&self, request: Request<DeviceRequest>) -> Result<Response<Changed>, Status> {
        devices::add(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn device_set(&self, request: Request<DeviceRequest>) -> Result<Response<Changed>, Status> {
        devices::set(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn device_remove(&self, request: Request<DeviceRequest>) -> Result<Response<Changed>, Status> {
        devices::remove(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn device_test(&self, request: Request<DeviceRequest>) -> Result<Response<Changed>, Status> {
        devices::test(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn outbox_list(&self, request: Request<OutboxListRequest>) -> Result<Response<OutboxListReply>, Status> {
        outbox::list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn outbox_show(&self, request: Request<EffectRequest>) -> Result<Response<Effect>, Status> {
        outbox::show(&self.0, &request.into_inner().id).await.map(Response::new)
    }

    async fn outbox_retry(
        &self,
        request: Request<OutboxRetryRequest>,
    ) -> Result<Response<OutboxRetryReply>, Status> {
        outbox::retry(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn outbox_drop(&self, request: Request<EffectRequest>) -> Result<Response<Changed>, Status> {
        outbox::give_up(&self.0, &request.into_inner().id).await.map(Response::new)
    }

    async fn outbox_hold(&self, request: Request<HoldRequest>) -> Result<Response<Changed>, Status> {
        holds::hold(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn outbox_flush(&self, request: Request<FlushRequest>) -> Result<Response<FlushReply>, Status> {
        holds::flush(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn outbox_holds(&self, _: Request<HoldsRequest>) -> Result<Response<HoldsReply>, Status> {
        holds::list(&self.0).await.map(Response::new)
    }

    async fn mail_test(&self, request: Request<MailTestRequest>) -> Result<Response<MailTestReply>, Status> {
        mail_route::test(&self.0, &request.into_inner().address).await.map(Response::new)
    }

    async fn preview(&self, request: Request<PreviewRequest>) -> Result<Response<PreviewReply>, Status> {
        preview::show(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn mwi_resync(&self, request: Request<MwiResyncRequest>) -> Result<Response<MwiResyncReply>, Status> {
        mwi::resync(&self.0, &request.into_inner().number).await.map(Response::new)
    }
}

fn changed(id: impl std::fmt::Display, acknowledgement: &Acknowledgement) -> Changed {
    Changed { id: id.to_string(), acknowledged: acknowledged(acknowledgement) }
}

/// A word that is not one of those there are, with the nearest of them.
fn unknown(object: &str, word: &str, known: &[&str]) -> Status {
    let near = nearest(word, known).map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default();
    Status::invalid_argument(format!("'{word}' is not a {object}{near}: use one of {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_word_gets_the_list_and_the_nearest_word() {
        let status = unknown("kind of device", "webhok", &["mail", "webhook"]);
        assert_eq!(
            status.message(),
            "'webhok' is not a kind of device (did you mean 'webhook'?): use one of mail, webhook"
        );
        assert!(!unknown("state", "gone", &["pending", "dead"]).message().contains("did you mean"));
    }
}
