//! Events of moves, as the report of fail-overs shows them.

use twinbox_ids::{NodeName, Timestamp};

/// Columns of the report.
pub(crate) const FAIL_OVER_COLUMNS: [&str; 5] = ["time", "node", "event", "subject", "detail"];

/// A move of the publisher, of a duty, or of a dead node's calls, or a change of the majority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailOver {
    /// Time of the event.
    pub at: Timestamp,
    /// The node that reported it.
    pub node: NodeName,
    /// Kind of the event, such as `duty-moved`.
    pub event: String,
    /// Object of the event, such as the name of a duty.
    pub subject: String,
    /// Origin, destination and cause as text.
    pub detail: String,
}
