//! Bounds on the data and the time that a server may take.

use std::time::Duration;

use crate::FrameLimits;

/// Bounds on the answers of a server. A server that exceeds one loses its connection, except that larger attributes are
/// left out and noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Limits of one message.
    pub frames: FrameLimits,
    /// Bytes of results that wait for their reader; the relay reads no further until there are fewer.
    pub queued: usize,
    /// Bytes of all values of one attribute.
    pub attribute: usize,
    /// Entries, references and ids in the results of one operation.
    pub entries: u64,
    /// Bytes of memory that the people found by one operation take: entries within the bound of their number may have
    /// long values.
    pub people: u64,
    /// Time for one operation as a whole, such as a full search. Each single answer has the directory's time limit.
    pub operation: Duration,
    /// Interval without a change after which a followed server is probed.
    pub probe: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            frames: FrameLimits::default(),
            queued: 1 << 20,
            attribute: 64 << 10,
            entries: 500_000,
            people: 256 << 20,
            operation: Duration::from_secs(30 * 60),
            probe: Duration::from_secs(60),
        }
    }
}
