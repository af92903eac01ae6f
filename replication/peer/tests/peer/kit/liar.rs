//! A source written by hand, with a certificate of the cluster: its greeting is in order, its scan is what a test says.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use twinbox_ids::{ClusterId, Origin};
use twinbox_replication_core::Vector;
use twinbox_replication_store::codec;
use twinbox_wire::replication::{
    BlobPiece, BlobPieces, CompareReply, CompareRequest, FetchBlobsRequest, FollowerFrame, Probe, RepairReply,
    RepairRequest, ScanStateRequest, SourceFrame, StatePage, Welcome,
    replication_server::{Replication, ReplicationServer},
    source_frame::Frame,
};

use super::Cluster;

/// Changes that it says it has, all beyond the beginning of its log.
pub const CHANGES: u64 = 100;

/// Page number so-and-so of a scan; `None`: nothing more, and no end.
pub type Pages = Arc<dyn Fn(u64) -> Option<StatePage> + Send + Sync>;

/// The running source.
#[derive(Clone)]
pub struct Liar {
    pub origin: Origin,
    cluster: ClusterId,
    name: String,
    pages: Pages,
    /// It says that its own first fill goes on, so it is no source.
    lacks_records: bool,
    /// It sends these behind its greeting.
    frames: Vec<Frame>,
    /// Number of changes that it says it has made, and of those before the beginning of its log.
    made: u64,
    cut: u64,
    /// Pages that were sent.
    pub sent: Arc<AtomicU64>,
}

impl Liar {
    /// Answers at the address of this node.
    pub async fn start(cluster: &Cluster, name: &str, origin: Origin, pages: Pages) -> Self {
        Self { origin, pages, ..Self::new(cluster, name) }.serve(cluster).await
    }

    /// Like [`Self::start`], and it says that it lacks records.
    pub async fn start_filling(cluster: &Cluster, name: &str) -> Self {
        Self { lacks_records: true, ..Self::new(cluster, name) }.serve(cluster).await
    }

    /// Like [`Self::start`], and it sends these frames on each stream.
    pub async fn start_sending(cluster: &Cluster, name: &str, frames: Vec<Frame>) -> Self {
        Self { frames, ..Self::new(cluster, name) }.serve(cluster).await
    }

    /// Like [`Self::start`], and it says that it has made this many changes, all beyond the beginning of its log.
    pub async fn start_ahead(cluster: &Cluster, name: &str, made: u64) -> Self {
        Self { made, cut: made, ..Self::new(cluster, name) }.serve(cluster).await
    }

    /// Like [`Self::start_sending`], and it says that it had made one change when the stream opened, and has it in its log.
    pub async fn start_new(cluster: &Cluster, name: &str, origin: Origin, frames: Vec<Frame>) -> Self {
        Self { origin, frames, made: 1, cut: 0, ..Self::new(cluster, name) }.serve(cluster).await
    }

    fn new(cluster: &Cluster, name: &str) -> Self {
        Self {
            origin: Origin::random(),
            cluster: cluster.authority.cluster(),
            name: name.to_owned(),
            pages: Arc::new(|_| None),
            lacks_records: false,
            frames: Vec::new(),
            made: CHANGES,
            cut: CHANGES,
            sent: Arc::default(),
        }
    }

    async fn serve(self, cluster: &Cluster) -> Self {
        let (liar, name) = (self.clone(), self.name.as_str());
        let tls = cluster.identity(name);
        let incoming = tls.listen(TcpListener::bind(cluster.address(name)).await.unwrap());
        let serve = tls.server().add_service(ReplicationServer::new(liar.clone())).serve_with_incoming(incoming);
        tokio::spawn(async move { serve.await.unwrap() });
        liar
    }

    /// Its changes, and the beginning of its log.
    pub fn vector(origin: Origin) -> Vector {
        [(origin, CHANGES)].into_iter().collect()
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Replication for Liar {
    type FollowStream = Answers<SourceFrame>;
    type ScanStateStream = Answers<StatePage>;
    type FetchBlobsStream = Answers<BlobPieces>;

    async fn follow(
        &self,
        request: Request<Streaming<FollowerFrame>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let vector = |upto| Some(codec::vector_to_wire(&[(self.origin, upto)].into_iter().collect()));
        let welcome = Welcome {
            protocol: 3,
            cluster: Bytes::copy_from_slice(&self.cluster.to_bytes()),
            name: self.name.clone(),
            origin: codec::origin_to_wire(self.origin),
            vector: vector(self.made),
            lacks_records: self.lacks_records,
            log_begins: vector(self.cut),
        };
        let (frames, receiver) = mpsc::channel(4);
        let first: Vec<_> = [Frame::Welcome(welcome)].into_iter().chain(self.frames.clone()).collect();
        tokio::spawn(async move {
            let mut answers = request.into_inner();
            for frame in first {
                if frames.send(Ok(SourceFrame { frame: Some(frame) })).await.is_err() {
                    return;
                }
            }
            for number in 1.. {
                // Whatever the follower says is read, and believed or not.
                let _ = tokio::time::timeout(Duration::from_millis(500), async {
                    while let Ok(Some(_)) = answers.message().await {}
                    std::future::pending::<()>().await;
                })
                .await;
                let probe = Frame::Probe(Probe { number, ..Probe::default() });
                if frames.send(Ok(SourceFrame { frame: Some(probe) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn scan_state(&self, _: Request<ScanStateRequest>) -> Result<Response<Self::ScanStateStream>, Status> {
        let (pages, receiver) = mpsc::channel(1);
        let liar = self.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let Some(page) = (liar.pages)(number) else { break };
                if pages.send(Ok(page)).await.is_err() {
                    return;
                }
                liar.sent.fetch_add(1, Relaxed);
            }
            pages.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_blobs(
        &self,
        request: Request<FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        let (pieces, receiver) = mpsc::channel(1);
        let data = Bytes::from_static(b"other audio");
        let other = |number| BlobPiece { number, data: data.clone(), last: true, ..BlobPiece::default() };
        let piece = (0..request.get_ref().hash.len() as u32).map(other).collect();
        let _ = pieces.send(Ok(BlobPieces { piece })).await;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn compare(&self, _: Request<CompareRequest>) -> Result<Response<CompareReply>, Status> {
        Err(Status::unavailable("not now"))
    }

    async fn repair(&self, _: Request<RepairRequest>) -> Result<Response<RepairReply>, Status> {
        Err(Status::unavailable("not now"))
    }
}
