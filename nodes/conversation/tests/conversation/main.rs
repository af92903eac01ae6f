//! Tests of the public interface.

mod any_input;
mod common;
mod dialogues;
mod limits;
mod phrases;
