//! Enrollment of members, and their certificates: a new cluster's files, joining by token, renewal, CA
//! rotation, operators' certificates.

pub mod certificates;
mod folders;
pub mod init;
mod joining;
mod release;
mod sip_addressing;
mod unpack;

use twinbox_pki::MemberKind as CertificateKind;
use twinbox_roles::MemberKind;

pub use joining::{Host, JoinError, JoinSpec, Joined, Tokens, join};
pub use release::{acts_as_next, speaks};
pub use sip_addressing::SipAddressing;
pub use unpack::{UnpackError, unpack};

/// Kind of member as in a certificate.
pub(crate) fn certificate_kind(kind: MemberKind) -> CertificateKind {
    match kind {
        MemberKind::Node => CertificateKind::Node,
        MemberKind::Witness => CertificateKind::Witness,
    }
}
