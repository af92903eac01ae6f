//! Mails as bytes and meaning, without sockets, disk or clock: addresses, composed notices, received mails, bounces
//! (RFC 3464), voice messages (VPIM v2, RFC 3801) and DKIM signatures (RFC 6376).
//!
//! ```text
//! received bytes ─► structure (bounded tree of parts) ─► incoming, bounce, vpim
//! notice, voice message, report ─► writer (headers, encodings) ─► bytes ─► dkim (one header in front)
//! ```
//!
//! Received bytes are untrusted: size, nesting and number of parts are checked before anything is decoded. Audio stays
//! bytes with a content type. Composing is deterministic: the same input results in the same bytes.

pub mod address;
pub mod bounce;
pub mod compose;
mod decode;
mod digest;
pub mod dkim;
mod encode;
mod fields;
pub mod incoming;
pub mod report;
mod structure;
mod text;
pub mod vpim;
mod writer;

pub use address::{Address, AddressError};
pub use structure::{Limits, ReadError};
