//! Sockets: received messages go to the SIP server; sending never blocks, and its queues are bounded.

pub(crate) mod tcp;
pub(crate) mod udp;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
};

use bytes::Bytes;
use rustix::net::sockopt;
use twinbox_sip::{transaction, uri::HostPort};

use crate::Transport;
use tcp::TcpPeer;
use udp::UdpEndpoint;

/// Path to a peer.
#[derive(Clone)]
pub(crate) enum Flow {
    Udp(Arc<UdpEndpoint>, SocketAddr),
    Tcp(Arc<TcpPeer>),
}

impl transaction::Flow for Flow {
    fn reliable(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }
}

impl Flow {
    /// Sends, or gives up immediately; the transaction retransmits if necessary.
    pub(crate) fn send(&self, bytes: Bytes) -> bool {
        match self {
            Self::Udp(endpoint, to) => endpoint.send(&bytes, *to),
            Self::Tcp(peer) => peer.send(bytes),
        }
    }

    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Udp(..) => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
        }
    }

    /// Remote address.
    pub(crate) fn remote(&self) -> SocketAddr {
        match self {
            Self::Udp(_, to) => *to,
            Self::Tcp(peer) => peer.remote,
        }
    }

    /// External `host:port` of this flow's listener.
    pub(crate) fn advertised(&self) -> String {
        let advertised = match self {
            Self::Udp(endpoint, _) => &endpoint.advertised,
            Self::Tcp(peer) => &peer.advertised,
        };
        advertised.towards(self.remote().ip())
    }

    /// Whether the flow is usable.
    pub(crate) fn open(&self) -> bool {
        match self {
            Self::Udp(..) => true,
            Self::Tcp(peer) => peer.open(),
        }
    }
}

/// Sets the DSCP of a socket (RFC 2474), 0 to 63. An IPv6 socket may carry IPv4 as well.
fn mark(socket: &impl AsFd, local: IpAddr, dscp: u8) {
    let octet = dscp << 2;
    let mut marked = sockopt::set_ip_tos(socket, octet);
    if local.is_ipv6() {
        marked = marked.and(sockopt::set_ipv6_tclass(socket, u32::from(octet)));
    }
    if let Err(error) = marked {
        tracing::warn!(%error, dscp, "DSCP cannot be set; SIP packets are sent without it");
    }
}

/// External `host:port` of a listener.
#[derive(Debug, Clone)]
pub(crate) enum Advertised {
    /// As configured, or the bound address.
    Fixed(Arc<str>),
    /// Bound to all addresses without a configured address: the local address on the route to the peer, with this port.
    Routed(u16),
}

impl Advertised {
    pub(crate) fn new(advertise: Option<&str>, bound: SocketAddr) -> Self {
        match advertise {
            Some(text) if HostPort::parse(text).is_some_and(|h| h.port.is_some()) => Self::Fixed(text.into()),
            Some(host) => Self::Fixed(format!("{host}:{}", bound.port()).into()),
            None if bound.ip().is_unspecified() => Self::Routed(bound.port()),
            None => Self::Fixed(bound.to_string().into()),
        }
    }

    /// The external address for this peer.
    pub(crate) fn towards(&self, remote: IpAddr) -> String {
        match self {
            Self::Fixed(text) => text.as_ref().to_owned(),
            Self::Routed(port) => {
                let ip = local_address(remote.to_canonical()).unwrap_or(Ipv4Addr::LOCALHOST.into());
                SocketAddr::new(ip, *port).to_string()
            }
        }
    }
}

/// Local address on the system's route to `remote`. Sends nothing.
pub(crate) fn local_address(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect((remote, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_address_is_the_configured_one_or_that_of_the_route() {
        let bound = |text: &str| text.parse::<SocketAddr>().unwrap();
        let remote = Ipv4Addr::LOCALHOST.into();
        for (advertise, bind, expected) in [
            (None, "127.0.0.1:5070", "127.0.0.1:5070"),
            (None, "0.0.0.0:5070", "127.0.0.1:5070"),
            (Some("vm.example.com"), "0.0.0.0:5070", "vm.example.com:5070"),
            (Some("203.0.113.5:5080"), "0.0.0.0:5070", "203.0.113.5:5080"),
            (Some("[2001:db8::1]"), "[::]:5070", "[2001:db8::1]:5070"),
        ] {
            assert_eq!(Advertised::new(advertise, bound(bind)).towards(remote), expected, "{advertise:?} {bind}");
        }
    }
}
