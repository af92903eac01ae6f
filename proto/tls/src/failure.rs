//! Reasons of failed handshakes as text, with remedies.

use std::io;

use rustls::{CertificateError, Error, pki_types::UnixTime};
use x509_parser::time::ASN1Time;

/// Number of names of a wrong certificate that are shown: the remedy behind them must stay in view.
const SHOWN_NAMES: usize = 3;

/// Remedies that depend on where the server is configured; each completes "…: ".
#[derive(Debug, Clone, Copy)]
pub struct Remedies {
    /// Remedy for a certificate of an unknown authority.
    pub unknown_authority: &'static str,
    /// Remedy for a certificate of another name.
    pub other_name: &'static str,
}

/// Reason of a failed handshake with `host`, with the remedy. May contain text of the server: the caller bounds it and
/// removes control characters.
pub fn explain(host: &str, error: &io::Error, remedies: Remedies) -> String {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(wrong)) => {
            format!("the certificate of {host} {}", certificate_failure(wrong, remedies))
        }
        Some(other) => format!("TLS with {host} failed: {other}"),
        None => format!("{host} ended the TLS handshake: {error}"),
    }
}

fn certificate_failure(wrong: &CertificateError, remedies: Remedies) -> String {
    use CertificateError as E;
    match wrong {
        E::Expired => "has expired: renew it".to_owned(),
        E::ExpiredContext { not_after, .. } => format!("expired on {}: renew it", date(*not_after)),
        E::NotValidYet => "is not valid yet: check the clocks".to_owned(),
        E::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}: check the clocks", date(*not_before))
        }
        E::UnknownIssuer => format!("comes from an unknown authority: {}", remedies.unknown_authority),
        E::NotValidForName => format!("is for another name: {}", remedies.other_name),
        E::NotValidForNameContext { presented, .. } => {
            let more = if presented.len() > SHOWN_NAMES { ", …" } else { "" };
            let names = presented.iter().take(SHOWN_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("is for another name, {names}{more}: {}", remedies.other_name)
        }
        E::Revoked => "is revoked: renew it".to_owned(),
        other => format!("cannot be verified: {other}"),
    }
}

fn date(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    time.map_or_else(|| "an unknown date".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::ServerName;

    use super::*;

    const REMEDIES: Remedies = Remedies { unknown_authority: "name its file", other_name: "use that name" };

    #[test]
    fn certificate_failures_are_told_apart_with_a_remedy() {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1_577_836_800));
        let expected = ServerName::try_from("mail.example.com").expect("a name");
        let presented = vec!["a.example".to_owned(), "b.example".to_owned()];
        for (failure, text) in [
            (CertificateError::ExpiredContext { time, not_after: time }, "expired on Jan  1 00:00:00 2020"),
            (CertificateError::UnknownIssuer, "unknown authority: name its file"),
            (
                CertificateError::NotValidForNameContext { expected, presented },
                "another name, a.example, b.example: use that name",
            ),
            (CertificateError::BadEncoding, "cannot be verified"),
        ] {
            let error = io::Error::other(Error::InvalidCertificate(failure));
            let shown = explain("mail.example.com", &error, REMEDIES);
            assert!(shown.starts_with("the certificate of mail.example.com ") && shown.contains(text), "{shown}");
        }
        let closed = explain("mail", &io::Error::from(io::ErrorKind::UnexpectedEof), REMEDIES);
        assert!(closed.starts_with("mail ended the TLS handshake"), "{closed}");
    }
}
