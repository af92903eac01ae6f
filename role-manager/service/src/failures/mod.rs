//! Signs of life and of exits of the other members.

pub(crate) mod exits;
pub(crate) mod failure_detector;
