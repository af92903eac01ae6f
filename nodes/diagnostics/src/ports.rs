//! Ports that are bound only later, per call or after the store is open: their availability is checked first.
//!
//! Each RTP port is bound when a call needs it, so that overlapping ranges of two nodes on one machine could go
//! unnoticed for weeks. Therefore each node announces its range by the name of an abstract Unix socket, which
//! exists in the network namespace like ports and ends with the process, and checks the names of other nodes.

use std::{
    fmt, fs, io,
    net::{IpAddr, TcpListener, UdpSocket},
    ops::RangeInclusive,
    os::{linux::net::SocketAddrExt, unix::net},
    str::FromStr,
};

use twinbox_calls::{CallsError, ListenerConfig, Transport};

const PREFIX: &str = "twinbox-rtp/";

/// File that lists every abstract socket of this network namespace.
const SOCKETS: &str = "/proc/net/unix";

/// Range of ports of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange {
    /// The address; the unspecified address means all addresses.
    pub ip: IpAddr,
    /// The ports.
    pub ports: RangeInclusive<u16>,
}

impl PortRange {
    /// Whether the ranges overlap.
    fn meets(&self, other: &Self) -> bool {
        // A socket on all IPv6 addresses includes the IPv4 ones.
        let anywhere = |ip: IpAddr, towards: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || towards.is_ipv4());
        let same = self.ip == other.ip || anywhere(self.ip, other.ip) || anywhere(other.ip, self.ip);
        same && self.ports.start() <= other.ports.end() && other.ports.start() <= self.ports.end()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} on {}", self.ports.start(), self.ports.end(), self.ip)
    }
}

impl FromStr for PortRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ip, ports) = text.split_once('/').ok_or(())?;
        let (low, high) = ports.split_once('-').ok_or(())?;
        let port = |text: &str| text.parse::<u16>().map_err(|_| ());
        Ok(Self { ip: ip.parse().map_err(|_| ())?, ports: port(low)?..=port(high)? })
    }
}

/// Reason why a range is not available.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// Another node has part of the range.
    #[error(
        "rtp.ports: {ours} meets {theirs}, which another node of this machine has: give each node ports of its own"
    )]
    Taken {
        /// Requested range.
        ours: PortRange,
        /// Range of the other node.
        theirs: PortRange,
    },
    /// The name could not be bound.
    #[error("rtp.ports: {ours} cannot be claimed on this machine: {source}")]
    Claim {
        /// Requested range.
        ours: PortRange,
        /// Reason of the failure.
        source: io::Error,
    },
}

/// A range that this process has until it ends.
#[derive(Debug)]
pub struct RangeClaim {
    _name: net::UnixListener,
}

/// Claims the range, unless another node of this machine has part of it. Two nodes that start concurrently may both
/// be refused.
pub fn claim(ours: PortRange) -> Result<RangeClaim, RangeError> {
    let name = format!("{PREFIX}{}/{}-{}", ours.ip, ours.ports.start(), ours.ports.end());
    let bound = net::SocketAddr::from_abstract_name(&name).and_then(|name| net::UnixListener::bind_addr(&name));
    let claim = match bound {
        Ok(bound) => RangeClaim { _name: bound },
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            return Err(RangeError::Taken { theirs: ours.clone(), ours });
        }
        Err(source) => return Err(RangeError::Claim { ours, source }),
    };
    // Without /proc, only an identical range is refused.
    let sockets = fs::read(SOCKETS).unwrap_or_default();
    match claimed(&String::from_utf8_lossy(&sockets)).find(|theirs| *theirs != ours && theirs.meets(&ours)) {
        Some(theirs) => Err(RangeError::Taken { ours, theirs }),
        None => Ok(claim),
    }
}

/// Ranges announced in a listing of sockets.
fn claimed(sockets: &str) -> impl Iterator<Item = PortRange> {
    let name = |line: &str| line.split_once(&format!("@{PREFIX}")).and_then(|(_, range)| range.trim().parse().ok());
    sockets.lines().filter_map(name)
}

/// Whether the SIP server will be able to start: its ports are bound last, after the store is open.
pub fn sip_is_free(listeners: &[ListenerConfig]) -> Result<(), CallsError> {
    for ListenerConfig { transport, bind, .. } in listeners {
        let bound = match transport {
            Transport::Udp => UdpSocket::bind(bind).map(drop),
            Transport::Tcp => TcpListener::bind(bind).map(drop),
        };
        bound.map_err(|source| CallsError::Bind { transport: transport.label(), bind: *bind, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> PortRange {
        text.parse().unwrap_or_else(|()| panic!("{text}"))
    }

    #[test]
    fn ranges_meet_where_a_port_can_be_in_both() {
        for (one, other, meet) in [
            ("127.0.0.1/10000-10099", "127.0.0.1/10100-10199", false),
            ("127.0.0.1/10000-10099", "127.0.0.1/10099-10199", true),
            ("127.0.0.1/10000-19999", "127.0.0.1/12000-12001", true),
            ("127.0.0.1/10000-10099", "127.0.0.2/10000-10099", false),
            ("0.0.0.0/10000-10099", "127.0.0.2/10050-10199", true),
            ("0.0.0.0/10000-10099", "::1/10000-10099", false),
            ("::/10000-10099", "127.0.0.1/10000-10099", true),
            ("::/10000-10099", "2001:db8::1/10000-10099", true),
        ] {
            let (one, other) = (range(one), range(other));
            assert_eq!((one.meets(&other), other.meets(&one)), (meet, meet), "{one} and {other}");
        }
    }

    #[test]
    fn a_range_is_claimed_once_and_free_again_with_its_process() {
        // Addresses only for this test: from the documentation range, which no node binds.
        let (first, same, beside, across) = (
            "192.0.2.77/10000-10099",
            "192.0.2.77/10000-10099",
            "192.0.2.77/10100-10199",
            "192.0.2.77/10050-10150",
        );
        let held = claim(range(first)).expect("free");
        assert!(claim(range(same)).is_err());
        let second = claim(range(beside)).expect("another range");
        let refused = claim(range(across)).expect_err("in both").to_string();
        assert!(refused.starts_with("rtp.ports: 10050-10150 on 192.0.2.77 meets 10"), "{refused}");
        drop((held, second));
        claim(range(across)).expect("free again");
    }

    #[test]
    fn other_sockets_are_no_claims() {
        let sockets = "Num RefCount Protocol Flags Type St Inode Path\n\
            ffff: 00000002 00000000 00010000 0001 01 123 /run/x\n\
            ffff: 00000002 00000000 00010000 0001 01 124 @twinbox-rtp/10.0.0.1/10000-19999\n\
            ffff: 00000002 00000000 00010000 0001 01 125 @twinbox-rtp/nonsense\n";
        assert_eq!(claimed(sockets).collect::<Vec<_>>(), [range("10.0.0.1/10000-19999")]);
    }
}
