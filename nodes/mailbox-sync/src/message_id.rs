//! Message-IDs: the same at each APPEND of a message, so that a repeated one is found.

use twinbox_ids::{ClusterId, MessageId};

/// Domain below the cluster's own: `.invalid` never resolves (RFC 6761 section 6.4).
const DOMAIN: &str = "twinbox.invalid";

/// The Message-ID of a message (RFC 5322 section 3.6.4), with its angle brackets.
pub fn message_id(message: MessageId, cluster: ClusterId) -> String {
    format!("<{message}@{cluster}.{DOMAIN}>")
}

/// The message of a Message-ID of this cluster; `None` for any other text. White space around it does not matter.
pub fn parse_message_id(text: &str, cluster: ClusterId) -> Option<MessageId> {
    let inner = text.trim().strip_prefix('<')?.strip_suffix('>')?;
    let (id, domain) = inner.split_once('@')?;
    if !id.bytes().all(|b| b.is_ascii_hexdigit()) || !domain.eq_ignore_ascii_case(&format!("{cluster}.{DOMAIN}")) {
        return None;
    }
    id.parse().ok()
}
