//! Times: wall-clock moments for people, hybrid stamps for merging.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Origin;

/// A wall-clock moment: milliseconds since 1970-01-01 00:00 UTC. For display and for policy, never for leases.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Timestamp(pub u64);

/// A hybrid logical stamp (rule D5): wall milliseconds, a counter that breaks ties within one, and the origin
/// that breaks ties between nodes. Total order; never rewritten once given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970, by the writer's hybrid clock.
    pub wall: u64,
    /// Orders stamps of one writer within one millisecond.
    pub counter: u32,
    /// The origin of the writer.
    pub origin: Origin,
}

impl Stamp {
    /// Below every stamp that a clock gives.
    pub const ZERO: Self = Self { wall: 0, counter: 0, origin: Origin(0) };
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.wall, self.counter, &self.origin.to_string()[..8])
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({self})")
    }
}
