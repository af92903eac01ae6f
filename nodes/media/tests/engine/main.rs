//! The engine over real sockets.

mod far;
mod latching;
mod play;
mod record;
mod rtcp;
mod session;
