//! Attempts against fake mail servers and name servers over real sockets.

mod delivery;
mod failures;
mod hosts;
mod probe;
mod support;
mod tls;
