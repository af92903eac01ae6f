//! Tests of the public interface.

mod ca_rotation;
mod files;
mod handshakes;
mod joining;
