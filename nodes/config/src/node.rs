//! Configuration file of a node.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use twinbox_calls::{CallsConfig, Transport};
use twinbox_cluster_settings::{FileValues, Key, Values};
use twinbox_ids::NodeName;
use twinbox_mail_gateway::Protocol;
use twinbox_prompts::Prompts;

use super::{
    AlarmsConfig, ConfigError, LinksConfig, MailConfig, MailInConfig,
    backup::OwnS3,
    checked,
    ports::Ports,
    reader::{Mistake, Mistakes, Section},
    services::OwnServices,
    shared::{ClusterConfig, LogConfig},
    shared_settings,
    trunks::FileTrunks,
};

/// File with the secret that opens the sealed CA, in the data folder unless the configuration names another.
pub const SEAL_SECRET: &str = "seal.key";

/// A week: time after which changes leave the log even if a member lacks them.
const LOG_KEEP_HOURS: i64 = 7 * 24;
/// Size above which the oldest changes leave the log even if a member lacks them: about a million messages.
const LOG_KEEP_MB: i64 = 1_024;

/// A node's configuration.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name of the member.
    pub name: NodeName,
    /// Folder of messages, users and the Raft log.
    pub data_dir: PathBuf,
    /// Path of the Unix socket for administrators.
    pub admin_socket: PathBuf,
    /// Maximum duration of calls after SIGTERM.
    pub drain: Duration,
    /// File with the secret that opens the sealed CA.
    pub seal_secret: PathBuf,
    /// Space kept free on the data disk, in bytes.
    pub reserve_bytes: u64,
    /// Length of the log of changes that is kept for members that are away.
    pub log_keep: LogKeep,
    /// Interval of the self-test calls; `None`: no self-tests.
    pub self_test: Option<Duration>,
    /// The cluster.
    pub cluster: ClusterConfig,
    /// Address at which the node's supervisor serves other members.
    pub supervisor: SocketAddr,
    /// SIP, the file's trunks and settings of the conversation.
    pub calls: CallsConfig,
    /// RTP.
    pub rtp: RtpConfig,
    /// Prompts; those of `prompts.dir` replace the built-in ones.
    pub prompts: Arc<Prompts>,
    /// Address of `/metrics`, `/livez` and `/readyz`, if any.
    pub metrics: Option<SocketAddr>,
    /// Receivers of alarms, in addition to the log and `/metrics`.
    pub alarms: AlarmsConfig,
    /// Mail in, text messages, and the texts of notifications.
    pub mail: MailConfig,
    /// This node's secrets for services to the outside.
    pub services: OwnServices,
    /// Recordings by link, if the node serves them.
    pub links: Option<LinksConfig>,
    /// Settings that all nodes share, as far as the file names them: the cluster's first values.
    pub shared: FileValues,
    /// Trunks that the file names: the cluster's first ones, and this node's passwords.
    pub trunks: FileTrunks,
    /// Logging.
    pub log: LogConfig,
}

/// Length of the log of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogKeep {
    /// Age above which changes leave the log, even if a member lacks them.
    pub time: Duration,
    /// Size in bytes above which they do.
    pub bytes: u64,
}

/// The `[rtp]` section.
#[derive(Debug, Clone)]
pub struct RtpConfig {
    /// Local address; `None`: all, of IPv6 too if a SIP listener has an IPv6 address.
    pub bind: Option<IpAddr>,
    /// Address in SDP, if it differs.
    pub advertise: Option<IpAddr>,
    /// Ports, two per call: RTP on the even one, RTCP on the next.
    pub ports: RangeInclusive<u16>,
    /// DSCP of RTP and RTCP packets, 0 to 63.
    pub dscp: u8,
    /// Number of media threads, at least one.
    pub threads: usize,
    /// A call without a packet for this time ends.
    pub timeout: Option<Duration>,
}

impl NodeConfig {
    /// The settings that all nodes share, by this file alone.
    pub fn shared_values(&self) -> Values {
        Values::of(self.shared.iter(), self.cluster.is_wan())
    }

    pub(super) fn from_table(file: &Path, mut table: toml::Table) -> Result<Self, ConfigError> {
        let taken = Mistakes::default();
        let base = file.parent().unwrap_or_else(|| Path::new(""));
        let shared = shared_settings::take(&mut table, base, &taken);
        checked(file, table, |root| {
            taken.take().into_iter().for_each(|Mistake { key, what, .. }| root.wrong(&key, what));
            let mut own = root.section("node");
            let name = own.require::<NodeName>("name", "this node's name");
            let data_dir = own.require_path("data_dir", "the folder for this node's data");
            let admin_socket = read_admin_socket(&mut own);
            let drain = Duration::from_secs(own.number("drain_seconds", 0..=3_600, 30) as u64);
            let reserve_bytes = own.number("reserve_mb", 1..=1_048_576, 256) as u64 * 1024 * 1024;
            let log_hours = own.number("log_keep_hours", 2..=8_760, LOG_KEEP_HOURS) as u64;
            let log_mb = own.number("log_keep_mb", 1..=1_048_576, LOG_KEEP_MB) as u64;
            let seal_secret = own.path("seal_secret");
            let self_test = Duration::from_secs(own.number("self_test_seconds", 0..=86_400, 30) as u64);
            own.finish();

            let mut section = root.section("cluster");
            let supervisor = section.parse("supervisor", "an address and port, such as \"0.0.0.0:7071\"");
            let cluster = ClusterConfig::read(section, name.as_ref());
            let supervisor = cluster.as_ref().and_then(|cluster| read_supervisor(root, cluster.bind, supervisor));
            let rtp = RtpConfig::read(root.section("rtp"));
            let values = Values::of(shared.iter(), cluster.as_ref().is_some_and(ClusterConfig::is_wan));
            root.section("voicemail").finish();
            let trunks = FileTrunks::read(root);
            let calls = super::calls::read(root, &values, &trunks, rtp.as_ref());
            let mut section = root.section("prompts");
            let prompts = match Prompts::load(section.path("dir").as_deref(), values.text(Key::Language)) {
                Ok(prompts) => Some(Arc::new(prompts)),
                Err(error) => {
                    section.wrong("dir", error.to_string());
                    None
                }
            };
            section.finish();
            let mut section = root.section("metrics");
            let metrics = section.parse("bind", "an address and port, such as \"127.0.0.1:9090\"");
            section.finish();
            let alarms = AlarmsConfig::read(root.section("alarms"), &values, name.as_ref());
            let (mail, mut services) = MailConfig::read(root);
            let links = LinksConfig::read(root.section("links"));
            services.serves_links = links.is_some();
            let incoming = mail.as_ref().and_then(|mail| mail.incoming.as_ref());
            check_ports(root, cluster.as_ref(), supervisor, calls.as_ref(), metrics, incoming, links.as_ref());
            root.section("reports").finish();
            services.s3 = OwnS3::read(root);
            name.iter().for_each(|name| services.check(root, &values, name));
            let log = LogConfig::read(root.section("log"));
            Some(Self {
                name: name?,
                seal_secret: seal_secret.or_else(|| Some(data_dir.as_ref()?.join(SEAL_SECRET)))?,
                data_dir: data_dir?,
                admin_socket,
                drain,
                reserve_bytes,
                log_keep: LogKeep { time: Duration::from_secs(log_hours * 3_600), bytes: log_mb * 1024 * 1024 },
                self_test: Some(self_test).filter(|every| !every.is_zero()),
                cluster: cluster?,
                supervisor: supervisor?,
                calls: calls?,
                rtp: rtp?,
                prompts: prompts?,
                metrics,
                alarms,
                mail: mail?,
                services,
                links,
                shared,
                trunks,
                log,
            })
        })
    }
}

impl RtpConfig {
    fn read(mut section: Section) -> Option<Self> {
        let bind = section.parse("bind", "an address, such as \"0.0.0.0\"");
        let advertise = section.parse("advertise", "the address that callers reach");
        let ports = match section.text("ports") {
            None => Some(10_000..=19_999),
            Some(text) => {
                let ports = text
                    .split_once('-')
                    .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)))
                    .filter(|(low, high): &(u16, u16)| *low >= 1_024 && u32::from(*low) < u32::from(*high));
                if ports.is_none() {
                    section
                        .wrong("ports", format!("'{text}' will not do: write LOW-HIGH, such as \"10000-19999\""));
                }
                ports.map(|(low, high)| low..=high)
            }
        };
        let dscp = section.number("dscp", 0..=63, 46) as u8;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match section.number("threads", 0..=256, 0) as usize {
            0 => cores,
            n => n,
        };
        let timeout = match section.number("timeout_seconds", 0..=3_600, 30) as u64 {
            0 => None,
            s => Some(Duration::from_secs(s)),
        };
        section.finish();
        Some(Self { bind, advertise, ports: ports?, dscp, threads, timeout })
    }
}

pub(super) fn read_admin_socket(own: &mut Section) -> PathBuf {
    own.path("admin_socket").unwrap_or_else(|| "/run/twinbox/admin.sock".into())
}

/// Records a mistake for each listener that has the port of another one.
fn check_ports(
    root: &Section,
    cluster: Option<&ClusterConfig>,
    supervisor: Option<SocketAddr>,
    calls: Option<&CallsConfig>,
    metrics: Option<SocketAddr>,
    incoming: Option<&MailInConfig>,
    links: Option<&LinksConfig>,
) {
    let mut ports = Ports::default();
    let single = [
        ("cluster.bind", cluster.map(|cluster| cluster.bind)),
        ("cluster.supervisor", supervisor),
        ("metrics.bind", metrics),
        ("links.bind", links.map(|links| links.bind)),
    ];
    for (key, bind) in single {
        bind.into_iter().for_each(|bind| ports.add(root, key, Transport::Tcp, bind));
    }
    for (bind, protocol) in incoming.into_iter().flat_map(|incoming| &incoming.listeners) {
        let key = match protocol {
            Protocol::Smtp => "mail.in.smtp",
            Protocol::Lmtp => "mail.in.lmtp",
        };
        ports.add(root, key, Transport::Tcp, *bind);
    }
    for (i, listener) in calls.into_iter().flat_map(|calls| &calls.listeners).enumerate() {
        ports.add(root, &format!("sip.listener[{i}].bind"), listener.transport, listener.bind);
    }
}

/// By default the port after that of the listener for members.
fn read_supervisor(root: &Section, bind: SocketAddr, set: Option<SocketAddr>) -> Option<SocketAddr> {
    let beside = || bind.port().checked_add(1).map(|port| SocketAddr::new(bind.ip(), port));
    match set.or_else(beside) {
        None => root.wrong("cluster.supervisor", "is missing: no port comes after that of cluster.bind; write one"),
        Some(address) if address.port() == bind.port() => {
            root.wrong("cluster.supervisor", format!("'{address}' has the port of cluster.bind: give it another"));
        }
        Some(address) => return Some(address),
    }
    None
}
