//! Tests of the public interface, by subject.

mod common;
mod decide;
mod fallbacks;
mod link;
mod schedule;
mod settings;
mod template;
mod webhook;
