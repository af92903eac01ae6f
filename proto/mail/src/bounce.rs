//! Reports on the delivery of a mail that Twinbox sent (RFC 3464).

use crate::{
    fields::Fields,
    structure::{Body, Part},
    text,
};

/// Recipients of one report that are read.
const RECIPIENTS: usize = 200;
/// Greatest length of a diagnostic text, in characters.
const DIAGNOSTIC_CHARS: usize = 1_000;

/// A report on the delivery of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounce {
    /// Result for each recipient.
    pub recipients: Vec<BounceRecipient>,
    /// Message id of the reported mail, without angle brackets, if the report returns its header.
    pub original_message_id: Option<String>,
}

/// The result for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BounceRecipient {
    /// Address without its type, as the reporting server wrote it.
    pub final_recipient: String,
    /// Outcome for this recipient.
    pub action: Action,
    /// Status code of RFC 3463, such as `5.1.1`.
    pub status: String,
    /// Text of the server that refused the mail, without its type.
    pub diagnostic: Option<String>,
}

/// Outcome of a delivery (RFC 3464 section 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It was not delivered, and no further attempt is made.
    Failed,
    /// It is not delivered yet; attempts continue.
    Delayed,
    /// It was delivered.
    Delivered,
    /// It was passed on to a system that sends no reports.
    Relayed,
    /// It was delivered to a list or an alias.
    Expanded,
}

impl Action {
    fn of(word: &str, status: &str) -> Option<Self> {
        match word {
            "failed" => Some(Self::Failed),
            "delayed" => Some(Self::Delayed),
            "delivered" => Some(Self::Delivered),
            "relayed" => Some(Self::Relayed),
            "expanded" => Some(Self::Expanded),
            // Some servers leave the action out.
            _ => match status.chars().next()? {
                '5' => Some(Self::Failed),
                '4' => Some(Self::Delayed),
                '2' => Some(Self::Delivered),
                _ => None,
            },
        }
    }

    fn default_status(self) -> &'static str {
        match self {
            Self::Failed => "5.0.0",
            Self::Delayed => "4.0.0",
            Self::Delivered | Self::Relayed | Self::Expanded => "2.0.0",
        }
    }
}

/// The report in a mail; `None` if the mail is no delivery report.
pub(crate) fn of(root: &Part) -> Option<Bounce> {
    if !root.is_delivery_report() {
        return None;
    }
    let leaves = root.leaves(false);
    let status = leaves.iter().find(|(part, _)| {
        matches!(part.kind.name.as_str(), "message/delivery-status" | "message/global-delivery-status")
    });
    Some(Bounce {
        recipients: status.map(|(_, bytes)| recipients(bytes)).unwrap_or_default(),
        original_message_id: original_message_id(root),
    })
}

/// Blocks of fields, separated by empty lines; the first one is about the mail as a whole.
fn recipients(status: &[u8]) -> Vec<BounceRecipient> {
    let mut recipients = Vec::new();
    let mut rest = status.trim_ascii_start();
    while !rest.is_empty() && recipients.len() < RECIPIENTS {
        let Ok((fields, after)) = Fields::split(rest) else { break };
        recipients.extend(recipient(&fields));
        rest = after.trim_ascii_start();
    }
    recipients
}

fn recipient(fields: &Fields) -> Option<BounceRecipient> {
    let final_recipient = typed(fields, "final-recipient").or_else(|| typed(fields, "original-recipient"))?;
    let status = fields.word("status").filter(|status| is_status(status));
    let action = Action::of(&fields.word("action").unwrap_or_default(), status.as_deref().unwrap_or_default())?;
    Some(BounceRecipient {
        final_recipient: text::cut(final_recipient.trim_matches(['<', '>']), 400).to_owned(),
        action,
        status: status.unwrap_or_else(|| action.default_status().to_owned()),
        diagnostic: typed(fields, "diagnostic-code").map(|text| text::one_line(&text, DIAGNOSTIC_CHARS)),
    })
}

/// The value of a field `type; value`; with a value alone, that value.
fn typed(fields: &Fields, name: &str) -> Option<String> {
    let line = fields.line(name)?;
    let value = line.split_once(';').map_or(line.as_str(), |(_, value)| value).trim();
    Some(value.to_owned()).filter(|value| !value.is_empty())
}

/// `class.subject.detail`, three numbers (RFC 3463 section 2).
fn is_status(status: &str) -> bool {
    let number = |n: &str| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    status.split('.').count() == 3 && status.split('.').all(number)
}

fn original_message_id(root: &Part) -> Option<String> {
    let Body::Parts(parts) = &root.body else { return None };
    parts.iter().find_map(|part| match &part.body {
        Body::Message(message) => message.fields.message_id(),
        Body::Leaf(bytes) => match part.kind.name.as_str() {
            "text/rfc822-headers" | "message/global-headers" | "message/rfc822" => {
                Fields::split(bytes).ok()?.0.message_id()
            }
            _ => None,
        },
        Body::Parts(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incoming;

    fn report(status: &str, returned: &str) -> Bounce {
        let mail = format!(
            "From: MAILER-DAEMON@mx.example\r\nContent-Type: multipart/report; report-type=Delivery-Status;\r\n \
             boundary=\"B\"\r\n\r\n--B\r\n\r\nSorry.\r\n--B\r\nContent-Type: message/delivery-status\r\n\r\n\
             Reporting-MTA: dns; mx.example\r\nArrival-Date: x\r\n\r\n{status}\r\n--B\r\n{returned}\r\n--B--\r\n"
        );
        incoming::read(mail.as_bytes()).unwrap().bounce.unwrap()
    }

    #[test]
    fn report_with_several_recipients_is_read() {
        let bounce = report(
            "Original-Recipient: rfc822;a@b.example\r\nFinal-Recipient: RFC822; <x@y.example>\r\nAction: failed\r\n\
             Status: 5.1.1 (no such user)\r\nDiagnostic-Code: smtp; 550 5.1.1\r\n  unknown user\r\n\r\n\
             Final-Recipient: rfc822; d@e.example\r\nAction: Delayed\r\nStatus: 4.4.1\r\n\r\n\
             Final-Recipient: f@g.example\r\nStatus: 2.1.5\r\n\r\n\
             Final-Recipient: rfc822; h@i.example\r\nAction: relayed\r\nStatus: nonsense\r\n\r\nAction: failed",
            "Content-Type: message/rfc822\r\n\r\nMessage-ID: <one@twinbox>\r\nSubject: x\r\n\r\ntext",
        );
        let lines: Vec<_> = bounce.recipients.iter().map(|r| (&*r.final_recipient, r.action, &*r.status)).collect();
        assert_eq!(
            lines,
            [
                ("x@y.example", Action::Failed, "5.1.1"),
                ("d@e.example", Action::Delayed, "4.4.1"),
                ("f@g.example", Action::Delivered, "2.1.5"),
                ("h@i.example", Action::Relayed, "2.0.0"),
            ]
        );
        assert_eq!(bounce.recipients[0].diagnostic.as_deref(), Some("550 5.1.1  unknown user"));
        assert_eq!(bounce.original_message_id.as_deref(), Some("one@twinbox"));
    }

    #[test]
    fn message_id_is_read_from_returned_header_fields() {
        let returned = "Content-Type: text/rfc822-headers\r\n\r\nSubject: x\r\nMessage-ID: <two@twinbox>\r\n";
        let bounce = report("Final-Recipient: rfc822; a@b.example\r\nAction: expanded\r\n", returned);
        assert_eq!(bounce.original_message_id.as_deref(), Some("two@twinbox"));
        assert_eq!(bounce.recipients[0].action, Action::Expanded);
    }

    #[test]
    fn report_without_recipients_is_empty_and_other_mail_is_no_report() {
        let empty = report("", "Content-Type: text/plain\r\n\r\nMessage-ID: <no@b>");
        assert_eq!(empty, Bounce { recipients: Vec::new(), original_message_id: None });
        assert_eq!(incoming::read(b"Subject: hello\r\n\r\ntext").unwrap().bounce, None);
    }

    #[test]
    fn number_of_recipients_is_limited() {
        let many = "Final-Recipient: rfc822; a@b.example\r\nAction: failed\r\n\r\n".repeat(10_000);
        assert_eq!(report(&many, "").recipients.len(), RECIPIENTS);
    }
}
