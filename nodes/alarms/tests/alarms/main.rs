//! Tests of the public interface.

mod common;
mod documentation;
mod outside;
mod two_nodes;
