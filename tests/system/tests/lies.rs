//! A member that lies: in place of node b, with its certificate, something answers and calls node a that sends what no node sends.
//! Node a goes on taking messages, raises the alarm of rule D1, and keeps nothing of the lies; then the true node b fills from it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, copy, sink},
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tonic::{
    Request, Response, Status, Streaming,
    codegen::{
        Bytes,
        tokio_stream::{StreamExt, wrappers::ReceiverStream},
    },
    transport::Channel,
};
use twinbox_ids::{BlobHash, Origin, Stamp};
use twinbox_peer_kit::office::raised;
use twinbox_pki::{Incoming, MemberConnection, NodeIdentity};
use twinbox_replication_core::{BlobRef, Change, CommitPart, Field, Key, Record, Table, Value};
use twinbox_replication_store::{Filled, Store, StoreConfig, codec};
use twinbox_system_tests::{assert_equal_stores, assert_kept, longest_goodbye, memory::PeakMemory};
use twinbox_testkit::{Cluster, Deposit, Spec, leave_message, wait_until};
use twinbox_wire::replication::{
    Acked, BlobPiece, BlobPieces, Chunk, CompareReply, CompareRequest, FetchBlobsRequest, FollowerFrame, Hello,
    History, Live, Prefix, Probe, RepairReply, RepairRequest, Run, ScanStateRequest, SourceFrame, StatePage,
    Vector, Welcome, follower_frame,
    replication_client::ReplicationClient,
    replication_server::{Replication, ReplicationServer},
    source_frame::Frame,
};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);
/// Time for which the liar holds a stream that need not end, and for which it is silent on one of its own.
const HELD: Duration = Duration::from_millis(700);
/// Garbage in one frame, and number of such frames; together more than the memory by which node a may grow.
const GARBAGE: (usize, usize) = (8 << 20, 16);
const MEMORY: u64 = 96 << 20;

/// Origins that no node has.
const LIAR: Origin = Origin(7);
const FUTURE: Origin = Origin(8);
/// More changes than node a makes in this test.
const AHEAD: u64 = 1 << 40;
/// The lowest number that no store reaches.
const UNREACHED: u64 = 1 << 62;
/// Table of messages (`nodes/mailbox/src/schema.rs`).
const MESSAGES: Table = Table(2);
/// The name of a blob that exists nowhere, and what the liar sends for it.
const NO_AUDIO: BlobHash = BlobHash([7; 32]);
const OTHER_AUDIO: &[u8] = b"other audio";

/// Bytes that the first connections get in place of HTTP/2.
static NO_HTTP2: [&[u8]; 4] =
    [b"HTTP/1.1 200 OK\r\n\r\n", &[0xff; 4_096], &[0, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 2, 3], &[0; 64]];

/// A lie that is told to node a as a follower.
struct Lie {
    name: &'static str,
    /// Node a ends the stream.
    is_refused: bool,
    /// The frames, made from the greeting of node a.
    frames: fn(&Hello) -> Vec<Frame>,
}

static LIES: [Lie; 12] = [
    Lie { name: "no greeting", is_refused: true, frames: |_| vec![chunk(&[1; 16])] },
    Lie {
        name: "a vector from the future",
        is_refused: true,
        frames: |hello| vec![welcome(raised_to(hello, FUTURE, UNREACHED), Vector::default(), hello)],
    },
    Lie {
        name: "a log from the future",
        is_refused: true,
        frames: |hello| vec![welcome(known(hello), vector(FUTURE, u64::MAX), hello)],
    },
    Lie {
        name: "a head from the future",
        is_refused: true,
        frames: |hello| greeted(hello, [Frame::Probe(Probe { number: 1, head: UNREACHED, ..Probe::default() })]),
    },
    Lie {
        name: "a change from the future",
        is_refused: true,
        frames: |hello| greeted(hello, [live(change(FUTURE, UNREACHED, 0, text()))]),
    },
    Lie {
        name: "a change with the last number of all",
        is_refused: true,
        frames: |hello| {
            let change = vec![change(FUTURE, u64::MAX, 0, text())];
            greeted(hello, [Frame::History(History { batch: 1, change, all: true })])
        },
    },
    Lie {
        name: "a commit that is too large",
        is_refused: true,
        frames: |hello| greeted(hello, [live(change(FUTURE, 1, 1 << 20, text()))]),
    },
    Lie {
        name: "garbage as changes",
        is_refused: false,
        frames: |hello| {
            let garbage = Bytes::from(vec![0xff; GARBAGE.0]);
            greeted(hello, (0..GARBAGE.1).map(|_| live(garbage.clone())))
        },
    },
    Lie { name: "a chunk of no recording", is_refused: true, frames: |hello| greeted(hello, [chunk(&[1; 3])]) },
    Lie {
        name: "audio that is not what its change names",
        is_refused: false,
        frames: |hello| {
            let blob = BlobRef { hash: NO_AUDIO, length: OTHER_AUDIO.len() as u64, recording: None };
            greeted(hello, [live(change(LIAR, 1, 0, Value::Blob(blob)))])
        },
    },
    Lie {
        name: "a change that node a is to have made",
        is_refused: true,
        frames: |hello| greeted(hello, [live(change(own(hello), AHEAD, 0, text()))]),
    },
    Lie {
        name: "a vector ahead of node a",
        is_refused: true,
        frames: |hello| vec![welcome(raised_to(hello, own(hello), AHEAD), Vector::default(), hello)],
    },
];

/// Requests to node a as a source; all are refused.
const REFUSED: [&str; 5] = [
    "a follower from the future",
    "a follower ahead of node a",
    "a scan of another version",
    "a request for nothing",
    "an acknowledgement of what was never sent",
];

/// The origin of node a.
fn own(hello: &Hello) -> Origin {
    Origin::from_slice(&hello.origin).expect("16 bytes")
}

fn vector(origin: Origin, upto: u64) -> Vector {
    Vector { prefix: vec![Prefix { origin: codec::origin_to_wire(origin), upto }] }
}

/// The changes of node a.
fn known(hello: &Hello) -> Vector {
    hello.vector.clone().unwrap_or_default()
}

/// The changes of node a, and those of an origin up to a number.
fn raised_to(hello: &Hello, origin: Origin, upto: u64) -> Vector {
    Vector { prefix: [known(hello).prefix, vector(origin, upto).prefix].concat() }
}

fn welcome(vector: Vector, log_begins: Vector, hello: &Hello) -> Frame {
    Frame::Welcome(Welcome {
        protocol: hello.protocol,
        cluster: hello.cluster.clone(),
        name: "b".to_owned(),
        origin: codec::origin_to_wire(LIAR),
        vector: Some(vector),
        lacks_records: false,
        log_begins: Some(log_begins),
    })
}

/// A greeting that is in order, and what follows it.
fn greeted(hello: &Hello, frames: impl IntoIterator<Item = Frame>) -> Vec<Frame> {
    [welcome(known(hello), Vector::default(), hello)].into_iter().chain(frames).collect()
}

fn live(change: Bytes) -> Frame {
    Frame::Live(Live { change: vec![change] })
}

/// A chunk of the recording of this id.
fn chunk(id: &[u8]) -> Frame {
    let recording = Bytes::copy_from_slice(id);
    Frame::Chunk(Chunk { recording, take: 1, offset: 0, data: Bytes::from_static(OTHER_AUDIO) })
}

fn text() -> Value {
    Value::Bytes(b"lie".to_vec())
}

/// The row of which all changes are.
fn row() -> Key {
    Key::new(MESSAGES, b"lie".as_slice())
}

/// A change with this many others of its commit after it.
fn change(origin: Origin, seq: u64, after: u32, value: Value) -> Bytes {
    let stamp = Stamp { wall: 1, counter: 0, origin };
    let delta = Record::from_parts([(1, Field::Register { stamp, value })], None);
    let change = Change { origin, seq, key: row(), delta, part: CommitPart { before: 0, after } };
    codec::change_to_bytes(&change).into()
}

/// The liar at the address of node b; it ends when this is dropped.
struct Liar {
    state: State,
    _runtime: Runtime,
}

/// State that the tasks of the liar share.
#[derive(Clone, Default)]
struct State {
    /// Number of streams that node a has opened.
    streams: Arc<AtomicUsize>,
    /// Number of blobs that node a has asked for.
    asked: Arc<AtomicUsize>,
    /// Names of the lies and requests so far, each with true if node a refused it.
    told: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    /// The latest greeting of node a.
    greeting: Arc<watch::Sender<Option<Hello>>>,
}

impl Liar {
    fn start(cluster: &Cluster) -> Self {
        let (state, runtime) = (State::default(), Runtime::new().expect("a runtime"));
        let [a, b] = ["a", "b"].map(|node| cluster.member(node).place.port(7070));
        let tls = NodeIdentity::load(&cluster.member("b").home.join("tls")).expect("a member's certificate");
        let endpoint = tls.endpoint(&"a".parse().expect("a name"), &a.to_string()).expect("an address");
        runtime.block_on(async {
            let incoming = tls.listen(TcpListener::bind(b).await.expect("node b does not run"));
            let (sender, connections) = mpsc::channel(8);
            tokio::spawn(give_garbage_first(incoming, sender));
            let serve = tls
                .server()
                .add_service(ReplicationServer::new(state.clone()))
                .serve_with_incoming(ReceiverStream::new(connections));
            tokio::spawn(async move { serve.await.expect("the liar answers") });
            tokio::spawn(state.clone().follow_node_a(ReplicationClient::new(endpoint.connect_lazy())));
        });
        Self { state, _runtime: runtime }
    }

    fn told(&self) -> BTreeMap<&'static str, bool> {
        self.state.told.lock().expect("no panic").clone()
    }
}

/// Passes connections on, but for the first ones.
async fn give_garbage_first(mut incoming: Incoming, sender: mpsc::Sender<MemberConnection>) {
    let mut garbage = NO_HTTP2.iter();
    while let Some(connection) = incoming.next().await {
        match (connection, garbage.next()) {
            (Ok(mut stream), Some(bytes)) => {
                tokio::spawn(async move {
                    let _ = stream.write_all(bytes).await;
                    let _ = stream.flush().await;
                    // Until the other side has had enough.
                    let _ = timeout(SOON, copy(&mut stream, &mut sink())).await;
                });
            }
            (connection, _) => {
                if sender.send(connection).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads a stream until it ends: whether it does so in time.
async fn ends(frames: &mut Streaming<SourceFrame>, limit: Duration) -> bool {
    timeout(limit, async { while let Ok(Some(_)) = frames.message().await {} }).await.is_ok()
}

impl State {
    fn note(&self, name: &'static str, is_refused: bool) {
        self.told.lock().expect("no panic").insert(name, is_refused);
    }

    /// Tells the next lie on a stream of node a.
    async fn tell(&self, hello: &Hello, out: mpsc::Sender<Result<SourceFrame, Status>>) {
        let lie = &LIES[self.streams.fetch_add(1, Relaxed) % LIES.len()];
        for frame in (lie.frames)(hello) {
            if out.send(Ok(SourceFrame { frame: Some(frame) })).await.is_err() {
                break;
            }
        }
        let limit = if lie.is_refused { SOON } else { HELD };
        self.note(lie.name, timeout(limit, out.closed()).await.is_ok());
    }

    /// Opens a stream of node a, as a follower with these changes.
    async fn open(
        client: &mut ReplicationClient<Channel>,
        hello: &Hello,
        vector: Vector,
    ) -> Result<(mpsc::Sender<FollowerFrame>, Streaming<SourceFrame>), Status> {
        let hello = Hello {
            protocol: hello.protocol,
            cluster: hello.cluster.clone(),
            name: "b".to_owned(),
            origin: codec::origin_to_wire(LIAR),
            vector: Some(vector),
            fills_by_state: true,
            ..Hello::default()
        };
        let (out, outgoing) = mpsc::channel(2);
        let _ = out.send(FollowerFrame { frame: Some(follower_frame::Frame::Hello(hello)) }).await;
        Ok((out, client.follow(ReceiverStream::new(outgoing)).await?.into_inner()))
    }

    /// Asks for what is refused; then opens one stream after the other, answers nothing, and acknowledges what was never sent.
    async fn follow_node_a(self, mut client: ReplicationClient<Channel>) {
        let mut greeting = self.greeting.subscribe();
        let Ok(hello) = greeting.wait_for(Option::is_some).await.map(|hello| hello.clone()) else { return };
        let hello = hello.unwrap_or_default();
        for (name, vector) in [(REFUSED[0], vector(FUTURE, u64::MAX)), (REFUSED[1], vector(own(&hello), AHEAD))] {
            self.note(name, Self::open(&mut client, &hello, vector).await.is_err());
        }
        self.note(REFUSED[2], client.scan_state(ScanStateRequest { version: 9 }).await.is_err());
        self.note(REFUSED[3], client.fetch_blobs(FetchBlobsRequest::default()).await.is_err());
        loop {
            let Ok((out, mut frames)) = Self::open(&mut client, &hello, Vector::default()).await else {
                sleep(HELD).await;
                continue;
            };
            ends(&mut frames, HELD).await;
            let run = Run { origin: codec::origin_to_wire(FUTURE), first: 5, last: 9 };
            let acked = follower_frame::Frame::Acked(Acked { run: vec![run], vector: None });
            let _ = out.send(FollowerFrame { frame: Some(acked) }).await;
            self.note(REFUSED[4], ends(&mut frames, SOON).await);
        }
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Replication for State {
    type FollowStream = Answers<SourceFrame>;
    type ScanStateStream = Answers<StatePage>;
    type FetchBlobsStream = Answers<BlobPieces>;

    async fn follow(
        &self,
        request: Request<Streaming<FollowerFrame>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (state, mut frames) = (self.clone(), request.into_inner());
        let (out, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            let first = frames.message().await.ok().flatten().and_then(|frame| frame.frame);
            if let Some(follower_frame::Frame::Hello(hello)) = first {
                state.greeting.send_replace(Some(hello.clone()));
                state.tell(&hello, out).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_blobs(
        &self,
        request: Request<FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        let (pieces, receiver) = mpsc::channel(1);
        let data = Bytes::from_static(OTHER_AUDIO);
        let other = |number| BlobPiece { number, data: data.clone(), last: true, ..BlobPiece::default() };
        let piece: Vec<_> = (0..request.get_ref().hash.len() as u32).map(other).collect();
        self.asked.fetch_add(piece.len(), Relaxed);
        let _ = pieces.send(Ok(BlobPieces { piece })).await;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn scan_state(&self, _: Request<ScanStateRequest>) -> Result<Response<Self::ScanStateStream>, Status> {
        Err(Status::unavailable("not now"))
    }

    async fn compare(&self, _: Request<CompareRequest>) -> Result<Response<CompareReply>, Status> {
        Err(Status::unavailable("not now"))
    }

    async fn repair(&self, _: Request<RepairRequest>) -> Result<Response<RepairReply>, Status> {
        Err(Status::unavailable("not now"))
    }
}

/// Leaves a message on node a; the caller waits no longer than for a node that is silent.
fn leave(cluster: &Cluster, mailbox: &str) -> Deposit {
    let deposit = leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    assert!(deposit.bye.after <= longest_goodbye(Spec::default().ack_timeout_ms), "{:?}", deposit.bye);
    deposit
}

/// Checks the disk of node a, which does not run.
fn assert_no_lie_is_stored(cluster: &Cluster) {
    let dir = cluster.member("a").data_dir.join("store");
    let config = StoreConfig { dir, node: "a".parse().expect("a name"), reserve_bytes: 0 };
    let store = Store::open(config).expect("the store");
    assert_eq!(store.get(&row()), Ok(None));
    assert!(!store.blobs().has(&NO_AUDIO));
    let holdings = store.holdings();
    assert!([LIAR, FUTURE].iter().all(|origin| !holdings.contains_key(origin)), "{holdings:?}");
    assert_eq!(store.filled(), Filled::Complete);
}

#[test]
fn member_that_lies_is_believed_in_nothing_and_the_true_node_fills_from_the_other() {
    let mut cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    let mut deposits = vec![leave(&cluster, mailbox)];
    cluster.wait_for_messages("b", mailbox, 1, SOON);
    cluster.kill("b");
    cluster.wait_for_status(&["a"], "in-service");

    let pid = cluster.member("a").pid();
    let memory = PeakMemory::begin(pid);
    let liar = Liar::start(&cluster);
    deposits.push(leave(&cluster, mailbox));
    let all = LIES.len() + REFUSED.len();
    let took = wait_until("everything to be told and asked, by node a too", SOON, || {
        liar.told().len() == all && liar.state.asked.load(Relaxed) > 0
    });
    deposits.push(leave(&cluster, mailbox));
    let told = liar.told();
    let refusals = LIES.iter().map(|lie| (lie.name, lie.is_refused)).chain(REFUSED.map(|name| (name, true)));
    for (name, is_refused) in refusals {
        assert_eq!(told.get(name), Some(&is_refused), "refused: {name}");
    }
    for alarm in ["origin-reused", "change-set-aside"] {
        wait_until(alarm, SOON, || raised(&cluster.cli("a"), alarm, "a"));
    }
    let grown = memory.grown() >> 20;
    println!("{all} lies within {took:?} of a call; the memory of node a grew by {grown} MiB");
    assert!(grown < MEMORY >> 20, "{grown} MiB");
    assert_eq!(cluster.member("a").pid(), pid, "the same process");
    assert!(!cluster.member("a").log().contains("panicked at"), "something panicked");
    cluster.wait_for_messages("a", mailbox, deposits.len(), SOON);

    drop(liar);
    cluster.wipe("b");
    cluster.start_member("b");
    cluster.wait_for_status(&["b"], "in-service");
    for deposit in &deposits {
        assert_kept(&cluster, "b", mailbox, deposit, 0.9, SOON);
    }
    assert_equal_stores(&cluster, "b");
    // Node a was told that its disk has lost changes: it serves on after its next start.
    cluster.stop("a");
    assert_no_lie_is_stored(&cluster);
    cluster.start_member("a");
    cluster.wait_in_service();
    for node in ["a", "b"] {
        cluster.wait_for_messages(node, mailbox, deposits.len(), SOON);
    }
    assert_equal_stores(&cluster, "a");
}
