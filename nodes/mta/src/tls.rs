//! TLS of connections to mail servers: verified, or opportunistic with any certificate.

use std::io;

use rustls::pki_types::CertificateDer;
use tokio_rustls::TlsConnector;
use twinbox_tls::{Remedies, TlsError, Trust};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Authorities, MailerError, reply::shown};

const REMEDIES: Remedies = Remedies {
    unknown_authority: "add the certificate of its authority to the PEM file of authorities, or to those of the \
                        system",
    other_name: "configure the name that the certificate has, or correct the certificate",
};

/// Connector that verifies the chain, the dates and the name of certificates.
pub(crate) fn verified(authorities: &Authorities) -> Result<TlsConnector, MailerError> {
    connector(match authorities {
        Authorities::System => Trust::System,
        Authorities::File(path) => Trust::File(path),
    })
}

/// Connector that accepts any certificate: encryption against listeners, without proof of the server's identity.
pub(crate) fn unverified() -> Result<TlsConnector, MailerError> {
    connector(Trust::Any)
}

fn connector(trust: Trust<'_>) -> Result<TlsConnector, MailerError> {
    twinbox_tls::connector(trust).map_err(|error| match error {
        TlsError::NoAuthorities => MailerError::NoAuthorities,
        TlsError::Authorities { path, reason } => MailerError::Authorities { path, reason },
        TlsError::Setup(error) => MailerError::Tls(error),
    })
}

/// Names and end of a certificate as text.
pub(crate) fn describe(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return "certificate that cannot be read".to_owned();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.iter().filter_map(name).collect::<Vec<_>>());
    let names = match names {
        Some(names) if !names.is_empty() => names.join(", "),
        _ => certificate.subject().to_string(),
    };
    shown(&format!("certificate for {names}, valid until {}", certificate.validity().not_after))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
        },
        _ => None,
    }
}

/// Reason of a failed handshake with `host`, with the remedy.
pub(crate) fn explain(host: &str, error: &io::Error) -> String {
    shown(&twinbox_tls::explain(host, error, REMEDIES))
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, Error, pki_types::ServerName};

    use super::*;

    #[test]
    fn names_of_a_server_are_shown_without_control_characters() {
        let expected = ServerName::try_from("mail.example.com").expect("a name");
        let presented = vec!["a.example\r\n".to_owned()];
        let wrong = CertificateError::NotValidForNameContext { expected, presented };
        let shown = explain("mail.example.com", &io::Error::other(Error::InvalidCertificate(wrong)));
        assert!(shown.contains("another name, a.example:"), "{shown}");
    }

    #[test]
    fn authorities_that_cannot_be_read_are_named() {
        let missing = Authorities::File("/nowhere/ca.pem".into());
        let error = verified(&missing).err().expect("no such file").to_string();
        assert!(error.contains("/nowhere/ca.pem") && error.contains("PEM"), "{error}");
    }
}
