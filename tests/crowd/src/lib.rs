//! Callers in great numbers, from one thread: floods, and loads that arrive at a rate.
//!
//! * [`Crowd`]: many callers on one SIP socket and one RTP socket.
//! * [`Driver`]: a crowd with a clock, whose callers arrive, speak and hang up.

mod crowd;
mod datagrams;
mod driver;

pub use crowd::{Caller, Crowd};
pub use driver::{Arrivals, Arrived, Driver};
