//! The server of the streams: admits only configured members of this cluster.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;
use twinbox_replication_fetch::BlobsRequest;
use twinbox_wire::replication::{
    BlobPieces, CompareReply, CompareRequest, FetchBlobsRequest, FollowerFrame, RepairReply, RepairRequest,
    ScanStateRequest, SourceFrame, StatePage, follower_frame::Frame, replication_server::Replication,
};

use crate::{comparison, config::limits, error::StreamError, frames, link::Link, peers::Inner, source, state_scan};

/// The gRPC service; made by [`crate::Peers::service`].
pub struct ReplicationService {
    inner: Arc<Inner>,
}

impl ReplicationService {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The link of the peer that sent a request.
    fn admit<T>(&self, request: &Request<T>) -> Result<Arc<Link>, StreamError> {
        if self.inner.stop.is_cancelled() {
            return Err(StreamError::Stopped);
        }
        let peer = self.inner.config.tls.admit(request)?.of_cluster(self.inner.config.cluster)?;
        self.inner.links.get(&peer.name).ok_or(StreamError::Unknown { name: peer.name })
    }

    fn refused<T>(&self, request: &Request<T>, error: StreamError) -> Status {
        self.inner.counters.refused.fetch_add(1, Relaxed);
        let address = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
        warn!(%address, %error, "peer refused");
        error.into()
    }

    async fn begin(
        &self,
        link: &Arc<Link>,
        frames: &mut Streaming<FollowerFrame>,
    ) -> Result<frames::Hello, StreamError> {
        let first = timeout(limits::SILENCE, frames.message()).await.map_err(|_| StreamError::Silent)??;
        let Some(FollowerFrame { frame: Some(Frame::Hello(hello)) }) = first else {
            return Err(frames::bad("it does not begin with a Hello"));
        };
        frames::read_hello(&self.inner, &link.name, &hello)
    }
}

#[tonic::async_trait]
impl Replication for ReplicationService {
    type FollowStream = ReceiverStream<Result<SourceFrame, Status>>;
    type ScanStateStream = ReceiverStream<Result<StatePage, Status>>;
    type FetchBlobsStream = ReceiverStream<Result<BlobPieces, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<FollowerFrame>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let link = match self.admit(&request) {
            Ok(link) => link,
            Err(error) => return Err(self.refused(&request, error)),
        };
        let mut frames = request.into_inner();
        match self.begin(&link, &mut frames).await {
            Ok(hello) => Ok(Response::new(ReceiverStream::new(source::start(&self.inner, &link, hello, frames)))),
            Err(error) => {
                self.inner.counters.refused.fetch_add(1, Relaxed);
                self.inner.report(&link.name, &error, "stream to peer refused");
                Err(error.into())
            }
        }
    }

    async fn fetch_blobs(
        &self,
        request: Request<FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        let link = self.admit(&request).map_err(|error| self.refused(&request, error))?;
        let request = BlobsRequest::read(request.get_ref())?;
        let (answer, receiver) = mpsc::channel(2);
        let store = self.inner.store.clone();
        self.inner.spawn(async move {
            let Ok(_slot) = link.serving.acquire().await else { return };
            twinbox_replication_fetch::serve(store, request, answer).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn compare(&self, request: Request<CompareRequest>) -> Result<Response<CompareReply>, Status> {
        let link = self.admit(&request).map_err(|error| self.refused(&request, error))?;
        let Ok(_slot) = link.serving.acquire().await else { return Err(StreamError::Stopped.into()) };
        Ok(Response::new(comparison::compare(&self.inner, request.into_inner()).await?))
    }

    async fn scan_state(
        &self,
        request: Request<ScanStateRequest>,
    ) -> Result<Response<Self::ScanStateStream>, Status> {
        let link = self.admit(&request).map_err(|error| self.refused(&request, error))?;
        Ok(Response::new(ReceiverStream::new(state_scan::start(&self.inner, &link, request.get_ref())?)))
    }

    async fn repair(&self, request: Request<RepairRequest>) -> Result<Response<RepairReply>, Status> {
        let link = self.admit(&request).map_err(|error| self.refused(&request, error))?;
        let Ok(_slot) = link.repairing.acquire().await else { return Err(StreamError::Stopped.into()) };
        Ok(Response::new(comparison::repair(&self.inner, &link, request.into_inner()).await?))
    }
}
