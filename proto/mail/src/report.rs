//! A report that a mail was delivered (RFC 3464), as its sender wanted (RFC 3461).

use crate::{
    address::Address,
    text,
    writer::{Headers, Part},
};

/// Greatest length of a value in the status part, in characters.
const VALUE_CHARS: usize = 600;

/// A report about one recipient. It is sent with an empty envelope sender, so that no report follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryReport {
    /// Sender in the header `From`.
    pub from: Address,
    /// Display name of the sender; may be empty.
    pub from_name: String,
    /// Envelope sender of the reported mail.
    pub to: Address,
    /// Name of the system that reports.
    pub reporting_host: String,
    /// Address of the recipient, as the sender gave it.
    pub recipient: String,
    /// Type and address of the original recipient, separated by a semicolon; empty for none.
    pub original_recipient: String,
    /// Identification of the envelope; empty for none.
    pub envelope_id: String,
    /// Arrival of the reported mail, in seconds since 1970 (UTC).
    pub arrived_unix: i64,
    /// Header of the reported mail, which is returned.
    pub header: String,
    /// Message id of the report without angle brackets. The same report has the same id at every attempt.
    pub message_id: String,
    /// Date of the report, in seconds since 1970 (UTC).
    pub date_unix: i64,
}

impl DeliveryReport {
    /// The mail with CRLF line ends, ready for SMTP (without dot stuffing). The same report results in the same bytes.
    pub fn compose(&self) -> Vec<u8> {
        let mut headers = Headers::default();
        headers.mailboxes("From", &[(self.from_name.as_str(), &self.from)]);
        headers.mailboxes("To", &[("", &self.to)]);
        headers.text("Subject", "Successful mail delivery report");
        headers.date(self.date_unix);
        headers.id("Message-ID", &self.message_id);
        headers.tokens("Auto-Submitted", &["auto-replied"]);
        headers.tokens("MIME-Version", &["1.0"]);
        let shown = text::one_line(&self.recipient, VALUE_CHARS);
        let explanation = format!("Your mail was delivered to the voice mailbox of {shown}.\n");
        let parts = vec![
            Part::text("text/plain", &[], &explanation),
            Part::fields("message/delivery-status", vec![self.about_the_mail(), self.about_the_recipient()]),
            Part::text("text/rfc822-headers", &[], &self.header),
        ];
        Part::multipart("multipart/report", &["report-type=delivery-status"], &self.message_id, parts)
            .into_mail(headers)
    }

    fn about_the_mail(&self) -> Headers {
        let mut fields = Headers::default();
        if !self.envelope_id.is_empty() {
            fields.tokens("Original-Envelope-Id", &[escaped(&self.envelope_id)]);
        }
        fields.tokens("Reporting-MTA", &[format!("dns; {}", escaped(&self.reporting_host))]);
        fields.time("Arrival-Date", self.arrived_unix);
        fields
    }

    fn about_the_recipient(&self) -> Headers {
        let mut fields = Headers::default();
        if let Some((kind, address)) = self.original_recipient.split_once(';') {
            fields.tokens("Original-Recipient", &[format!("{}; {}", escaped(kind), escaped(address))]);
        }
        let kind = if self.recipient.is_ascii() { "rfc822" } else { "utf-8" };
        fields.tokens("Final-Recipient", &[format!("{kind}; {}", escaped(&self.recipient))]);
        fields.tokens("Action", &["delivered"]);
        fields.tokens("Status", &["2.0.0"]);
        fields
    }
}

/// One line of ASCII; other characters in the form of RFC 6533 section 3.
fn escaped(text: &str) -> String {
    let line = text::one_line(text, VALUE_CHARS);
    let escape = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) };
    line.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bounce::Action, incoming};

    fn report() -> DeliveryReport {
        let address = |text: &str| Address::parse(text).expect("an address");
        DeliveryReport {
            from: address("voicemail@example.net"),
            from_name: "Voicemail".to_owned(),
            to: address("s@example.org"),
            reporting_host: "example.net".to_owned(),
            recipient: "1001@example.net".to_owned(),
            original_recipient: "rfc822;Anna@old.example".to_owned(),
            envelope_id: "QQ 1".to_owned(),
            arrived_unix: 1_057_982_437,
            header: "Subject: J\u{f6}rg\r\nMessage-ID: <one@example.org>\r\n".to_owned(),
            message_id: "7@example.net".to_owned(),
            date_unix: 1_057_982_440,
        }
    }

    #[test]
    fn report_is_read_back_and_names_the_mail() {
        let bytes = report().compose();
        let read = incoming::read(&bytes).expect("readable").bounce.expect("a report");
        let [recipient] = read.recipients.as_slice() else { panic!("{read:?}") };
        let found = (recipient.final_recipient.as_str(), recipient.action, recipient.status.as_str());
        assert_eq!(found, ("1001@example.net", Action::Delivered, "2.0.0"));
        assert_eq!(read.original_message_id.as_deref(), Some("one@example.org"));
        let text = String::from_utf8(bytes).expect("ASCII");
        for line in [
            "Auto-Submitted: auto-replied",
            "Original-Envelope-Id: QQ 1",
            "Reporting-MTA: dns; example.net",
            "Arrival-Date: Sat, 12 Jul 2003 04:00:37 +0000",
            "Original-Recipient: rfc822; Anna@old.example",
        ] {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}: {text}");
        }
    }

    #[test]
    fn values_add_no_fields_and_stay_ascii() {
        let hostile = DeliveryReport {
            recipient: "j\u{f6}rg@example.net\r\nAction: failed".to_owned(),
            envelope_id: "x\r\n\r\nFinal-Recipient: rfc822; a@b\r\nAction: failed".to_owned(),
            original_recipient: String::new(),
            ..report()
        };
        let bytes = hostile.compose();
        assert!(bytes.is_ascii());
        let read = incoming::read(&bytes).expect("readable").bounce.expect("a report");
        let [recipient] = read.recipients.as_slice() else { panic!("{read:?}") };
        assert_eq!(recipient.action, Action::Delivered);
        assert!(recipient.final_recipient.starts_with("j\\x{F6}rg@example.net"), "{recipient:?}");
    }
}
