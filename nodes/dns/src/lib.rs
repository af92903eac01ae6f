//! SIP names: the addresses to try for a name, in order (RFC 3263), and the zone records for the addresses of a
//! cluster.
//!
//! This crate does not depend on SIP messages; the sender calls [`Resolver::targets`] and tries one target after
//! the other.

mod order;
mod records;
mod resolver;

pub use order::{SrvTarget, in_order};
pub use records::{Endpoint, Record, records, zone};
pub use resolver::{ResolveError, Resolver, Target, Wanted, record_resolver};

/// Transport of SIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams (UDP).
    Udp,
    /// Connections (TCP).
    Tcp,
}

impl Transport {
    /// Label in the name of an SRV record: `udp`, `tcp`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}
