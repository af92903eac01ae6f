//! MWI: message summaries (RFC 3842), and what a SUBSCRIBE for them requests.

use crate::{Request, addr, strict};

/// Media type of message summaries.
pub const CONTENT_TYPE: &str = "application/simple-message-summary";
/// Event package.
pub const EVENT: &str = "message-summary";

/// Default expiry, if the subscriber requests none (RFC 3842 section 3.4 allows any), in seconds.
const DEFAULT_EXPIRES: u32 = 3_600;
const MAX_EXPIRES: u32 = 86_400;
const MIN_EXPIRES: u32 = 60;

/// Message counts of a mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The URI of the mailbox.
    pub account: Option<String>,
    /// New voice messages.
    pub new: u32,
    /// Old voice messages.
    pub old: u32,
}

impl Summary {
    /// The body of a NOTIFY. The MWI is on while there are new messages.
    pub fn body(&self) -> String {
        let waiting = if self.new > 0 { "yes" } else { "no" };
        let account = self.account.as_ref().map(|a| format!("Message-Account: {a}\r\n")).unwrap_or_default();
        format!("Messages-Waiting: {waiting}\r\n{account}Voice-Message: {}/{} (0/0)\r\n", self.new, self.old)
    }

    /// Parses a body. `None` if it is not a message summary.
    pub fn parse(body: &str) -> Option<Self> {
        let mut waiting = None;
        let mut summary = Self::default();
        for line in body.lines().take(64) {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "messages-waiting" => waiting = Some(value.eq_ignore_ascii_case("yes")),
                "message-account" => summary.account = Some(value.to_owned()),
                "voice-message" => {
                    let counts = value.split_whitespace().next()?;
                    let (new, old) = counts.split_once('/')?;
                    summary.new = new.trim().parse().ok()?;
                    summary.old = old.trim().parse().ok()?;
                }
                _ => {}
            }
        }
        // A summary may contain only the Messages-Waiting line.
        if waiting? && summary.new == 0 {
            summary.new = 1;
        }
        Some(summary)
    }
}

/// The Event header for the NOTIFYs of this subscription: the package, and the `id` if the SUBSCRIBE has one. `None` for another
/// package, or an `id` that is no token.
pub fn event(subscribe: &Request) -> Option<String> {
    let event = subscribe.headers.get("Event")?;
    let (package, rest) = event.split_once(';').unwrap_or((event, ""));
    if !package.trim().eq_ignore_ascii_case(EVENT) {
        return None;
    }
    match addr::params(rest).find(|(name, _)| name.eq_ignore_ascii_case("id")) {
        None => Some(EVENT.to_owned()),
        Some((_, id)) => {
            id.filter(|id| !id.is_empty() && id.bytes().all(strict::is_token)).map(|id| format!("{EVENT};id={id}"))
        }
    }
}

/// Whether the subscriber accepts message summaries, as it does without an Accept header.
pub fn accepts_summary(subscribe: &Request) -> bool {
    let acceptable = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        [CONTENT_TYPE, "application/*", "*/*"].iter().any(|k| k.eq_ignore_ascii_case(kind))
    };
    // Bounds the parsing of repeated Accept headers.
    subscribe.headers.get("Accept").is_none() || subscribe.headers.list("Accept").take(64).any(acceptable)
}

/// The requested expiry in seconds, 0 to a day; as an error the minimum, if the request is below it.
pub fn expires(subscribe: &Request) -> Result<u32, u32> {
    let wanted = subscribe.headers.get("Expires").and_then(|v| v.trim().parse().ok()).unwrap_or(DEFAULT_EXPIRES);
    match wanted {
        0 => Ok(0),
        1..MIN_EXPIRES => Err(MIN_EXPIRES),
        _ => Ok(wanted.min(MAX_EXPIRES)),
    }
}

/// Whether this answer to a NOTIFY ends the subscription (RFC 5057 section 5.1, RFC 6665 section 4.2.2).
pub fn ends_subscription(code: u16) -> bool {
    matches!(code, 404 | 405 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604)
}
