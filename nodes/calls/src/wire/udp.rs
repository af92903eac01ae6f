//! SIP over UDP: our own socket, read in batches, written without waiting.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio_util::sync::CancellationToken;
use twinbox_sip::strict::MAX_MESSAGE;

use super::{Advertised, mark};
use crate::door::Door;

/// What the kernel keeps for us while we are busy: our only inbox, and it does not grow.
const INBOX: usize = 4 << 20;
/// Datagrams handled before others get their turn.
const BATCH: usize = 64;

/// A bound UDP socket.
pub(crate) struct UdpEndpoint {
    socket: UdpSocket,
    pub(crate) local: SocketAddr,
    pub(crate) advertised: Advertised,
}

impl UdpEndpoint {
    pub(crate) fn bind(bind: SocketAddr, advertise: Option<&str>, dscp: u8) -> io::Result<Self> {
        let socket = UdpSocket::bind(bind)?;
        socket.set_nonblocking(true)?;
        mark(&socket, bind.ip(), dscp);
        // Beyond the system's limit where we are allowed to; otherwise the kernel gives less and bursts are shorter.
        if sockopt::set_socket_recv_buffer_size_force(&socket, INBOX).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, INBOX);
        }
        let local = socket.local_addr()?;
        Ok(Self { socket, local, advertised: Advertised::new(advertise, local) })
    }

    /// A full send buffer loses the datagram, as a full network would.
    pub(crate) fn send(&self, bytes: &[u8], to: SocketAddr) -> bool {
        self.socket.send_to(bytes, to).is_ok()
    }

    /// Hands every datagram to the door until told to stop.
    pub(crate) async fn serve(self: Arc<Self>, door: Arc<Door>, stop: CancellationToken) {
        let socket = match self.socket.try_clone().and_then(tokio::net::UdpSocket::from_std) {
            Ok(socket) => socket,
            Err(error) => {
                door.failed(format!("SIP over UDP on {} cannot be read: {error}", self.local));
                return;
            }
        };
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        loop {
            let ready = tokio::select! {
                ready = socket.ready(Interest::READABLE) => ready,
                () = stop.cancelled() => return,
            };
            if let Err(error) = ready {
                door.failed(format!("SIP over UDP on {} cannot be read: {error}", self.local));
                return;
            }
            for _ in 0..BATCH {
                match socket.try_recv_from(&mut buffer) {
                    Ok((length, source)) => {
                        let data = buffer.get(..length).unwrap_or_default();
                        door.datagram(&self, data, source);
                    }
                    // An ICMP error of an earlier send shows up here and means nothing for us.
                    Err(_) => break,
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{ip_tos, ipv6_tclass};

    use super::*;

    #[test]
    fn what_leaves_has_its_dscp_mark() {
        let four = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap(), None, 24).unwrap();
        assert_eq!(ip_tos(&four.socket).unwrap(), 24 << 2);
        let six = UdpEndpoint::bind("[::]:0".parse().unwrap(), None, 46).unwrap();
        assert_eq!((ip_tos(&six.socket).unwrap(), ipv6_tclass(&six.socket).unwrap()), (46 << 2, 46 << 2));
    }
}
