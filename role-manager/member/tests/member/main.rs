//! Tests of the public interface.

mod common;
mod holder;
mod leader;
mod membership;
mod solo;
