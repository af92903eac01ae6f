//! Who is who between nodes: the cluster's own certificate authority, a certificate for each member, and TLS
//! in which both sides must show one.
//!
//! A member's name and cluster stand in its certificate as one DNS name, `<node>.<cluster id>.twinbox`. The
//! authority may sign for its own cluster alone (a name constraint), so that a certificate of another cluster
//! fails in the handshake and again in [`peer_of`].
//!
//! Newcomers have no certificate yet. They know the fingerprint of the authority from a [`JoinToken`], and come in by a
//! [`JoinDoor`], which leads nowhere near what members say to each other.

mod authority;
mod endpoint;
mod error;
mod files;
mod identity;
mod incoming;
mod name;
mod newcomer;
mod peer;
mod seal;
mod token;

pub use authority::{CertificateAuthority, Issued, MemberKey, Validity};
pub use endpoint::PeerEndpoint;
pub use error::PkiError;
pub use identity::NodeIdentity;
pub use incoming::{Incoming, JoinDoor};
pub use name::MemberKind;
pub use newcomer::{JoinObstacle, Unverified, connect};
pub use peer::{PeerError, PeerIdentity, peer_of};
pub use seal::Seal;
pub use token::{JoinToken, TokenError};
