//! Audio that no node has, or that a node which is away may have.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::kit::{Cluster, Node, audio, converge, find_in_packs, key, name, nowhere, until};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use twinbox_ids::{Origin, Stamp};
use twinbox_replication_core::{AudioPatience, BlobRef, Edit, Field, Record, Vector};
use twinbox_replication_fetch::{BlobsRequest, serve};
use twinbox_replication_peer::AudioCheck;
use twinbox_replication_store::{Draft, Filled, Store, StoreConfig};
use twinbox_wire::replication::{
    self as wire,
    replication_server::{Replication, ReplicationServer},
};

const NEVER: Duration = Duration::from_secs(1_000_000);

async fn delete(node: &Node, row: &str) {
    let key = key(row);
    node.store.commit(move |draft: &mut Draft<'_>| draft.edit(key, vec![Edit::Delete])).await.unwrap();
}

/// The pauses between attempts grow with the time that the steps before took.
async fn until_found(node: &Node) {
    let found = async {
        while node.peers.counters().audio_lost > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), found).await.unwrap();
}

#[tokio::test]
async fn change_is_applied_without_audio_that_all_deny_and_the_audio_is_fetched_when_it_comes() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    b.peers.set_audio_patience(AudioPatience { denied: Duration::from_millis(300), held_up: NEVER });
    a.start();
    b.start();
    let spoken = audio(30_000);
    let blob = nowhere(&spoken).await;
    a.write("message", blob).await;
    converge(&[&a, &b]).await;
    assert_eq!(b.value("message"), Some(blob.into()));
    until("it is wanted", || b.peers.is_audio_lost(&blob.hash) && b.peers.counters().audio_lost == 1).await;
    assert_eq!(a.peers.counters().audio_lost, 0, "the node that wrote knows what it has");

    // The next start of the node looks for it, too.
    let dir: TempDir = b.stop().await;
    let b = cluster.node_in("b", dir, &[]).await;
    b.start();
    until("the note was read", || b.peers.counters().audio_lost == 1).await;
    a.store.blobs().put(Bytes::from(spoken.clone())).await.unwrap();
    until_found(&b).await;
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), spoken);
    assert!(!b.peers.is_audio_lost(&blob.hash) && b.store.lost_blobs().unwrap().is_empty());
}

#[tokio::test]
async fn node_that_is_away_holds_a_change_up_for_a_set_time_only() {
    // The third node does not run.
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    b.peers.set_audio_patience(AudioPatience { denied: Duration::ZERO, held_up: Duration::from_millis(300) });
    a.start();
    b.start();
    let blob = nowhere(&audio(20_000)).await;
    a.write("message", blob).await;
    converge(&[&a, &b]).await;
    until("it is wanted", || b.peers.is_audio_lost(&blob.hash)).await;

    // It is back, and has the audio.
    let c = cluster.node("c").await;
    c.store.blobs().put(Bytes::from(audio(20_000))).await.unwrap();
    c.start();
    until_found(&b).await;
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), audio(20_000));
}

#[tokio::test]
async fn fill_ends_without_audio_that_is_damaged_at_its_source() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    let spoken: Vec<Vec<u8>> = audio(80_000).chunks(20_000).map(<[u8]>::to_vec).collect();
    let mut blobs = Vec::new();
    for (row, spoken) in ["whole", "changed", "deleted", "short"].into_iter().zip(&spoken) {
        let blob = a.store.blobs().put(Bytes::from(spoken.clone())).await.unwrap();
        a.write(row, blob).await;
        blobs.push(blob);
    }
    delete(&a, "deleted").await;
    for spoken in &spoken[1..3] {
        let (pack, at) = find_in_packs(&a, spoken);
        let damaged = [spoken[19_999] ^ 1];
        File::options().write(true).open(pack).unwrap().write_all_at(&damaged, at + 19_999).unwrap();
    }
    let (pack, at) = find_in_packs(&a, &spoken[3]);
    File::options().write(true).open(pack).unwrap().set_len(at + 10_000).unwrap();

    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await;
    b.peers.set_audio_patience(AudioPatience { denied: Duration::from_millis(300), held_up: NEVER });
    a.start();
    b.start();
    until("the fill has ended", || b.store.filled() == Filled::Complete).await;
    assert_eq!(a.records(), b.records());
    assert_eq!(b.value("changed"), Some(blobs[1].into()));
    assert_eq!(b.store.blobs().read(&blobs[0].hash).await.unwrap(), spoken[0]);
    // Ascending by hash. Audio of a deleted message is not noted.
    let mut lost = vec![blobs[1], blobs[3]];
    lost.sort_by_key(|blob| blob.hash);
    assert_eq!(b.store.lost_blobs().unwrap(), lost);
    assert!(lost.iter().all(|blob| b.peers.is_audio_lost(&blob.hash)));
    until("a may leave", || a.peers.uncovered() == 0).await;
}

/// A member that no change reaches. It answers requests for audio as its store does, and no others.
#[derive(Clone)]
struct Unreached {
    store: Store,
    /// Requests for audio.
    asked: Arc<AtomicU64>,
    _dir: Arc<TempDir>,
}

impl Unreached {
    async fn start(cluster: &Cluster, node: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let config = StoreConfig { dir: dir.path().to_owned(), node: name(node), reserve_bytes: 0 };
        let store = Store::open(config).unwrap();
        store.set_filled(Filled::Complete).await.unwrap();
        let unreached = Self { store, asked: Arc::default(), _dir: Arc::new(dir) };
        let tls = cluster.identity(node);
        let incoming = tls.listen(TcpListener::bind(cluster.address(node)).await.unwrap());
        let service = ReplicationServer::new(unreached.clone());
        let serve = tls.server().add_service(service).serve_with_incoming(incoming);
        tokio::spawn(async move { serve.await.unwrap() });
        unreached
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Replication for Unreached {
    type FollowStream = Answers<wire::SourceFrame>;
    type ScanStateStream = Answers<wire::StatePage>;
    type FetchBlobsStream = Answers<wire::BlobPieces>;

    async fn fetch_blobs(
        &self,
        request: Request<wire::FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        self.asked.fetch_add(1, Relaxed);
        let (answer, receiver) = mpsc::channel(2);
        tokio::spawn(serve(self.store.clone(), BlobsRequest::read(request.get_ref())?, answer));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn follow(
        &self,
        _: Request<Streaming<wire::FollowerFrame>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unavailable("not now"))
    }

    async fn scan_state(
        &self,
        _: Request<wire::ScanStateRequest>,
    ) -> Result<Response<Self::ScanStateStream>, Status> {
        Err(Status::unavailable("not now"))
    }

    async fn compare(&self, _: Request<wire::CompareRequest>) -> Result<Response<wire::CompareReply>, Status> {
        Err(Status::unavailable("not now"))
    }

    async fn repair(&self, _: Request<wire::RepairRequest>) -> Result<Response<wire::RepairReply>, Status> {
        Err(Status::unavailable("not now"))
    }
}

/// Of three nodes the first, which sent a message to the second only, does not run any more. The second has applied the
/// message without its audio; the third does not know of it. Streams of the second are not started.
async fn message_known_to_one_node(spoken: &[u8]) -> (Cluster, Node, Unreached, BlobRef) {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (b, c) = (cluster.node("b").await, Unreached::start(&cluster, "c").await);
    let blob = nowhere(spoken).await;
    b.write("message", blob).await;
    b.store.apply_without(Vec::new(), vec![blob]).await.unwrap();
    (cluster, b, c, blob)
}

#[tokio::test]
async fn audio_of_a_present_message_is_asked_for_whatever_a_node_without_the_message_answers() {
    let spoken = audio(20_000);
    let (_cluster, b, c, blob) = message_known_to_one_node(&spoken).await;
    b.start();
    until("the note was read", || b.peers.is_audio_lost(&blob.hash)).await;
    let is_lost = || b.peers.is_audio_lost(&blob.hash);
    // The second request follows the answer to the first.
    until("c is asked again", || c.asked.load(Relaxed) > 1 || !is_lost()).await;
    assert!(is_lost());
    assert_eq!(b.store.lost_blobs().unwrap(), [blob]);
    c.store.blobs().put(Bytes::from(spoken.clone())).await.unwrap();
    until_found(&b).await;
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), spoken);
    assert!(b.store.lost_blobs().unwrap().is_empty());
}

#[tokio::test]
async fn audio_of_a_deleted_message_is_not_asked_for_again_once_a_node_has_given_it_up() {
    let (_cluster, b, c, _) = message_known_to_one_node(&audio(20_000)).await;
    delete(&b, "message").await;
    b.start();
    until("the note is removed", || b.store.lost_blobs().unwrap().is_empty()).await;
    assert_eq!(c.asked.load(Relaxed), 1);
}

#[tokio::test]
async fn audio_of_a_repaired_row_that_does_not_come_is_noted_until_it_comes() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let spoken = audio(20_000);
    let blob = nowhere(&spoken).await;
    // As if b had lost the row: no change brings it.
    let field = Field::Register { stamp: Stamp { wall: 1, counter: 0, origin: Origin(7) }, value: blob.into() };
    let record = Record::from_parts([(1, field)], None);
    a.store.merge_state(vec![(key("message"), record)], Vector::new()).await.unwrap();
    while !a.store.sum_step().await.unwrap() {}
    let report = b.peers.compare(&name("a"), AudioCheck::None).await.unwrap();
    assert_eq!((report.repaired(), b.value("message")), (1, Some(blob.into())), "{report:?}");
    assert_eq!(b.store.lost_blobs().unwrap(), [blob]);
    assert!(b.peers.is_audio_lost(&blob.hash));
    a.store.blobs().put(Bytes::from(spoken.clone())).await.unwrap();
    b.start();
    until_found(&b).await;
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), spoken);
    assert!(b.store.lost_blobs().unwrap().is_empty());
}
