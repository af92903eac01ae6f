//! The authority's key as stored on a node: encrypted with a secret that is stored elsewhere. During a CA rotation
//! there are two.
//!
//! Every node can sign, so that no single machine is indispensable. The sealed key in the folder of the certificates
//! (`ca.sealed`) is useless without the node's secret, a file in another folder that only the node's user can read.
//! That protects copies of one of the two: a backup of certificates, a folder sent to the wrong machine, a data disk
//! that is thrown away. It does not protect from a user who can read both, such as `root` on a running node.

use std::{fs, path::Path, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

use crate::{
    CertificateAuthority, PkiError,
    authority::CA_CERTIFICATE,
    bundle::Listed,
    files::{self, SECRET},
};

const SEALED: &str = "ca.sealed";
const HEADER: &str = "twinbox sealed authorities 2";
/// One authority, the one in `ca.pem`: the format of the first releases.
const HEADER_OF_ONE: &str = "twinbox sealed authority 1";
/// Minimum length of the secret, in bytes: a shorter one can be guessed.
const SHORTEST_SECRET: usize = 16;

/// Folder of a node's sealed authorities, and path of the secret that opens them.
#[derive(Debug, Clone)]
pub struct Seal {
    tls_dir: PathBuf,
    secret: PathBuf,
}

/// One authority under the seal.
struct Sealed {
    certificate: Listed,
    nonce: Vec<u8>,
    key: Vec<u8>,
    /// Further data that the seal authenticates.
    bound_to: Vec<u8>,
}

impl Seal {
    /// `ca.pem` and `ca.sealed` are in `tls_dir`, the secret is the file `secret`.
    pub fn new(tls_dir: &Path, secret: &Path) -> Self {
        Self { tls_dir: tls_dir.to_owned(), secret: secret.to_owned() }
    }

    /// Seals the key of an authority, in addition to those sealed already; makes the secret if there is none.
    pub fn close(&self, authority: &CertificateAuthority) -> Result<(), PkiError> {
        // Authorities that cannot be read cannot be opened any more either: they are dropped.
        let mut authorities = self.open_all().unwrap_or_default();
        authorities.retain(|known| known.fingerprint() != authority.fingerprint());
        self.write(authorities.iter().chain([authority]))
    }

    /// Removes all sealed authorities except those with these fingerprints.
    pub fn keep_only(&self, fingerprints: &[[u8; 32]]) -> Result<(), PkiError> {
        let mut authorities = self.open_all()?;
        let before = authorities.len();
        authorities.retain(|known| fingerprints.contains(&known.fingerprint()));
        if authorities.len() == before {
            return Ok(());
        }
        self.write(authorities.iter())
    }

    /// The authority with this fingerprint, able to sign.
    pub fn open(&self, fingerprint: &[u8; 32]) -> Result<CertificateAuthority, PkiError> {
        let authorities = self.open_all()?;
        let own = authorities.into_iter().find(|authority| authority.fingerprint() == *fingerprint);
        own.ok_or_else(|| self.unusable("it does not hold the key of the authority of this node's certificate"))
    }

    /// Fingerprints of all authorities that can be opened.
    pub fn holds(&self) -> Vec<[u8; 32]> {
        self.open_all().unwrap_or_default().iter().map(CertificateAuthority::fingerprint).collect()
    }

    fn unusable(&self, detail: &str) -> PkiError {
        PkiError::Unusable { path: self.tls_dir.join(SEALED), what: "sealed authority", detail: detail.to_owned() }
    }

    fn write<'a>(&self, authorities: impl Iterator<Item = &'a CertificateAuthority>) -> Result<(), PkiError> {
        let failed =
            |detail: &str| PkiError::Make { what: "seal of the authority's key", detail: detail.to_owned() };
        if !self.secret.exists() {
            let mut bytes = [0; 32];
            SystemRandom::new().fill(&mut bytes).map_err(|_| failed("no random numbers"))?;
            let (dir, name) = (self.secret.parent(), self.secret.file_name().and_then(|name| name.to_str()));
            let (Some(dir), Some(name)) = (dir, name) else {
                return Err(failed("the path of the secret is not a file"));
            };
            files::write(dir, name, SECRET, &(STANDARD.encode(bytes) + "\n"))?;
        }
        let key = self.key()?;
        let mut text = format!("{HEADER}\n");
        for authority in authorities {
            let certificate = Listed::one(authority.certificate_pem()).map_err(|detail| failed(&detail))?;
            let mut nonce = [0; NONCE_LEN];
            SystemRandom::new().fill(&mut nonce).map_err(|_| failed("no random numbers"))?;
            let mut sealed = authority.key_pem().into_bytes();
            let (once, bound) = (Nonce::assume_unique_for_key(nonce), Aad::from(&*certificate.der));
            key.seal_in_place_append_tag(once, bound, &mut sealed).map_err(|_| failed("encryption failed"))?;
            let fields = [&*certificate.der, &nonce, &sealed].map(|field| STANDARD.encode(field));
            text.push_str(&(fields.join(" ") + "\n"));
        }
        files::write(&self.tls_dir, SEALED, SECRET, &text)
    }

    fn open_all(&self) -> Result<Vec<CertificateAuthority>, PkiError> {
        let sealed = self.read()?;
        let key = self.key()?;
        sealed.into_iter().map(|sealed| self.unseal(&key, sealed)).collect()
    }

    fn unseal(&self, key: &LessSafeKey, mut sealed: Sealed) -> Result<CertificateAuthority, PkiError> {
        let nonce = Nonce::try_assume_unique_for_key(&sealed.nonce).map_err(|_| self.unusable("it is damaged"))?;
        let opened = key.open_in_place(nonce, Aad::from(&sealed.bound_to), &mut sealed.key);
        let opened = opened.map_err(|_| {
            self.unusable(&format!(
                "{} is not the secret that it was sealed with, or ca.pem is of another authority",
                self.secret.display()
            ))
        })?;
        let key_pem = std::str::from_utf8(opened).map_err(|_| self.unusable("it has no key"))?;
        CertificateAuthority::from_pem(&self.tls_dir, sealed.certificate.pem, key_pem)
    }

    fn read(&self) -> Result<Vec<Sealed>, PkiError> {
        let damaged = || self.unusable("it is damaged");
        let text = files::read(&self.tls_dir, SEALED)?;
        let mut lines = text.lines();
        let decode = |field: &str| STANDARD.decode(field).map_err(|_| damaged());
        match lines.next() {
            Some(HEADER) => lines
                .map(|line| {
                    let fields = line.split(' ').map(decode).collect::<Result<Vec<_>, _>>()?;
                    let [certificate, nonce, key] = <[Vec<u8>; 3]>::try_from(fields).map_err(|_| damaged())?;
                    let certificate = Listed::of_der(certificate);
                    Ok(Sealed { bound_to: certificate.der.to_vec(), certificate, nonce, key })
                })
                .collect(),
            Some(HEADER_OF_ONE) => {
                let (Some(nonce), Some(key)) = (lines.next(), lines.next()) else { return Err(damaged()) };
                let ca_pem = files::read(&self.tls_dir, CA_CERTIFICATE)?;
                let certificate = Listed::one(&ca_pem).map_err(|detail| self.unusable(&detail))?;
                let bound_to = ca_pem.into_bytes();
                Ok(vec![Sealed { certificate, nonce: decode(nonce)?, key: decode(key)?, bound_to }])
            }
            _ => Err(self.unusable("its header is unknown")),
        }
    }

    fn key(&self) -> Result<LessSafeKey, PkiError> {
        let read = fs::read(&self.secret);
        let secret = read.map_err(|source| PkiError::Read { path: self.secret.clone(), source })?;
        let unusable =
            |detail: String| PkiError::Unusable { path: self.secret.clone(), what: "secret of a seal", detail };
        if secret.len() < SHORTEST_SECRET {
            return Err(unusable(format!("it has {} bytes, fewer than {SHORTEST_SECRET}", secret.len())));
        }
        let key = blake3::derive_key("twinbox seal of the authority's key v1", &secret);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).map_err(|_| unusable("no key".to_owned()))?;
        Ok(LessSafeKey::new(key))
    }
}
