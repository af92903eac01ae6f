//! Tests of the public interface.

mod common;
mod progress;
mod records;
mod reports;
