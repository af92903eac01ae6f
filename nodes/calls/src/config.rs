//! The settings of the SIP door. Who starts it reads them from wherever it keeps them;
//! [`CallsConfig::mistakes`] reports all that is wrong at once, each with its key and its remedy.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use twinbox_dns::Transport;
use twinbox_ids::Pii;
use twinbox_sip::redirect::RedirectOrder;

use crate::{access::Network, wire};

/// Everything that the SIP door can be told.
#[derive(Debug, Clone, PartialEq)]
pub struct CallsConfig {
    /// Where SIP is listened for ; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// Who may call (rule S3). Without any, every caller is a stranger and gets `403`.
    pub trunks: Vec<TrunkConfig>,
    /// The name servers that are asked for names of trunks and phones; without any, those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// Numbers that lead to the menus instead of a mailbox.
    pub pilots: Pilots,
    /// The RTP ports and how they are announced.
    pub rtp: RtpConfig,
    /// Calls at once; one more gets `503` with `Retry-After`. A node's own setting, like all of these. By default as
    /// many as need no more open files (five each, and those of the rest of the node) than the 4,096 that Linux
    /// allows a process that nobody gave more.
    pub max_calls: usize,
    /// New calls a second, sustained (a burst of as many is let through); more get `503`.
    pub max_calls_per_second: u32,
    /// Subscriptions to message lights held at once on this node.
    pub max_subscriptions: usize,
    /// Which redirecting party's mailbox a redirected call is for: `first` (who was called at first) or `last`.
    pub redirect: RedirectOrder,
    /// A call for a mailbox that does not exist: `404`, or a spoken `apology`.
    pub unknown_mailbox: UnknownMailbox,
    /// Session timer offered to callers that support RFC 4028, in seconds.
    pub session_expires_s: u32,
    /// The shortest session timer accepted, in seconds (RFC 4028 allows no less than 90).
    pub min_se_s: u32,
    /// How long a call may be on hold, in seconds; then it ends, and what was recorded is kept. 0: for ever.
    pub max_hold_s: u32,
    /// The code point that SIP packets are marked with (RFC 2474), 0 to 63.
    pub dscp: u8,
    /// The longest message, in milliseconds; by default five minutes, about 2.4 MB.
    pub max_message_ms: u64,
    /// Below this nothing is kept, in milliseconds.
    pub min_message_ms: u64,
    /// Silence that ends a recording, in milliseconds.
    pub end_silence_ms: u64,
    /// How long a menu waits for a digit, in milliseconds.
    pub digit_timeout_ms: u64,
    /// Wrong PINs before the call ends.
    pub pin_tries: u8,
    /// The shortest new PIN.
    pub min_pin_length: u8,
    /// The key map of the menus: `asterisk` or `unity`.
    pub key_map: String,
    /// How long the `200` to BYE may wait for the second node, in milliseconds (rule A1); past this and 100 ms
    /// more the BYE is answered `500`.
    pub ack_timeout_ms: u64,
}

impl CallsConfig {
    /// The time within which a BYE is answered (rule A1).
    pub(crate) fn bye_patience(&self) -> Duration {
        Duration::from_millis(self.ack_timeout_ms + 100)
    }
}

/// Class selector 3, which PBXs, telephones and switches mark and expect signalling with.
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

/// One address on which SIP is listened for.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerConfig {
    /// `udp` or `tcp`.
    pub transport: Transport,
    /// The local address and port; port 0 takes any free one.
    pub bind: SocketAddr,
    /// The `host` or `host:port` that others reach this listener by: it goes into Contact and Via. Default: `bind`.
    pub advertise: Option<String>,
}

impl ListenerConfig {
    /// By which it is reached from outside, as `udp 10.0.0.1:5060`.
    pub fn outside(&self) -> String {
        let advertised = wire::Advertised::new(self.advertise.as_deref(), self.bind);
        let address = match advertised {
            wire::Advertised::Fixed(address) => address.to_string(),
            wire::Advertised::Routed(_) => self.bind.to_string(),
        };
        format!("{} {address}", self.transport.label())
    }
}

/// Someone who may call, and how to reach them.
#[derive(Debug, Clone, PartialEq)]
pub struct TrunkConfig {
    /// The name by which logs, metrics and the notifier speak of it.
    pub name: String,
    /// Addresses or networks (`192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`) from which its requests come.
    pub addresses: Vec<Network>,
    /// The only transport that it may use; default: any.
    pub transport: Option<Transport>,
    /// User name for digest challenges to requests that we send to it.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Pii<String>>,
    /// `host` or `host:port` to which unsolicited NOTIFYs and REGISTERs are sent; without it none are. A name without
    /// a port is looked up as RFC 3263 says (SRV, then addresses).
    pub proxy: Option<String>,
    /// This node registers there, which is then where the PBX finds it.
    pub register: Option<Registration>,
    /// The URI of a mailbox's light there, such as `sip:{mailbox}@pbx`; without it no unsolicited NOTIFYs are sent.
    pub mwi: Option<String>,
    /// The URI of a number to transfer to, such as `sip:{number}@pbx`. Default: the host that the call came from.
    pub transfer: Option<String>,
    /// RTP of its calls is taken from any host, not only from those of the SDP and of the signalling: for callers behind
    /// NAT whose signalling takes another way than their media.
    pub media_from_any_host: bool,
}

/// How a node registers with a trunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The address of record, such as `sip:voicemail@pbx.example.com`.
    pub aor: String,
    /// How long a registration is asked for, in seconds; it is refreshed in time.
    pub seconds: u32,
}

/// Numbers that lead to the menus.
#[derive(Debug, Clone, PartialEq)]
pub struct Pilots {
    /// Signs in to the mailbox of the calling number.
    pub sign_in: Vec<String>,
    /// Asks for the mailbox number first.
    pub ask_mailbox: Vec<String>,
}

impl Default for Pilots {
    fn default() -> Self {
        Self { sign_in: vec!["*97".to_owned()], ask_mailbox: vec!["*98".to_owned()] }
    }
}

/// The RTP side.
#[derive(Debug, Clone, PartialEq)]
pub struct RtpConfig {
    /// The local address of the RTP sockets.
    pub bind: IpAddr,
    /// The address that goes into our SDP; default: `bind`, or the SIP listener's address when that is `0.0.0.0`.
    pub advertise: Option<IpAddr>,
}

impl Default for RtpConfig {
    fn default() -> Self {
        Self { bind: IpAddr::from([0, 0, 0, 0]), advertise: None }
    }
}

/// What a call for an unknown mailbox meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownMailbox {
    /// `404 Not Found`.
    NotFound,
    /// It is answered and told that there is no such mailbox.
    Apology,
}

/// Something wrong in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, such as `trunks[1].mwi`.
    pub key: String,
    /// What is wrong and what to do about it.
    pub what: String,
}

impl CallsConfig {
    /// Where trunks reach listeners that are bound to all addresses and advertise none, as `udp 10.0.0.1:5060`: the addresses of
    /// this machine on its ways to the trunks' networks, by the system's own routing.
    pub fn outside_of_trunks(&self) -> Vec<String> {
        let networks = self.trunks.iter().flat_map(|trunk| &trunk.addresses);
        let own: BTreeSet<IpAddr> = networks.filter_map(|network| wire::local_address(network.a_host())).collect();
        let everywhere =
            |listener: &&ListenerConfig| listener.advertise.is_none() && listener.bind.ip().is_unspecified();
        let reached = |listener: &ListenerConfig| {
            let (label, bind) = (listener.transport.label(), listener.bind);
            let family = own.iter().filter(move |ip| !ip.is_loopback() && (ip.is_ipv4() || bind.is_ipv6()));
            family.map(move |ip| format!("{label} {}", SocketAddr::new(*ip, bind.port()))).collect::<Vec<_>>()
        };
        self.listeners.iter().filter(everywhere).flat_map(reached).collect()
    }

    /// All that is wrong with these settings, beyond what their types already refuse.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut wrong = |key: String, what: &str| found.push(Mistake { key, what: what.to_owned() });
        if self.listeners.is_empty() {
            wrong(
                "listeners".into(),
                "is empty: add a listener such as { transport = \"udp\", bind = \"0.0.0.0:5060\" }",
            );
        }
        for (i, listener) in self.listeners.iter().enumerate() {
            if let Some(advertise) = &listener.advertise
                && twinbox_sip::uri::HostPort::parse(advertise).is_none()
            {
                wrong(
                    format!("listeners[{i}].advertise"),
                    "is no host or host:port: write for example \"203.0.113.5:5060\"",
                );
            }
        }
        for (i, trunk) in self.trunks.iter().enumerate() {
            let key = |name: &str| format!("trunks[{i}].{name}");
            if trunk.name.is_empty() {
                wrong(key("name"), "is empty: give the trunk a name for logs and metrics");
            }
            if self.trunks.iter().take(i).any(|t| t.name == trunk.name) {
                wrong(key("name"), "is used twice: trunk names are unique");
            }
            if trunk.addresses.is_empty() {
                wrong(key("addresses"), "is empty: list the addresses or networks that the trunk calls from");
            }
            for (name, template, hole) in
                [("mwi", &trunk.mwi, "{mailbox}"), ("transfer", &trunk.transfer, "{number}")]
            {
                if let Some(text) = template
                    && (!text.contains(hole) || twinbox_sip::uri::Uri::parse(&text.replace(hole, "1")).is_none())
                {
                    wrong(
                        key(name),
                        &format!("is no SIP URI with {hole} in it: write for example \"sip:{hole}@pbx\""),
                    );
                }
            }
            if let Some(registration) = &trunk.register {
                if trunk.proxy.is_none() {
                    wrong(
                        key("register"),
                        "has no proxy: say where to register, such as proxy = \"pbx.example.com\"",
                    );
                }
                if !twinbox_sip::uri::Uri::parse(&registration.aor).is_some_and(|u| u.is_sip()) {
                    wrong(key("register_as"), "is no SIP URI: write for example \"sip:voicemail@pbx.example.com\"");
                }
            }
            if let Some(proxy) = &trunk.proxy
                && twinbox_sip::uri::HostPort::parse(proxy).is_none()
            {
                wrong(key("proxy"), "is no host or host:port: write for example \"pbx.example.com:5060\"");
            }
        }
        if self.max_calls == 0 {
            wrong("max_calls".into(), "is 0: no call would be answered; drain the node instead");
        }
        if self.max_calls_per_second == 0 {
            wrong("max_calls_per_second".into(), "is 0: no call would be answered; drain the node instead");
        }
        if self.min_se_s < 90 {
            wrong("min_se_s".into(), "is below 90, the least that RFC 4028 allows");
        }
        if self.session_expires_s < self.min_se_s {
            wrong("session_expires_s".into(), "is below min_se_s: raise it");
        }
        if self.dscp > 63 {
            wrong("dscp".into(), "is above 63, the largest code point: 24 is CS3, 0 is no mark");
        }
        if self.max_message_ms <= self.min_message_ms {
            wrong("max_message_ms".into(), "is not above min_message_ms: every message would be thrown away");
        }
        found
    }
}
