//! Several certificates in one file, as PEM, one after the other.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{PkiError, join_client::fingerprint};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Characters in a line of PEM.
const LINE: usize = 64;
/// Maximum certificates in a file: there are two authorities at most, and a link between them.
const MOST: usize = 8;

/// A certificate of such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The PEM text of this certificate.
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) fingerprint: [u8; 32],
}

impl Listed {
    /// The first certificate of a text.
    pub(crate) fn one(text: &str) -> Result<Self, String> {
        read(text)?.into_iter().next().ok_or_else(|| "it has no certificate".to_owned())
    }

    /// A certificate from DER.
    pub(crate) fn of_der(der: Vec<u8>) -> Self {
        let base64 = STANDARD.encode(&der);
        let (mut pem, mut rest) = (format!("{BEGIN}\n"), base64.as_str());
        while let Some((line, more)) =
            rest.split_at_checked(LINE).or(Some((rest, ""))).filter(|(l, _)| !l.is_empty())
        {
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        pem.push_str(END);
        pem.push('\n');
        Self { fingerprint: fingerprint(&der), der: der.into(), pem }
    }
}

/// SHA-256 of a certificate (PEM), as `openssl x509 -fingerprint -sha256` shows it.
pub fn fingerprint_of(certificate_pem: &str) -> Result<[u8; 32], PkiError> {
    let listed = Listed::one(certificate_pem);
    listed.map(|one| one.fingerprint).map_err(|detail| PkiError::Make { what: "fingerprint", detail })
}

/// All certificates of a text; at least one.
pub(crate) fn read(text: &str) -> Result<Vec<Listed>, String> {
    let mut listed = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let block = &rest[at..];
        let end = block.find(END).ok_or("a certificate is incomplete")? + END.len();
        let pem = format!("{}\n", &block[..end]);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
        listed.push(Listed { fingerprint: fingerprint(&der), pem, der });
        if listed.len() > MOST {
            return Err(format!("it has more than {MOST} certificates"));
        }
        rest = &block[end..];
    }
    if listed.is_empty() {
        return Err("it has no certificate".to_owned());
    }
    Ok(listed)
}

/// Several certificates as one text.
pub(crate) fn text<'a>(listed: impl IntoIterator<Item = &'a Listed>) -> String {
    listed.into_iter().map(|listed| listed.pem.as_str()).collect()
}
