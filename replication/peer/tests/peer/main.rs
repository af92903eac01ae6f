//! Replication between whole nodes: real stores, real TLS, real sockets on loopback.

mod fill;
mod intruders;
mod kit;
mod leaving;
mod pair;
mod slow;
mod three;
