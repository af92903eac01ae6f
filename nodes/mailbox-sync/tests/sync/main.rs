//! Tests of the public interface, by subject.

mod accounts;
mod model;
mod plan;
mod properties;
mod records;
mod settings;
mod sign_in_brake;
mod uid_changes;
