//! SIP as bytes and state machines: no socket, no clock, no task.
//!
//! * [`strict`] parses a datagram or a framed message and decides what to do with it. No other code parses network
//!   input, so that no two parsers can disagree (such a disagreement allows header smuggling);
//! * [`transaction`] has the state machines of RFC 3261 section 17 (with RFC 6026); inputs and time are passed in;
//! * [`dialog`], [`session`] (RFC 4028), [`registration`], [`sdp`] (RFC 3264), [`mwi`] (RFC 3842), [`digest`] (RFC 7616,
//!   RFC 8760) and [`redirect`] (purpose of a call) are plain values and functions.

pub mod addr;
pub mod dialog;
pub mod digest;
pub mod framing;
pub mod identity;
pub mod message;
pub mod method;
pub mod mwi;
pub mod redirect;
pub mod registration;
pub mod sdp;
pub mod session;
pub mod strict;
pub mod transaction;
pub mod uri;
pub mod via;

pub use message::{Headers, Request, Response};
pub use method::Method;
