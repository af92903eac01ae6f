//! Tests of the public interface.

mod call_policy;
mod common;
mod contacts;
mod holder;
mod leader;
mod leadership;
mod listening;
mod membership;
mod node;
mod solo;
