//! Replication between whole nodes: real stores, real TLS, real sockets on loopback.

mod comparison;
mod counting;
mod fill;
mod fill_missed;
mod kit;
mod leaving;
mod lies;
mod lost_audio;
mod moving;
mod pair;
mod purge;
mod refusals;
mod slow;
mod state_fill;
mod three;
mod traffic;
