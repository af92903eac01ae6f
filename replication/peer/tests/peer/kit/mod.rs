//! Whole nodes for tests: real stores in temporary directories, real TLS, real sockets on loopback.

pub mod liar;
pub mod raw;

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use twinbox_ids::{ClusterId, NodeName, RecordingId, Stamp};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_replication_core::{BlobRef, Edit, Key, Record, Table, Value};
use twinbox_replication_peer::{Acknowledgement, PeerAddress, PeerConfig, PeerStatus, Peers};
use twinbox_replication_store::{Committed, Filled, Store, StoreConfig};

pub const TABLE: Table = Table(7);
/// Long, so that a busy machine does not make a peer late.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(1);

pub fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub fn key(text: &str) -> Key {
    Key::new(TABLE, text.as_bytes())
}

/// Waits until the condition is true, for a bounded time: long, for a slow machine; a test that passes never waits for
/// its end.
pub async fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let wait = async {
        while !true_now() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(90), wait).await.is_err() {
        panic!("condition never fulfilled: {what}");
    }
}

/// A cluster's authority and the addresses of its nodes.
pub struct Cluster {
    pub authority: CertificateAuthority,
    nodes: Vec<(NodeName, SocketAddr)>,
    /// Bound and never listening: the port stays reserved while its node does not run.
    ports: Vec<TcpSocket>,
}

impl Cluster {
    pub async fn new(names: &[&str]) -> Self {
        // Shown when a test fails.
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("twinbox=debug").try_init();
        let mut nodes = Vec::new();
        let mut ports = Vec::new();
        for text in names {
            let port = reserve_port();
            nodes.push((name(text), port.local_addr().unwrap()));
            ports.push(port);
        }
        Self { authority: CertificateAuthority::create(ClusterId::random(), "test").unwrap(), nodes, ports }
    }

    /// Gives a node that does not run another address.
    pub fn move_node(&mut self, node: &str) {
        let port = reserve_port();
        self.nodes.iter_mut().find(|(n, _)| n.as_str() == node).unwrap().1 = port.local_addr().unwrap();
        self.ports.push(port);
    }

    pub fn identity(&self, node: &str) -> NodeIdentity {
        let dir = TempDir::new().unwrap();
        self.authority.issue(&name(node), MemberKind::Node).unwrap().save(dir.path()).unwrap();
        NodeIdentity::load(dir.path()).unwrap()
    }

    pub fn address(&self, node: &str) -> SocketAddr {
        self.nodes.iter().find(|(n, _)| n.as_str() == node).unwrap().1
    }

    /// Prepares a node with a new store; its streams begin with [`Node::start`].
    pub async fn node(&self, node: &str) -> Node {
        self.node_via(node, &[]).await
    }

    /// The same, with other addresses for some peers than their own.
    pub async fn node_via(&self, node: &str, detours: &[(&str, SocketAddr)]) -> Node {
        self.node_in(node, TempDir::new().unwrap(), detours).await
    }

    /// A node with a directory that may have been used before. Its data is complete, as on a node that founds a
    /// cluster.
    pub async fn node_in(&self, node: &str, dir: TempDir, detours: &[(&str, SocketAddr)]) -> Node {
        let node = self.node_that_fills(node, dir, detours).await;
        node.store.set_filled(Filled::Complete).await.unwrap();
        node
    }

    /// A node that joins, or whose disk was lost: its empty directory is not complete.
    pub async fn node_that_fills(&self, node: &str, dir: TempDir, detours: &[(&str, SocketAddr)]) -> Node {
        let index = self.nodes.iter().position(|(n, _)| n.as_str() == node).unwrap();
        let listener = TcpListener::bind(self.nodes[index].1).await.unwrap();
        let config = StoreConfig { dir: dir.path().join("store"), node: name(node), reserve_bytes: 0 };
        // Beside this runtime, in which a write that was under way when the node stopped may still complete.
        let store = tokio::task::spawn_blocking(|| Store::open(config)).await.unwrap().unwrap();
        let tls = Arc::new(self.identity(node));
        let peers = self.nodes.iter().map(|(peer, address)| {
            let detour = detours.iter().find(|(n, _)| *n == peer.as_str()).map(|(_, address)| *address);
            PeerAddress { name: peer.clone(), address: detour.unwrap_or(*address).to_string() }
        });
        let config = PeerConfig {
            node: name(node),
            cluster: self.authority.cluster(),
            peers: peers.collect(),
            ack_timeout: ACK_TIMEOUT,
            tls: tls.clone(),
        };
        let peers = Peers::new(config, store.clone());
        peers.purges([TABLE]);
        let incoming = tls.listen(listener);
        let refused_clients = incoming.refused();
        let stop = tokio_util::sync::CancellationToken::new();
        let serve = tls
            .server()
            .add_service(peers.service())
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Node { store, peers, tls, refused_clients, dir, stop, server }
    }
}

fn reserve_port() -> TcpSocket {
    let port = TcpSocket::new_v4().unwrap();
    port.set_reuseaddr(true).unwrap();
    port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    port
}

/// The pack that has this audio in one piece, and the place of the first byte.
pub fn find_in_packs(node: &Node, audio: &[u8]) -> (PathBuf, u64) {
    let packs = fs::read_dir(node.dir.path().join("store/audio")).unwrap().map(|file| file.unwrap().path());
    let mut places = packs.filter_map(|path| {
        let bytes = fs::read(&path).unwrap();
        // Audio begins at a multiple of 16.
        let at = (0..bytes.len()).step_by(16).find(|at| bytes[*at..].starts_with(audio))?;
        Some((path, at as u64))
    });
    places.next().expect("a pack with this audio")
}

/// One node.
pub struct Node {
    pub store: Store,
    pub peers: Peers,
    pub tls: Arc<NodeIdentity>,
    pub refused_clients: Arc<AtomicU64>,
    pub dir: TempDir,
    stop: tokio_util::sync::CancellationToken,
    server: JoinHandle<()>,
}

impl Node {
    pub fn start(&self) {
        self.peers.start();
    }

    /// Writes one register.
    pub async fn write(&self, row: &str, value: impl Into<Value>) -> Committed {
        let (key, value) = (key(row), value.into());
        let edit =
            move |draft: &mut twinbox_replication_store::Draft<'_>| draft.edit(key, vec![Edit::Set(1, value)]);
        self.store.commit(edit).await.unwrap().1
    }

    /// Writes one register and waits for the acknowledgement, as a caller does.
    pub async fn write_acknowledged(&self, row: &str, value: impl Into<Value>) -> Acknowledgement {
        let committed = self.write(row, value).await;
        self.peers.acknowledge(&committed).await
    }

    /// Writes many rows `prefix…` in one commit.
    pub async fn write_many(&self, prefix: &str, count: usize) -> Committed {
        let prefix = prefix.to_owned();
        let edit = move |draft: &mut twinbox_replication_store::Draft<'_>| {
            (0..count).try_for_each(|n| {
                let value = Value::Bytes(vec![b'v'; 200]);
                draft.edit(key(&format!("{prefix}{n:06}")), vec![Edit::Set(1, value)])
            })
        };
        self.store.commit(edit).await.unwrap().1
    }

    /// Records audio in chunks and seals it, as a call does.
    pub async fn record(&self, id: RecordingId, audio: &[u8]) -> BlobRef {
        let recordings = self.store.recordings();
        recordings.begin(id, 1).await.unwrap();
        self.append(id, 0, audio);
        recordings.seal(id, 1).await.unwrap().blob
    }

    pub fn append(&self, id: RecordingId, from: usize, audio: &[u8]) {
        for (n, chunk) in audio.chunks(2_000).enumerate() {
            let offset = (from + 2_000 * n) as u64;
            self.store.recordings().append(id, 1, offset, Bytes::copy_from_slice(chunk)).unwrap();
        }
    }

    pub fn value(&self, row: &str) -> Option<Value> {
        let record = self.store.get(&key(row)).unwrap()?;
        record.register(1).map(|(value, _): (&Value, Stamp)| value.clone())
    }

    pub fn records(&self) -> Vec<(Key, Record)> {
        self.store.scan(TABLE, b"").unwrap()
    }

    pub fn status(&self, peer: &str) -> PeerStatus {
        self.peers.status().into_iter().find(|status| status.name.as_str() == peer).unwrap()
    }

    /// Waits until writes are acknowledged on two with `peer`.
    pub async fn counts(&self, peer: &str) {
        until("the peer counts", || self.status(peer).counts).await;
    }

    /// Ends the node as a stop of its process does, and returns its directory.
    pub async fn stop(self) -> TempDir {
        self.peers.shutdown().await;
        self.stop.cancel();
        self.server.await.unwrap();
        self.dir
    }

    pub fn refused_clients(&self) -> u64 {
        self.refused_clients.load(Relaxed)
    }
}

/// Waits until all nodes have the same changes, and checks that they hold the same records then.
pub async fn converge(nodes: &[&Node]) {
    until("all nodes have the same changes", || {
        let first = nodes[0].store.vector();
        nodes.iter().all(|node| node.store.vector() == first)
    })
    .await;
    for pair in nodes.windows(2) {
        assert_eq!(pair[0].records(), pair[1].records());
    }
}

pub fn on_two(peer: &str) -> Acknowledgement {
    Acknowledgement::OnTwo { peer: name(peer) }
}

/// The reference to audio that is nowhere.
pub async fn nowhere(spoken: &[u8]) -> BlobRef {
    let dir = TempDir::new().unwrap();
    let config = StoreConfig { dir: dir.path().to_owned(), node: name("nowhere"), reserve_bytes: 0 };
    Store::open(config).unwrap().blobs().put(Bytes::copy_from_slice(spoken)).await.unwrap()
}

/// Audio without repetition, so that every misplaced byte shows.
pub fn audio(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A cable between two nodes that can be cut silently: sent bytes are lost without an error.
pub struct Cable {
    pub address: SocketAddr,
    cut: watch::Sender<bool>,
    /// Bytes towards the near side until the cable is cut automatically.
    left: Arc<AtomicU64>,
    /// Bytes of both directions so far.
    carried: Arc<AtomicU64>,
}

impl Cable {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, left) = (watch::Sender::new(false), Arc::new(AtomicU64::new(u64::MAX)));
        let carried = Arc::new(AtomicU64::new(0));
        let inner = Arc::new(Self { address, cut: cut.clone(), left: left.clone(), carried: carried.clone() });
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let cable = inner.clone();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    carry(&mut near, &mut far, &cable).await;
                });
            }
        });
        Self { address, cut, left, carried }
    }

    /// Bytes that it has carried, of both directions.
    pub fn carried(&self) -> u64 {
        self.carried.load(Relaxed)
    }

    /// Cuts it when this many more bytes have come to the near side, whatever the pace of both.
    pub fn cut_after(&self, bytes: u64) {
        self.left.store(bytes, Relaxed);
    }

    pub fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn restore(&self) {
        self.left.store(u64::MAX, Relaxed);
        self.cut.send_replace(false);
    }
}

async fn carry(near: &mut TcpStream, far: &mut TcpStream, cable: &Cable) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut near_in, mut near_out) = near.split();
    let (mut far_in, mut far_out) = far.split();
    let (mut cut, mut other) = (cable.cut.subscribe(), cable.cut.subscribe());
    let there = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let n = near_in.read(&mut buffer).await.unwrap_or(0);
            cable.carried.fetch_add(n as u64, Relaxed);
            let mended = cut.wait_for(|cut| !cut).await.is_ok();
            if n == 0 || !mended || far_out.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let n = far_in.read(&mut buffer).await.unwrap_or(0);
            cable.carried.fetch_add(n as u64, Relaxed);
            let mended = other.wait_for(|cut| !cut).await.is_ok();
            if n == 0 || !mended || near_out.write_all(&buffer[..n]).await.is_err() {
                return;
            }
            if cable.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(n as u64)).is_err() {
                cable.cut();
            }
        }
    };
    tokio::select! { () = there => {}, () = back => {} }
}
