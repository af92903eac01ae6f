//! Who is who between nodes: the cluster's own certificate authority, a certificate for each member, and TLS
//! in which both sides must show one.
//!
//! A member's name and cluster stand in its certificate as one DNS name, `<node>.<cluster id>.twinbox`. The
//! authority may sign for its own cluster alone (a name constraint), so that a certificate of another cluster
//! fails in the handshake and again in [`peer_of`].
//!
//! Newcomers have no certificate yet. They know the fingerprint of the authority from a [`JoinToken`], and come in by a
//! [`JoinDoor`], which leads nowhere near what members say to each other. Operators of other machines have certificates
//! of another kind and an [`OperatorDoor`] of their own; neither kind passes for the other.
//!
//! An authority is replaced by one that it has signed itself (an [`Appointment`]): for a while members accept both, and
//! show with their certificates the link from the old one to the new one.

mod authority;
mod bundle;
mod endpoint;
mod error;
mod files;
mod hosts;
mod identity;
mod incoming;
mod name;
mod newcomer;
mod operator;
mod peer;
mod seal;
#[cfg(feature = "simulation")]
pub mod simulation;
mod succession;
mod token;
mod visitors;

pub use authority::{CertificateAuthority, Issued, MemberKey, Successor, Validity};
pub use bundle::fingerprint_of;
pub use endpoint::PeerEndpoint;
pub use error::PkiError;
pub use identity::{NodeIdentity, Trusted};
pub use incoming::{Doors, Incoming, JoinDoor, MemberConnection, OperatorConnection, OperatorDoor, RolesRoute};
pub use name::{MemberKind, OperatorSubject};
pub use newcomer::{JoinObstacle, Unverified, connect};
pub use operator::{OperatorIdentity, OperatorKey, OperatorObstacle, operator_of};
pub use peer::{PeerError, PeerIdentity, peer_of};
pub use seal::Seal;
pub use succession::Appointment;
pub use token::{JoinToken, TokenError};
