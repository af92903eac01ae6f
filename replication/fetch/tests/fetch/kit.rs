//! Nodes that are asked: over connections without TLS, with a store of their own or with an answer that a test wrote.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};
use twinbox_ids::{BlobHash, NodeName};
use twinbox_pki::PkiError;
use twinbox_replication_core::BlobRef;
use twinbox_replication_fetch::{BlobsRequest, Fetcher, Nodes, serve};
use twinbox_replication_store::{Store, StoreConfig};
use twinbox_wire::replication::{
    self as wire, Absence, BlobPiece, BlobPieces, FetchBlobsRequest,
    replication_server::{Replication, ReplicationServer},
};

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

pub fn store(node: &str) -> (Store, TempDir) {
    let dir = TempDir::new().expect("a folder");
    let config = StoreConfig { dir: dir.path().to_owned(), node: name(node), reserve_bytes: 0 };
    (Store::open(config).expect("a store"), dir)
}

/// A store that takes no new data, as on a full disk.
pub fn full_store(node: &str) -> (Store, TempDir) {
    let (store, dir) = store(node);
    drop(store);
    let config = StoreConfig { dir: dir.path().to_owned(), node: name(node), reserve_bytes: u64::MAX };
    (Store::open(config).expect("a store"), dir)
}

/// Audio that no other number gives.
pub fn audio(number: usize, length: usize) -> Bytes {
    let number = number.to_be_bytes();
    (0..length).map(|at| number[at % 8] ^ (at / 8) as u8).collect::<Vec<_>>().into()
}

/// The reference to audio that need not be anywhere.
pub async fn blob(audio: &Bytes) -> BlobRef {
    let (store, _dir) = store("elsewhere");
    store.blobs().put(audio.clone()).await.expect("a blob")
}

/// The answer of a scripted node to a request.
pub type Script = Arc<dyn Fn(&FetchBlobsRequest) -> Vec<Result<BlobPieces, Status>> + Send + Sync>;

/// Of each node, by name: the number of blobs and the offset of each request.
pub type Requests = Arc<Mutex<BTreeMap<String, Vec<(usize, u64)>>>>;

/// The nodes of a test, in the order in which they are asked.
#[derive(Default)]
pub struct Others {
    pub addresses: Arc<Mutex<Vec<(NodeName, SocketAddr)>>>,
    pub asked: Requests,
}

impl Others {
    pub async fn with_store(self, node: &str, store: &Store) -> Self {
        self.with(node, Answers::Store(store.clone())).await
    }

    pub async fn with_script(self, node: &str, script: Script) -> Self {
        self.with(node, Answers::Script(script)).await
    }

    /// Nothing listens there.
    pub async fn with_dead(self, node: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        self.add(node, &listener);
        self
    }

    async fn with(self, node: &str, answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        self.add(node, &listener);
        let service = Node { name: node.to_owned(), answers, asked: self.asked.clone() };
        let serving = Server::builder().add_service(ReplicationServer::new(service));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        self
    }

    fn add(&self, node: &str, listener: &TcpListener) {
        let address = listener.local_addr().expect("an address");
        self.addresses.lock().expect("the addresses").push((name(node), address));
    }

    pub fn fetcher(self, store: &Store) -> Fetcher {
        Fetcher::new(store.clone(), Arc::new(self))
    }
}

impl Nodes for Others {
    fn names(&self) -> Vec<NodeName> {
        self.addresses.lock().expect("the addresses").iter().map(|(name, _)| name.clone()).collect()
    }

    fn address(&self, name: &NodeName) -> Option<String> {
        let addresses = self.addresses.lock().expect("the addresses");
        addresses.iter().find(|(other, _)| other == name).map(|(_, address)| address.to_string())
    }

    fn connect(&self, _: &NodeName, address: &str) -> Result<Channel, PkiError> {
        Ok(Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy())
    }
}

enum Answers {
    Store(Store),
    Script(Script),
}

struct Node {
    name: String,
    answers: Answers,
    asked: Requests,
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Replication for Node {
    type FollowStream = Stream<wire::SourceFrame>;
    type ScanStateStream = Stream<wire::StatePage>;
    type FetchBlobsStream = Stream<BlobPieces>;

    async fn fetch_blobs(
        &self,
        request: Request<FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        let request = request.into_inner();
        let asked = (request.hash.len(), request.offset);
        self.asked.lock().expect("the requests").entry(self.name.clone()).or_default().push(asked);
        let (answer, receiver) = mpsc::channel(64);
        match &self.answers {
            Answers::Store(store) => {
                tokio::spawn(serve(store.clone(), BlobsRequest::read(&request)?, answer));
            }
            Answers::Script(script) => {
                for pieces in script(&request) {
                    answer.send(pieces).await.map_err(|_| Status::cancelled(""))?;
                }
            }
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn follow(
        &self,
        _: Request<Streaming<wire::FollowerFrame>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn scan_state(
        &self,
        _: Request<wire::ScanStateRequest>,
    ) -> Result<Response<Self::ScanStateStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn compare(&self, _: Request<wire::CompareRequest>) -> Result<Response<wire::CompareReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn repair(&self, _: Request<wire::RepairRequest>) -> Result<Response<wire::RepairReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// An answer of one piece.
pub fn piece(number: u32, data: Bytes, last: bool) -> Result<BlobPieces, Status> {
    Ok(BlobPieces { piece: vec![BlobPiece { number, data, last, ..BlobPiece::default() }] })
}

/// The answer that all blobs of the request are absent for this reason.
pub fn all_absent(absence: Absence) -> Script {
    Arc::new(move |request| {
        let absent = |number| BlobPiece { number, absence: absence.into(), ..BlobPiece::default() };
        vec![Ok(BlobPieces { piece: (0..request.hash.len() as u32).map(absent).collect() })]
    })
}

/// The hashes of the request.
pub fn hashes(request: &FetchBlobsRequest) -> Vec<BlobHash> {
    request.hash.iter().map(|hash| BlobHash(hash[..].try_into().expect("32 bytes"))).collect()
}
