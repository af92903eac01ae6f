//! Sockets: what arrives is handed to the door, what leaves never blocks and is never queued without bound.

pub(crate) mod tcp;
pub(crate) mod udp;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use twinbox_sip::transaction;

use crate::Transport;
use tcp::TcpPeer;
use udp::UdpEndpoint;

/// Where octets go.
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
    /// Sends or gives up at once; a transaction will send again if it matters.
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

    /// The other end.
    pub(crate) fn remote(&self) -> SocketAddr {
        match self {
            Self::Udp(_, to) => *to,
            Self::Tcp(peer) => peer.remote,
        }
    }

    /// The `host:port` by which the listener of this flow is known outside.
    pub(crate) fn advertised(&self) -> &str {
        match self {
            Self::Udp(endpoint, _) => &endpoint.advertised,
            Self::Tcp(peer) => &peer.advertised,
        }
    }

    /// Still usable.
    pub(crate) fn open(&self) -> bool {
        match self {
            Self::Udp(..) => true,
            Self::Tcp(peer) => peer.open(),
        }
    }
}

/// `host:port`, with brackets around an IPv6 host, from what the configuration advertises or else the bound address.
pub(crate) fn advertised(advertise: Option<&str>, bound: SocketAddr) -> String {
    let Some(advertise) = advertise else { return bound.to_string() };
    match twinbox_sip::uri::HostPort::parse(advertise) {
        Some(parsed) if parsed.port.is_some() => advertise.to_owned(),
        _ => format!("{advertise}:{}", bound.port()),
    }
}
