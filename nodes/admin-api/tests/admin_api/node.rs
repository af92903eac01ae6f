//! A node that is its cluster's only member, with its services for administrators on a socket.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use twinbox_admin_api::{AdminHandles, AdminService, AdminSocket, NodeFacts, Operators};
use twinbox_alarms::Alarms;
use twinbox_calls::{CallsDeps, CallsService};
use twinbox_clock::BootClock;
use twinbox_config::NodeConfig;
use twinbox_directory_duty::DirectoryDuty;
use twinbox_duty::{Notifications, OutboxDuty};
use twinbox_enrollment::{Host, certificates::Signer};
use twinbox_ids::Incarnation;
use twinbox_mailbox_sync_duty::{MailboxSyncConfig, MailboxSyncDuty};
use twinbox_media::{Engine, MediaConfig};
use twinbox_members::MemberClients;
use twinbox_notifier::{
    HttpChannels, HttpSettings, NotifierService, SmsOut,
    mwi::{ClusterMwiSender, ReportedTimes},
};
use twinbox_pki::{CertificateAuthority, MemberKind};
use twinbox_replication_store::Filled;
use twinbox_roles::{Duty, MemberAddress, Roles, RolesConfig, SUPPORTED_LEVELS};
use twinbox_settings_service::{SettingsParts, SharedSettings};
use twinbox_store_kit::Node;

/// Longest wait for anything; the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Node a of the cluster `example`.
pub struct AdminNode {
    pub node: Node,
    pub socket: PathBuf,
    /// The connection of an administrator.
    pub channel: Channel,
    /// Its alarms, which no task writes.
    pub alarms: Alarms,
    roles: Roles,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _dir: TempDir,
}

impl AdminNode {
    /// A node whose store lacks records.
    pub async fn start() -> Self {
        let dir = TempDir::new().expect("a folder");
        let config = Arc::new(config(dir.path()));
        let (node, roles) = (Node::alone(&dir.path().join("store"), "a"), roles(&config, dir.path()).await);
        let (handles, facts, host) = parts(&config, &node, &roles).await;
        let alarms = handles.alarms.clone();
        let socket = dir.path().join("admin.sock");
        let bound = AdminSocket::bind(&socket).expect("a socket");
        // No operator of another machine comes.
        let (_, operators) = Operators::route();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(AdminService::new(handles, facts, host).serve(bound, operators, stop.clone()));
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("an address");
        let channel = endpoint.connect().await.expect("a connection");
        Self { node, socket, channel, alarms, roles, stop, serving, _dir: dir }
    }

    /// A node with all records, in a cluster that agrees on orders.
    pub async fn formed() -> Self {
        let node = Self::start().await;
        node.node.store.set_filled(Filled::Complete).await.expect("stored");
        let mut view = node.roles.watch();
        let formed = timeout(PATIENCE, view.wait_for(|view| view.quorum)).await;
        assert!(matches!(formed, Ok(Ok(_))), "the cluster is not formed within {PATIENCE:?}");
        drop(formed);
        node
    }

    /// Stops the services for administrators.
    pub async fn stop(self) {
        drop(self.channel);
        self.stop.cancel();
        self.serving.await.expect("it ends");
    }
}

/// The configuration of the example, with a certificate of its own.
fn config(dir: &Path) -> NodeConfig {
    let id = "00112233445566778899aabbccddeeff".parse().expect("an id");
    let tls = dir.join("tls");
    fs::create_dir(&tls).expect("a folder");
    let authority = CertificateAuthority::create(id, "example").expect("an authority");
    let own = "a".parse().expect("a name");
    authority.issue(&own, MemberKind::Node).expect("a certificate").save(&tls).expect("saved");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/node.example.toml");
    let text = fs::read_to_string(example).expect("the example");
    let file = dir.join("node.toml");
    fs::write(&file, text.replace("/var/lib/twinbox/tls", &tls.display().to_string())).expect("written");
    NodeConfig::load(&file).unwrap_or_else(|error| panic!("{error}"))
}

/// The role manager of a group that this node founds.
async fn roles(config: &NodeConfig, dir: &Path) -> Roles {
    // No other member connects to it.
    let address = "127.0.0.1:1".to_owned();
    let own = MemberAddress { name: config.name.clone(), kind: twinbox_roles::MemberKind::Node, address };
    let started = Roles::start(RolesConfig {
        node: own.name.clone(),
        kind: own.kind,
        cluster: config.cluster.id,
        incarnation: Incarnation::random(),
        members: vec![own],
        learned: Vec::new(),
        removed: Vec::new(),
        dir: dir.join("roles"),
        timing: config.cluster.timing,
        tls: config.cluster.tls.clone(),
        speaks: SUPPORTED_LEVELS,
        found: true,
    });
    started.await.expect("a role manager")
}

/// The handles of the services. The duties do not run, and no health is checked: there are no facts about services.
async fn parts(
    config: &Arc<NodeConfig>,
    Node { store, peers, mailstore, .. }: &Node,
    roles: &Roles,
) -> (AdminHandles, Arc<NodeFacts>, Arc<Host>) {
    let (name, cluster, templates) = (&config.name, &config.cluster, &config.mail.templates);
    let members = Arc::new(MemberClients::new(name, roles, &cluster.tls));
    let alarms = Alarms::open(store.clone(), peers.clone()).await.expect("alarms");
    let media = MediaConfig::new(Ipv4Addr::LOCALHOST.into(), 21_000..=21_099);
    let deps = CallsDeps {
        node: name.clone(),
        incarnation: Incarnation::random(),
        mailstore: mailstore.clone(),
        prompts: config.prompts.clone(),
        media: Engine::start(media).expect("a media engine"),
        clock: BootClock::default(),
    };
    let calls = CallsService::new(config.calls.clone(), deps);
    let settings = SharedSettings::open(SettingsParts::of(config, mailstore, peers, &calls, &alarms));
    let sender = ClusterMwiSender {
        node: name.clone(),
        calls,
        roles: roles.clone(),
        members: members.clone(),
        margin: cluster.timing.margin,
        times: ReportedTimes::default(),
    };
    let texts = Notifications::new(mailstore.clone(), templates.clone());
    let http = HttpSettings { sms: Arc::new(|| SmsOut::Off), links: Arc::new(|| None) };
    let (gate, channels) = (roles.gate(Duty::Notifier), HttpChannels::new(texts, http));
    let devices = OutboxDuty::new(mailstore.clone(), gate.clone(), alarms.clone(), channels);
    let of_mailboxes = MailboxSyncConfig { cluster: cluster.id, from: Arc::new(|| None) };
    let (directories, mailboxes) = (roles.gate(Duty::DirectorySync), roles.gate(Duty::MailboxSync));
    let handles = AdminHandles {
        name: name.clone(),
        config: config.clone(),
        store: store.clone(),
        peers: peers.clone(),
        roles: roles.clone(),
        mailstore: mailstore.clone(),
        settings: settings.expect("settings"),
        alarms: alarms.clone(),
        members,
        notifier: NotifierService::new(mailstore.clone(), gate, sender, devices),
        directory_sync: DirectoryDuty::new(mailstore.clone(), directories, alarms.clone(), || false),
        mailbox_sync: MailboxSyncDuty::new(mailstore.clone(), mailboxes, alarms, of_mailboxes),
        templates: templates.clone(),
    };
    let signer = Arc::new(Signer::new(cluster.tls.clone(), &cluster.tls_dir, &config.seal_secret));
    let host = Arc::new(Host { cluster: cluster.clone(), roles: roles.clone(), signer });
    (handles, Arc::new(NodeFacts::of_witness(name)), host)
}
