//! A node with its store, alarms and gate, and a receiver that records what it gets and answers as it is told.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use twinbox_alarms::{Alarm, Alarms, Code};
use twinbox_clock::{BootInstant, wall};
use twinbox_duty::{ActOutcome, Channels, OutboxDuty, Prepared};
use twinbox_gate::{Gate, Permit};
use twinbox_ids::{ClusterId, DeviceId, EffectId, Epoch, Incarnation, MailboxId, MessageId, NodeName, Timestamp};
use twinbox_mailstore::{Mailstore, MailstoreSettings};
use twinbox_outbox::{Cause, Channel, Effect, EffectState, NewEffect, Transition};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_replication_peer::{PeerAddress, PeerConfig, Peers};
use twinbox_replication_store::{Filled, Store, StoreConfig};
use twinbox_roles_core::Duty;

pub const HOUR: Duration = Duration::from_secs(3_600);
const CLUSTER: ClusterId = ClusterId(7);
/// Incarnation of the process that runs the duty, unless a test says otherwise.
pub const OWN: Incarnation = Incarnation(0xa);
pub const DEAD: Incarnation = Incarnation(0xdead);
pub const THIRD: Incarnation = Incarnation(0xc);

/// A node.
pub struct Node {
    pub store: Store,
    pub gate: Gate,
    /// The mail store as the process [`OWN`] has it.
    pub mailstore: Mailstore,
    peers: Peers,
    alarms: Alarms,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
    /// Last: removed after the store.
    pub dir: TempDir,
}

fn name(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

pub fn epoch(number: u64) -> Epoch {
    Epoch { generation: 0, number, node: name("a") }
}

fn identity(authority: &CertificateAuthority, dir: &Path, node: &str) -> Arc<NodeIdentity> {
    let dir = dir.join("tls");
    std::fs::create_dir(&dir).expect("a folder");
    authority.issue(&name(node), MemberKind::Node).expect("a certificate").save(&dir).expect("saved");
    Arc::new(NodeIdentity::load(&dir).expect("loaded"))
}

impl Node {
    /// A node without peers, whose store has all records.
    pub async fn alone() -> Self {
        let node = Self::without_records().await;
        node.store.set_filled(Filled::Complete).await.expect("a mark");
        node
    }

    /// A node without peers, whose store waits for its first fill.
    pub async fn without_records() -> Self {
        let authority = CertificateAuthority::create(CLUSTER, "test").expect("an authority");
        Self::new(&authority, "a", vec![], None).await
    }

    /// Two nodes that replicate.
    pub async fn pair() -> [Self; 2] {
        Self::cluster(["a", "b"]).await
    }

    /// Nodes that replicate.
    pub async fn cluster<const N: usize>(names: [&str; N]) -> [Self; N] {
        let authority = CertificateAuthority::create(CLUSTER, "test").expect("an authority");
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for node in names {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address").to_string();
            addresses.push(PeerAddress { name: name(node), address });
            listeners.push(listener);
        }
        let mut nodes = Vec::new();
        for (node, listener) in names.into_iter().zip(listeners) {
            let node = Self::new(&authority, node, addresses.clone(), Some(listener)).await;
            node.store.set_filled(Filled::Complete).await.expect("a mark");
            nodes.push(node);
        }
        eventually("all count", async || nodes.iter().all(|node| node.peers.counting() == N - 1)).await;
        nodes.try_into().unwrap_or_else(|_| panic!("as many as names"))
    }

    /// Ends the replication of this node with the others.
    pub async fn leave(&self) {
        self.peers.shutdown().await;
    }

    async fn new(
        authority: &CertificateAuthority,
        node: &str,
        peers: Vec<PeerAddress>,
        listener: Option<TcpListener>,
    ) -> Self {
        let dir = TempDir::new().expect("a folder");
        let tls = identity(authority, dir.path(), node);
        let store = StoreConfig { dir: dir.path().join("store"), node: name(node), reserve_bytes: 0 };
        let store = Store::open(store).expect("a store");
        store.set_cluster_id(CLUSTER).await.expect("of this cluster");
        let config = PeerConfig {
            node: name(node),
            cluster: CLUSTER,
            peers,
            ack_timeout: Duration::from_secs(1),
            tls: tls.clone(),
        };
        let peers = Peers::new(config, store.clone());
        let server = listener.map(|listener| {
            let service = tls.server().add_service(peers.service());
            peers.start();
            tokio::spawn(async move {
                let _ = service.serve_with_incoming(tls.listen(listener)).await;
            })
        });
        let alarms = Alarms::open(store.clone(), peers.clone()).await.expect("alarms");
        let stop = CancellationToken::new();
        tokio::spawn({
            let (alarms, stop) = (alarms.clone(), stop.clone());
            async move { alarms.serve(None, stop).await }
        });
        let mailstore = Mailstore::new(store.clone(), peers.clone(), MailstoreSettings::new(name(node), OWN));
        Self { store, gate: Gate::new(Duty::Notifier), mailstore, peers, alarms, stop, server, dir }
    }

    /// The mail store as another incarnation of the process has it.
    pub fn process(&self, incarnation: Incarnation) -> Mailstore {
        Mailstore::new(self.store.clone(), self.peers.clone(), MailstoreSettings::new(name("a"), incarnation))
    }

    /// Starts the duty in the process that has this mail store. It works while the node holds the duty.
    pub fn start(&self, mailstore: Mailstore, channels: impl Channels) -> OutboxDuty {
        let duty = OutboxDuty::new(mailstore, self.gate.clone(), self.alarms.clone(), channels);
        duty.restart();
        duty
    }

    /// Starts the duty in the process [`OWN`].
    pub fn duty(&self, channels: impl Channels) -> OutboxDuty {
        self.start(self.mailstore.clone(), channels)
    }

    /// Gives the duty to this node, in that epoch.
    pub fn hold(&self, number: u64) {
        self.gate.open(&epoch(number), BootInstant::now() + HOUR);
    }

    /// Lets other commits pass: time for a write that must not come.
    pub async fn commits(&self) {
        for _ in 0..20 {
            let _ = self.store.probe().await;
            tokio::task::yield_now().await;
        }
    }

    pub async fn add(&self, effects: &[NewEffect]) {
        self.mailstore.add_effects(effects.to_vec()).await.expect("added");
    }

    /// The effect as it is stored.
    pub fn effect(&self, id: EffectId) -> Effect {
        self.mailstore.effect(id).expect("readable").expect("present")
    }

    /// Waits until an effect is in that state.
    pub async fn until(&self, id: EffectId, state: EffectState) -> Effect {
        let is = || self.mailstore.effect(id).expect("readable").is_some_and(|effect| effect.state() == state);
        eventually(&format!("{id} is {state}"), async || is()).await;
        self.effect(id)
    }

    /// Waits for the alarm of a dead letter on this channel; returns its text.
    pub async fn dead_letter(&self, channel: Channel) -> String {
        let found = || {
            let alarms = self.alarms.list().expect("a list");
            let dead = |it: &Alarm| it.code == Some(Code::DeadLetter) && it.subject == channel.word();
            alarms.into_iter().find(dead).map(|alarm| alarm.detail)
        };
        eventually("a dead letter raises an alarm", async || found().is_some()).await;
        found().expect("an alarm")
    }

    /// Waits until the alarm of a destination that takes nothing is raised, or is over; returns its text.
    pub async fn silent(&self, subject: &str, raised: bool) -> String {
        let found = || {
            let mut alarms = self.alarms.list().expect("a list");
            alarms.retain(|it| it.code == Some(Code::DestinationSilent) && it.subject == subject);
            alarms.pop().filter(|alarm| alarm.cleared.is_none() == raised).map(|alarm| alarm.detail)
        };
        eventually(&format!("{subject}: raised {raised}"), async || found().is_some()).await;
        found().expect("an alarm")
    }

    pub fn has_no_alarm(&self) -> bool {
        self.alarms.list().expect("a list").is_empty()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// An effect that is due now, of a mailbox of its own.
pub fn due(channel: Channel, number: u128) -> NewEffect {
    let now = wall();
    NewEffect {
        cause: Cause { mailbox: MailboxId(number), message: MessageId(number), transition: Transition::Filed },
        channel,
        target: DeviceId(1),
        repeat: 0,
        retry: 0,
        created: now,
        not_before: now,
        expires: Timestamp(now.0 + 3 * 24 * 3_600 * 1_000),
    }
}

pub fn taken() -> ActOutcome {
    ActOutcome::Done("taken".to_owned(), Vec::new())
}

/// Polls until the condition is true; fails after twenty seconds.
pub async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let began = BootInstant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Everything that a [`Desk`] saw.
#[derive(Default)]
pub struct Log {
    /// Effects that were prepared.
    pub prepared: Vec<EffectId>,
    /// Effects that were prepared before they were due.
    pub early: Vec<EffectId>,
    /// Acts, in order: the effect, and the id that its receiver sees.
    pub acts: Vec<(EffectId, EffectId)>,
    /// Acts under way.
    pub active: Vec<EffectId>,
    /// For each act, the others that were under way when it began.
    pub beside: Vec<(EffectId, Vec<EffectId>)>,
}

type Preparing = dyn Fn(&Effect) -> Prepared<()> + Send + Sync;
type Acting = dyn Fn(&Effect) -> ActOutcome + Send + Sync;

struct Inner {
    log: Mutex<Log>,
    /// Effects whose acts wait for the test.
    kept: watch::Sender<HashSet<EffectId>>,
    prepare: Box<Preparing>,
    act: Box<Acting>,
    /// Time without a success after which a destination raises an alarm.
    silence: Duration,
}

/// A channel with its receiver. It serves everything but pagers.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

impl Desk {
    /// Answers each act as this function says.
    pub fn answering(act: impl Fn(&Effect) -> ActOutcome + Send + Sync + 'static) -> Self {
        Self::new(|_| Prepared::Act(()), act)
    }

    pub fn new(
        prepare: impl Fn(&Effect) -> Prepared<()> + Send + Sync + 'static,
        act: impl Fn(&Effect) -> ActOutcome + Send + Sync + 'static,
    ) -> Self {
        Self::with_silence(HOUR, prepare, act)
    }

    /// As [`Self::answering`], with an alarm at the first failure.
    pub fn impatient(act: impl Fn(&Effect) -> ActOutcome + Send + Sync + 'static) -> Self {
        Self::with_silence(Duration::ZERO, |_| Prepared::Act(()), act)
    }

    fn with_silence(
        silence: Duration,
        prepare: impl Fn(&Effect) -> Prepared<()> + Send + Sync + 'static,
        act: impl Fn(&Effect) -> ActOutcome + Send + Sync + 'static,
    ) -> Self {
        let (log, kept) = (Mutex::default(), watch::Sender::new(HashSet::new()));
        Self(Arc::new(Inner { log, kept, prepare: Box::new(prepare), act: Box::new(act), silence }))
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Effects acted on, in order.
    pub fn acts(&self) -> Vec<EffectId> {
        self.log().acts.iter().map(|(id, _)| *id).collect()
    }

    /// Keeps the acts of these effects waiting.
    pub fn keep(&self, ids: impl IntoIterator<Item = EffectId>) {
        self.0.kept.send_modify(|kept| kept.extend(ids));
    }

    /// Lets the act of an effect go on.
    pub fn release(&self, id: EffectId) {
        self.0.kept.send_modify(|kept| {
            kept.remove(&id);
        });
    }

    /// Waits until these are under way, and no others.
    pub async fn under_way(&self, ids: &[EffectId]) {
        let ids: HashSet<_> = ids.iter().copied().collect();
        let same = async || self.log().active.iter().copied().collect::<HashSet<_>>() == ids;
        eventually("the acts are under way", same).await;
    }
}

/// An act under way: also ends when its task is aborted.
struct UnderWay<'a>(&'a Desk, EffectId);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.log().active.retain(|id| *id != self.1);
    }
}

impl Channels for Desk {
    type Work = ();

    fn serves(&self, channel: Channel) -> bool {
        channel != Channel::Pager
    }

    fn silence(&self) -> Duration {
        self.0.silence
    }

    async fn prepare(&self, effect: &Effect) -> Prepared<()> {
        let early = effect.due() > wall();
        let mut log = self.log();
        log.prepared.push(effect.id);
        log.early.extend(early.then_some(effect.id));
        drop(log);
        (self.0.prepare)(effect)
    }

    fn route(&self, effect: &Effect, _work: &()) -> String {
        effect.new.channel.word().to_owned()
    }

    async fn act(&self, effect: &Effect, _work: (), permit: Arc<Permit>) -> ActOutcome {
        assert!(permit.check().is_ok(), "an act without the duty");
        {
            let mut log = self.log();
            let others = log.active.clone();
            log.acts.push((effect.id, effect.receiver_id()));
            log.beside.push((effect.id, others));
            log.active.push(effect.id);
        }
        let _under_way = UnderWay(self, effect.id);
        let mut kept = self.0.kept.subscribe();
        let released = kept.wait_for(|kept| !kept.contains(&effect.id)).await.is_ok();
        assert!(released, "the desk is open");
        (self.0.act)(effect)
    }
}
