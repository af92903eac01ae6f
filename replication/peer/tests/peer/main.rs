//! Replication between whole nodes: real stores, real TLS, real sockets on loopback.

mod fill;
mod kit;
mod leaving;
mod pair;
mod purge;
mod refusals;
mod slow;
mod three;
