//! Tests of the public interface.

mod common;
mod exits;
mod go_on_alone;
mod growing;
mod solo;
mod stores;
mod takeover;
