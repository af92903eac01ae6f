//! SIP over UDP: one socket, read in batches, written without waiting.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio_util::sync::CancellationToken;
use twinbox_sip::strict::MAX_MESSAGE;

use crate::{Advertised, Flow, MessageReceiver, mark};

/// Size of the kernel's receive buffer in bytes: the only receive queue, and bounded.
const INBOX: usize = 4 << 20;
/// Maximum number of datagrams per batch, before other tasks run.
const BATCH: usize = 64;

/// A bound UDP socket.
pub struct UdpEndpoint {
    socket: UdpSocket,
    /// Its bound address.
    pub local: SocketAddr,
    pub(crate) advertised: Advertised,
}

impl UdpEndpoint {
    /// Binds a socket; `advertise` as in [`Advertised::new`], and a DSCP from 0 to 63.
    pub fn bind(bind: SocketAddr, advertise: Option<&str>, dscp: u8) -> io::Result<Self> {
        let socket = UdpSocket::bind(bind)?;
        socket.set_nonblocking(true)?;
        mark(&socket, bind.ip(), dscp);
        // Exceeds the system's limit if permitted; otherwise the kernel allows less, and bursts must be shorter.
        if sockopt::set_socket_recv_buffer_size_force(&socket, INBOX).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, INBOX);
        }
        let local = socket.local_addr()?;
        Ok(Self { socket, local, advertised: Advertised::new(advertise, local) })
    }

    /// Sends a datagram; a full send buffer drops it, like a congested network.
    pub(crate) fn send(&self, bytes: &[u8], to: SocketAddr) -> bool {
        self.socket.send_to(bytes, to).is_ok()
    }

    /// Passes every datagram to the receiver until `stop`.
    pub async fn serve(self: Arc<Self>, receiver: Arc<impl MessageReceiver>, stop: CancellationToken) {
        let failed = |error: io::Error| {
            receiver.failed(format!("the SIP listener udp {} failed: {error}; restart this node", self.local));
        };
        let socket = match self.socket.try_clone().and_then(tokio::net::UdpSocket::from_std) {
            Ok(socket) => socket,
            Err(error) => return failed(error),
        };
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        loop {
            let ready = tokio::select! {
                ready = socket.ready(Interest::READABLE) => ready,
                () = stop.cancelled() => return,
            };
            if let Err(error) = ready {
                return failed(error);
            }
            for _ in 0..BATCH {
                match socket.try_recv_from(&mut buffer) {
                    Ok((length, source)) => {
                        let data = buffer.get(..length).unwrap_or_default();
                        receiver.handle_message(data, Flow::Udp(self.clone(), source));
                    }
                    // Reports an ICMP answer to an earlier datagram; ignored.
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
    fn sent_packets_carry_the_dscp() {
        let four = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap(), None, 24).unwrap();
        assert_eq!(ip_tos(&four.socket).unwrap(), 24 << 2);
        let six = UdpEndpoint::bind("[::]:0".parse().unwrap(), None, 46).unwrap();
        assert_eq!((ip_tos(&six.socket).unwrap(), ipv6_tclass(&six.socket).unwrap()), (46 << 2, 46 << 2));
    }
}
