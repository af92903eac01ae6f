//! Epochs: numbers that go up at every move of a duty and travel with every external effect.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::NodeName;

/// Totally ordered by generation, then number, then node (rule R7). A heal after a split raises the generation above
/// all seen ones, so that no solo epoch ever outranks a later decision of the majority.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised by a heal after a split.
    pub generation: u64,
    /// Raised by every move.
    pub number: u64,
    /// The node that holds the duty in this epoch.
    pub node: NodeName,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.generation, self.number, self.node)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}
