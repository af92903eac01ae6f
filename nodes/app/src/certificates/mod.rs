//! Certificates while the process runs: renewed at two thirds of their life, an alarm 30 days before an end, the
//! authority's key on every node, and the authority itself replaced without an interruption.

mod admin;
mod care;
mod rotation;
mod service;
mod todo;

use std::{path::Path, sync::Arc, time::Duration};

use twinbox_clock::wall;
use twinbox_ids::{NodeName, Timestamp};
use twinbox_pki::{CertificateAuthority, NodeIdentity, PkiError, Seal};

pub(crate) use admin::Authorities;
pub use care::Care;
pub use service::Service;

/// A node's means to sign certificates.
pub struct Signer {
    tls: Arc<NodeIdentity>,
    seal: Seal,
}

impl Signer {
    /// With the authorities sealed beside the certificates, and the secret that opens them.
    pub fn new(tls: Arc<NodeIdentity>, tls_dir: &Path, secret: &Path) -> Self {
        Self { tls, seal: Seal::new(tls_dir, secret) }
    }

    /// This node.
    pub fn node(&self) -> &NodeName {
        &self.tls.name
    }

    /// The certificate of the authority that this node signs with, as PEM.
    pub fn authority_pem(&self) -> String {
        self.tls.authority_pem()
    }

    /// The certificates of all authorities that this node takes, as PEM.
    pub fn authorities_pem(&self) -> String {
        self.tls.authorities_pem()
    }

    /// The authority that this node signs with, unsealed for this one use: the one that signed its own certificate.
    /// While the authority is being replaced it changes at the moment when everybody takes certificates of the next.
    pub fn authority(&self) -> Result<CertificateAuthority, PkiError> {
        self.seal.open(&self.tls.issuer())
    }
}

/// From now until then; zero when that is over.
pub fn left(until: Timestamp) -> Duration {
    Duration::from_millis(until.0.saturating_sub(wall().0))
}
