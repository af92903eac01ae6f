//! A trunk: a peer that may call, described by properties whose names are those of `[[trunk]]` in a node's file.

use std::collections::BTreeMap;

use twinbox_ids::{Network, NetworkError};
use twinbox_mailbox::nearest;

use crate::{Kind, ValueError};

/// Maximum length of a trunk's name, in bytes.
const LONGEST_NAME: usize = 64;
/// Maximum number of addresses and networks of a trunk.
const MOST_NETWORKS: usize = 256;

/// A property of a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// Addresses and networks that it calls from.
    Addresses,
    /// The only transport that it may use.
    Transport,
    /// User name for digest challenges.
    Username,
    /// File with the password, on every node.
    PasswordFile,
    /// Host for unsolicited NOTIFYs and REGISTERs.
    Proxy,
    /// Every node registers with it.
    Register,
    /// Address of record of the registration.
    RegisterAs,
    /// Duration of a registration, in seconds.
    RegisterSeconds,
    /// URI template of message-waiting indications (MWI).
    Mwi,
    /// URI template of transfers.
    Transfer,
    /// RTP of any host is accepted.
    MediaFromAnyHost,
}

/// A trunk, or a change of one, that will not do. The text names what was given, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrunkError {
    /// Not a name.
    #[error("'{0}' is no name of a trunk: write 1 to {LONGEST_NAME} bytes without control characters")]
    Name(String),
    /// Text without a value.
    #[error("'{0}' has no value: write {0}=VALUE, or {0}=- for the default")]
    NoValue(String),
    /// No such property.
    #[error("a trunk has no setting '{name}'{near}; it has {}", names())]
    Unknown {
        /// The given name.
        name: String,
        /// The likely one.
        near: String,
    },
    /// A secret itself.
    #[error(
        "password is not shared, because secrets stay in each node's files: write it to a file on every node, and set \
         password_file=/PATH; or give it in [[trunk]] of each node's file"
    )]
    Secret,
    /// A value that the property does not take.
    #[error("{name} {error}")]
    Value {
        /// The property.
        name: &'static str,
        /// The mistake.
        error: ValueError,
    },
    /// An address that is none.
    #[error("addresses: {0}")]
    Network(#[from] NetworkError),
    /// Too many addresses.
    #[error("addresses has {0} items, at most {MOST_NETWORKS}: write networks, such as 10.0.0.0/24")]
    Networks(usize),
    /// No address.
    #[error("trunk '{0}' has no addresses: set addresses to those that it calls from, such as addresses=10.0.0.10")]
    NoAddresses(String),
    /// It is there already.
    #[error("there is a trunk '{0}': change it with 'twinbox trunk set {0} …', or choose another name")]
    Exists(String),
    /// It is not there.
    #[error("there is no trunk '{name}'{near}; 'twinbox trunk list' shows all")]
    NoTrunk {
        /// The given name.
        name: String,
        /// The likely one.
        near: String,
    },
    /// A request would belong to two trunks.
    #[error("trunk '{other}' has {network} already{by}: remove it from one of them")]
    Taken {
        /// The network.
        network: String,
        /// The other trunk.
        other: String,
        /// The transport, if it decides.
        by: &'static str,
    },
}

fn names() -> String {
    Property::ALL.map(Property::name).join(", ")
}

fn likely<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    nearest(name, &known).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default()
}

impl TrunkError {
    /// The mistake without the name of the property, for a reader that names it.
    pub fn without_name(&self) -> String {
        match self {
            Self::Value { error, .. } => error.to_string(),
            Self::Network(error) => error.to_string(),
            _ => self.to_string(),
        }
    }

    pub(crate) fn no_trunk<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        Self::NoTrunk { name: name.to_owned(), near: likely(name, known) }
    }
}

impl Property {
    /// Every property, in the order of the file.
    pub const ALL: [Self; 11] = [
        Self::Addresses,
        Self::Transport,
        Self::Username,
        Self::PasswordFile,
        Self::Proxy,
        Self::Register,
        Self::RegisterAs,
        Self::RegisterSeconds,
        Self::Mwi,
        Self::Transfer,
        Self::MediaFromAnyHost,
    ];

    /// Its name, as in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Transport => "transport",
            Self::Username => "username",
            Self::PasswordFile => "password_file",
            Self::Proxy => "proxy",
            Self::Register => "register",
            Self::RegisterAs => "register_as",
            Self::RegisterSeconds => "register_seconds",
            Self::Mwi => "mwi",
            Self::Transfer => "transfer",
            Self::MediaFromAnyHost => "media_from_any_host",
        }
    }

    /// The property of a name.
    pub fn named(name: &str) -> Result<Self, TrunkError> {
        if name == "password" {
            return Err(TrunkError::Secret);
        }
        let found = Self::ALL.into_iter().find(|property| property.name() == name);
        let near = || likely(name, Self::ALL.into_iter().map(Self::name));
        found.ok_or_else(|| TrunkError::Unknown { name: name.to_owned(), near: near() })
    }

    /// Reads `NAME=VALUE`; `-` is the default.
    pub fn setting(text: &str) -> Result<(Self, Option<String>), TrunkError> {
        let (name, value) = text.split_once('=').ok_or_else(|| TrunkError::NoValue(text.to_owned()))?;
        let property = Self::named(name.trim())?;
        let value = Some(value.trim()).filter(|value| *value != "-").map(|value| property.check(value));
        Ok((property, value.transpose()?))
    }

    /// The value as it is stored and shown.
    pub fn check(self, text: &str) -> Result<String, TrunkError> {
        self.checked(text, Network::exact)
    }

    /// As [`Self::check`], for a node's file: bits of an address beyond its prefix do not matter there.
    pub fn check_in_file(self, text: &str) -> Result<String, TrunkError> {
        self.checked(text, |item| match Network::exact(item) {
            Err(NetworkError::HostBits(_, exact)) => Ok(exact),
            other => other,
        })
    }

    fn checked(
        self,
        text: &str,
        network: impl Fn(&str) -> Result<Network, NetworkError>,
    ) -> Result<String, TrunkError> {
        let kind = match self {
            Self::Addresses => {
                let items: Vec<&str> = text.split(',').map(str::trim).collect();
                if items.len() > MOST_NETWORKS {
                    return Err(TrunkError::Networks(items.len()));
                }
                let networks = items.into_iter().map(|item| Ok(network(item)?.to_string()));
                let mut networks = networks.collect::<Result<Vec<_>, TrunkError>>()?;
                networks.sort_unstable();
                networks.dedup();
                return Ok(networks.join(","));
            }
            Self::Transport => Kind::Word(&["udp", "tcp"]),
            Self::Register | Self::MediaFromAnyHost => Kind::Flag,
            Self::RegisterSeconds => Kind::Number(60..=86_400),
            Self::PasswordFile => Kind::Path,
            Self::Username | Self::Proxy | Self::RegisterAs | Self::Mwi | Self::Transfer => Kind::Text,
        };
        kind.check(text).map_err(|error| TrunkError::Value { name: self.name(), error })
    }
}

/// A trunk: its name, and the properties that are set, each with a checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trunk {
    name: String,
    properties: BTreeMap<Property, String>,
}

impl Trunk {
    /// A trunk of this name without properties.
    pub fn new(name: &str) -> Result<Self, TrunkError> {
        let trimmed = name.trim();
        if trimmed.is_empty() || trimmed.len() > LONGEST_NAME || trimmed.chars().any(char::is_control) {
            return Err(TrunkError::Name(name.to_owned()));
        }
        Ok(Self { name: trimmed.to_owned(), properties: BTreeMap::new() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a property, or gives it its default; the value must have passed [`Property::check`].
    pub fn set(&mut self, property: Property, value: Option<String>) {
        match value {
            Some(value) => self.properties.insert(property, value),
            None => self.properties.remove(&property),
        };
    }

    /// The value of a property, if it is set.
    pub fn get(&self, property: Property) -> Option<&str> {
        self.properties.get(&property).map(String::as_str)
    }

    /// True when a property is `true`.
    pub fn flag(&self, property: Property) -> bool {
        self.get(property) == Some("true")
    }

    /// The addresses and networks that it calls from.
    pub fn networks(&self) -> impl Iterator<Item = Network> {
        self.get(Property::Addresses).unwrap_or_default().split(',').filter_map(|item| item.parse().ok())
    }

    /// The properties as `NAME=VALUE`, in the order of the file.
    pub fn settings(&self) -> impl Iterator<Item = String> {
        self.properties.iter().map(|(property, value)| format!("{}={value}", property.name()))
    }

    /// The content as the store has it: a line for each property.
    pub(crate) fn text(&self) -> String {
        self.settings().map(|line| line + "\n").collect()
    }

    /// Reads what the store has. Also the names of properties that this release does not know, and of those whose value
    /// it refuses.
    pub(crate) fn read(name: &str, text: &str) -> Result<(Self, Unread), TrunkError> {
        let (mut trunk, mut unread) = (Self::new(name)?, Unread::default());
        for line in text.lines() {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            match Property::ALL.into_iter().find(|property| property.name() == name) {
                None => unread.unknown.push(name.to_owned()),
                Some(property) => match property.check(value) {
                    Ok(value) => trunk.set(property, Some(value)),
                    Err(_) => unread.refused.push(name.to_owned()),
                },
            }
        }
        Ok((trunk, unread))
    }

    /// The same but for what may be each node's own: the account.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let shared = |trunk: &Self| {
            let mut trunk = trunk.clone();
            [Property::Username, Property::PasswordFile].into_iter().for_each(|own| trunk.set(own, None));
            trunk
        };
        shared(self) == shared(other)
    }

    /// The trunk among these that has a network of this one, for the same transport.
    pub(crate) fn rival<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Result<(), TrunkError> {
        let own: Vec<String> = self.networks().map(|network| network.to_string()).collect();
        let transport = self.get(Property::Transport);
        for other in others.filter(|other| other.name != self.name && other.get(Property::Transport) == transport) {
            if let Some(network) = other.networks().map(|network| network.to_string()).find(|n| own.contains(n)) {
                let by = match transport {
                    Some("udp") => " for udp",
                    Some(_) => " for tcp",
                    None => "",
                };
                return Err(TrunkError::Taken { network, other: other.name.clone(), by });
            }
        }
        Ok(())
    }
}

/// Lines of a stored trunk that have no effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Properties of another release.
    pub(crate) unknown: Vec<String>,
    /// Properties with a value that this release refuses.
    pub(crate) refused: Vec<String>,
}
