//! Who is who between nodes: the cluster's own certificate authority, a certificate for each member, and TLS
//! in which both sides must show one.
//!
//! A member's name and cluster stand in its certificate as one DNS name, `<node>.<cluster id>.twinbox`. The
//! authority may sign for its own cluster alone (a name constraint), so that a certificate of another cluster
//! fails in the handshake and again in [`peer_of`].

mod authority;
mod error;
mod files;
mod identity;
mod incoming;
mod name;
mod peer;

pub use authority::{CertificateAuthority, Issued, Validity};
pub use error::PkiError;
pub use identity::NodeIdentity;
pub use incoming::Incoming;
pub use name::MemberKind;
pub use peer::{PeerError, PeerIdentity, peer_of};
