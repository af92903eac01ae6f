//! Checks that an authority was cross-signed by the one before it, with a certificate that only the holder of the
//! former key can have made. Reports of members about a new authority count only with this certificate.

use twinbox_ids::ClusterId;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    CertificateAuthority, PkiError,
    bundle::{self, Listed},
};

/// The certificates of the next authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossSignedCa {
    pub(crate) next: Listed,
    pub(crate) cross: Listed,
}

impl CrossSignedCa {
    /// The next authority's own certificate, and the one signed by the former authority, both PEM. They must have the
    /// same key and subject, and belong to this cluster.
    pub fn read(cluster: ClusterId, certificate_pem: &str, cross_pem: &str) -> Result<Self, PkiError> {
        let wrong = |detail: String| PkiError::CrossSignedCa { detail };
        let one = |text: &str| match bundle::read(text)?.as_slice() {
            [one] => Ok(one.clone()),
            more => Err(format!("{} certificates where one belongs", more.len())),
        };
        let (next, cross) = (one(certificate_pem).map_err(wrong)?, one(cross_pem).map_err(wrong)?);
        let parsed = |listed: &'_ Listed| -> Result<(), String> {
            let (_, own) = X509Certificate::from_der(&listed.der).map_err(|e| e.to_string())?;
            let (_, other) = X509Certificate::from_der(&next.der).map_err(|e| e.to_string())?;
            if !own.is_ca() || own.public_key() != other.public_key() || own.subject() != other.subject() {
                return Err("its two certificates are not of one authority".to_owned());
            }
            let organization = own.subject().iter_organization().next().and_then(|o| o.as_str().ok());
            match organization == Some(cluster.to_string().as_str()) {
                true => Ok(()),
                false => Err("it is an authority of another cluster".to_owned()),
            }
        };
        parsed(&next).and_then(|()| parsed(&cross)).map_err(wrong)?;
        signed_by(&next, &next).map_err(wrong)?;
        Ok(Self { next, cross })
    }

    /// SHA-256 of the next authority's certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.next.fingerprint
    }

    /// Whether one of these authorities signed it.
    pub(crate) fn is_by(&self, authorities: &[Listed]) -> bool {
        authorities.iter().any(|former| signed_by(&self.cross, former).is_ok())
    }

    /// Whether it belongs to this authority.
    pub fn is_of(&self, authority: &CertificateAuthority) -> bool {
        authority.fingerprint() == self.next.fingerprint
    }
}

fn signed_by(signed: &Listed, signer: &Listed) -> Result<(), String> {
    let (_, signed) = X509Certificate::from_der(&signed.der).map_err(|e| e.to_string())?;
    let (_, signer) = X509Certificate::from_der(&signer.der).map_err(|e| e.to_string())?;
    if signed.issuer() != signer.subject() {
        return Err("it names another signer".to_owned());
    }
    signed.verify_signature(Some(signer.public_key())).map_err(|e| format!("its signature is not good: {e}"))
}
