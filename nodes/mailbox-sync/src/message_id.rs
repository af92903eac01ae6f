//! Names of mails: the same at each APPEND of a message, so that a repeated APPEND is recognised.

use twinbox_ids::{ClusterId, MessageId};

/// Domain below the cluster's own: `.invalid` never resolves (RFC 6761 section 6.4).
const DOMAIN: &str = "twinbox.invalid";
/// Mark of the mail of a partial message, after the message.
const PART: &str = ".part";

/// Audio that a mail of a message has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// The complete audio.
    #[default]
    Whole,
    /// The part that was here when the mail was appended. The mail of the complete audio replaces it.
    Part,
}

/// The Message-ID of a mail of a message (RFC 5322 section 3.6.4), with its angle brackets. Both mails of a message
/// have names of their own, so that each is found alone.
pub fn message_id(message: MessageId, extent: Extent, cluster: ClusterId) -> String {
    let part = match extent {
        Extent::Whole => "",
        Extent::Part => PART,
    };
    format!("<{message}{part}@{cluster}.{DOMAIN}>")
}

/// The message of a Message-ID of any cluster; `None` for any other text. White space around it does not matter. After a
/// full restore, the mails of a folder have the name of the cluster that was backed up: the caller compares the message.
pub fn parse_message_id(text: &str) -> Option<(MessageId, Extent)> {
    let inner = text.trim().strip_prefix('<')?.strip_suffix('>')?.to_ascii_lowercase();
    let (id, domain) = inner.split_once('@')?;
    let (id, extent) = id.strip_suffix(PART).map_or((id, Extent::Whole), |id| (id, Extent::Part));
    let cluster = domain.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    // The parser of identifiers takes a sign too.
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hex(id) || !is_hex(cluster) || cluster.parse::<ClusterId>().is_err() {
        return None;
    }
    Some((id.parse().ok()?, extent))
}

/// Short form of a Message-ID that a server wrote in place of ours, never 0 (64-bit FNV-1a). It identifies a mail that
/// was appended from here; another mail with the same Message-ID is a copy of it.
pub fn fingerprint(text: &str) -> u64 {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.trim().bytes().fold(0xcbf2_9ce4_8422_2325, hash).max(1)
}
