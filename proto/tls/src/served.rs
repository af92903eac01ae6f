//! The certificate that clients of a listener see. Its files may be replaced while the node runs, as ACME clients do.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Reason why a certificate cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is not usable: {reason}")]
pub struct ServedCertificateError {
    /// Path of the file.
    pub path: PathBuf,
    /// Reason of the failure.
    pub reason: String,
}

/// A certificate chain and its key, from two PEM files, with the TLS settings of their listener. Clones are one.
#[derive(Debug, Clone)]
pub struct ServedCertificate {
    certificate: PathBuf,
    key: PathBuf,
    in_use: Arc<InUse>,
    config: Arc<ServerConfig>,
}

impl ServedCertificate {
    /// Reads the certificate chain and its key. Reads files: for a thread that may block.
    ///
    /// # Errors
    /// A file cannot be read, has no certificate or key, or the key is not that of the certificate.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, ServedCertificateError> {
        let in_use = Arc::new(InUse(RwLock::new(Loaded::read(certificate, key)?)));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(certificate, error))?
            .with_no_client_auth()
            .with_cert_resolver(in_use.clone());
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), in_use, config: Arc::new(config) })
    }

    /// TLS settings of the listener. New connections get the certificate that was read last.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Path of the certificate's file.
    pub fn path(&self) -> &Path {
        &self.certificate
    }

    /// Seconds from the epoch to the beginning and to the end of the certificate's validity.
    pub fn validity(&self) -> (i64, i64) {
        self.in_use.0.read().unwrap_or_else(PoisonError::into_inner).validity
    }

    /// Reads the files again. True if they have another certificate, which new connections get from now on. Reads files:
    /// for a thread that may block.
    ///
    /// # Errors
    /// The files are not usable; the certificate of before stays in use.
    pub fn reload(&self) -> Result<bool, ServedCertificateError> {
        let read = Loaded::read(&self.certificate, &self.key)?;
        let mut in_use = self.in_use.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = read.certified.cert != in_use.certified.cert;
        if is_new {
            *in_use = read;
        }
        Ok(is_new)
    }
}

/// The certificate that new connections get.
#[derive(Debug)]
struct InUse(RwLock<Loaded>);

impl ResolvesServerCert for InUse {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).certified.clone())
    }
}

#[derive(Debug)]
struct Loaded {
    certified: Arc<CertifiedKey>,
    /// Beginning and end of validity, in seconds from the epoch.
    validity: (i64, i64),
}

impl Loaded {
    fn read(certificate: &Path, key: &Path) -> Result<Self, ServedCertificateError> {
        let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| unusable(certificate, error))?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(certificate, error))?;
        let Some(first) = chain.first() else {
            return Err(unusable(certificate, "the file has no certificate"));
        };
        let (_, parsed) = X509Certificate::from_der(first).map_err(|error| unusable(certificate, error))?;
        let validity = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let no_key = |error| unusable(key, format!("it has no private key in PEM format ({error})"));
        let secret = PrivateKeyDer::from_pem_file(key).map_err(no_key)?;
        let certified = CertifiedKey::from_der(chain, secret, &ring::default_provider())
            .map_err(|error| unusable(certificate, format!("with {}: {error}", key.display())))?;
        Ok(Self { certified: Arc::new(certified), validity })
    }
}

fn unusable(path: &Path, reason: impl ToString) -> ServedCertificateError {
    ServedCertificateError { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// Writes a certificate that ends in this year, and its key.
    fn write(certificate: &Path, key: &Path, year: i32) {
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["voicemail.example.com".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let signed = params.self_signed(&pair).expect("a certificate");
        fs::write(certificate, signed.pem()).expect("a certificate's file");
        fs::write(key, pair.serialize_pem()).expect("a key's file");
    }

    fn end(served: &ServedCertificate) -> i64 {
        served.validity().1
    }

    fn shown(served: &ServedCertificate) -> Arc<CertifiedKey> {
        served.in_use.0.read().expect("a lock").certified.clone()
    }

    #[test]
    fn new_files_replace_the_certificate_and_unusable_ones_do_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let (certificate, key) = (dir.path().join("mail.pem"), dir.path().join("mail.key"));
        write(&certificate, &key, 2030);
        let served = ServedCertificate::read(&certificate, &key).expect("a usable certificate");
        let of_before = shown(&served);
        let end_of_before = end(&served);
        assert_eq!(served.reload(), Ok(false), "the same files");

        let of_another = (dir.path().join("other.pem"), dir.path().join("other.key"));
        write(&of_another.0, &of_another.1, 2031);
        fs::copy(&of_another.0, &certificate).expect("a new certificate");
        let mistake = served.reload().expect_err("the key of before does not fit").to_string();
        assert!(mistake.contains("mail.pem") && mistake.contains("mail.key"), "{mistake}");
        assert_eq!(end(&served), end_of_before);
        assert!(Arc::ptr_eq(&shown(&served), &of_before));

        fs::copy(&of_another.1, &key).expect("its key");
        assert_eq!(served.reload(), Ok(true));
        assert!(end(&served) > end_of_before);
        assert_ne!(shown(&served).cert, of_before.cert);

        fs::write(&certificate, "").expect("an empty file");
        let mistake = served.reload().expect_err("no certificate").to_string();
        assert!(mistake.contains("no certificate"), "{mistake}");
    }
}
