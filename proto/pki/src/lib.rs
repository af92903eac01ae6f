//! Authentication between nodes: the cluster's own certificate authority, a certificate for each member, and TLS in
//! which both sides must show one.
//!
//! A member's certificate holds its name and cluster as one DNS name, `<node>.<cluster id>.twinbox`. The authority may
//! sign only for its own cluster (a name constraint), so that a certificate of another cluster fails in the handshake
//! and again in [`peer_of`].
//!
//! A joining member has no certificate yet. It knows the fingerprint of the authority from a [`JoinToken`], and
//! connects to a [`JoinRoute`], which does not reach the services between members. Operators of other machines have
//! certificates of another kind and a separate [`OperatorRoute`]; neither kind is accepted for the other.
//!
//! An authority is replaced by one that it has signed (an [`CrossSignedCa`]): during the CA rotation members accept both,
//! and show with their certificates the link from the old one to the new one.

mod authority;
mod bundle;
mod client_kind;
mod clock;
mod cross_signed_ca;
mod endpoint;
mod error;
mod files;
mod handshake_slots;
mod identity;
mod incoming;
mod join_client;
mod name;
mod operator;
mod peer;
mod seal;
mod server_rule;
#[cfg(feature = "simulation")]
pub mod simulation;
mod token;

pub use authority::{CertificateAuthority, Issued, MemberKey, NextAuthority, Validity};
pub use bundle::fingerprint_of;
pub use clock::CertificateClock;
pub use cross_signed_ca::CrossSignedCa;
pub use endpoint::PeerEndpoint;
pub use error::PkiError;
pub use files::write_private;
pub use identity::{NodeIdentity, Trusted};
pub use incoming::{
    AcceptRoutes, Incoming, JoinRoute, MemberConnection, OperatorConnection, OperatorRoute, RolesRoute,
};
pub use join_client::{JoinObstacle, Unverified, connect};
pub use name::{MemberKind, OperatorSubject};
pub use operator::{OperatorIdentity, OperatorKey, OperatorObstacle, operator_of};
pub use peer::{PeerError, PeerIdentity, peer_of};
pub use seal::Seal;
pub use token::{JoinToken, TokenError};
