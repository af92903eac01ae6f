//! Other voicemail systems as locations: their records, the numbers that lead to them, and the messages on their way
//! to them.
//!
//! ```text
//! dialled number ─► dial: longest dial id ─► Location ─► NUMBER@domain
//! sender of a mail ─► dial: domain ─► Location ─► dial id + number
//! ```
//!
//! Pure: no clock, no socket, no disk. Views are read from a [`Record`](twinbox_replication_core::Record), changes are
//! lists of [`Edit`](twinbox_replication_core::Edit), one register for each setting.

mod dial;
mod location;
mod outgoing;
pub mod schema;

pub use dial::{dialled, number_of_sender};
pub use location::{AudioForm, Location, LocationChange, LocationError};
pub use outgoing::Outgoing;
pub use twinbox_ids::LocationId;
