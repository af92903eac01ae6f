//! Private keys of DKIM, and the DNS record of their public halves.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};

use super::DkimError;

/// A private key.
#[derive(Debug)]
pub enum Key {
    /// RSA of at least 2,048 bits, for `rsa-sha256`.
    Rsa(RsaKeyPair),
    /// Ed25519, for `ed25519-sha256` (RFC 8463). Not every receiver knows it: sign with RSA too.
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// Reads an RSA key from PEM (PKCS#8, `BEGIN PRIVATE KEY`).
    pub fn rsa(pem: &str) -> Result<Self, DkimError> {
        let der = der(pem)?;
        RsaKeyPair::from_pkcs8(&der).map(Self::Rsa).map_err(|error| DkimError::Rsa(error.to_string()))
    }

    /// Reads an Ed25519 key from PEM (PKCS#8, `BEGIN PRIVATE KEY`).
    pub fn ed25519(pem: &str) -> Result<Self, DkimError> {
        let der = der(pem)?;
        // Keys of openssl have no public half: there is nothing to compare with.
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der);
        key.map(Self::Ed25519).map_err(|error| DkimError::Ed25519(error.to_string()))
    }

    /// Name of the algorithm in a signature.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "rsa-sha256",
            Self::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// The signature of canonical header fields.
    pub(super) fn sign(&self, fields: &[u8]) -> Result<Vec<u8>, DkimError> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), fields, &mut signature)
                    .map_err(|_| DkimError::Sign)?;
                Ok(signature)
            }
            // RFC 8463 section 3: the hash is signed, not the fields.
            Self::Ed25519(key) => {
                let hash = digest::digest(&digest::SHA256, fields);
                Ok(key.sign(hash.as_ref()).as_ref().to_vec())
            }
        }
    }

    /// Text of the TXT record that publishes the public key.
    pub fn dns_record(&self) -> String {
        match self {
            Self::Rsa(key) => format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(public_key_info(key))),
            Self::Ed25519(key) => format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(key.public_key())),
        }
    }
}

/// The bytes of a PEM text.
fn der(pem: &str) -> Result<Vec<u8>, DkimError> {
    let base64 = pem.split_once("-----BEGIN PRIVATE KEY-----").and_then(|(_, rest)| rest.split_once("-----END"));
    let base64: String = base64.ok_or(DkimError::Pem)?.0.split_ascii_whitespace().collect();
    STANDARD.decode(base64).map_err(|_| DkimError::Pem)
}

/// SubjectPublicKeyInfo (RFC 5280 section 4.1) of an RSA key, as verifiers expect it.
fn public_key_info(key: &RsaKeyPair) -> Vec<u8> {
    /// SEQUENCE of the identifier rsaEncryption and NULL.
    const RSA: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let bits = [&[0][..], key.public_key().as_ref()].concat();
    tagged(0x30, &[&RSA[..], &tagged(3, &bits)].concat())
}

/// A DER value with tag and length.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let mut der = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ ..=127) => der.push(short),
        _ => {
            der.push(0x80 | (length.len() - zeros) as u8);
            der.extend_from_slice(length.get(zeros..).unwrap_or_default());
        }
    }
    der.extend_from_slice(content);
    der
}
