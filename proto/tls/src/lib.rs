//! TLS with programs outside the cluster: connections to servers, the certificates that verify them, reasons of failed
//! handshakes, and the certificates that clients of this node see.
//!
//! Members of the cluster verify each other by `twinbox-pki` instead: certificates of the system verify none of them.

mod any_certificate;
mod connect;
mod failure;
mod served;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use any_certificate::AnyCertificate;
pub use connect::connect;
pub use failure::{Remedies, explain};
pub use served::{ServedCertificate, ServedCertificateError};

/// Certificates by which servers are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust<'a> {
    /// The CA certificates of the system.
    System,
    /// The CA certificates in a PEM file.
    File(&'a Path),
    /// Any certificate whose key signed the handshake: encryption against listeners, without proof of the server's
    /// identity.
    Any,
}

/// Reason why servers cannot be verified.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// The system has no CA certificates.
    #[error("this machine has no CA certificates: install ca-certificates")]
    NoAuthorities,
    /// The file of CA certificates cannot be used.
    #[error("cannot read CA certificates from '{path}': {reason}; write them in PEM format")]
    Authorities {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// A connector that verifies servers by these certificates. Reads files: for a thread that may block.
///
/// # Errors
/// The certificates cannot be read, or there are none.
pub fn connector(trust: Trust<'_>) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = match trust {
        Trust::System => builder.with_root_certificates(system_authorities()?),
        Trust::File(path) => builder.with_root_certificates(authorities_in(path)?),
        Trust::Any => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
    };
    let mut config = config.with_no_client_auth();
    // A resumed session would not check the certificate again: an expired one would count for the life of a ticket.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The connector that verifies by the system's certificates, for all its users in this process: the certificates are
/// read once. A failure is not stored.
///
/// # Errors
/// The system has no certificates.
pub fn system_connector() -> Result<TlsConnector, TlsError> {
    static SYSTEM: OnceLock<TlsConnector> = OnceLock::new();
    if let Some(connector) = SYSTEM.get() {
        return Ok(connector.clone());
    }
    let connector = connector(Trust::System)?;
    Ok(SYSTEM.get_or_init(|| connector).clone())
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}

fn authorities_in(path: &Path) -> Result<RootCertStore, TlsError> {
    let wrong = |reason: String| TlsError::Authorities { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("the file has no certificate".to_owned())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_cannot_be_read_are_named() {
        let failure = |path: &Path| connector(Trust::File(path)).err().expect("no authorities").to_string();
        let missing = failure(Path::new("/nowhere/ca.pem"));
        assert!(missing.contains("/nowhere/ca.pem") && missing.contains("PEM"), "{missing}");
        let empty = tempfile::NamedTempFile::new().expect("a file");
        let empty = failure(empty.path());
        assert!(empty.contains("no certificate"), "{empty}");
    }
}
