//! Mail addresses: `local@domain` with the lengths of RFC 5321, ASCII or UTF-8 (RFC 6531).

use std::{fmt, net::IpAddr, str::FromStr};

use crate::text::{is_unsafe, shown};

/// Greatest length of the part before the `@`, in bytes (RFC 5321 section 4.5.3.1.1).
pub const LOCAL_BYTES: usize = 64;
/// Greatest length of the domain, in bytes (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_BYTES: usize = 255;

/// A mail address. The domain is in lower case; the local part is as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    local: String,
    domain: String,
}

/// Error: the text is not a mail address. The texts name the input and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@`, or nothing before or after it.
    #[error("'{0}' is not a mail address: write it as name@example.com")]
    Shape(String),
    /// The local part is too long.
    #[error("the mail address '{0}' has more than 64 bytes before the '@': use a shorter address or an alias")]
    LocalLength(String),
    /// The domain is too long.
    #[error("the mail address '{0}' has a domain of more than 255 bytes: check the part after the '@'")]
    DomainLength(String),
    /// The local part has characters that need quotes, or misplaced dots.
    #[error(
        "the mail address '{0}' has a space, a control character, a misplaced dot or one of ()<>[]:;,\\\" before the \
         '@': remove it, or put the part before the '@' in double quotes"
    )]
    Local(String),
    /// The domain is not a host name.
    #[error(
        "the mail address '{0}' has a domain that is not a host name: use letters, digits, '-' and '.', or an IP \
         address as in name@[192.0.2.1]"
    )]
    Domain(String),
}

impl Address {
    /// Parses `local@domain`, without display name and angle brackets.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or_else(|| AddressError::Shape(shown(text)))?;
        if local.is_empty() || domain.is_empty() {
            return Err(AddressError::Shape(shown(text)));
        }
        if local.len() > LOCAL_BYTES {
            return Err(AddressError::LocalLength(shown(text)));
        }
        if !is_dot_atom(local) && !is_quoted(local) {
            return Err(AddressError::Local(shown(text)));
        }
        let domain = domain.to_lowercase();
        if domain.len() > DOMAIN_BYTES {
            return Err(AddressError::DomainLength(shown(text)));
        }
        if !is_host_name(&domain) && !is_literal(&domain) {
            return Err(AddressError::Domain(shown(text)));
        }
        Ok(Self { local: local.to_owned(), domain })
    }

    /// The part before the `@`, with its quotes if it has any.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain in lower case.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether the address has characters beyond ASCII: its mail needs a server with SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii() || !self.domain.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// Characters of an atom (RFC 5322 section 3.2.3, RFC 6532 section 3.2).
fn is_atom(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
    } else {
        !is_unsafe(c) && !c.is_whitespace()
    }
}

fn is_dot_atom(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom))
}

fn is_quoted(local: &str) -> bool {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut escaped = false;
    for c in inner.chars() {
        match c {
            _ if is_unsafe(c) => return false,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return false,
            _ => {}
        }
    }
    // A lone quotation mark is no string: prefix and suffix would be the same character.
    !escaped && local.len() >= 2
}

fn is_host_name(domain: &str) -> bool {
    let of_label = |c: char| match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || c == '-',
        false => c.is_alphanumeric() || is_mark(c),
    };
    domain.split('.').all(|label| {
        let edges = label.starts_with('-') || label.ends_with('-');
        !label.is_empty() && label.len() <= 63 && !edges && label.chars().all(of_label)
    })
}

/// Combining marks of scripts that need them in words; no punctuation.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{0300}'..='\u{036f}' | '\u{0591}'..='\u{05c7}' | '\u{064b}'..='\u{065f}' | '\u{0900}'..='\u{0dff}'
        | '\u{0e31}'..='\u{0e4e}' | '\u{3099}' | '\u{309a}')
}

/// An IP address in brackets: `[192.0.2.1]`, `[ipv6:2001:db8::1]`.
fn is_literal(domain: &str) -> bool {
    let Some(inner) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else { return false };
    match inner.strip_prefix("ipv6:") {
        Some(v6) => v6.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()),
        None => inner.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_addresses_are_parsed_with_a_lower_case_domain() {
        for (text, local, domain, utf8) in [
            ("Ann@Example.COM", "Ann", "example.com", false),
            ("+15551234@vm.example", "+15551234", "vm.example", false),
            ("first.last@example.org", "first.last", "example.org", false),
            ("\"two words\"@example.org", "\"two words\"", "example.org", false),
            ("\"a@b\"@example.org", "\"a@b\"", "example.org", false),
            ("root@localhost", "root", "localhost", false),
            ("a@[192.0.2.1]", "a", "[192.0.2.1]", false),
            ("a@[IPv6:2001:db8::1]", "a", "[ipv6:2001:db8::1]", false),
            ("jörg@example.org", "jörg", "example.org", true),
            ("a@BÜCHER.example", "a", "bücher.example", true),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!((address.local(), address.domain(), address.needs_smtputf8()), (local, domain, utf8));
            assert_eq!(address.to_string(), format!("{local}@{domain}"));
        }
    }

    #[test]
    fn invalid_addresses_are_refused_with_the_input_in_the_text() {
        for text in [
            "",
            "@",
            "a@",
            "@b",
            "plain",
            "a b@example.org",
            "a@exa mple.org",
            "a\r\nb@example.org",
            "a@example.org\r\nBcc: c",
            "a\0@example.org",
            ".a@example.org",
            "a..b@example.org",
            "a.@example.org",
            "<a@example.org>",
            "a@-b.example",
            "a@b..example",
            "a@b.",
            "\"a@example.org",
            "\"@example.org",
            "\"a\\\"@example.org",
            "a@[300.1.1.1]",
            "a@[::1]",
            "a@[ipv6:1.2.3.4]",
            "a@\u{202e}b",
            "\u{202e}@b",
            "a,b@example.org",
            "a@b_c",
        ] {
            let error = Address::parse(text).expect_err(text).to_string();
            assert!(error.contains(&shown(text)), "{error}");
            assert!(!error.chars().any(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn length_limits_are_64_and_255_bytes() {
        let domain = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63));
        assert_eq!(domain.len(), 255);
        assert!(Address::parse(&format!("{}@{domain}", "x".repeat(64))).is_ok());
        let long = Address::parse(&format!("{}@b.example", "x".repeat(65)));
        assert!(matches!(long, Err(AddressError::LocalLength(_))));
        let long = Address::parse(&format!("x@{domain}e"));
        assert!(matches!(long, Err(AddressError::DomainLength(_))));
        let label = Address::parse(&format!("x@{}.example", "a".repeat(64)));
        assert!(matches!(label, Err(AddressError::Domain(_))));
    }

    proptest! {
        #[test]
        fn accepted_addresses_have_no_control_characters_and_parse_again(text in "\\PC{0,40}|[a-z.\"\\\\@ \r\n\\[]{0,20}") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert!(!address.to_string().chars().any(is_unsafe));
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }
}
