//! SIP as bytes and state machines: no socket, no clock, no task.
//!
//! * [`strict`] reads a datagram or a framed message and says what to do with it; nothing else parses what
//!   comes from the network, so there are no two parsers to disagree (that disagreement is header smuggling);
//! * [`transaction`] are the RFC 3261 section 17 machines (with RFC 6026), handed their inputs and their time;
//! * [`dialog`], [`session`] (RFC 4028), [`sdp`] (RFC 3264), [`mwi`] (RFC 3842), [`digest`] (RFC 7616, RFC 8760) and
//!   [`redirect`] (who is called, and why) are plain values and functions.

pub mod addr;
pub mod dialog;
pub mod digest;
pub mod framing;
pub mod identity;
pub mod message;
pub mod method;
pub mod mwi;
pub mod redirect;
pub mod sdp;
pub mod session;
pub mod strict;
pub mod transaction;
pub mod uri;
pub mod via;

pub use message::{Headers, Request, Response};
pub use method::Method;
