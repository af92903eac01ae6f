//! Stores of real nodes for tests: one alone, or two that replicate over mutual TLS on loopback.

use std::{
    fs::DirEntry,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{CallId, ClusterId, Incarnation, MailboxId, NodeName, Pii};
use twinbox_mailstore::{Codec, LiveRecording, Mailbox, Mailstore, MailstoreSettings, NewMailbox, RecordingMeta};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_replication_peer::{LogPolicy, PeerAddress, PeerConfig, Peers};
use twinbox_replication_store::{Store, StoreConfig};

/// Limit of the wait until the other node has all that is in a log.
const CUT_WITHIN: Duration = Duration::from_secs(120);

/// The mail store of a node.
pub struct Node {
    /// Records and audio.
    pub store: Store,
    /// Replication with the other node.
    pub peers: Peers,
    /// Mailboxes and messages.
    pub mailstore: Mailstore,
    server: Option<JoinHandle<()>>,
}

/// Certificates for the nodes of a test.
pub struct Authority {
    dir: TempDir,
    authority: CertificateAuthority,
    ack_timeout: Duration,
}

/// A node name.
pub fn name(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// An authority of its own.
    pub fn new() -> Self {
        let authority = CertificateAuthority::create(ClusterId(7), "test").expect("an authority");
        Self { dir: TempDir::new().expect("a directory"), authority, ack_timeout: Duration::from_millis(1_000) }
    }

    /// A certificate of that node.
    pub fn identity(&self, node: &str) -> Arc<NodeIdentity> {
        let dir = self.dir.path().join(node);
        std::fs::create_dir_all(&dir).expect("a directory");
        self.authority.issue(&name(node), MemberKind::Node).expect("a certificate").save(&dir).expect("saved");
        Arc::new(NodeIdentity::load(&dir).expect("loaded"))
    }

    fn peers(&self, node: &str, store: &Store, peers: Vec<PeerAddress>) -> Peers {
        let config = PeerConfig {
            node: name(node),
            cluster: ClusterId(7),
            peers,
            ack_timeout: self.ack_timeout,
            tls: self.identity(node),
        };
        Peers::new(config, store.clone())
    }

    /// A node that serves its data at this listener, and follows the others of these from [`Peers::start`] on.
    pub fn node(
        &self,
        dir: &Path,
        node: &str,
        listener: TcpListener,
        peers: Vec<PeerAddress>,
        settle: impl FnOnce(&mut MailstoreSettings),
    ) -> Node {
        let store = open(dir, node, 0);
        let peers = self.peers(node, &store, peers);
        let identity = self.identity(node);
        let service = identity.server().add_service(peers.service());
        let server = tokio::spawn(async move {
            let _ = service.serve_with_incoming(identity.listen(listener)).await;
        });
        let mut settings = MailstoreSettings::new(name(node), Incarnation::random());
        settle(&mut settings);
        let mailstore = Mailstore::new(store.clone(), peers.clone(), settings);
        Node { store, peers, mailstore, server: Some(server) }
    }
}

/// Opens the store of a node; `reserve_bytes` are kept free.
pub fn open(dir: &Path, node: &str, reserve_bytes: u64) -> Store {
    Store::open(StoreConfig { dir: dir.to_owned(), node: name(node), reserve_bytes }).expect("a store")
}

impl Node {
    /// Cuts all changes from the log that the other node has, of whatever age; ends when none is left.
    pub async fn cut_log(&self) {
        let week = Duration::from_secs(7 * 86_400);
        let policy = LogPolicy { stable_for: Duration::ZERO, keep_for: week, keep_bytes: u64::MAX };
        let begun = BootInstant::now();
        while self.store.log_changes() > 0 {
            self.peers.cut_log(&policy).await.expect("the log is cut");
            assert!(begun.elapsed() < CUT_WITHIN, "{} changes stay in the log", self.store.log_changes());
        }
    }

    /// A node without peers.
    pub fn alone(dir: &Path, node: &str) -> Self {
        Self::with(dir, node, 1, 0, |_| {})
    }

    /// A node among `nodes`, none of which it reaches.
    pub fn with(
        dir: &Path,
        node: &str,
        nodes: u64,
        reserve: u64,
        settle: impl FnOnce(&mut MailstoreSettings),
    ) -> Self {
        let store = open(dir, node, reserve);
        let away = |n: u64| PeerAddress { name: name(&format!("away-{n}")), address: "127.0.0.1:1".to_owned() };
        let peers = Authority::new().peers(node, &store, (1..nodes).map(away).collect());
        let mut settings = MailstoreSettings::new(name(node), Incarnation::random());
        settle(&mut settings);
        let mailstore = Mailstore::new(store.clone(), peers.clone(), settings);
        Self { store, peers, mailstore, server: None }
    }

    /// Makes mailbox 1001 with PIN 2580.
    pub async fn mailbox(&self) -> Mailbox {
        self.mailstore.create(NewMailbox::new("1001", "2580")).await.expect("a mailbox").0
    }

    /// Begins a recording for a mailbox.
    pub async fn begin(&self, mailbox: MailboxId) -> LiveRecording {
        self.mailstore.begin_recording(meta(mailbox)).await.expect("a recording")
    }

    /// Leaves a message with that audio.
    pub async fn leave(&self, mailbox: MailboxId, audio: &[u8]) -> twinbox_mailstore::Filed {
        let live = self.begin(mailbox).await;
        speak(&live, 0, audio);
        live.file().await.expect("filed")
    }

    /// Waits until the clock is past all stamps that this node has, so that every node makes later ones from then on: two nodes'
    /// stamps of one millisecond have no order of time.
    pub async fn wait_past_stamps(&self) {
        let changes = self.store.changes_after(&Default::default(), usize::MAX).expect("changes");
        let last = changes.iter().filter_map(|change| change.delta.latest()).map(|stamp| stamp.wall).max();
        eventually("a later time", async || last.is_none_or(|last| wall().0 > last)).await;
    }

    /// Transfers all its data to another node, as a stream would, blobs first.
    pub async fn hand_over(&self, other: &Self) {
        let changes = self.store.changes_after(&other.store.vector(), usize::MAX).expect("changes");
        for blob in changes.iter().flat_map(|change| change.delta.blobs()) {
            let bytes = self.store.blobs().read(&blob.hash).await.expect("a blob");
            other.store.blobs().put_as(blob.hash, bytes).await.expect("put");
        }
        other.store.apply(changes).await.expect("applied");
    }
}

/// Appends audio while the disk is unavailable: its directory is away, so that the free space is unknown. The chunk is
/// accepted, and lost when it is to be written.
pub async fn speak_in_vain(node: &Node, dir: &Path, live: &LiveRecording, from: usize, chunk: &[u8]) {
    node.store.recordings().written().await.expect("written");
    let away = Away::take(dir).await;
    let taken = live.append(from as u64, Bytes::copy_from_slice(chunk));
    node.store.recordings().written().await.expect("tried");
    away.put_back();
    taken.expect("taken");
}

/// A store's directory that was taken away. The store cannot measure the free space of its disk, and refuses writes until
/// the directory is back.
pub struct Away {
    dir: PathBuf,
    away: PathBuf,
}

impl Away {
    /// Takes it away once the index has written to its first file: a store that cannot make a file breaks for good (rule A4).
    pub async fn take(dir: &Path) -> Self {
        let runs = dir.join("db").join("runs");
        let is_written =
            |file: DirEntry| std::fs::read(file.path()).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0));
        let written = async || runs.read_dir().is_ok_and(|mut files| files.any(|file| file.is_ok_and(is_written)));
        eventually("the index has written to a file", written).await;
        let (dir, away) = (dir.to_owned(), dir.with_extension("away"));
        std::fs::rename(&dir, &away).expect("renamed");
        Self { dir, away }
    }

    /// Puts it back.
    pub fn put_back(self) {
        std::fs::rename(&self.away, &self.dir).expect("renamed");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// Two nodes that replicate.
pub async fn pair(dir: &Path) -> (Node, Node) {
    pair_with(dir, |_| {}).await
}

/// Two nodes that replicate, with these settings.
pub async fn pair_with(dir: &Path, settle: impl Fn(&mut MailstoreSettings)) -> (Node, Node) {
    pair_of(Authority::new(), dir, settle).await
}

/// Two nodes that replicate, each of which waits for the other as long as a test takes.
pub async fn patient_pair(dir: &Path) -> (Node, Node) {
    pair_of(Authority { ack_timeout: Duration::from_secs(60), ..Authority::new() }, dir, |_| {}).await
}

async fn pair_of(authority: Authority, dir: &Path, settle: impl Fn(&mut MailstoreSettings)) -> (Node, Node) {
    let listeners =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let addresses: Vec<PeerAddress> = ["a", "b"]
        .iter()
        .zip(&listeners)
        .map(|(node, listener)| PeerAddress {
            name: name(node),
            address: listener.local_addr().unwrap().to_string(),
        })
        .collect();
    let nodes: Vec<Node> = ["a", "b"]
        .iter()
        .zip(listeners)
        .map(|(node, listener)| {
            let node = authority.node(&dir.join(node), node, listener, addresses.clone(), &settle);
            node.peers.start();
            node
        })
        .collect();
    let [a, b] = <[Node; 2]>::try_from(nodes).ok().expect("two");
    eventually("both count", async || a.peers.counting() == 1 && b.peers.counting() == 1).await;
    (a, b)
}

/// Polls until the condition is true; fails after ten seconds.
pub async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let began = BootInstant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Facts of a recording for a mailbox.
pub fn meta(mailbox: MailboxId) -> RecordingMeta {
    RecordingMeta {
        mailbox,
        caller: Some(Pii::new("5550100".to_owned())),
        caller_name: None,
        codec: Codec::Pcma,
        call: CallId::random(),
    }
}

/// Audio of this many milliseconds, without longer repetition.
pub fn audio(ms: usize) -> Vec<u8> {
    (0..ms * 8).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

/// Appends audio from offset `from` on in chunks of a quarter of a second.
pub fn speak(live: &LiveRecording, from: usize, audio: &[u8]) {
    for (i, chunk) in audio.chunks(2_000).enumerate() {
        live.append((from + i * 2_000) as u64, Bytes::copy_from_slice(chunk)).expect("taken");
    }
}
