//! The vocabulary of Twinbox as types: identifiers, epochs, stamps, delays between attempts ([`Backoff`]), numbers with
//! their nouns ([`counted()`]), and [`Pii`] for data that must not reach a log.
//!
//! A leaf crate: no clock, no socket, no disk. Identifiers are 128 bits, random or by time and random, unique by construction,
//! and print as 32 hexadecimal digits.

mod backoff;
mod counted;
mod epoch;
mod id;
mod member_address;
mod network;
mod pii;
mod stamp;

pub use backoff::Backoff;
pub use counted::counted;
pub use epoch::Epoch;
pub use id::{
    BlobHash, CallId, ClassId, ClusterId, DeviceId, DirectoryId, EffectId, Incarnation, JobId, LocationId,
    MailServerId, MailboxId, MessageId, NodeName, Origin, ParseIdError, RecordingId,
};
pub use member_address::{MemberAddressError, check_member_address};
pub use network::{Network, NetworkError};
pub use pii::Pii;
pub use stamp::{Stamp, Timestamp};
