//! Tests of the public interface, by subject.

mod common;
mod conflicts;
mod difference;
mod guard;
mod names;
mod person;
mod properties;
mod settings;
mod template;
