//! A message to send, and its envelope once it is safe to write.

use std::net::IpAddr;

use bytes::Bytes;

use crate::{
    failure::{Problem, SendFailure, SendStep},
    reply::shown,
};

/// Maximum length of an address in bytes (RFC 5321 section 4.5.3.1.3, without the brackets).
const MAX_ADDRESS: usize = 254;
/// Maximum length of the identification of an envelope in bytes (RFC 3461 section 4.4).
const MAX_ENVELOPE_ID: usize = 100;

/// A message to send to one recipient.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Address that reports of failure go to; `None` for `<>`, to which no report goes.
    pub sender: Option<String>,
    /// Address of the recipient.
    pub recipient: String,
    /// Header and body, lines ending in CR LF.
    pub bytes: Bytes,
    /// Identification of the envelope in delivery reports (ENVID), 1 to 100 bytes; otherwise it is left out.
    pub envelope_id: String,
    /// Delivery reports to request.
    pub notify: Notify,
}

/// Delivery reports to request from servers that support it (RFC 3461).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    /// Reports of failure and of delay, with the header of the message.
    FailureAndDelay,
    /// No report.
    Never,
}

/// Domain of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Domain {
    /// Name with MX or address records.
    Name(String),
    /// Address of the server itself: `[192.0.2.1]`.
    Address(IpAddr),
}

/// Envelope whose texts are safe in a command line.
#[derive(Debug, Clone)]
pub(crate) struct Envelope<'a> {
    /// Sender; empty for `<>`.
    pub sender: &'a str,
    /// Recipient.
    pub recipient: &'a str,
    /// Domain of the recipient.
    pub domain: Domain,
    /// Identification, if it can be sent.
    pub id: Option<&'a str>,
    /// Delivery reports to request.
    pub notify: Notify,
    /// Size of the message in bytes.
    pub size: u64,
    /// The message has bytes above 127.
    pub eight_bit: bool,
    /// An address has characters above ASCII.
    pub utf8: bool,
}

impl<'a> Envelope<'a> {
    /// Checks the addresses: what could end or extend a command is refused.
    pub fn of(mail: &'a Outgoing) -> Result<Self, SendFailure> {
        let domain = check(&mail.recipient)?;
        let sender = mail.sender.as_deref().unwrap_or_default();
        if !sender.is_empty() {
            check(sender)?;
        }
        let id = Some(mail.envelope_id.as_str()).filter(|id| (1..=MAX_ENVELOPE_ID).contains(&id.len()));
        Ok(Self {
            sender,
            recipient: &mail.recipient,
            domain,
            id,
            notify: mail.notify,
            size: u64::try_from(mail.bytes.len()).unwrap_or(u64::MAX),
            eight_bit: !mail.bytes.is_ascii(),
            utf8: !sender.is_ascii() || !mail.recipient.is_ascii(),
        })
    }
}

fn check(address: &str) -> Result<Domain, SendFailure> {
    parse(address).ok_or_else(|| {
        let shown = shown(&address.escape_debug().to_string());
        let text = format!("'{shown}' is not a mail address: write NAME@DOMAIN, at most {MAX_ADDRESS} bytes");
        SendFailure::Permanent(Problem { host: None, step: SendStep::Envelope, code: None, enhanced: None, text })
    })
}

/// Domain of a valid address.
fn parse(address: &str) -> Option<Domain> {
    if address.len() > MAX_ADDRESS {
        return None;
    }
    let (local, domain) = address.rsplit_once('@')?;
    let quoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let valid = match quoted {
        Some(content) => is_quoted_content(content),
        None => !local.is_empty() && local.chars().all(is_atom),
    };
    if valid { parse_domain(domain) } else { None }
}

fn is_atom(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c)
    } else {
        !c.is_control() && !c.is_whitespace()
    }
}

/// Content of a quoted local part: a backslash precedes each quote and backslash.
fn is_quoted_content(content: &str) -> bool {
    let mut chars = content.chars();
    while let Some(c) = chars.next() {
        let c = if c == '\\' { chars.next() } else { Some(c).filter(|c| *c != '"') };
        if c.is_none_or(|c| c.is_control() || c.is_whitespace() && c != ' ') {
            return false;
        }
    }
    true
}

fn parse_domain(domain: &str) -> Option<Domain> {
    if let Some(literal) = domain.strip_prefix('[') {
        let literal = literal.strip_suffix(']')?;
        // The tag has no case (RFC 5321 section 4.1.3), and an address is kept in lower case.
        let address = match literal.split_at_checked(5) {
            Some((tag, six)) if tag.eq_ignore_ascii_case("IPv6:") => IpAddr::V6(six.parse().ok()?),
            _ => IpAddr::V4(literal.parse().ok()?),
        };
        return Some(Domain::Address(address));
    }
    let letter =
        |c: char| if c.is_ascii() { c.is_ascii_alphanumeric() || "-_".contains(c) } else { c.is_alphanumeric() };
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(letter);
    domain.split('.').all(label).then(|| Domain::Name(domain.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mail(sender: Option<&str>, recipient: &str) -> Outgoing {
        Outgoing {
            sender: sender.map(str::to_owned),
            recipient: recipient.to_owned(),
            bytes: Bytes::from_static(b"Subject: x\r\n\r\nx\r\n"),
            envelope_id: "id".to_owned(),
            notify: Notify::Never,
        }
    }

    #[test]
    fn valid_addresses_are_accepted() {
        for address in [
            "anna@example.com",
            "a.b+c=d/e@mail-1.example.com",
            "\"a b@\\\"c\\\\\"@example.com",
            "jürgen@example.com",
            "anna@bücher.example",
            "anna@localhost",
        ] {
            assert!(matches!(parse(address), Some(Domain::Name(_))), "{address}");
        }
        assert_eq!(parse("a@[192.0.2.1]"), Some(Domain::Address("192.0.2.1".parse().expect("an address"))));
        assert_eq!(
            parse("a@[IPv6:2001:db8::1]"),
            Some(Domain::Address("2001:db8::1".parse().expect("an address")))
        );
    }

    #[test]
    fn addresses_that_could_change_a_command_are_refused() {
        let long = format!("{}@example.com", "a".repeat(250));
        for address in [
            "",
            "anna",
            "@example.com",
            "anna@",
            "anna@example..com",
            "anna@example.com.",
            "anna@example.com\r\nDATA",
            "an\r\nna@example.com",
            "\"an\r\nna\"@example.com",
            "\"an\\\r\\\nna\"@example.com",
            "anna@example.com> NOTIFY=NEVER",
            "a b@example.com",
            "<anna@example.com>",
            "\"a\"b\"@example.com",
            "\"a\\\"@example.com",
            "anna@exam ple.com",
            "anna@example.com\0",
            "anna\u{2028}@example.com",
            "anna\u{85}@example.com",
            "a@[192.0.2.1",
            "a@[2001:db8::1]",
            "a@[IPv6:x]",
            &long,
        ] {
            assert_eq!(parse(address), None, "{address:?}");
        }
    }

    #[test]
    fn refused_address_is_permanent_and_named() {
        for mail in [mail(None, "a@b\r\nRCPT"), mail(Some("a@b\r\nRCPT"), "b@example.com")] {
            let Err(SendFailure::Permanent(problem)) = Envelope::of(&mail) else { panic!("accepted") };
            assert_eq!(problem.step, SendStep::Envelope);
            assert!(problem.text.contains(r"'a@b\r\nRCPT'") && problem.text.contains("NAME@DOMAIN"), "{problem}");
        }
    }

    #[test]
    fn envelope_tells_what_the_server_must_support() {
        let mut outgoing = mail(Some("post@example.com"), "jürgen@example.com");
        outgoing.bytes = Bytes::from_static("Ü".as_bytes());
        outgoing.envelope_id = "x".repeat(101);
        let envelope = Envelope::of(&outgoing).expect("valid");
        assert!(envelope.eight_bit && envelope.utf8 && envelope.id.is_none() && envelope.size == 2);
        let outgoing = mail(None, "anna@example.com");
        let envelope = Envelope::of(&outgoing).expect("valid");
        assert!(!envelope.eight_bit && !envelope.utf8 && envelope.id == Some("id") && envelope.sender.is_empty());
    }

    proptest! {
        #[test]
        fn accepted_address_has_no_line_end_and_no_bracket_outside_quotes(address in "[a\"\\\\@<> \r\n.\\[\\]]{0,12}") {
            if parse(&address).is_some() {
                prop_assert!(!address.contains(['\r', '\n']));
                prop_assert!(address.starts_with('"') || !address.contains(['<', '>', ' ']));
            }
        }
    }
}
