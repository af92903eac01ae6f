//! Users of directories in the store of a node, by subject.

mod common;
mod exchange;
mod steps;
mod users;
