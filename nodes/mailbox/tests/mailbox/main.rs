//! Tests of the public interface.

mod attempts;
mod common;
mod directory;
mod filing;
mod truth_table;
mod uids;
