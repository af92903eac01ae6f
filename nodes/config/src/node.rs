//! Configuration file of a node.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use twinbox_calls::CallsConfig;
use twinbox_ids::NodeName;
use twinbox_mailbox::{NewMailbox, Quota, is_timezone, pin::HashCost};
use twinbox_prompts::Prompts;

use super::{
    AlarmsConfig, ConfigError, LinksConfig, MailConfig, checked,
    reader::Section,
    shared::{ClusterConfig, LogConfig},
};

/// File with the secret that opens the sealed CA, in the data folder unless the configuration names another.
pub const SEAL_SECRET: &str = "seal.key";

/// Thirty days, by default, in which a deleted message can be undeleted.
const DELETED_GRACE_SECONDS: i64 = 30 * 86_400;
/// The shortest one: audio must outlast what may still name it. Builds for tests accept seconds.
const SHORTEST_GRACE_SECONDS: i64 = if cfg!(debug_assertions) { 1 } else { 86_400 };

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
    /// Interval of the self-test calls; `None`: no self-tests.
    pub self_test: Option<Duration>,
    /// The cluster.
    pub cluster: ClusterConfig,
    /// Address at which the node's supervisor serves other members.
    pub supervisor: SocketAddr,
    /// SIP, trunks and settings of the conversation.
    pub calls: CallsConfig,
    /// RTP.
    pub rtp: RtpConfig,
    /// Mailboxes.
    pub voicemail: VoicemailConfig,
    /// Prompts; those of `prompts.dir` replace the built-in ones.
    pub prompts: Arc<Prompts>,
    /// Address of `/metrics`, `/livez` and `/readyz`, if any.
    pub metrics: Option<SocketAddr>,
    /// Receivers of alarms, in addition to the log and `/metrics`.
    pub alarms: AlarmsConfig,
    /// Mail, text messages, and the texts of notifications.
    pub mail: MailConfig,
    /// Recordings by link, if the node serves them.
    pub links: Option<LinksConfig>,
    /// Time for which call records are kept.
    pub keep_calls: Duration,
    /// Logging.
    pub log: LogConfig,
}

/// The `[rtp]` section.
#[derive(Debug, Clone)]
pub struct RtpConfig {
    /// Local address.
    pub bind: IpAddr,
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

/// Defaults of new mailboxes.
#[derive(Debug, Clone)]
pub struct VoicemailConfig {
    /// IANA name of the time zone.
    pub timezone: String,
    /// Language, such as `en`.
    pub language: String,
    /// Maximum number of messages in a mailbox.
    pub max_messages: u32,
    /// Minimum length of a new PIN.
    pub min_pin_length: u8,
    /// Cost of hashing a PIN.
    pub pin_cost: HashCost,
    /// Minimum length of a stored message, in milliseconds.
    pub min_message_ms: u64,
    /// Time for which a deleted message can be undeleted, and for which its audio then stays on disk.
    pub deleted_grace: Duration,
}

impl NodeConfig {
    /// A new mailbox with the settings of `[voicemail]`, without number and PIN.
    pub fn usual_mailbox(&self) -> NewMailbox {
        NewMailbox {
            pin: None,
            timezone: self.voicemail.timezone.clone(),
            language: self.voicemail.language.clone(),
            quota: Quota {
                max_messages: u64::from(self.voicemail.max_messages),
                max_message_ms: self.calls.max_message_ms,
            },
            ..NewMailbox::new("", "")
        }
    }

    pub(super) fn from_table(file: &Path, table: toml::Table) -> Result<Self, ConfigError> {
        checked(file, table, |root| {
            let mut own = root.section("node");
            let name = own.require::<NodeName>("name", "this node's name");
            let data_dir = own.require_path("data_dir", "the folder for this node's data");
            let admin_socket = read_admin_socket(&mut own);
            let drain = Duration::from_secs(own.number("drain_seconds", 0..=3_600, 30) as u64);
            let reserve_bytes = own.number("reserve_mb", 1..=1_048_576, 256) as u64 * 1024 * 1024;
            let seal_secret = own.path("seal_secret");
            let self_test = Duration::from_secs(own.number("self_test_seconds", 0..=86_400, 30) as u64);
            own.finish();

            let mut section = root.section("cluster");
            let supervisor = section.parse("supervisor", "an address and port, such as \"0.0.0.0:7071\"");
            let cluster = ClusterConfig::read(section, name.as_ref());
            let supervisor = cluster.as_ref().and_then(|cluster| read_supervisor(root, cluster.bind, supervisor));
            let rtp = RtpConfig::read(root.section("rtp"));
            let (voicemail, usual) = read_voicemail(root.section("voicemail"));
            let calls = super::calls::read(root, usual, rtp.as_ref());
            let mut section = root.section("prompts");
            let prompts = match Prompts::load(section.path("dir").as_deref(), &voicemail.language) {
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
            let alarms = AlarmsConfig::read(root.section("alarms"), name.as_ref());
            let mail = MailConfig::read(root);
            let links = LinksConfig::read(root.section("links"));
            let mut section = root.section("reports");
            let keep_days = section.number("keep_days", 1..=3_650, 90) as u64;
            section.finish();
            let log = LogConfig::read(root.section("log"));
            Some(Self {
                name: name?,
                seal_secret: seal_secret.or_else(|| Some(data_dir.as_ref()?.join(SEAL_SECRET)))?,
                data_dir: data_dir?,
                admin_socket,
                drain,
                reserve_bytes,
                self_test: Some(self_test).filter(|every| !every.is_zero()),
                cluster: cluster?,
                supervisor: supervisor?,
                calls: calls?,
                rtp: rtp?,
                voicemail,
                prompts: prompts?,
                metrics,
                alarms,
                mail: mail?,
                links,
                keep_calls: Duration::from_secs(keep_days * 86_400),
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
        let bind = bind.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        Some(Self { bind, advertise, ports: ports?, dscp, threads, timeout })
    }
}

pub(super) fn read_admin_socket(own: &mut Section) -> PathBuf {
    own.path("admin_socket").unwrap_or_else(|| "/run/twinbox/admin.sock".into())
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

/// Reads `[voicemail]`: defaults of new mailboxes, and call settings with this section's values for menus and
/// recordings.
fn read_voicemail(mut section: Section) -> (VoicemailConfig, CallsConfig) {
    let usual = CallsConfig::default();
    let ms = 1_000;
    let seconds = |of: u64| (of / ms) as i64;
    let calls = CallsConfig {
        key_map: section.word("key_map", &["asterisk", "unity"], &usual.key_map).to_owned(),
        max_message_ms: section.number("max_message_seconds", 1..=7_200, seconds(usual.max_message_ms)) as u64 * ms,
        min_message_ms: section.number("min_message_ms", 0..=60_000, usual.min_message_ms as i64) as u64,
        end_silence_ms: section.number("silence_seconds", 0..=600, seconds(usual.end_silence_ms)) as u64 * ms,
        digit_timeout_ms: section.number("digit_seconds", 1..=60, seconds(usual.digit_timeout_ms)) as u64 * ms,
        pin_tries: section.number("pin_tries", 1..=10, usual.pin_tries.into()) as u8,
        min_pin_length: section.number("min_pin_length", 3..=12, usual.min_pin_length.into()) as u8,
        ..usual
    };
    let timezone = section.text("timezone").unwrap_or_else(|| "UTC".to_owned());
    if !is_timezone(&timezone) {
        section.wrong(
            "timezone",
            format!("'{timezone}' is no time zone: write an IANA name such as \"Europe/Berlin\""),
        );
    }
    let voicemail = VoicemailConfig {
        timezone,
        language: section.word("language", &["en"], "en").to_owned(),
        max_messages: section.number("max_messages", 1..=100_000, 200) as u32,
        min_pin_length: calls.min_pin_length,
        pin_cost: HashCost {
            memory_kib: section.number("pin_hash_kib", 1_024..=1_048_576, 19_456) as u32,
            passes: section.number("pin_hash_passes", 1..=20, 2) as u32,
        },
        min_message_ms: calls.min_message_ms,
        deleted_grace: Duration::from_secs(section.number(
            "deleted_grace_seconds",
            SHORTEST_GRACE_SECONDS..=31_536_000,
            DELETED_GRACE_SECONDS,
        ) as u64),
    };
    section.finish();
    (voicemail, calls)
}
