//! The replication of one node: follows every peer, is followed by every peer, and acknowledges writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Channel;
use tracing::{debug, error, info};
use twinbox_clock::BootInstant;
use twinbox_handle::Handle;
use twinbox_ids::{BlobHash, NodeName};
use twinbox_pki::PkiError;
use twinbox_replication_core::{AudioPatience, BlobRef, Holdings, Table, ack::Acknowledgement};
use twinbox_replication_fetch::{Fetcher, Nodes};
use twinbox_replication_store::{Committed, Store, StoreError};
use twinbox_wire::replication::replication_server::ReplicationServer;

use crate::{
    acks::{self, Acks},
    attempts::StateFills,
    comparison::{self, Comparisons},
    config::{PeerAddress, PeerConfig, limits},
    error::StreamError,
    fill, follower,
    link::Link,
    lost_audio::{self, LostAudio},
    progress::{self, Samples},
    service::ReplicationService,
    set_aside, state_fill,
};

/// The streams between this node and its peers. Clones share them.
#[derive(Clone)]
pub struct Peers {
    inner: Handle<Arc<Inner>>,
}

pub(crate) struct Inner {
    pub(crate) config: Arc<PeerConfig>,
    pub(crate) store: Store,
    pub(crate) links: Arc<Links>,
    started: AtomicBool,
    pub(crate) acks: Acks,
    pub(crate) fetcher: Fetcher,
    pub(crate) counters: Counters,
    pub(crate) comparisons: Comparisons,
    pub(crate) lost_audio: LostAudio,
    pub(crate) samples: Samples,
    /// Notified when a peer is followed, for the fill by state.
    pub(crate) state_filling: Notify,
    pub(crate) state_fills: StateFills,
    /// Tables whose records are removed as a whole when they are purged.
    purged_tables: RwLock<BTreeSet<Table>>,
    /// Held while the members that fill by state are noted.
    pub(crate) noting_fillers: AsyncMutex<()>,
    /// Notified of progress of the first fill.
    pub(crate) filling: Notify,
    /// Time without progress after which the fill continues without a member, in milliseconds.
    pub(crate) source_patience_ms: AtomicU64,
    /// The first fill ended without a node that had all records.
    pub(crate) fill_had_no_source: AtomicBool,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// The other nodes by name; more come when nodes join.
#[derive(Default)]
pub(crate) struct Links(RwLock<BTreeMap<NodeName, Arc<Link>>>);

impl Links {
    pub(crate) fn get(&self, name: &NodeName) -> Option<Arc<Link>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The new link; `None` when there is one of that name, which gets this address if it has another.
    fn add(&self, peer: PeerAddress) -> Option<Arc<Link>> {
        let mut links = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(&peer.name) {
            if link.move_to(&peer.address) {
                info!(peer = %peer.name, address = peer.address, "node has another address; connecting there");
            }
            return None;
        }
        let link = Arc::new(Link::new(peer.name.clone(), peer.address));
        links.insert(peer.name, link.clone());
        Some(link)
    }

    fn remove(&self, name: &NodeName) -> Option<Arc<Link>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}

/// The nodes that are asked for blobs.
struct Sources {
    config: Arc<PeerConfig>,
    links: Arc<Links>,
}

impl Nodes for Sources {
    fn names(&self) -> Vec<NodeName> {
        self.links.all().iter().map(|link| link.name.clone()).collect()
    }

    fn address(&self, name: &NodeName) -> Option<String> {
        self.links.get(name).map(|link| link.address())
    }

    fn connect(&self, name: &NodeName, address: &str) -> Result<Channel, PkiError> {
        self.config.tls.endpoint(name, address).map(|endpoint| endpoint.connect_lazy())
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) refused: AtomicU64,
    pub(crate) own_origin_alarms: AtomicU64,
    pub(crate) set_aside: AtomicU64,
    pub(crate) state_fills: AtomicU64,
    pub(crate) state_fills_failed: AtomicU64,
}

/// Status of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub name: NodeName,
    /// The peer follows this node.
    pub connected: bool,
    /// This node follows the peer.
    pub following: bool,
    /// Writes wait for this peer (rule A2).
    pub counts: bool,
    /// Changes that are here and that the peer is not known to have.
    pub lag_changes: u64,
    /// Milliseconds since the last contact, on either stream; `None` when there was none.
    pub last_contact_ms: Option<u64>,
    /// Bytes of frames to the peer since the start, audio of fetched blobs left out.
    pub sent_bytes: u64,
    /// Bytes of frames from the peer since the start.
    pub received_bytes: u64,
    /// Reason for which the fill of this node continues without the peer, if it does: it is connected and sends no data.
    pub stuck: Option<String>,
}

/// Counters since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeersCounters {
    /// Writes acknowledged on two.
    pub on_two: u64,
    /// Writes acknowledged alone.
    pub alone: u64,
    /// Blobs assembled from live chunks, and so not sent again.
    pub blobs_from_chunks: u64,
    /// Blobs fetched from a peer.
    pub blobs_fetched: u64,
    /// Streams and requests refused: peer not configured, or of another cluster. Unknown clients are refused, and
    /// counted, in the TLS handshake.
    pub refused: u64,
    /// Streams stopped because a peer had more changes of this node's origin than this node (rule D1). Not zero: alarm.
    pub own_origin_alarms: u64,
    /// Changes that could not be read or stored, and were set aside (rule R11). Not zero: alarm.
    pub set_aside: u64,
    /// Fills by the rows of a peer, because no log reached this node.
    pub state_fills: u64,
    /// Scans of a peer's rows that failed and began again.
    pub state_fills_failed: u64,
    /// Audio that is missing now, since no node that could be asked had it: its messages are stored without it. Not zero: alarm.
    pub audio_lost: u64,
}

impl Peers {
    /// Prepares the streams; nothing is connected before [`Self::start`].
    pub fn new(config: PeerConfig, store: Store) -> Self {
        let links = Arc::new(Links::default());
        for peer in config.peers.iter().filter(|peer| peer.name != config.node) {
            links.add(peer.clone());
        }
        let config = Arc::new(config);
        let inner = Inner {
            acks: Acks::new(config.ack_timeout, store.feed().clone()),
            fetcher: Fetcher::new(
                store.clone(),
                Arc::new(Sources { config: config.clone(), links: links.clone() }),
            ),
            config,
            store,
            links,
            started: AtomicBool::new(false),
            counters: Counters::default(),
            comparisons: Comparisons::default(),
            lost_audio: LostAudio::default(),
            samples: Samples::default(),
            state_filling: Notify::new(),
            state_fills: StateFills::default(),
            purged_tables: RwLock::default(),
            noting_fillers: AsyncMutex::default(),
            filling: Notify::new(),
            source_patience_ms: AtomicU64::new(fill::STUCK.as_millis() as u64),
            fill_had_no_source: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self { inner: Handle::new(Arc::new(inner)) }
    }

    /// The server side, to be added to the node's gRPC server. Requires mutual TLS there ([`twinbox_pki::NodeIdentity::listen`]).
    pub fn service(&self) -> ReplicationServer<ReplicationService> {
        ReplicationServer::new(ReplicationService::new(self.inner().clone()))
            .max_decoding_message_size(limits::MESSAGE)
            .max_encoding_message_size(limits::MESSAGE)
    }

    /// Follows every peer from now on, and again when a stream is lost.
    pub fn start(&self) {
        if !self.inner.started.swap(true, SeqCst) {
            self.inner.links.all().into_iter().for_each(|link| self.follow(link));
            self.inner.spawn(fill::run(self.inner().clone()));
            self.inner.spawn(state_fill::run(self.inner().clone()));
            self.inner.spawn(progress::run(self.inner().clone()));
            self.inner.spawn(set_aside::run(self.inner.store.clone()));
            self.inner.spawn(lost_audio::run(self.inner().clone()));
            self.inner.spawn(comparison::run(self.inner().clone()));
        }
    }

    /// Names the tables whose records are removed as a whole when they are purged. Only their records may be missing at a
    /// peer because they were purged; any other one is kept by a fill by state.
    pub fn purges(&self, tables: impl IntoIterator<Item = Table>) {
        self.inner.purged_tables.write().unwrap_or_else(PoisonError::into_inner).extend(tables);
    }

    /// Adds a node that has joined: it is followed, and may follow. A known node that has another address is followed there
    /// from now on, whether it moved or was replaced under its name.
    pub fn add(&self, peer: PeerAddress) {
        if peer.name == self.inner.config.node || self.inner.stop.is_cancelled() {
            return;
        }
        if let Some(link) = self.inner.links.add(peer)
            && self.inner.started.load(SeqCst)
        {
            info!(peer = %link.name, "node joined; replication with it started");
            self.follow(link);
        }
    }

    /// Drops a node that was removed from the cluster: it is not followed any more, and may not follow. Writes no longer wait for it.
    pub fn remove(&self, name: &NodeName) {
        if let Some(link) = self.inner.links.remove(name) {
            info!(peer = %name, "node removed; replication with it stopped");
            link.retire();
        }
    }

    /// Gets a missing blob from any node that has it; true when it is here. The caller must bound the wait.
    pub async fn fetch(&self, hash: BlobHash) -> bool {
        self.inner.store.blobs().has(&hash) || self.inner.fetcher.get_now(hash).await
    }

    /// Gets a good copy of a blob whose content here is damaged, from any node that has one; true when it replaces the
    /// damaged one. The caller must bound the wait.
    pub async fn replace(&self, blob: &BlobRef) -> bool {
        self.inner.fetcher.replace(blob).await
    }

    /// Ends the first fill of this node with the data that is here: no other node belongs to the cluster any more. No
    /// effect when the fill has ended.
    pub async fn end_fill_without_source(&self) -> Result<(), StoreError> {
        fill::end_without_source(self.inner()).await
    }

    /// Whether the first fill ended, in this incarnation, without a node that had all records.
    pub fn fill_had_no_source(&self) -> bool {
        self.inner.fill_had_no_source.load(Relaxed)
    }

    /// Number of changes here that no connected peer has reported, and of blobs here that one has applied changes without: this disk
    /// alone may hold them (rule D2). A peer that lacks audio from before its first fill covers no changes. Asks for newer
    /// reports: call this again.
    pub fn uncovered(&self) -> u64 {
        // The vector first: the next call counts changes that are committed after this one.
        let vector = self.inner.store.log_ends();
        let mut held = Holdings::default();
        let covers = |link: &&Arc<Link>| link.followed() && !link.lacks_data.load(Relaxed);
        let lost: u64 = self.inner.links.all().iter().filter(covers).map(|link| link.add_to(&mut held)).sum();
        lost + held.lag(&vector)
    }

    /// Number of changes that some peer is known to have and that are not here.
    pub fn behind(&self) -> u64 {
        let own = Holdings::of(&self.inner.store.vector());
        self.inner.links.all().iter().map(|link| own.lag(&link.has())).max().unwrap_or(0)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    fn follow(&self, link: Arc<Link>) {
        let retired = link.retired();
        self.inner.spawn(retired.run_until_cancelled_owned(follower::follow(self.inner().clone(), link)));
    }

    /// Waits until a peer has the committed changes too: at most `ack_timeout`, and not at all when no peer counts
    /// (rules A1 to A3). The commit is durable here in any case.
    pub async fn acknowledge(&self, committed: &Committed) -> Acknowledgement {
        self.inner.acks.acknowledge(committed, Duration::MAX).await
    }

    /// As [`Self::acknowledge`], for the audio of a caller who waits since `begun`: the wait ends early enough for the answer
    /// of rule A1, however long the commit here took.
    pub async fn acknowledge_since(&self, committed: &Committed, begun: BootInstant) -> Acknowledgement {
        let acks = &self.inner.acks;
        acks.acknowledge(committed, acks::time_left(acks.timeout(), begun.elapsed())).await
    }

    /// Changes the timeout of that wait, and of a peer's answer to a probe.
    pub fn set_ack_timeout(&self, timeout: Duration) {
        self.inner.acks.set_timeout(timeout);
    }

    /// Changes the times that changes wait for their audio.
    pub fn set_audio_patience(&self, patience: AudioPatience) {
        self.inner.fetcher.set_patience(patience);
    }

    /// Changes the time without progress after which the fill continues without a member that is connected.
    pub fn set_source_patience(&self, patience: Duration) {
        let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.inner.source_patience_ms.store(millis, Relaxed);
    }

    /// Number of peers that count, that is, answer in time.
    pub fn counting(&self) -> usize {
        self.inner.acks.counting()
    }

    /// Number of other nodes, connected or not.
    pub fn known(&self) -> usize {
        self.inner.links.all().len()
    }

    /// Status of every peer, by name.
    pub fn status(&self) -> Vec<PeerStatus> {
        let vector = self.inner.store.vector();
        let status = |link: &Arc<Link>| PeerStatus {
            name: link.name.clone(),
            connected: link.followed(),
            following: link.following.load(Relaxed),
            counts: self.inner.acks.counts(&link.name),
            lag_changes: link.lag(&vector),
            last_contact_ms: link.since_contact().map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            sent_bytes: link.sent_bytes.load(Relaxed),
            received_bytes: link.received_bytes.load(Relaxed),
            stuck: link.stuck(),
        };
        self.inner.links.all().iter().map(status).collect()
    }

    /// Counters since the start of the process.
    pub fn counters(&self) -> PeersCounters {
        let Inner { acks, fetcher, counters, .. } = &**self.inner();
        let (blobs_from_chunks, blobs_fetched) = fetcher.counts();
        PeersCounters {
            on_two: acks.on_two.load(Relaxed),
            alone: acks.alone.load(Relaxed),
            blobs_from_chunks,
            blobs_fetched,
            refused: counters.refused.load(Relaxed),
            own_origin_alarms: counters.own_origin_alarms.load(Relaxed),
            set_aside: counters.set_aside.load(Relaxed),
            state_fills: counters.state_fills.load(Relaxed),
            state_fills_failed: counters.state_fills_failed.load(Relaxed),
            audio_lost: self.inner.lost_audio.count(),
        }
    }

    /// Ends all streams, both ways, and returns when no task of them runs any more.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    /// Runs a task until it ends or the streams are shut down.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) {
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// True when records of the table are removed as a whole when they are purged.
    pub(crate) fn purges_whole(&self, table: Table) -> bool {
        self.purged_tables.read().unwrap_or_else(PoisonError::into_inner).contains(&table)
    }

    /// Logs the end of a stream at the level of its cause.
    pub(crate) fn report(&self, peer: &NodeName, end: &StreamError, what: &'static str) {
        match end {
            StreamError::Stopped => debug!(%peer, reason = %end, what),
            StreamError::OwnOriginAhead { .. } => {
                self.counters.own_origin_alarms.fetch_add(1, Relaxed);
                error!(%peer, reason = %end, what);
            }
            end if end.is_refusal() => error!(%peer, reason = %end, what),
            _ => info!(%peer, reason = %end, what),
        }
    }
}
