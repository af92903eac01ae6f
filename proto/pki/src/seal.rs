//! The authority's key as it lies on a node: encrypted with a key that lies elsewhere.
//!
//! Every node can sign, so that no machine is the one that must not be lost. What lies in the folder of the
//! certificates (`ca.sealed`) is useless without the node's secret, a file in another folder that only the node's user
//! can read. That protects copies of one of the two: a backup of certificates, a folder sent to the wrong machine, a
//! disk of data that is thrown away. It protects from nobody who can read both, such as `root` on a running node.

use std::{fs, path::Path, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

use crate::{
    CertificateAuthority, PkiError,
    authority::CA_CERTIFICATE,
    files::{self, SECRET},
};

const SEALED: &str = "ca.sealed";
const HEADER: &str = "twinbox sealed authority 1";
/// A secret that is shorter can be guessed.
const SHORTEST_SECRET: usize = 16;

/// Where a node's sealed authority is, and the secret that opens it.
#[derive(Debug, Clone)]
pub struct Seal {
    tls_dir: PathBuf,
    secret: PathBuf,
}

impl Seal {
    /// `ca.pem` and `ca.sealed` are in `tls_dir`, the secret is the file `secret`.
    pub fn new(tls_dir: &Path, secret: &Path) -> Self {
        Self { tls_dir: tls_dir.to_owned(), secret: secret.to_owned() }
    }

    /// Whether there is a sealed authority.
    pub fn exists(&self) -> bool {
        self.tls_dir.join(SEALED).exists()
    }

    /// Seals the key of an authority; makes the secret if there is none.
    pub fn close(&self, authority: &CertificateAuthority) -> Result<(), PkiError> {
        let failed =
            |detail: &str| PkiError::Make { what: "seal of the authority's key", detail: detail.to_owned() };
        if !self.secret.exists() {
            let mut bytes = [0; 32];
            SystemRandom::new().fill(&mut bytes).map_err(|_| failed("no random numbers"))?;
            let (dir, name) = (self.secret.parent(), self.secret.file_name().and_then(|name| name.to_str()));
            let (Some(dir), Some(name)) = (dir, name) else {
                return Err(failed("the secret's path names no file"));
            };
            files::write(dir, name, SECRET, &(STANDARD.encode(bytes) + "\n"))?;
        }
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| failed("no random numbers"))?;
        let mut sealed = authority.key_pem().into_bytes();
        self.key()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(authority.certificate_pem()),
                &mut sealed,
            )
            .map_err(|_| failed("it cannot be encrypted"))?;
        let text = format!("{HEADER}\n{}\n{}\n", STANDARD.encode(nonce), STANDARD.encode(sealed));
        files::write(&self.tls_dir, SEALED, SECRET, &text)
    }

    /// The authority, able to sign.
    pub fn open(&self) -> Result<CertificateAuthority, PkiError> {
        let unusable = |detail: &str| PkiError::Unusable {
            path: self.tls_dir.join(SEALED),
            what: "sealed authority",
            detail: detail.to_owned(),
        };
        let certificate_pem = files::read(&self.tls_dir, CA_CERTIFICATE)?;
        let text = files::read(&self.tls_dir, SEALED)?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(unusable("it does not begin as one"));
        }
        let mut field = || lines.next().and_then(|line| STANDARD.decode(line).ok());
        let (Some(nonce), Some(mut sealed)) = (field(), field()) else { return Err(unusable("it is damaged")) };
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| unusable("it is damaged"))?;
        let opened = self.key()?.open_in_place(nonce, Aad::from(certificate_pem.as_str()), &mut sealed);
        let opened = opened.map_err(|_| {
            unusable(&format!(
                "{} is not the secret that it was sealed with, or ca.pem is another",
                self.secret.display()
            ))
        })?;
        let key_pem = std::str::from_utf8(opened).map_err(|_| unusable("it holds no key"))?;
        CertificateAuthority::from_pem(&self.tls_dir, certificate_pem.clone(), key_pem)
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
