//! The leader's work, and administrators' orders on their way to it.

pub(crate) mod leader;
pub(crate) mod orders;
