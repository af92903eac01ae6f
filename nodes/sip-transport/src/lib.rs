//! Sockets of SIP: UDP and TCP. Received messages go to a [`MessageReceiver`]; sending never blocks, and its queues are bounded.
//! A message that may wait for its turn waits for [`Room`] first, so that many such messages leave the rest of a queue to answers.

mod dials;
mod tcp;
mod udp;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use rustix::net::sockopt;
pub use tcp::{Connections, TcpEndpoint, TcpHandles, TcpListening, TcpPeer};
use tokio::sync::OwnedSemaphorePermit;
use twinbox_dns::Transport;
use twinbox_sip::{transaction, uri::HostPort};
pub use udp::UdpEndpoint;

/// Receiver of the messages of all listeners.
pub trait MessageReceiver: Send + Sync + 'static {
    /// Handles a message of the peer of this flow. True: it is part of a call or subscription in progress.
    fn handle_message(&self, data: &[u8], flow: Flow) -> bool;

    /// Registers the failure of a listener, with its remedy.
    fn failed(&self, what: String);

    /// Registers that a connection was refused, because there are too many.
    fn connection_refused(&self);
}

/// Room in the queue of a connection, returned when the message that has it is written; `None` without a queue, and for
/// messages that did not wait for it.
pub type Room = Option<OwnedSemaphorePermit>;

/// Path to a peer.
#[derive(Clone)]
pub enum Flow {
    /// Datagrams of this listener to this address.
    Udp(Arc<UdpEndpoint>, SocketAddr),
    /// A connection.
    Tcp(Arc<TcpPeer>),
}

impl transaction::Flow for Flow {
    fn reliable(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }
}

impl Flow {
    /// Sends, or gives up immediately; the transaction retransmits if necessary.
    pub fn send(&self, bytes: Bytes, room: Room) -> bool {
        match self {
            Self::Udp(endpoint, to) => endpoint.send(&bytes, *to),
            Self::Tcp(peer) => peer.send(bytes, room),
        }
    }

    /// Waits for room, in the order of the calls; `None`: the flow is closed.
    pub async fn room(&self) -> Option<Room> {
        match self {
            Self::Udp(..) => Some(None),
            Self::Tcp(peer) => peer.room().await.map(Some),
        }
    }

    /// The flow to another address of the same peer; a connection has one address.
    pub fn towards(self, address: Option<SocketAddr>) -> Self {
        match (self, address) {
            (Self::Udp(endpoint, _), Some(address)) => Self::Udp(endpoint, address),
            (flow, _) => flow,
        }
    }

    /// Its transport.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Udp(..) => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
        }
    }

    /// Remote address.
    pub fn remote(&self) -> SocketAddr {
        match self {
            Self::Udp(_, to) => *to,
            Self::Tcp(peer) => peer.remote,
        }
    }

    /// External `host:port` of this flow's listener.
    pub fn advertised(&self) -> String {
        let advertised = match self {
            Self::Udp(endpoint, _) => &endpoint.advertised,
            Self::Tcp(peer) => &peer.advertised,
        };
        advertised.towards(self.remote().ip())
    }

    /// Whether the flow is usable.
    pub fn open(&self) -> bool {
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
pub enum Advertised {
    /// As configured, or the bound address.
    Fixed(Arc<str>),
    /// Bound to all addresses without a configured address: the local address on the route to the peer, with this port.
    Routed(u16),
}

impl Advertised {
    /// The external address of a listener with this bound address, and the configured `host` or `host:port`, if there is one.
    pub fn new(advertise: Option<&str>, bound: SocketAddr) -> Self {
        match advertise {
            Some(text) if HostPort::parse(text).is_some_and(|h| h.port.is_some()) => Self::Fixed(text.into()),
            Some(host) => Self::Fixed(format!("{host}:{}", bound.port()).into()),
            None if bound.ip().is_unspecified() => Self::Routed(bound.port()),
            None => Self::Fixed(bound.to_string().into()),
        }
    }

    /// The external address for this peer.
    pub fn towards(&self, remote: IpAddr) -> String {
        match self {
            Self::Fixed(text) => text.as_ref().to_owned(),
            Self::Routed(port) => {
                let ip = local_address(remote.to_canonical()).unwrap_or(Ipv4Addr::LOCALHOST.into());
                SocketAddr::new(ip, *port).to_string()
            }
        }
    }
}

/// Locks; a panic of another thread that held the lock is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Local address on the system's route to `remote`. Sends nothing.
pub fn local_address(remote: IpAddr) -> Option<IpAddr> {
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
