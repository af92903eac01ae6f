//! Tests of the public interface.

mod assign;
mod batches;
mod certificates;
mod common;
mod confirmations;
mod duties;
mod exits;
mod facts;
mod go_on_alone;
mod heirs;
mod lease;
mod orders;
mod plan;
mod planned;
mod policy;
mod policy_rows;
mod properties;
mod releases;
mod settings;
mod solo;
mod state;
mod tokens;
mod views;
