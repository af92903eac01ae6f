//! TLS to directory servers: certificates are verified against the system's authorities or a file, unless the settings
//! say `insecure`.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use crate::{LdapError, message::shown};

/// A connector for these settings. Reads files: for a thread that may block.
pub(crate) fn connector(ca_file: Option<&str>, insecure: bool) -> Result<TlsConnector, LdapError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| LdapError::Local(error.to_string()))?;
    let config = if insecure {
        config.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        config.with_root_certificates(roots(ca_file)?)
    };
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

fn roots(ca_file: Option<&str>) -> Result<RootCertStore, LdapError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(LdapError::NoAuthorities) } else { Ok(roots) };
    };
    let wrong = |reason: String| LdapError::Authorities { path: path.to_owned(), reason };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("the file has no certificate".to_owned()));
    }
    Ok(roots)
}

/// Reason of a failed handshake with `host`, with the remedy.
pub(crate) fn explain(host: &str, error: &io::Error) -> String {
    use CertificateError as E;
    let text = match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(wrong)) => {
            let problem = match wrong {
                E::Expired | E::ExpiredContext { .. } => "has expired: renew it".to_owned(),
                E::NotValidYet | E::NotValidYetContext { .. } => "is not valid yet: check the clocks".to_owned(),
                E::UnknownIssuer => {
                    "comes from an unknown authority: name a file with the certificate of its authority".to_owned()
                }
                E::NotValidForName | E::NotValidForNameContext { .. } => {
                    "is for another name: use the name in the certificate as the server's address".to_owned()
                }
                other => format!("cannot be verified: {other}"),
            };
            format!("the certificate of {host} {problem}")
        }
        Some(other) => format!("TLS with {host} failed: {other}"),
        None => format!("{host} ended the TLS handshake: {error}"),
    };
    shown(&text)
}

/// Accepts any certificate whose key signed the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

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
