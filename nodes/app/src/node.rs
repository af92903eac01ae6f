//! A node, from its start to its end: bind, build, run, stop. Binds everything before it changes anything, and stops
//! in the reverse order.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::runtime::Builder;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use twinbox_admin_api::{AdminService, NodeFacts, NodeInfoService, Operators};
use twinbox_alarm_rules::{AlarmRules, stores_set_aside};
use twinbox_alarms::{Alarms, Code, Kind, Outbound, Syslog};
use twinbox_calls::{CallsDeps, CallsService};
use twinbox_cluster_settings::Key;
use twinbox_config::{NodeConfig, members_file};
use twinbox_diagnostics::{ProbeCounts, comparison::Comparison};
use twinbox_enrollment::{Host, certificates::Signer, init::FOUNDER_MARK};
use twinbox_health::{DutyHandles, Health, NodeHandles, failed_store, liveness, watchdog};
use twinbox_ids::Incarnation;
use twinbox_mail_gateway::{Gateway, MailFiling};
use twinbox_mailstore::{Mailstore, MailstoreSettings, PromptsWatch};
use twinbox_media::{Engine, MediaConfig};
use twinbox_members::MemberClients;
use twinbox_notifier::mwi::{ClusterMwiSender, ReportedTimes};
use twinbox_reconciler::{
    CustomPrompts, LostNodes, NodeReconciler, PURGED_WHOLE, Purge, ReconcilerParts, SharedDrain, UidKeeper,
    file_leftovers, file_leftovers_when_filled, file_orphans, first_measures, follow_members, keep_call_records,
    purge_deleted, retry_unfiled,
};
use twinbox_replication_admin::MemberStorageService;
use twinbox_replication_peer::{LogPolicy, PeerAddress, PeerConfig, Peers};
use twinbox_replication_store::{Filled, Store, StoreConfig};
use twinbox_roles::{Duty, MemberAddress, MemberKind, Roles};
use twinbox_runtime::SystemdNotifier;
use twinbox_settings_service::{SettingsParts, SharedSettings};
use twinbox_supervisor::EXIT_DISK_FAILED;

use crate::{
    AppError,
    bound::{Bound, Sockets},
    duties,
    peering::{self, NodeServices},
};

mod handles;

/// Time limit of a stop in addition to the end of the calls.
const CLOSING: Duration = Duration::from_secs(15);

/// Runs a node until it gets a stop signal.
pub fn run_node(config: NodeConfig) -> Result<(), AppError> {
    config.log.start();
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(AppError::Runtime)?;
    runtime.block_on(run(Arc::new(config)))
}

async fn run(config: Arc<NodeConfig>) -> Result<(), AppError> {
    let mut bound = Bound::bind(&config).await?;
    let node = Node::build(config, &bound).await?;
    let prompts = node.open().await?;
    let running = node.start(&mut bound, prompts)?;
    info!(node = %node.config.name, incarnation = %node.incarnation, "the node runs");
    tokio::select! {
        () = bound.stop_signals.next() => info!("stopping: no new calls; a second signal ends those in progress"),
        reason = node.roles.removed() => error!("{reason}; this node takes no new calls, and stops when those in progress have ended"),
        reason = failed_store::of_node(&node.store, &node.roles, &node.calls, node.config.drain) => {
            error!("{reason}; this process ends, and the next one reads from the disk");
            // A disk that hangs must not hold up the next process.
            let _in_time = tokio::time::timeout(CLOSING, node.close(running, &mut bound, Duration::ZERO)).await.is_ok();
            std::process::exit(EXIT_DISK_FAILED)
        }
    }
    running.systemd.stopping(node.config.drain + CLOSING);
    let drain = node.config.drain;
    node.close(running, &mut bound, drain).await;
    bound.supervised.ends_well();
    info!("stopped");
    Ok(())
}

/// The parts of a node. Other crates get those that they need, never all of them.
struct Node {
    incarnation: Incarnation,
    config: Arc<NodeConfig>,
    store: Store,
    /// The store was damaged and built again.
    rebuilt: bool,
    peers: Peers,
    roles: Roles,
    members: Arc<MemberClients>,
    mailstore: Mailstore,
    settings: SharedSettings,
    alarms: Alarms,
    media: Engine,
    calls: CallsService,
    duties: DutyHandles,
    gateway: Option<Gateway<MailFiling>>,
    comparison: Arc<Comparison>,
    health: Arc<Health>,
    drain: SharedDrain,
    /// Cancelled when an orderly stop begins.
    stopping: CancellationToken,
}

/// The tasks of a running node.
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Ends the listener for members, after everything that uses it.
    stop_members: CancellationToken,
    systemd: Arc<SystemdNotifier>,
}

impl Node {
    async fn build(config: Arc<NodeConfig>, bound: &Bound) -> Result<Self, AppError> {
        let (name, cluster, incarnation) = (&config.name, &config.cluster, bound.supervised.incarnation());
        let known = members_file::known(cluster);
        let nodes: Vec<_> = known.iter().filter(|m| m.kind == MemberKind::Node).collect();

        twinbox_backup::refuse_unfinished(&config.data_dir)?;
        let opening = twinbox_rebuild::open(StoreConfig {
            dir: config.data_dir.join("store"),
            node: name.clone(),
            reserve_bytes: config.reserve_bytes,
        });
        let store = SystemdNotifier::from_env().starting(opening).await?;
        store.set_cluster_id(cluster.id).await?;
        let founds = config.data_dir.join(FOUNDER_MARK).exists();
        let rebuilt = stores_set_aside::is_data_rebuilt(&config.data_dir);
        if founds && !rebuilt {
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
                ack_timeout: Duration::from_millis(config.calls.ack_timeout_ms),
                tls: cluster.tls.clone(),
            },
            store.clone(),
        );
        let alarms = Alarms::open(store.clone(), peers.clone()).await?;
        let raft = config.data_dir.join("raft");
        let leases = bound.leases.handle();
        let roles =
            peering::start_roles(cluster, name, MemberKind::Node, incarnation, &raft, founds, &leases).await?;
        roles.measure(first_measures(&store));
        bound.supervised.opened(roles.raft_id_and_run());
        let members = Arc::new(MemberClients::new(name, &roles, &cluster.tls));
        let start = MailstoreSettings::new(name.clone(), incarnation);
        let mailstore = Mailstore::new(store.clone(), peers.clone(), start);
        let media = Engine::start(media_config(&config))?;
        let calls = CallsService::new(
            config.calls.clone(),
            CallsDeps {
                node: name.clone(),
                incarnation,
                mailstore: mailstore.clone(),
                prompts: config.prompts.clone(),
                media: media.clone(),
                clock: Default::default(),
            },
        );
        let settings = SharedSettings::open(SettingsParts::of(&config, &mailstore, &peers, &calls, &alarms))?;
        let sender = ClusterMwiSender {
            node: name.clone(),
            calls: calls.clone(),
            roles: roles.clone(),
            members: members.clone(),
            margin: cluster.timing.margin,
            times: ReportedTimes::default(),
        };
        let (stopping, comparison) = (CancellationToken::new(), Arc::new(Comparison::default()));
        let duties = duties::build(&config, &settings, &mailstore, &roles, &alarms, sender, &comparison);
        let gateway = duties::mail_gateway(&config, &settings, &mailstore, &alarms);
        let handles = NodeHandles {
            name: name.clone(),
            store: store.clone(),
            peers: peers.clone(),
            roles: roles.clone(),
            media: media.clone(),
            calls: calls.clone(),
            duties: duties.clone(),
            alarms: alarms.clone(),
            stopping: stopping.clone(),
        };
        let health = Arc::new(Health::new(handles, comparison.clone()));
        let drain = SharedDrain::default();
        Ok(Self {
            incarnation,
            config,
            store,
            rebuilt,
            peers,
            roles,
            members,
            mailstore,
            settings,
            alarms,
            media,
            calls,
            duties,
            gateway,
            comparison,
            health,
            drain,
            stopping,
        })
    }

    /// Takes calls. Recordings of a killed incarnation become messages before new calls are taken.
    async fn open(&self) -> Result<(CustomPrompts, PromptsWatch), AppError> {
        if !self.lacks_records_of_takes() {
            file_leftovers(&self.mailstore).await;
        }
        let prompts = CustomPrompts {
            mailstore: self.mailstore.clone(),
            prompts: self.config.prompts.clone(),
            language: self.settings.values().text(Key::Language).to_owned(),
        };
        let changes = prompts.apply_all().await;
        self.calls.restart().await?;
        Ok((prompts, changes))
    }

    /// True when takes in the packs may be old ones: the records that tell are not here yet.
    fn lacks_records_of_takes(&self) -> bool {
        self.rebuilt && !self.store.filled().has_records()
    }

    fn start(&self, bound: &mut Bound, prompts: (CustomPrompts, PromptsWatch)) -> Result<Running, AppError> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        if self.lacks_records_of_takes() {
            tasks.spawn(file_leftovers_when_filled(self.mailstore.clone(), stop.clone()));
        }
        let sockets =
            bound.sockets.take().ok_or_else(|| AppError::Runtime(std::io::ErrorKind::NotConnected.into()))?;
        let Sockets { members: listener, administrators, pages, mail, links } = sockets;
        let (config, cluster, probes) = (&self.config, &self.config.cluster, bound.probes.handle());
        let signer = Arc::new(Signer::new(cluster.tls.clone(), &cluster.tls_dir, &config.seal_secret));
        let host = Arc::new(Host { cluster: cluster.clone(), roles: self.roles.clone(), signer: signer.clone() });
        let facts = Arc::new(NodeFacts::of_node(&config.name, self.incarnation, self.state()));
        let (route, operators) = Operators::route();

        // Other members.
        let stop_members = listener.stop();
        tasks.spawn(listener.serve(
            (self.roles.service(), self.roles.exits()),
            Some(NodeServices {
                peers: self.peers.clone(),
                storage: MemberStorageService::new(self.store.clone(), self.peers.clone(), cluster.tls.clone()),
                signer: signer.clone(),
                host: host.clone(),
                operators: route,
            }),
            NodeInfoService::new(facts.clone(), cluster.tls.clone()),
        ));
        self.peers.purges(PURGED_WHOLE);
        self.peers.start();
        self.peers.keep_log(LogPolicy::new(self.config.log_keep.time, self.config.log_keep.bytes));
        let peers = self.peers.clone();
        let tell = move |everyone: &[MemberAddress]| follow_members(&peers, everyone);
        tasks.spawn(members_file::watch(cluster.clone(), self.roles.clone(), tell, stop.clone()));
        tasks.spawn(self.renewer(signer).watch(stop.clone()));
        let probe_counts = Arc::new(ProbeCounts::default());
        tasks.spawn(self.sip_prober(probe_counts.clone()).run(stop.clone()));

        // Duties, health and alarms.
        self.duties.restart_all();
        tasks.spawn(self.health.clone().watch(config.self_test, stop.clone()));
        watchdog::watch(&self.health, stop.clone()).map_err(AppError::Runtime)?;
        let stamping = self.store.clone();
        tasks.spawn(self.comparison.clone().watch(
            config.clone(),
            self.calls.clone(),
            self.members.clone(),
            self.alarms.clone(),
            Box::new(move |behind_ms| stamping.correct_clock(behind_ms)),
            stop.clone(),
        ));
        self.start_alarms(&tasks, &stop);

        // Tasks that follow the agreed and replicated state.
        tasks.spawn(self.reconciler().run(stop.clone()));
        tasks.spawn(file_orphans(self.lost_nodes(), stop.clone()));
        let (name, mailstore) = (config.name.clone(), self.mailstore.clone());
        tasks.spawn(retry_unfiled(name, mailstore, self.alarms.clone(), stop.clone()));
        tasks.spawn(self.settings.clone().follow(stop.clone()));
        let keep = Box::new(duties::keep_of_call_records(&self.settings));
        tasks.spawn(keep_call_records(self.mailstore.clone(), self.roles.clone(), keep, stop.clone()));
        tasks.spawn(purge_deleted(self.purge(), stop.clone()));
        let uids = UidKeeper::new(config.name.clone(), self.mailstore.clone(), self.roles.watch());
        tasks.spawn(uids.run(stop.clone()));
        let (custom, changes) = prompts;
        tasks.spawn(custom.follow(changes, stop.clone()));
        self.count_messages(&tasks, &stop);
        tasks.spawn(forget_founding(config.data_dir.join(FOUNDER_MARK), self.roles.clone(), stop.clone()));
        #[cfg(debug_assertions)]
        {
            twinbox_health::wedge::obey(self.store.clone(), self.duties.notifier.clone());
            tasks.spawn(crate::next_release::write(self.mailstore.clone(), stop.clone()));
        }

        duties::serve_mail(self.gateway.as_ref(), config, &self.settings, mail, &self.alarms, &tasks, &stop);
        crate::links::serve(config, &self.mailstore, links, &self.alarms, &tasks, &stop);

        // Administrators and probes.
        for page in pages {
            let serving = twinbox_metrics::serve(page, self.pages(&facts, &probe_counts), stop.clone());
            tasks.spawn_on(serving, &probes);
        }
        let admin = AdminService::new(self.admin_handles(), facts, host);
        tasks.spawn(admin.serve(administrators, operators, stop.clone()));

        // Reports of the start to supervisor and service manager.
        let systemd = Arc::new(SystemdNotifier::from_env());
        if let Some(exit) = bound.supervised.log_last_exit() {
            self.alarms.raise(Code::Exited, config.name.as_str(), exit);
        }
        bound.supervised.ready();
        systemd.ready();
        // After `ready`: else its first keep-alive may overtake the report of the start.
        let watched = {
            let (systemd, media, stop) = (systemd.clone(), self.media.clone(), stop.clone());
            async move { systemd.watchdog(|| liveness::stall_reason(&media), stop).await }
        };
        tasks.spawn_on(watched, &probes);
        tasks.spawn({
            let (supervised, stop) = (bound.supervised.clone(), stop.clone());
            async move { supervised.watch_supervisor(stop).await }
        });
        Ok(Running { stop, tasks, stop_members, systemd })
    }

    /// Refuses new calls, returns the duties, waits for the calls in progress up to `drain`, then stops the rest.
    async fn close(self, running: Running, bound: &mut Bound, drain: Duration) {
        let Running { stop, tasks, stop_members, .. } = running;
        self.alarms.event(Kind::NodeStopping, self.config.name.as_str(), "");
        self.stopping.cancel();
        let calls = self.calls.running();
        if let Some(calls) = &calls {
            calls.leave();
        }
        // Attempts in flight record their outcomes first: to the next holder, an aborted one looks like a death.
        self.roles.shutdown().await;
        self.duties.stop();
        if let Some(calls) = calls {
            tokio::select! {
                () = calls.idle() => {}
                () = tokio::time::sleep(drain) => {}
                () = bound.stop_signals.next() => {}
            }
            calls.shutdown().await;
        }
        stop.cancel();
        self.peers.shutdown().await;
        stop_members.cancel();
        tasks.close();
        tasks.wait().await;
    }

    /// Writes alarms and events, delivers them to outside receivers, and applies the rules.
    fn start_alarms(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let syslog = self.config.alarms.syslog.clone().map(|(target, facility)| Syslog::start(target, facility));
        let (alarms, writing) = (self.alarms.clone(), stop.clone());
        tasks.spawn(async move { alarms.serve(syslog, writing).await });
        let (node, data_dir) = (self.config.name.clone(), self.config.data_dir.clone());
        tasks.spawn(stores_set_aside::watch(self.alarms.clone(), node, data_dir, stop.clone()));
        // The holder of that duty delivers alarms, too.
        let gate = self.roles.gate(Duty::Notifier);
        let outbound = Outbound::new(&self.config.cluster.name, self.alarms.clone(), gate);
        tasks.spawn(self.settings.clone().deliver_alarms(outbound, stop.clone()));
        let starts = format!("version {}, incarnation {}", env!("CARGO_PKG_VERSION"), self.incarnation);
        self.alarms.event(Kind::NodeStarted, self.config.name.as_str(), starts);
        let rules = AlarmRules {
            node: self.config.name.clone(),
            store: self.store.clone(),
            mailstore: self.mailstore.clone(),
            peers: self.peers.clone(),
            roles: self.roles.clone(),
            calls: self.calls.clone(),
            alarms: self.alarms.clone(),
        };
        tasks.spawn(rules.run(stop.clone()));
    }

    /// Counts the messages of all mailboxes in the background, so that lists and MWI find the counts.
    fn count_messages(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let (mailstore, stop) = (self.mailstore.clone(), stop.clone());
        tasks.spawn_blocking(move || {
            if let Err(error) = mailstore.count_all(|| stop.is_cancelled()) {
                warn!(%error, "messages are not counted now; each mailbox is counted when it is used");
            }
        });
    }

    fn reconciler(&self) -> NodeReconciler {
        let health = self.health.clone();
        NodeReconciler::new(ReconcilerParts {
            name: self.config.name.clone(),
            incarnation: self.incarnation,
            timing: self.config.cluster.timing,
            store: self.store.clone(),
            peers: self.peers.clone(),
            roles: self.roles.clone(),
            calls: self.calls.clone(),
            alarms: self.alarms.clone(),
            measured: Box::new(move || health.measured()),
            drain: self.drain.clone(),
            store_rebuilt: self.rebuilt,
        })
    }

    fn purge(&self) -> Purge {
        Purge {
            name: self.config.name.clone(),
            store: self.store.clone(),
            peers: self.peers.clone(),
            mailstore: self.mailstore.clone(),
            roles: self.roles.clone(),
            grace: Box::new(self.settings.seconds(Key::DeletedGraceSeconds)),
        }
    }

    fn lost_nodes(&self) -> LostNodes {
        let timing = &self.config.cluster.timing;
        LostNodes {
            mailstore: self.mailstore.clone(),
            peers: self.peers.clone(),
            roles: self.roles.clone(),
            unheard_for: timing.lease + timing.margin,
            store_rebuilt: self.rebuilt,
        }
    }
}

fn media_config(config: &NodeConfig) -> MediaConfig {
    let mut media = MediaConfig::new(config.calls.rtp.bind, config.rtp.ports.clone());
    media.dscp = config.rtp.dscp;
    media.threads = config.rtp.threads;
    media.media_timeout = config.rtp.timeout.unwrap_or_default();
    media
}

/// Removes the founder marker after the group exists: if the disk is emptied later except for the marker, this node
/// must not found a second group.
async fn forget_founding(mark: std::path::PathBuf, roles: Roles, stop: CancellationToken) {
    if !mark.exists() {
        return;
    }
    let mut view = roles.watch();
    tokio::select! {
        founded = view.wait_for(|view| view.quorum) => {
            if founded.is_ok() {
                remove(&mark);
            }
        }
        () = stop.cancelled() => {}
    }
}

fn remove(mark: &Path) {
    if let Err(error) = std::fs::remove_file(mark) {
        warn!(file = %mark.display(), %error, "the founder marker could not be removed: remove it by hand");
    }
}
