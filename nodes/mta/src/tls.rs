//! TLS of connections to mail servers: verified, or opportunistic with any certificate.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WantsClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_rustls::TlsConnector;
use x509_parser::{
    prelude::{FromDer, GeneralName, X509Certificate},
    time::ASN1Time,
};

use crate::{Authorities, MailerError, reply::shown};

/// Connector that verifies the chain, the dates and the name of certificates.
pub(crate) fn verified(authorities: &Authorities) -> Result<TlsConnector, MailerError> {
    let roots = roots(authorities)?;
    connector(|config| config.with_root_certificates(roots))
}

/// Connector that accepts any certificate: encryption against listeners, without proof of the server's identity.
pub(crate) fn unverified() -> Result<TlsConnector, MailerError> {
    let verifier = Arc::new(AnyCertificate(ring::default_provider()));
    connector(|config| config.dangerous().with_custom_certificate_verifier(verifier))
}

type Builder<State> = rustls::ConfigBuilder<ClientConfig, State>;

fn connector(
    trust: impl FnOnce(Builder<rustls::WantsVerifier>) -> Builder<WantsClientCert>,
) -> Result<TlsConnector, MailerError> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = trust(config.with_safe_default_protocol_versions()?).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(authorities: &Authorities) -> Result<RootCertStore, MailerError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Authorities::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(MailerError::NoAuthorities);
            }
        }
        Authorities::File(path) => {
            let wrong = |reason: String| MailerError::Authorities { path: path.clone(), reason };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("the file has no certificate".to_owned()));
            }
        }
    }
    Ok(roots)
}

/// Accepts any certificate whose key signed the handshake.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
    match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(wrong)) => certificate_failure(host, wrong),
        Some(other) => shown(&format!("TLS with {host} failed: {other}")),
        None => shown(&format!("{host} ended the TLS handshake: {error}")),
    }
}

fn certificate_failure(host: &str, wrong: &CertificateError) -> String {
    use CertificateError as E;
    let problem = match wrong {
        E::Expired => "has expired: renew it".to_owned(),
        E::ExpiredContext { not_after, .. } => format!("expired on {}: renew it", date(*not_after)),
        E::NotValidYet => "is not valid yet: check the clocks".to_owned(),
        E::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}: check the clocks", date(*not_before))
        }
        E::UnknownIssuer => {
            "comes from an unknown authority: add the certificate of its authority to the PEM file of \
                             authorities, or to those of the system"
                .to_owned()
        }
        E::NotValidForName => "is for another name: configure the name that the certificate has".to_owned(),
        E::NotValidForNameContext { presented, .. } => {
            format!(
                "is for another name, {}: configure that name, or correct the certificate",
                presented.join(", ")
            )
        }
        E::Revoked => "is revoked: renew it".to_owned(),
        other => format!("cannot be verified: {other}"),
    };
    shown(&format!("the certificate of {host} {problem}"))
}

fn date(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    time.map_or_else(|| "an unknown date".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn certificate_failures_are_told_apart_with_a_remedy() {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1_577_836_800));
        let expected = ServerName::try_from("mail.example.com").expect("a name");
        for (failure, text) in [
            (CertificateError::ExpiredContext { time, not_after: time }, "expired on Jan  1 00:00:00 2020"),
            (CertificateError::UnknownIssuer, "unknown authority"),
            (
                CertificateError::NotValidForNameContext { expected, presented: vec!["a.example\r\n".to_owned()] },
                "another name, a.example:",
            ),
            (CertificateError::BadEncoding, "cannot be verified"),
        ] {
            let error = io::Error::other(Error::InvalidCertificate(failure));
            let shown = explain("mail.example.com", &error);
            assert!(shown.starts_with("the certificate of mail.example.com ") && shown.contains(text), "{shown}");
        }
        let closed = explain("mail", &io::Error::from(io::ErrorKind::UnexpectedEof));
        assert!(closed.starts_with("mail ended the TLS handshake"), "{closed}");
    }

    #[test]
    fn authorities_that_cannot_be_read_are_named() {
        let missing = Authorities::File("/nowhere/ca.pem".into());
        let error = verified(&missing).err().expect("no such file").to_string();
        assert!(error.contains("/nowhere/ca.pem") && error.contains("PEM"), "{error}");
        let empty = tempfile::NamedTempFile::new().expect("a file");
        let error = verified(&Authorities::File(empty.path().to_owned())).err().expect("empty").to_string();
        assert!(error.contains("no certificate"), "{error}");
    }
}
