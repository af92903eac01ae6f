//! Certificates of a running process: renewal at two thirds of their validity, an alarm 30 days before expiry, the
//! CA key on every node, and CA rotation without an interruption.

mod authorities;
mod certificate_times;
mod cluster;
mod renewer;
mod rotation;
mod rotation_action;
mod service;

use std::{path::Path, sync::Arc, time::Duration};

use twinbox_ids::{NodeName, Timestamp};
use twinbox_pki::{CertificateAuthority, NodeIdentity, PkiError, Seal};

pub use authorities::Authorities;
pub use cluster::{CertificateCluster, MemberCluster};
pub use renewer::{CertificateRenewer, RenewerParts};
pub use service::CertificateService;

/// CA keys with which a node signs certificates.
pub struct Signer {
    tls: Arc<NodeIdentity>,
    seal: Seal,
}

impl Signer {
    /// Signer with the CAs sealed next to the certificates, and the secret that opens them.
    pub fn new(tls: Arc<NodeIdentity>, tls_dir: &Path, secret: &Path) -> Self {
        Self { tls, seal: Seal::new(tls_dir, secret) }
    }

    /// Name of this node.
    pub fn node(&self) -> &NodeName {
        &self.tls.name
    }

    /// Present time by the clock of this node's certificates: what it signs is valid from then on.
    pub(crate) fn time(&self) -> Timestamp {
        self.tls.time()
    }

    /// Certificate of the CA that this node signs with, as PEM.
    pub fn authority_pem(&self) -> String {
        self.tls.authority_pem()
    }

    /// Certificates of all CAs that this node trusts, as PEM.
    pub fn authorities_pem(&self) -> String {
        self.tls.authorities_pem()
    }

    /// The CA that this node signs with, unsealed for this one use: the CA that signed its own certificate. During
    /// a CA rotation it changes when all members trust the next CA.
    pub fn authority(&self) -> Result<CertificateAuthority, PkiError> {
        self.seal.open(&self.tls.issuer())
    }
}

/// Time left from `now` until then; zero if it has passed.
pub fn left(until: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(until.0.saturating_sub(now.0))
}
