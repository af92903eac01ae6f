//! A node: everything is bound early, run late, and stopped in reverse.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use twinbox_calls::{Calls, CallsConfig, CallsDeps};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_mailstore::{Mailstore, Settings};
use twinbox_media::{Engine, MediaConfig};
use twinbox_notifier::{Notifier, Policy};
use twinbox_replication_peer::{PeerAddress, PeerConfig, Peers};
use twinbox_replication_store::{Store, StoreConfig};
use twinbox_roles::{Duty, MemberAddress, MemberKind, Roles};

use crate::{
    AppError,
    admin::{AdminService, AdminSocket},
    alive,
    certificates::{Care, Signer},
    config::NodeConfig,
    health::Health,
    init::FOUNDER_MARK,
    joining::Host,
    learned,
    lights::Lamps,
    logging,
    members::{self, NodeFacts, Others},
    metrics, orphans,
    peering::{self, NodeServices, PeerListener},
    prompts,
    stop::StopSignals,
    systemd::Manager,
};

/// The parts of a running node.
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// This life of the process.
    pub incarnation: Incarnation,
    /// As read at the start.
    pub config: NodeConfig,
    /// Records and audio.
    pub store: Store,
    /// The other nodes.
    pub peers: Peers,
    /// Who does what.
    pub roles: Roles,
    /// Mailboxes and messages.
    pub mailstore: Mailstore,
    /// RTP.
    pub media: Engine,
    calls: RwLock<Option<Calls>>,
    notifier: Mutex<Option<Notifier>>,
}

/// What closing may take beside the end of the calls.
const CLOSING: std::time::Duration = std::time::Duration::from_secs(15);

/// Runs a node until it is told to stop.
pub fn run_node(config: NodeConfig) -> Result<(), AppError> {
    logging::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(AppError::Runtime)?;
    runtime.block_on(run(config))
}

async fn run(config: NodeConfig) -> Result<(), AppError> {
    let mut stop_signals = StopSignals::listen()?;
    allow_open_files(config.calls.max_calls);

    // Bind: whatever is taken or wrong stops the start here.
    let tls = config.cluster.tls.clone();
    let peer_listener = PeerListener::bind(&config.cluster).await?;
    let metrics_listener = match config.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let admin_socket = AdminSocket::bind(&config.admin_socket)?;
    let node = Arc::new(Node::build(config).await?);
    // What a former life was recording when it was killed becomes messages before new calls come.
    match node.mailstore.file_own_leftovers().await {
        Ok(filed) if filed.is_empty() => {}
        Ok(filed) => info!(count = filed.len(), "recordings of a former life are filed as partial messages"),
        Err(error) => warn!(%error, "recordings of a former life could not be filed"),
    }
    let prompts_watch = prompts::begin(&node).await;
    node.open_calls().await?;

    // Run.
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let health = Arc::new(Health::default());
    let facts = Arc::new(NodeFacts::of_node(node.clone(), health.clone()));
    let stop_peers = peer_listener.stop();
    let cluster = &node.config.cluster;
    let signer = Arc::new(Signer::new(tls.clone(), &cluster.tls_dir, &node.config.seal_secret));
    let host = Arc::new(Host { cluster: cluster.clone(), roles: node.roles.clone(), signer: signer.clone() });
    let services = NodeServices { peers: node.peers.clone(), signer: signer.clone(), host: host.clone() };
    tasks.spawn(peer_listener.serve(
        node.roles.service(),
        Some(services),
        members::Service::new(facts.clone(), tls.clone()),
    ));
    node.peers.start();
    let others = Arc::new(Others::new(&node.name, &node.roles, &tls));
    node.start_notifier(Lamps::new(node.clone(), others.clone()));
    tasks.spawn(health.clone().watch(node.clone(), others.clone(), stop.clone()));
    tasks.spawn(orphans::watch(node.clone(), stop.clone()));
    tasks.spawn(prompts::watch(node.clone(), prompts_watch, stop.clone()));
    tasks.spawn(forget_founding(node.clone(), stop.clone()));
    if let Some(listener) = metrics_listener {
        tasks.spawn(metrics::serve(listener, node.clone(), health.clone(), facts.clone(), stop.clone()));
    }
    let peers = node.peers.clone();
    let tell = move |everyone: &[MemberAddress]| {
        let nodes = everyone.iter().filter(|member| member.kind == MemberKind::Node);
        nodes.for_each(|m| peers.add(PeerAddress { name: m.name.clone(), address: m.address.clone() }));
    };
    tasks.spawn(learned::watch(cluster.clone(), node.roles.clone(), tell, stop.clone()));
    let care = Care { tls, tls_dir: cluster.tls_dir.clone(), signer: Some(signer), roles: node.roles.clone() };
    tasks.spawn(care.watch(stop.clone()));
    tasks.spawn(AdminService::new(node.clone(), facts, others, host).serve(admin_socket, stop.clone()));
    let manager = Arc::new(Manager::of_environment());
    tasks.spawn({
        let (manager, media, stop) = (manager.clone(), node.media.clone(), stop.clone());
        async move { manager.watchdog(|| alive::why_not(&media), stop).await }
    });
    manager.ready();
    info!(node = %node.name, incarnation = %node.incarnation, "the node runs");

    // Stop: no new calls, duties given back, calls in progress end, then the rest.
    stop_signals.next().await;
    info!("stopping: no new calls; a second signal ends those in progress");
    manager.stopping(node.config.drain + CLOSING);
    let calls = node.calls();
    if let Some(calls) = &calls {
        calls.leave();
    }
    node.stop_notifier();
    node.roles.shutdown().await;
    if let Some(calls) = calls {
        tokio::select! {
            () = idle(&calls) => {}
            () = tokio::time::sleep(node.config.drain) => {}
            () = stop_signals.next() => {}
        }
        calls.shutdown().await;
    }
    stop.cancel();
    node.peers.shutdown().await;
    stop_peers.cancel();
    tasks.close();
    tasks.wait().await;
    info!("stopped");
    Ok(())
}

/// A call that is recorded has a socket and two files here, and its copy two files at the peer: asks for as many
/// open files as `max_calls` may need, within what the system allows.
fn allow_open_files(max_calls: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// For all that is not a call: the store, peers, listeners, administrators.
    const BESIDE_CALLS: u64 = 1_024;
    let needed = BESIDE_CALLS + 5 * max_calls as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return;
    }
    let granted = maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(granted), maximum });
    if granted < needed || raised.is_err() {
        warn!(
            needed,
            granted, "too few open files for sip.max_calls: raise the limit (LimitNOFILE) or lower max_calls"
        );
    }
}

/// Waits until no call is in progress.
async fn idle(calls: &Calls) {
    while calls.active() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

impl Node {
    async fn build(config: NodeConfig) -> Result<Self, AppError> {
        let name = config.name.clone();
        let incarnation = Incarnation::random();
        let cluster = &config.cluster;
        let known = learned::known(cluster);
        let nodes: Vec<_> = known.iter().filter(|m| m.kind == MemberKind::Node).collect();

        let store = Store::open(StoreConfig {
            dir: config.data_dir.join("store"),
            node: name.clone(),
            reserve_bytes: config.reserve_bytes,
        })?;
        store.set_cluster_id(cluster.id).await?;
        let peers = Peers::new(
            PeerConfig {
                node: name.clone(),
                cluster: cluster.id,
                peers: nodes
                    .iter()
                    .map(|m| PeerAddress { name: m.name.clone(), address: m.address.clone() })
                    .collect(),
                ack_timeout: cluster.ack_timeout,
                tls: cluster.tls.clone(),
            },
            store.clone(),
        );
        let roles = peering::start_roles(
            cluster,
            &name,
            MemberKind::Node,
            incarnation,
            &config.data_dir.join("raft"),
            config.data_dir.join(FOUNDER_MARK).exists(),
        )
        .await?;
        let mut settings = Settings::new(name.clone(), incarnation, nodes.len() as u64);
        settings.require_two = cluster.require_two;
        settings.min_message_ms = config.voicemail.min_message_ms;
        settings.min_pin_length = config.voicemail.min_pin_length;
        settings.pin_cost = config.voicemail.pin_cost;
        let mailstore = Mailstore::new(store.clone(), peers.clone(), settings);
        let mut media = MediaConfig::new(config.rtp.bind, config.rtp.ports.clone());
        media.threads = config.rtp.threads;
        media.media_timeout = config.rtp.timeout.unwrap_or_default();
        let media = Engine::start(media)?;
        Ok(Self {
            name,
            incarnation,
            config,
            store,
            peers,
            roles,
            mailstore,
            media,
            calls: RwLock::new(None),
            notifier: Mutex::new(None),
        })
    }

    /// Starts the duty's task; one that ended is replaced. It acts only while this node holds the lease.
    pub fn start_notifier(&self, lamps: Lamps) {
        let gate = self.roles.gate(Duty::Notifier);
        let notifier = Notifier::start(self.mailstore.clone(), gate, lamps, Policy::default());
        *self.notifier.lock().unwrap_or_else(PoisonError::into_inner) = Some(notifier);
    }

    fn stop_notifier(&self) {
        self.notifier.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether the duty's task is there, holding the duty or waiting for it.
    pub fn notifier_runs(&self) -> bool {
        self.notifier.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(Notifier::is_running)
    }

    /// The SIP door, while it is open.
    pub fn calls(&self) -> Option<Calls> {
        self.calls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the SIP door; a door that was open and failed is closed first.
    pub async fn open_calls(&self) -> Result<(), AppError> {
        let old = self.calls.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(old) = old {
            warn!("the SIP door is closed and opened again");
            old.shutdown().await;
        }
        let cluster = &self.config.cluster;
        let config = CallsConfig {
            ack_timeout_ms: u64::try_from(cluster.ack_timeout.as_millis()).unwrap_or(u64::MAX),
            ..self.config.calls.clone()
        };
        let deps = CallsDeps {
            node: self.name.clone(),
            incarnation: self.incarnation,
            mailstore: self.mailstore.clone(),
            prompts: self.config.prompts.clone(),
            media: self.media.clone(),
        };
        let calls = Calls::start(config, deps).await?;
        *self.calls.write().unwrap_or_else(PoisonError::into_inner) = Some(calls);
        Ok(())
    }
}

/// Once the group is there, the mark that let this node found it goes: if the disk is ever emptied around it, it
/// must not found a second one.
async fn forget_founding(node: Arc<Node>, stop: CancellationToken) {
    let mark = node.config.data_dir.join(FOUNDER_MARK);
    if !mark.exists() {
        return;
    }
    let mut view = node.roles.watch();
    let founded = view.wait_for(|view| view.quorum);
    tokio::select! {
        founded = founded => {
            if founded.is_ok() {
                remove(&mark);
            }
        }
        () = stop.cancelled() => {}
    }
}

fn remove(mark: &Path) {
    if let Err(error) = std::fs::remove_file(mark) {
        warn!(file = %mark.display(), %error, "the founder's mark could not be removed: remove it by hand");
    }
}
