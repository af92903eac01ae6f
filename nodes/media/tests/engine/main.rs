//! The engine over real sockets.

mod far;
mod play;
mod record;
mod session;
