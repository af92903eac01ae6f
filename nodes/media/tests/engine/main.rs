//! The engine over real sockets.

mod latching;
mod peer;
mod play;
mod record;
mod rtcp;
mod session;
