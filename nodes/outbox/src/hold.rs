//! Holds: destinations whose effects are not attempted until an administrator releases them.
//!
//! A hold is a record of its own, so that it applies to effects that are written later, too, and on each node that takes
//! the duty. A released hold stays for a day: effects that waited for it expire after that day at the earliest.

use std::{collections::BTreeMap, net::Ipv6Addr, str::FromStr};

use twinbox_ids::{Pii, Timestamp};
use twinbox_replication_core::{Edit, Key, Record};

use crate::{
    Channel, Effect, NewEffect,
    effect::{failed, set, text},
    schema,
};

/// Maximum number of holds in force.
pub const MAX_HOLDS: usize = 256;
/// Minimum life of an effect after the release of its hold, in milliseconds.
pub const LIFE_AFTER_RELEASE_MS: u64 = 24 * 3_600 * 1_000;
/// Maximum length of a reason, in characters.
const LONGEST_REASON: usize = 200;
/// Maximum length of a destination, in bytes: that of a mail address.
const LONGEST: usize = 320;

/// A destination of effects, as an administrator names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// All of a channel.
    Channel(Channel),
    /// A mail address, in lower case.
    Address(Pii<String>),
    /// The domain of mail addresses, or the host of webhooks, in lower case.
    Host(String),
}

/// Error: the text names no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a destination: write a mail domain such as example.com, a mail address, the host of a webhook without \
     its port, or a channel such as mail"
)]
pub struct DestinationError(String);

impl Destination {
    /// Destinations of an effect that goes to a mail address: each of them names it.
    pub fn of_mail(channel: Channel, address: &str) -> Vec<Self> {
        let mut all = vec![Self::Channel(channel)];
        if let Some((local, domain)) = address.trim().rsplit_once('@')
            && let Some(host) = host(domain)
        {
            if !local.is_empty() {
                all.push(Self::Address(format!("{}@{host}", local.to_lowercase()).into()));
            }
            all.push(Self::Host(host));
        }
        all
    }

    /// Destinations of an effect that goes to a URL.
    pub fn of_url(channel: Channel, url: &str) -> Vec<Self> {
        let rest = url.trim().split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let name = match authority.strip_prefix('[') {
            Some(address) => address.split(']').next(),
            None => authority.split(':').next(),
        };
        let host = name.and_then(host).map(Self::Host);
        [Self::Channel(channel)].into_iter().chain(host).collect()
    }

    /// The text that [`FromStr`] reads: for administrators and keys, never for a log.
    pub fn reveal(&self) -> &str {
        match self {
            Self::Channel(channel) => channel.word(),
            Self::Address(address) => address.reveal(),
            Self::Host(host) => host,
        }
    }

    /// Kind of the destination, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Channel(_) => "channel",
            Self::Address(_) => "address",
            Self::Host(_) => "host",
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(given: &str) -> Result<Self, DestinationError> {
        let error = || DestinationError(given.chars().filter(|c| !c.is_control()).take(LONGEST).collect());
        let text = given.trim().to_lowercase();
        if text.len() > LONGEST {
            return Err(error());
        }
        if let Some(channel) = Channel::ALL.into_iter().find(|channel| channel.word() == text) {
            return Ok(Self::Channel(channel));
        }
        match text.rsplit_once('@') {
            Some((local, domain)) => {
                let plain = !local.is_empty() && !local.chars().any(|c| c.is_control() || c.is_whitespace());
                let host = host(domain).filter(|_| plain).ok_or_else(error)?;
                Ok(Self::Address(format!("{local}@{host}").into()))
            }
            None => host(&text).map(Self::Host).ok_or_else(error),
        }
    }
}

/// A domain or host in the form in which two are compared; `None` if the text is neither.
fn host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return Some(address.to_string());
    }
    let name = bare.strip_suffix('.').unwrap_or(bare).to_lowercase();
    let fits = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'));
    fits.then_some(name)
}

/// The hold of one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The destination.
    pub destination: Destination,
    /// Reason of the administrator; empty for none.
    pub reason: String,
    /// Time of its beginning.
    pub since: Timestamp,
    /// Time of its release; `None` while it is in force.
    pub released: Option<Timestamp>,
}

impl Hold {
    /// Reads a hold; `None` when it was removed, or this release cannot read it.
    pub fn read(key: &Key, record: &Record) -> Option<Self> {
        if record.is_deleted() {
            return None;
        }
        let destination = schema::held_text(key)?.parse().ok()?;
        let (since, released) = record.bytes(schema::hold::STATE)?.split_at_checked(8)?;
        let time = |bytes: &[u8]| Some(Timestamp(u64::from_be_bytes(bytes.try_into().ok()?)));
        Some(Self {
            destination,
            reason: record.bytes(schema::hold::REASON).map(text).unwrap_or_default(),
            since: time(since)?,
            released: Some(time(released)?).filter(|at| at.0 > 0),
        })
    }

    /// The key of its record.
    pub fn key(destination: &Destination) -> Key {
        schema::hold_key(destination.reveal())
    }

    /// The edits of its record.
    pub fn edits(&self) -> Vec<Edit> {
        let released = self.released.unwrap_or_default();
        let reason: String = self.reason.chars().take(LONGEST_REASON).collect();
        vec![
            set(schema::hold::STATE, [self.since.0.to_be_bytes(), released.0.to_be_bytes()].concat()),
            set(schema::hold::REASON, reason.into_bytes()),
        ]
    }
}

/// All holds: those in force, and those that were released lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds(BTreeMap<Destination, Hold>);

impl Holds {
    /// Reads the records of the table.
    pub fn read(rows: &[(Key, Record)]) -> Self {
        let holds = rows.iter().filter_map(|(key, record)| Hold::read(key, record));
        Self(holds.map(|hold| (hold.destination.clone(), hold)).collect())
    }

    /// True when there is no hold, not even one that was released lately.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The holds in force.
    pub fn in_force(&self) -> impl Iterator<Item = &Hold> {
        self.0.values().filter(|hold| hold.released.is_none())
    }

    /// The hold in force of exactly this destination.
    pub fn of(&self, destination: &Destination) -> Option<&Hold> {
        self.0.get(destination).filter(|hold| hold.released.is_none())
    }

    /// A hold in force that names an effect with these destinations.
    pub fn holding(&self, destinations: &[Destination]) -> Option<&Hold> {
        destinations.iter().find_map(|destination| self.of(destination))
    }

    /// Time after which an effect with these destinations is given up. It is later than the effect's own if the effect
    /// waited for a hold.
    pub fn expires(&self, destinations: &[Destination], effect: &NewEffect) -> Timestamp {
        let releases = destinations.iter().filter_map(|destination| self.0.get(destination)?.released);
        let latest = releases.filter(|at| *at >= effect.created).max();
        let after = latest.map(|at| Timestamp(at.0.saturating_add(LIFE_AFTER_RELEASE_MS)));
        after.map_or(effect.expires, |after| after.max(effect.expires))
    }

    /// Destinations whose hold was released so long ago that no effect waits longer because of it, and the earliest
    /// released ones beyond [`MAX_HOLDS`].
    pub fn outdated(&self, now: Timestamp) -> Vec<Destination> {
        let mut released: Vec<_> =
            self.0.values().filter_map(|hold| Some((hold.released?, &hold.destination))).collect();
        released.sort_unstable();
        let beyond = released.len().saturating_sub(MAX_HOLDS);
        let old = |at: Timestamp| at.0.saturating_add(LIFE_AFTER_RELEASE_MS) < now.0;
        let outdated = released.iter().enumerate().filter(|(index, (at, _))| *index < beyond || old(*at));
        outdated.map(|(_, (_, destination))| (*destination).clone()).collect()
    }
}

/// The edits that end the pause of an effect after a failure, with the failure's reason; none if it does not pause. The
/// delay of a device and the time of a reminder are not cut short.
pub fn due_now(effect: &Effect, now: Timestamp) -> Vec<Edit> {
    let Some((_, failure)) = &effect.failure else { return Vec::new() };
    if effect.state().is_end() || effect.unfinished().is_some() || effect.due() <= now {
        return Vec::new();
    }
    failed(effect.attempts(), now, &failure.text)
}
