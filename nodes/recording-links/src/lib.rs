//! Recordings by link, over HTTP on every node: a link that a notification carried ([`twinbox_devices::link`]) gives the
//! recording of its message until it expires.
//!
//! ```text
//! socket ─► TLS ─► one request ─► answer: signature, device, class of service, message ─► WAV
//! ```
//!
//! Every refusal is the same answer, `404`: a forged link, an expired one, a removed device, a deleted message, a class
//! of service that keeps recordings in the cluster. A node that lacks records of other nodes answers `503` (rule D13).
//! Neither links nor recordings are logged.

mod answer;
mod listener;
mod minimum_rate;
mod range;

pub use listener::{LinkListener, LinkListenerError, RecordingLinks};
