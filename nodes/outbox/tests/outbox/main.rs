//! Tests of the public interface.

mod holds;
mod outbox;
