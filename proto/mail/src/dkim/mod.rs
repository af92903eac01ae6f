//! DKIM signatures (RFC 6376) with relaxed canonicalization of header and body.

mod canonical;
mod key;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest;

pub use key::Key;

use crate::text::shown;

/// Fields signed by default, as far as a mail has them (RFC 6376 section 5.4.1).
pub const HEADERS: [&str; 12] = [
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "auto-submitted",
    "importance",
    "sensitivity",
];

/// Error of a DKIM key or signature. The texts name the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DkimError {
    /// The text has no PEM block of PKCS#8.
    #[error(
        "the DKIM key is not in PEM with 'BEGIN PRIVATE KEY': convert it with openssl pkcs8 -topk8 -nocrypt -in key.pem"
    )]
    Pem,
    /// No usable RSA key.
    #[error("the DKIM key is no RSA key of 2048 to 4096 bits ({0}): make one with openssl genpkey -algorithm RSA")]
    Rsa(String),
    /// No usable Ed25519 key.
    #[error("the DKIM key is no Ed25519 key ({0}): make one with openssl genpkey -algorithm ed25519")]
    Ed25519(String),
    /// Domain or selector is not a DNS name.
    #[error("the DKIM {what} '{value}' is not a DNS name: use letters, digits, '-' and '.'")]
    Name {
        /// `domain` or `selector`.
        what: &'static str,
        /// The value, shortened.
        value: String,
    },
    /// The mail has no `From`, which every signature covers.
    #[error("the mail has no 'From' field and cannot be signed: add the sender")]
    NoFrom,
    /// The key made no signature.
    #[error("the DKIM key made no signature: check the key with openssl pkey -check, or make a new one")]
    Sign,
}

/// Signs mails for one domain.
#[derive(Debug)]
pub struct Signer {
    domain: String,
    selector: String,
    key: Key,
    /// Names of the fields to sign, in lower case.
    headers: Vec<String>,
}

impl Signer {
    /// A signer for `domain` whose public key is published under `selector._domainkey.domain`. It signs the fields named
    /// in `headers` as far as a mail has them, and `From` in any case.
    pub fn new(domain: &str, selector: &str, key: Key, headers: &[&str]) -> Result<Self, DkimError> {
        let mut names: Vec<String> = headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.retain(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        if !names.iter().any(|name| name == "from") {
            names.insert(0, "from".to_owned());
        }
        let domain = dns_name("domain", domain)?;
        Ok(Self { domain, selector: dns_name("selector", selector)?, key, headers: names })
    }

    /// Name of the TXT record with the public key.
    pub fn dns_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// Text of the TXT record with the public key.
    pub fn dns_record(&self) -> String {
        self.key.dns_record()
    }

    /// The field `DKIM-Signature` with its line end, to be put in front of the mail. `signed_at_unix` is the time of the
    /// signature in seconds since 1970.
    pub fn sign(&self, mail: &[u8], signed_at_unix: i64) -> Result<String, DkimError> {
        let (fields, body) = canonical::split(mail);
        let names: Vec<Vec<u8>> = fields.iter().map(|field| canonical::name(field)).collect();
        if !names.iter().any(|name| name == b"from") {
            return Err(DkimError::NoFrom);
        }
        let mut covered = Vec::new();
        let mut signed = Vec::new();
        for header in &self.headers {
            // The last field of a name is signed first (RFC 6376 section 5.4.2).
            for (name, field) in names.iter().zip(&fields).rev() {
                if name == header.as_bytes() {
                    covered.push(header.as_str());
                    signed.extend_from_slice(&canonical::relaxed_field(field));
                    signed.extend_from_slice(b"\r\n");
                }
            }
        }
        // Named once more than it occurs: a second From breaks the signature.
        covered.push("from");
        let body_hash = digest::digest(&digest::SHA256, &canonical::relaxed_body(body));
        let unsigned = format!(
            "DKIM-Signature: v=1; a={}; c=relaxed/relaxed;\r\n d={};\r\n s={}; t={};\r\n h={};\r\n bh={};\r\n b=",
            self.key.algorithm(),
            self.domain,
            self.selector,
            signed_at_unix.max(0),
            covered.join(":\r\n "),
            STANDARD.encode(body_hash)
        );
        signed.extend_from_slice(&canonical::relaxed_field(unsigned.as_bytes()));
        let signature = STANDARD.encode(self.key.sign(&signed)?);
        let lines: Vec<&str> = (0..signature.len()).step_by(70).filter_map(|at| line(&signature, at)).collect();
        Ok(format!("{unsigned}{}\r\n", lines.join("\r\n ")))
    }
}

/// Up to 70 characters from `at`.
fn line(text: &str, at: usize) -> Option<&str> {
    text.get(at..text.len().min(at + 70))
}

/// A DNS name in lower case.
fn dns_name(what: &'static str, name: &str) -> Result<String, DkimError> {
    let label = |label: &str| {
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(letters)
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(name.to_ascii_lowercase()),
        false => Err(DkimError::Name { what, value: shown(name) }),
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    /// The example of RFC 8463 appendix A.
    const MAIL: &[u8] = b"From: Joe SixPack <joe@football.example.com>\r\n\
        To: Suzie Q <suzie@shopping.example.net>\r\n\
        Subject: Is dinner ready?\r\n\
        Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
        Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\
        \r\n\
        Hi.\r\n\
        \r\n\
        We lost the game.  Are you hungry yet?\r\n\
        \r\n\
        Joe.\r\n";

    #[test]
    fn example_of_rfc_8463_verifies_over_our_canonical_form() {
        let (fields, body) = canonical::split(MAIL);
        let body_hash = digest::digest(&digest::SHA256, &canonical::relaxed_body(body));
        assert_eq!(STANDARD.encode(body_hash), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
        let header = b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; \
            i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : \
            message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
        let mut signed = Vec::new();
        for field in fields {
            signed.extend_from_slice(&canonical::relaxed_field(field));
            signed.extend_from_slice(b"\r\n");
        }
        signed.extend_from_slice(&canonical::relaxed_field(header));
        let hash = digest::digest(&digest::SHA256, &signed);
        let signature = "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==";
        let public = STANDARD.decode("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=").unwrap();
        let verified =
            UnparsedPublicKey::new(&ED25519, public).verify(hash.as_ref(), &STANDARD.decode(signature).unwrap());
        assert_eq!(verified, Ok(()));
    }

    #[test]
    fn damaged_keys_and_names_are_refused_with_a_remedy() {
        assert_eq!(Key::rsa("").unwrap_err(), DkimError::Pem);
        assert_eq!(Key::rsa("-----BEGIN PRIVATE KEY-----\n!\n-----END").unwrap_err(), DkimError::Pem);
        let empty = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----";
        assert!(matches!(Key::rsa(empty), Err(DkimError::Rsa(_))));
        assert!(matches!(Key::ed25519(empty), Err(DkimError::Ed25519(_))));
        for name in ["", "a b", "a..b", "x;d=evil", "a\r\nb"] {
            let error = dns_name("domain", name).unwrap_err();
            assert_eq!(error, DkimError::Name { what: "domain", value: shown(name) });
        }
    }
}
