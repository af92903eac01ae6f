//! Configuration of the SIP server. The caller of [`crate::Calls::start`] reads it from its own files;
//! [`CallsConfig::mistakes`] reports all errors together, each with its key and remedy.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use twinbox_dns::Transport;
use twinbox_ids::{Network, Pii};
use twinbox_sip::redirect::{RedirectOrder, Rules};
use twinbox_sip_transport::{Advertised, local_address};

/// Configuration of the SIP server.
#[derive(Debug, Clone, PartialEq)]
pub struct CallsConfig {
    /// SIP listeners; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// Trunks that may call (rule S3). Without any trunk every caller is a stranger and gets `403`.
    pub trunks: Vec<TrunkConfig>,
    /// Name servers for names of trunks and phones; if empty, those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// Numbers that lead to the menus instead of a mailbox.
    pub pilots: Pilots,
    /// RTP addresses and ports.
    pub rtp: RtpConfig,
    /// Maximum number of concurrent calls per node; further calls get `503` with `Retry-After`. The default needs no
    /// more open files (five per call, plus those of the rest of the node) than the default Linux limit of 4,096.
    pub max_calls: usize,
    /// Maximum rate of new calls per second, also the size of a burst; further calls get `503`.
    pub max_calls_per_second: u32,
    /// Maximum number of MWI subscriptions on this node.
    pub max_subscriptions: usize,
    /// Redirecting party whose mailbox gets a redirected call: `first` (the party called first that has one) or `last`.
    pub redirect: RedirectOrder,
    /// A call for a mailbox that does not exist: `404`, or a spoken `apology`.
    pub unknown_mailbox: UnknownMailbox,
    /// Session timer offered to callers that support RFC 4028, in seconds.
    pub session_expires_s: u32,
    /// Minimum accepted session timer, in seconds (RFC 4028 allows no less than 90).
    pub min_se_s: u32,
    /// Maximum time of a call on hold, in seconds; then the call ends, and its recording is filed. 0: no limit.
    pub max_hold_s: u32,
    /// DSCP of SIP packets (RFC 2474), 0 to 63.
    pub dscp: u8,
    /// Maximum message length, in milliseconds; default five minutes, about 2.4 MB.
    pub max_message_ms: u64,
    /// Minimum message length, in milliseconds; shorter recordings are discarded.
    pub min_message_ms: u64,
    /// Silence that ends a recording, in milliseconds.
    pub end_silence_ms: u64,
    /// Timeout of a menu for the next digit, in milliseconds.
    pub digit_timeout_ms: u64,
    /// Number of wrong PINs after which the call ends.
    pub pin_tries: u8,
    /// Minimum length of a new PIN.
    pub min_pin_length: u8,
    /// The key map of the menus: `asterisk` or `unity`.
    pub key_map: String,
    /// Maximum time that the `200` to BYE waits for the second node, in milliseconds (rule A1). After another 100 ms
    /// the BYE is answered `500`.
    pub ack_timeout_ms: u64,
}

impl CallsConfig {
    /// Rules that lead a call to a mailbox or a menu.
    pub(crate) fn rules(&self) -> Rules<'_> {
        Rules { sign_in: &self.pilots.sign_in, ask_mailbox: &self.pilots.ask_mailbox, order: self.redirect }
    }

    /// Time limit for the answer to a BYE (rule A1).
    pub(crate) fn bye_timeout(&self) -> Duration {
        Duration::from_millis(self.ack_timeout_ms + 100)
    }
}

/// DSCP class selector 3, the usual mark of SIP signalling.
const CS3: u8 = 24;

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            trunks: Vec::new(),
            dns_servers: Vec::new(),
            pilots: Pilots::default(),
            rtp: RtpConfig::default(),
            max_calls: 500,
            max_calls_per_second: 200,
            max_subscriptions: 10_000,
            redirect: RedirectOrder::First,
            unknown_mailbox: UnknownMailbox::NotFound,
            session_expires_s: 1800,
            min_se_s: 90,
            max_hold_s: 300,
            dscp: CS3,
            max_message_ms: 300_000,
            min_message_ms: 1_000,
            end_silence_ms: 10_000,
            digit_timeout_ms: 5_000,
            pin_tries: 3,
            min_pin_length: 4,
            key_map: "asterisk".to_owned(),
            ack_timeout_ms: 250,
        }
    }
}

/// A SIP listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerConfig {
    /// `udp` or `tcp`.
    pub transport: Transport,
    /// Local address and port; port 0 chooses a free one.
    pub bind: SocketAddr,
    /// External `host` or `host:port` of this listener, for Contact and Via. Default: `bind`.
    pub advertise: Option<String>,
}

impl ListenerConfig {
    /// External transport and address, such as `udp 10.0.0.1:5060`.
    pub fn external_address(&self) -> String {
        let advertised = Advertised::new(self.advertise.as_deref(), self.bind);
        let address = match advertised {
            Advertised::Fixed(address) => address.to_string(),
            Advertised::Routed(_) => self.bind.to_string(),
        };
        format!("{} {address}", self.transport.label())
    }
}

/// A trunk: a peer that may call, and its addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct TrunkConfig {
    /// Name in logs, metrics and the notifier.
    pub name: String,
    /// Source addresses or networks (`192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`) of its requests.
    pub addresses: Vec<Network>,
    /// Required transport; default: any.
    pub transport: Option<Transport>,
    /// User name for digest challenges to requests sent to the trunk.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Pii<String>>,
    /// `host` or `host:port` for unsolicited NOTIFYs and REGISTERs; without it none are sent. A name without a port is
    /// resolved by RFC 3263 (SRV, then addresses).
    pub proxy: Option<String>,
    /// Registration of this node with the trunk, so that the PBX knows its address.
    pub register: Option<Registration>,
    /// URI template for MWI of a mailbox, such as `sip:{mailbox}@pbx`; without it no unsolicited NOTIFYs are sent.
    pub mwi: Option<String>,
    /// URI template for transfers to a number, such as `sip:{number}@pbx`. Default: the host that the call came from.
    pub transfer: Option<String>,
    /// Accept RTP of its calls from any host, not only from those of the SDP and the signalling: for callers behind NAT
    /// whose signalling and media take different paths.
    pub media_from_any_host: bool,
}

impl TrunkConfig {
    /// All errors of this trunk that the types do not exclude: the key, the error and its remedy.
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut report = |key: &'static str, what: &str| found.push((key, what.to_owned()));
        if self.name.is_empty() {
            report("name", "is empty: give the trunk a name for logs and metrics");
        }
        if self.addresses.is_empty() {
            report("addresses", "is empty: list the addresses or networks that the trunk calls from");
        }
        for (name, template, hole) in [("mwi", &self.mwi, "{mailbox}"), ("transfer", &self.transfer, "{number}")] {
            if let Some(text) = template
                && (!text.contains(hole) || twinbox_sip::uri::Uri::parse(&text.replace(hole, "1")).is_none())
            {
                report(name, &format!("is not a SIP URI with {hole} in it: write for example \"sip:{hole}@pbx\""));
            }
        }
        if let Some(registration) = &self.register {
            if self.proxy.is_none() {
                report("register", "has no proxy: set the registrar, such as proxy = \"pbx.example.com\"");
            }
            if !twinbox_sip::uri::Uri::parse(&registration.aor).is_some_and(|u| u.is_sip()) {
                report("register_as", "is not a SIP URI: write for example \"sip:voicemail@pbx.example.com\"");
            }
        }
        if let Some(proxy) = &self.proxy
            && twinbox_sip::uri::HostPort::parse(proxy).is_none()
        {
            report("proxy", "is not a host or host:port: write for example \"pbx.example.com:5060\"");
        }
        found
    }
}

/// Registration with a trunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The address of record, such as `sip:voicemail@pbx.example.com`.
    pub aor: String,
    /// Requested duration of a registration, in seconds; it is refreshed in time.
    pub seconds: u32,
}

/// Pilot numbers, which lead to the menus.
#[derive(Debug, Clone, PartialEq)]
pub struct Pilots {
    /// Numbers that sign in to the mailbox of the calling number.
    pub sign_in: Vec<String>,
    /// Numbers that ask for the mailbox number first.
    pub ask_mailbox: Vec<String>,
}

impl Default for Pilots {
    fn default() -> Self {
        Self { sign_in: vec!["*97".to_owned()], ask_mailbox: vec!["*98".to_owned()] }
    }
}

/// RTP addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct RtpConfig {
    /// The local address of the RTP sockets.
    pub bind: IpAddr,
    /// Address for the SDP; default: `bind`, or the SIP listener's address if `bind` is `0.0.0.0`.
    pub advertise: Option<IpAddr>,
}

impl Default for RtpConfig {
    fn default() -> Self {
        Self { bind: IpAddr::from([0, 0, 0, 0]), advertise: None }
    }
}

/// Treatment of a call for an unknown mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownMailbox {
    /// `404 Not Found`.
    NotFound,
    /// The call is answered, and an apology is played.
    Apology,
}

/// An error in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, such as `trunks[1].mwi`.
    pub key: String,
    /// The error and its remedy.
    pub what: String,
}

impl CallsConfig {
    /// External addresses, such as `udp 10.0.0.1:5060`, of listeners that are bound to all addresses and advertise
    /// none: the local addresses on the routes to the trunks' networks.
    pub fn external_addresses(&self) -> Vec<String> {
        let networks = self.trunks.iter().flat_map(|trunk| &trunk.addresses);
        let own: BTreeSet<IpAddr> = networks.filter_map(|network| local_address(network.a_host())).collect();
        let on_all_addresses =
            |listener: &&ListenerConfig| listener.advertise.is_none() && listener.bind.ip().is_unspecified();
        let addresses = |listener: &ListenerConfig| {
            let (label, bind) = (listener.transport.label(), listener.bind);
            let family = own.iter().filter(move |ip| !ip.is_loopback() && (ip.is_ipv4() || bind.is_ipv6()));
            family.map(move |ip| format!("{label} {}", SocketAddr::new(*ip, bind.port()))).collect::<Vec<_>>()
        };
        self.listeners.iter().filter(on_all_addresses).flat_map(addresses).collect()
    }

    /// All errors of this configuration that the types do not exclude.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut report = |key: String, what: &str| found.push(Mistake { key, what: what.to_owned() });
        if self.listeners.is_empty() {
            report(
                "listeners".into(),
                "is empty: add a listener such as { transport = \"udp\", bind = \"0.0.0.0:5060\" }",
            );
        }
        for (i, listener) in self.listeners.iter().enumerate() {
            if let Some(advertise) = &listener.advertise
                && twinbox_sip::uri::HostPort::parse(advertise).is_none()
            {
                report(
                    format!("listeners[{i}].advertise"),
                    "is not a host or host:port: write for example \"203.0.113.5:5060\"",
                );
            }
        }
        // One of all addresses may serve IPv4 alone.
        let is_ipv6 = |listener: &ListenerConfig| listener.bind.is_ipv6() && !listener.bind.ip().is_unspecified();
        if self.rtp.bind.is_ipv4() && self.listeners.iter().any(is_ipv6) {
            report(
                "rtp.bind".into(),
                "is an IPv4 address, but a listener has an IPv6 address: its calls would be silent; write \"::\"",
            );
        }
        for (i, trunk) in self.trunks.iter().enumerate() {
            let key = |name: &str| format!("trunks[{i}].{name}");
            if self.trunks.iter().take(i).any(|t| t.name == trunk.name) {
                report(key("name"), "is used twice: trunk names are unique");
            }
            trunk.mistakes().into_iter().for_each(|(name, what)| report(key(name), &what));
        }
        if self.max_calls == 0 {
            report("max_calls".into(), "is 0: no call would be answered; drain the node instead");
        }
        if self.max_calls_per_second == 0 {
            report("max_calls_per_second".into(), "is 0: no call would be answered; drain the node instead");
        }
        if self.min_se_s < 90 {
            report("min_se_s".into(), "is below 90, the least that RFC 4028 allows");
        }
        if self.session_expires_s < self.min_se_s {
            report("session_expires_s".into(), "is below min_se_s: raise it");
        }
        if self.dscp > 63 {
            report("dscp".into(), "is above 63, the largest code point: 24 is CS3, 0 is no mark");
        }
        if self.max_message_ms <= self.min_message_ms {
            report("max_message_ms".into(), "is not above min_message_ms: every message would be discarded");
        }
        found
    }
}
