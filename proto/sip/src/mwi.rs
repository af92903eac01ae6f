//! MWI: message summaries (RFC 3842).

/// Media type of message summaries.
pub const CONTENT_TYPE: &str = "application/simple-message-summary";
/// Event package.
pub const EVENT: &str = "message-summary";

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
