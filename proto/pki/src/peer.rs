//! The identity of the peer that sent a request.

use tonic::{Request, Status};
use twinbox_ids::{ClusterId, NodeName};

use crate::{MemberKind, bundle::Listed, name};

/// The subject of a peer's verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The cluster it is a member of.
    pub cluster: ClusterId,
    /// Its name.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
}

/// A peer is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No client certificate: the request did not come over mutual TLS.
    #[error("the request has no member certificate")]
    NoCertificate,
    /// The certificate names no member.
    #[error("the peer's certificate is not a member's: {0}")]
    Unreadable(String),
    /// A member of another cluster.
    #[error("'{name}' is a member of cluster {theirs}, not of this cluster {ours}")]
    WrongCluster {
        /// The peer's name.
        name: NodeName,
        /// The peer's cluster.
        theirs: ClusterId,
        /// This node's cluster.
        ours: ClusterId,
    },
}

impl From<PeerError> for Status {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::NoCertificate => Self::unauthenticated(error.to_string()),
            _ => Self::permission_denied(error.to_string()),
        }
    }
}

impl PeerIdentity {
    /// Reads a member's certificate (DER) whose chain has been verified.
    pub fn from_certificate(der: &[u8]) -> Result<Self, PeerError> {
        let name::Subject { cluster, name, kind, .. } = name::read(der).map_err(PeerError::Unreadable)?;
        Ok(Self { cluster, name, kind })
    }

    /// The same from PEM, with the certified public key (a DER-encoded SubjectPublicKeyInfo). The certificate is not
    /// verified.
    pub fn from_pem(pem: &str) -> Result<(Self, Vec<u8>), PeerError> {
        let listed = Listed::one(pem).map_err(PeerError::Unreadable)?;
        let name::Subject { cluster, name, kind, public_key, .. } =
            name::read(&listed.der).map_err(PeerError::Unreadable)?;
        Ok((Self { cluster, name, kind }, public_key))
    }

    /// Refuses a member of another cluster.
    pub fn of_cluster(self, ours: ClusterId) -> Result<Self, PeerError> {
        if self.cluster == ours {
            Ok(self)
        } else {
            Err(PeerError::WrongCluster { name: self.name, theirs: self.cluster, ours })
        }
    }
}

/// The member that sent this request, by the certificate which the handshake verified.
pub fn peer_of<T>(request: &Request<T>) -> Result<PeerIdentity, PeerError> {
    let certificates = request.peer_certs().ok_or(PeerError::NoCertificate)?;
    PeerIdentity::from_certificate(certificates.first().ok_or(PeerError::NoCertificate)?)
}
