//! Names of the telephone network: from a name to the addresses to try, in order (RFC 3263), and from the addresses of
//! a cluster to the records that an administrator puts into a zone.
//!
//! Nothing here knows SIP messages; whoever sends them asks [`Resolver::targets`] and tries one after the other.

mod order;
mod records;
mod resolver;

pub use order::{Service, in_order};
pub use records::{Endpoint, Record, records, zone};
pub use resolver::{ResolveError, Resolver, Target, Wanted};

/// How SIP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

impl Transport {
    /// As it is written in the name of an SRV record: `udp`, `tcp`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}
