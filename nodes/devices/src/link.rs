//! Links to recordings, which expire.
//!
//! `BASE/recording/MAILBOX/MESSAGE?device=DEVICE&expires=SECONDS&signature=HEX`. The signature is an HMAC-SHA256 over
//! `MAILBOX.MESSAGE.DEVICE.SECONDS` with the [`LinkKey`] of the device, which only the nodes have: the receiver of a link
//! can make no other. A link ends at its time, or with its device or its message.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use ring::hmac;
use twinbox_ids::{DeviceId, MailboxId, MessageId, Pii};
use twinbox_replication_core::{Edit, Record, Value};

use crate::{
    Device, Kind, schema,
    webhook::{hex, unhex},
};

/// Hours for which a link is valid, unless its device has another number.
pub const DEFAULT_LINK_HOURS: u32 = 24;
/// Maximum number of hours for which a link is valid.
pub(crate) const MOST_LINK_HOURS: u32 = 720;

/// Segment of the path before mailbox and message.
const SEGMENT: &str = "recording";
/// Maximum length of path and query, in bytes.
const LONGEST_LINK: usize = 1_000;
/// Maximum length of a base URL, in bytes.
const LONGEST_BASE: usize = 500;
/// Difference between the clocks of two nodes that is tolerated, in seconds.
const CLOCKS_APART_S: i64 = 300;

/// URL at which all nodes serve recordings, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkBase(String);

/// A text is not a base URL of links.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no URL of at most 500 visible characters with http:// or https://, without a user, '?' and '#'")]
pub struct LinkBaseError;

impl FromStr for LinkBase {
    type Err = LinkBaseError;

    fn from_str(text: &str) -> Result<Self, LinkBaseError> {
        let text = text.trim_end_matches('/');
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or(LinkBaseError)?;
        let valid = text.len() <= LONGEST_BASE
            && rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#@\"<>\\".contains(&byte));
        if valid { Ok(Self(text.to_owned())) } else { Err(LinkBaseError) }
    }
}

impl fmt::Display for LinkBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A link as it comes in a request. Its signature is unchecked: see [`Self::is_valid_for`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingLink {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The message.
    pub message: MessageId,
    /// The device to which the link was sent.
    pub device: DeviceId,
    /// Time of its end, in seconds since 1970.
    expires_s: i64,
    signature: Pii<Vec<u8>>,
}

/// Key that signs the links of one device: random, replicated with the device, and never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkKey(Pii<[u8; 32]>);

impl LinkKey {
    /// A key of these random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Pii::new(bytes))
    }

    /// The key in the record of a device; `None` before its first link, and after the device was removed.
    pub fn read(device: &Record) -> Option<Self> {
        let bytes = device.bytes(schema::device::LINK_KEY).filter(|_| device.tombstone().is_none())?;
        bytes.try_into().ok().map(Self::new)
    }

    /// The edits that add it to the record of a device.
    pub fn edits(&self) -> Vec<Edit> {
        vec![Edit::Set(schema::device::LINK_KEY, Value::Bytes(self.0.reveal().to_vec()))]
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.reveal())
    }
}

/// True if notifications of this device carry links.
pub fn has_links(device: &Device) -> bool {
    hours_of(device).is_some()
}

/// The link to the recording of a message in a notification that is sent at `now`; `None` for a device without links.
pub fn url(
    base: &LinkBase,
    device: &Device,
    key: &LinkKey,
    message: MessageId,
    now: Timestamp,
) -> Option<Pii<String>> {
    let expires_s = now.as_second().saturating_add(seconds(hours_of(device)?));
    let signed = text(device.mailbox, message, device.id, expires_s);
    let signature = hex(hmac::sign(&key.hmac(), signed.as_bytes()).as_ref());
    let (mailbox, device) = (device.mailbox, device.id);
    Some(Pii::new(format!(
        "{base}/{SEGMENT}/{mailbox}/{message}?device={device}&expires={expires_s}&signature={signature}"
    )))
}

impl RecordingLink {
    /// Reads path and query of a request; `None` if it is no link. A proxy may have added to the front of the path, or
    /// removed from it.
    pub fn parse(path: &str, query: &str) -> Option<Self> {
        if path.len().saturating_add(query.len()) > LONGEST_LINK {
            return None;
        }
        let mut segments = path.rsplit('/');
        let (message, mailbox, segment) = (segments.next()?, segments.next()?, segments.next()?);
        let field = |name: &str| {
            let mut fields = query.split('&').filter_map(|field| field.split_once('='));
            fields.find(|(other, _)| *other == name).map(|(_, value)| value)
        };
        (segment == SEGMENT).then_some(())?;
        Some(Self {
            mailbox: mailbox.parse().ok()?,
            message: message.parse().ok()?,
            device: field("device")?.parse().ok()?,
            expires_s: field("expires")?.parse().ok()?,
            signature: Pii::new(unhex(field("signature")?)?),
        })
    }

    /// True if it was made for this device, which has this key and still sends links, and has not expired at `now`. The
    /// comparison of signatures takes the same time wherever they differ.
    pub fn is_valid_for(&self, device: &Device, key: &LinkKey, now: Timestamp) -> bool {
        let signed = text(self.mailbox, self.message, self.device, self.expires_s);
        let left = self.expires_s.saturating_sub(now.as_second());
        has_links(device)
            && hmac::verify(&key.hmac(), signed.as_bytes(), self.signature.reveal()).is_ok()
            && (self.mailbox, self.device) == (device.mailbox, device.id)
            // A clock may have been wrong.
            && (1..=seconds(MOST_LINK_HOURS) + CLOCKS_APART_S).contains(&left)
    }
}

/// Hours for which the links of a device are valid; `None` for one that sends no links.
fn hours_of(device: &Device) -> Option<u32> {
    match &device.kind {
        Kind::Webhook { link: true, link_hours, .. } if device.enabled => Some(*link_hours),
        _ => None,
    }
}

fn text(mailbox: MailboxId, message: MessageId, device: DeviceId, expires_s: i64) -> String {
    format!("{mailbox}.{message}.{device}.{expires_s}")
}

fn seconds(hours: u32) -> i64 {
    i64::from(hours) * 3_600
}
