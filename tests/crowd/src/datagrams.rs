//! Datagrams to many addresses, sent together: a system call for each costs a crowd more than all else.

use std::{
    mem,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    ptr,
};

/// Datagrams of one system call.
const TOGETHER: usize = 64;

/// A datagram of RTP with 20 ms of G.711.
pub const PACKET: usize = 172;

/// Packets that wait to be sent.
pub struct Datagrams {
    packets: Vec<[u8; PACKET]>,
    to: Vec<libc::sockaddr_in>,
}

impl Datagrams {
    pub fn new() -> Self {
        Self { packets: Vec::with_capacity(TOGETHER), to: Vec::with_capacity(TOGETHER) }
    }

    /// Adds a packet, and sends those that wait if they are enough.
    pub fn add(&mut self, socket: &UdpSocket, to: SocketAddr, packet: &[u8; PACKET]) {
        let SocketAddr::V4(to) = to else {
            // A packet that the system refuses is lost, as on a network.
            let _ = socket.send_to(packet, to);
            return;
        };
        self.packets.push(*packet);
        self.to.push(system_address(to));
        if self.packets.len() >= TOGETHER {
            self.send(socket);
        }
    }

    /// Sends all packets that wait.
    pub fn send(&mut self, socket: &UdpSocket) {
        let slice =
            |packet: &mut [u8; PACKET]| libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: PACKET };
        let mut slices: Vec<libc::iovec> = self.packets.iter_mut().map(slice).collect();
        let header = |(to, slice): (&mut libc::sockaddr_in, &mut libc::iovec)| {
            // SAFETY: zeros are a valid header without anything.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = ptr::from_mut(to).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (slice, 1);
            header
        };
        let mut headers: Vec<libc::mmsghdr> = self.to.iter_mut().zip(&mut slices).map(header).collect();
        let mut rest = headers.as_mut_slice();
        while !rest.is_empty() {
            // SAFETY: each header names an address and a slice that live across the call, and the kernel only reads them.
            let sent =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0) };
            // The one that the system refuses is lost.
            let done = usize::try_from(sent).unwrap_or(0).max(1).min(rest.len());
            rest = &mut rest[done..];
        }
        self.packets.clear();
        self.to.clear();
    }
}

fn system_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_packet_reaches_its_address_in_order_whatever_becomes_of_others() {
        let open = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (from, receivers) = (open(), [open(), open(), open()]);
        let mut datagrams = Datagrams::new();
        const EACH: u8 = 50;
        for n in 0..EACH {
            for receiver in &receivers {
                datagrams.add(&from, receiver.local_addr().expect("bound"), &[n; PACKET]);
            }
            // Refused by the system: a port that no datagram has.
            datagrams.add(&from, "127.0.0.1:0".parse().expect("an address"), &[n; PACKET]);
        }
        datagrams.send(&from);
        datagrams.send(&from);
        for receiver in receivers {
            receiver.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            for n in 0..EACH {
                let mut buffer = [0; 2 * PACKET];
                let (length, sender) = receiver.recv_from(&mut buffer).expect("a packet");
                assert_eq!((&buffer[..length], sender), (&[n; PACKET][..], from.local_addr().expect("bound")));
            }
            receiver.set_nonblocking(true).expect("a socket can be non-blocking");
            assert!(receiver.recv(&mut [0; 8]).is_err(), "nothing comes twice");
        }
    }
}
