//! TLS of connections: verified, or with any certificate if the administrator says so.

use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WantsClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{task::spawn_blocking, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{ImapError, ServerConfig, error::shown, wire::Transport};

/// Name of this step in errors.
const STEP: &str = "TLS handshake";

/// Begins TLS on a connection.
pub(crate) async fn secure(
    config: &ServerConfig,
    stream: Box<dyn Transport>,
) -> Result<Box<dyn Transport>, ImapError> {
    let failure = |reason: String| ImapError::Tls { host: config.host.clone(), reason };
    let connector = connector(config).await?;
    let name = ServerName::try_from(config.host.trim_start_matches('[').trim_end_matches(']').to_owned())
        .map_err(|_| failure("this host cannot be the name in a certificate: correct it".to_owned()))?;
    let limit: Duration = config.timeout;
    match timeout(limit, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(failure(explain(&error))),
        Err(_) => Err(ImapError::TimedOut { step: STEP, limit }),
    }
}

/// Connector for a server. Those without a CA file are shared, so that a thousand accounts read the system's
/// certificates once and resume their TLS sessions.
async fn connector(config: &ServerConfig) -> Result<TlsConnector, ImapError> {
    static ANY: OnceLock<TlsConnector> = OnceLock::new();
    static SYSTEM: OnceLock<TlsConnector> = OnceLock::new();
    let shared = match (config.insecure, &config.ca_file) {
        (true, _) => &ANY,
        (false, None) => &SYSTEM,
        (false, Some(path)) => {
            let path = path.clone();
            let roots = blocking(&config.host, move || file_roots(&path)).await?;
            return build(&config.host, |builder| builder.with_root_certificates(roots));
        }
    };
    if let Some(connector) = shared.get() {
        return Ok(connector.clone());
    }
    let connector = if config.insecure {
        let verifier = Arc::new(AnyCertificate(ring::default_provider()));
        build(&config.host, |builder| builder.dangerous().with_custom_certificate_verifier(verifier))?
    } else {
        let roots = blocking(&config.host, system_roots).await?;
        build(&config.host, |builder| builder.with_root_certificates(roots))?
    };
    Ok(shared.get_or_init(|| connector).clone())
}

type Builder<State> = rustls::ConfigBuilder<ClientConfig, State>;

fn build(
    host: &str,
    trust: impl FnOnce(Builder<rustls::WantsVerifier>) -> Builder<WantsClientCert>,
) -> Result<TlsConnector, ImapError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ImapError::Tls { host: host.to_owned(), reason: error.to_string() })?;
    Ok(TlsConnector::from(Arc::new(trust(builder).with_no_client_auth())))
}

/// Reads certificates in a thread that may block: a disk or network file system may answer late.
async fn blocking(
    host: &str,
    roots: impl FnOnce() -> Result<RootCertStore, ImapError> + Send + 'static,
) -> Result<RootCertStore, ImapError> {
    let failure = |reason: String| ImapError::Tls { host: host.to_owned(), reason };
    spawn_blocking(roots).await.map_err(|error| failure(error.to_string()))?
}

fn system_roots() -> Result<RootCertStore, ImapError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(ImapError::NoAuthorities) } else { Ok(roots) }
}

fn file_roots(path: &Path) -> Result<RootCertStore, ImapError> {
    let wrong = |reason: String| ImapError::Authorities { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("the file has no certificate".to_owned())) } else { Ok(roots) }
}

/// Reason of a failed handshake, with the remedy.
fn explain(error: &io::Error) -> String {
    use CertificateError as E;
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return shown(&format!("the server ended the handshake: {error}"));
    };
    let Error::InvalidCertificate(wrong) = cause else {
        return shown(&cause.to_string());
    };
    let remedy = match wrong {
        E::Expired | E::ExpiredContext { .. } => "its certificate has expired: renew it there",
        E::NotValidYet | E::NotValidYetContext { .. } => "its certificate is not valid yet: check the clocks",
        E::UnknownIssuer => "its certificate comes from an unknown authority: set ca-file to that of its authority",
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "its certificate is for another name: configure the name that the certificate has"
        }
        other => return shown(&format!("its certificate cannot be verified: {other}")),
    };
    remedy.to_owned()
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
