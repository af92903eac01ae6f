//! A node: binds everything first, runs it later, and stops in reverse order.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use twinbox_alarms::{Alarms, Kind};
use twinbox_calls::{Calls, CallsConfig, CallsDeps};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_mailstore::{Mailstore, Settings};
use twinbox_media::{Engine, MediaConfig};
use twinbox_notifier::{Notifier, Policy};
use twinbox_replication_peer::{PeerAddress, PeerConfig, Peers};
use twinbox_replication_store::{Filled, Store, StoreConfig};
use twinbox_roles::{Duty, MemberAddress, MemberKind, Roles};

use crate::{
    AppError,
    admin::{AdminService, AdminSocket},
    alarms, alive,
    aside::Aside,
    certificates::{Care, Signer},
    config::NodeConfig,
    drain::Drain,
    folder::{Folder, Owner},
    health::Health,
    init::FOUNDER_MARK,
    joining::Host,
    knock::{Knocker, Shows},
    learned,
    lights::Lamps,
    logging,
    members::{self, NodeFacts, Others},
    metrics,
    operators::Operators,
    orphans,
    peering::{self, NodeServices, PeerListener},
    ports::{self, PortRange},
    prompts, roles,
    stop::StopSignals,
    supervised::Supervised,
    systemd::Manager,
    unfiled, watchdog,
};

#[cfg(debug_assertions)]
use crate::{release, wedge};

/// The parts of a running node.
pub struct Node {
    /// Name of the node.
    pub name: NodeName,
    /// Incarnation of this process.
    pub incarnation: Incarnation,
    /// Configuration as read at the start.
    pub config: NodeConfig,
    /// Store of records and audio.
    pub store: Store,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Role manager.
    pub roles: Roles,
    /// Mailboxes and messages.
    pub mailstore: Mailstore,
    /// Handle for alarms and events.
    pub alarms: Alarms,
    /// Media engine (RTP).
    pub media: Engine,
    /// Results of the SIP probes of silent nodes.
    pub shows: Arc<Shows>,
    calls: RwLock<Option<Calls>>,
    notifier: Mutex<Option<Notifier>>,
    drain: Mutex<Drain>,
    stopping: AtomicBool,
}

/// Time limit of a stop in addition to the end of the calls.
const CLOSING: std::time::Duration = std::time::Duration::from_secs(15);

/// Runs a node until it gets a stop signal.
pub fn run_node(config: NodeConfig) -> Result<(), AppError> {
    logging::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(AppError::Runtime)?;
    runtime.block_on(run(config))
}

async fn run(config: NodeConfig) -> Result<(), AppError> {
    allow_open_files(config.calls.max_calls);

    // Bind: an address in use or an invalid setting ends the start here, and nothing is changed.
    let own = Owner { member: config.name.clone(), cluster: Some(config.cluster.id) };
    // Below this limit the store refuses even small writes (rule A4).
    let _folder = Folder::take("node.data_dir", &config.data_dir, &own, config.reserve_bytes / 4)?;
    let supervised = Supervised::begin(&config.data_dir)?;
    let mut stop_signals = StopSignals::listen(supervised.is_supervised())?;
    let _range = ports::claim(PortRange { ip: config.rtp.bind, ports: config.rtp.ports.clone() })?;
    let tls = config.cluster.tls.clone();
    let leases = Aside::for_leases().map_err(AppError::Runtime)?;
    let peer_listener = PeerListener::bind(&config.cluster, leases.handle()).await?;
    let mut pages = vec![metrics::bind_local(&config.admin_socket)?];
    if let Some(address) = config.metrics {
        pages.push(metrics::bind(address)?);
    }
    ports::sip_is_free(&config.calls.listeners)?;
    let admin_socket = AdminSocket::bind(&config.admin_socket)?;
    let aside = Aside::for_probes().map_err(AppError::Runtime)?;
    let node = Arc::new(Node::build(config, supervised.incarnation(), &leases.handle()).await?);
    supervised.opened(node.roles.life());
    // Recordings of a killed incarnation become messages before new calls are taken.
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
    let (door, operators) = Operators::door();
    let services =
        NodeServices { peers: node.peers.clone(), signer: signer.clone(), host: host.clone(), operators: door };
    let others = Arc::new(Others::new(&node.name, &node.roles, &tls));
    tasks.spawn(peer_listener.serve(
        (node.roles.service(), node.roles.exits()),
        Some(services),
        members::Service::new(facts.clone(), tls.clone()).reaching(others.clone()),
    ));
    node.peers.start();
    node.start_notifier(Lamps::new(node.clone(), others.clone()));
    tasks.spawn(health.clone().watch(node.clone(), facts.clone(), others.clone(), stop.clone()));
    watchdog::watch(node.clone(), health.pulse.clone(), stop.clone()).map_err(AppError::Runtime)?;
    #[cfg(debug_assertions)]
    {
        wedge::obey(node.clone());
        tasks.spawn(release::write(node.mailstore.clone(), stop.clone()));
    }
    tasks.spawn(orphans::watch(node.clone(), stop.clone()));
    count_messages(&node, &tasks, &stop);
    tasks.spawn(unfiled::watch(node.clone(), stop.clone()));
    tasks.spawn(prompts::watch(node.clone(), prompts_watch, stop.clone()));
    tasks.spawn(forget_founding(node.clone(), stop.clone()));
    for door in pages {
        let serving = metrics::serve(door, node.clone(), health.clone(), facts.clone(), stop.clone());
        tasks.spawn_on(serving, &aside.handle());
    }
    let knocker = Knocker {
        own: node.name.clone(),
        roles: node.roles.clone(),
        timing: cluster.timing,
        others: others.clone(),
        shows: node.shows.clone(),
    };
    tasks.spawn(knocker.run(stop.clone()));
    let peers = node.peers.clone();
    let tell = move |everyone: &[MemberAddress]| roles::follow_members(&peers, everyone);
    tasks.spawn(learned::watch(cluster.clone(), node.roles.clone(), tell, stop.clone()));
    let care = Care {
        tls,
        tls_dir: cluster.tls_dir.clone(),
        signer: Some(signer),
        roles: node.roles.clone(),
        alarms: Some(node.alarms.clone()),
    };
    tasks.spawn(care.watch(stop.clone()));
    alarms::start(&node, &tasks, &stop);
    let stewarded = health.clone();
    tasks.spawn(AdminService::new(node.clone(), health, facts, others, host).serve(
        admin_socket,
        operators,
        stop.clone(),
    ));
    tasks.spawn(roles::follow(node.clone(), stewarded, stop.clone()));
    let manager = Arc::new(Manager::of_environment());
    let watched = {
        let (manager, media, stop) = (manager.clone(), node.media.clone(), stop.clone());
        async move { manager.watchdog(|| alive::why_not(&media), stop).await }
    };
    tasks.spawn_on(watched, &aside.handle());
    supervised.tell_last_words(&node.name, &node.alarms);
    supervised.ready();
    manager.ready();
    let supervised = Arc::new(supervised);
    tasks.spawn({
        let (supervised, stop) = (supervised.clone(), stop.clone());
        async move { supervised.watch_supervisor(stop).await }
    });
    info!(node = %node.name, incarnation = %node.incarnation, "the node runs");

    // Stop: refuse new calls, return the duties, wait for the calls in progress, then stop the rest.
    tokio::select! {
        () = stop_signals.next() => info!("stopping: no new calls; a second signal ends those in progress"),
        reason = node.roles.removed() => error!("{reason}; this node takes no new calls, and stops when those in progress have ended"),
    }
    node.alarms.event(Kind::NodeStopping, node.name.as_str(), "");
    manager.stopping(node.config.drain + CLOSING);
    node.stopping.store(true, Relaxed);
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
    supervised.ends_well();
    info!("stopped");
    Ok(())
}

/// A recorded call needs two sockets and two files here, and its copy two files at the peer. Requests as many open
/// files as `max_calls` may need, within the system's limit.
fn allow_open_files(max_calls: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Files for the store, peers, listeners and administrators.
    const BESIDE_CALLS: u64 = 1_024;
    let needed = BESIDE_CALLS + 6 * max_calls as u64;
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
    async fn build(config: NodeConfig, incarnation: Incarnation, leases: &Handle) -> Result<Self, AppError> {
        let name = config.name.clone();
        let cluster = &config.cluster;
        let known = learned::known(cluster);
        let nodes: Vec<_> = known.iter().filter(|m| m.kind == MemberKind::Node).collect();

        let store = Store::open(StoreConfig {
            dir: config.data_dir.join("store"),
            node: name.clone(),
            reserve_bytes: config.reserve_bytes,
        })?;
        store.set_cluster_id(cluster.id).await?;
        let founds = config.data_dir.join(FOUNDER_MARK).exists();
        if founds {
            // The founder has all existing records (rule D13).
            store.set_filled(Filled::Complete).await?;
        }
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
        let alarms = Alarms::open(store.clone(), peers.clone()).await?;
        let roles = peering::start_roles(
            cluster,
            &name,
            MemberKind::Node,
            incarnation,
            &config.data_dir.join("raft"),
            founds,
            leases,
        )
        .await?;
        roles.measure(roles::first_measures(&store));
        let mut settings = Settings::new(name.clone(), incarnation, nodes.len() as u64);
        settings.require_two = cluster.require_two;
        settings.min_message_ms = config.voicemail.min_message_ms;
        settings.min_pin_length = config.voicemail.min_pin_length;
        settings.pin_cost = config.voicemail.pin_cost;
        let mailstore = Mailstore::new(store.clone(), peers.clone(), settings);
        let mut media = MediaConfig::new(config.rtp.bind, config.rtp.ports.clone());
        media.dscp = config.rtp.dscp;
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
            alarms,
            media,
            shows: Arc::default(),
            calls: RwLock::new(None),
            notifier: Mutex::new(None),
            drain: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Starts the task of the duty; a task that ended is replaced. It acts only while this node holds the lease.
    pub fn start_notifier(&self, lamps: Lamps) {
        let gate = self.roles.gate(Duty::Notifier);
        let notifier = Notifier::start(self.mailstore.clone(), gate, lamps, Policy::default());
        *self.notifier.lock().unwrap_or_else(PoisonError::into_inner) = Some(notifier);
    }

    /// Ends the task of the duty permanently, because the process stops.
    fn stop_notifier(&self) {
        self.notifier.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether an orderly stop is in progress: services that it has ended have not failed.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Time since the last turn of the duty's task, with or without the duty; `None` if the task has ended.
    pub fn notifier_still_for(&self) -> Option<std::time::Duration> {
        let notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner);
        notifier.as_ref().filter(|notifier| notifier.is_running()).map(Notifier::still_for)
    }

    /// Makes the task of the duty hang, for tests. Not in release builds.
    #[cfg(debug_assertions)]
    pub fn wedge_notifier(&self) {
        self.notifier.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Notifier::wedge);
    }

    /// Drain time of calls while this node is out of service.
    pub fn drain(&self) -> MutexGuard<'_, Drain> {
        self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The SIP server, while it runs.
    pub fn calls(&self) -> Option<Calls> {
        self.calls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts the SIP server; an earlier one that failed is closed first.
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

/// Counts the messages of all mailboxes in the background, so that lists and MWI find the counts.
fn count_messages(node: &Node, tasks: &TaskTracker, stop: &CancellationToken) {
    let (mailstore, stop) = (node.mailstore.clone(), stop.clone());
    tasks.spawn_blocking(move || {
        if let Err(error) = mailstore.count_all(|| stop.is_cancelled()) {
            warn!(%error, "messages are not counted now, but when they are asked for");
        }
    });
}

/// Removes the founder marker after the group exists: if the disk is emptied later except for the marker, this node
/// must not found a second group.
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
