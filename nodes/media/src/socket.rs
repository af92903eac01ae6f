//! System calls of the media path: sockets, receiving many datagrams in one call, waiting with a timeout.
//!
//! Contains all `unsafe` code of the crate.

use std::{
    io,
    mem::{self, MaybeUninit},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    time::Duration,
};

use libc::{c_int, c_void, iovec, mmsghdr, sockaddr_in, sockaddr_in6, sockaddr_storage};
use twinbox_clock::kernel_time;

/// A non-blocking UDP socket that marks sent packets and has the kernel timestamp received ones.
pub(crate) struct Socket {
    socket: UdpSocket,
    /// The socket is IPv6 and takes IPv4 addresses as mapped ones.
    mapped: bool,
}

impl Socket {
    /// Binds to `address`. Sent packets carry `dscp` (RFC 2474), 0 to 63. `receive_buffer` limits the kernel's receive
    /// buffer, in bytes.
    pub(crate) fn open(address: SocketAddr, dscp: u8, receive_buffer: Option<c_int>) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // DSCP is the upper six bits of the field; the lower two belong to the network (RFC 3168).
        let class = c_int::from(dscp) << 2;
        let mapped = address.is_ipv6();
        if mapped {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class)?;
        }
        set_option(&socket, libc::IPPROTO_IP, libc::IP_TOS, class)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        if let Some(bytes) = receive_buffer {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
        }
        Ok(Self { socket, mapped })
    }

    /// Sends a datagram, or fails immediately instead of blocking.
    pub(crate) fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        let to = match to {
            SocketAddr::V4(v4) if self.mapped => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            other => other,
        };
        self.socket.send_to(bytes, to)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn set_option(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option's value is an integer that lives across the call, and its length is given.
    let set = unsafe {
        let value = ptr::from_ref(&value).cast::<c_void>();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, mem::size_of::<c_int>() as libc::socklen_t)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A received datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    pub(crate) from: SocketAddr,
    /// Time of reception by the kernel, since the Unix epoch.
    pub(crate) arrived: Duration,
    /// Content; empty if the datagram was longer than [`LONGEST`].
    pub(crate) bytes: &'a [u8],
}

/// Maximum number of datagrams per system call.
pub(crate) const BATCH: usize = 16;

/// Maximum length in bytes (180 ms of audio); longer datagrams are dropped.
pub(crate) const LONGEST: usize = 1_500;

/// Buffer for a timestamp, aligned for control messages.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Buffers for `recvmmsg`, allocated once per thread.
pub(crate) struct Batch {
    headers: [mmsghdr; BATCH],
    slices: [iovec; BATCH],
    sources: [sockaddr_storage; BATCH],
    controls: [Control; BATCH],
    buffers: Box<[[u8; LONGEST]; BATCH]>,
    received: usize,
}

// SAFETY: every call of `receive` sets the pointers in `headers` and `slices`; they are used only there.
unsafe impl Send for Batch {}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: integers and pointers, for which zero is a valid value.
        let (headers, slices, sources) = unsafe {
            (
                MaybeUninit::zeroed().assume_init(),
                MaybeUninit::zeroed().assume_init(),
                MaybeUninit::zeroed().assume_init(),
            )
        };
        let controls = [Control([0; 64]); BATCH];
        Self { headers, slices, sources, controls, buffers: Box::new([[0; LONGEST]; BATCH]), received: 0 }
    }

    /// Receives up to [`BATCH`] datagrams without waiting. An error counts as no datagram: on a UDP socket an error
    /// reports an ICMP answer to a sent packet, and the next call returns the received datagrams.
    pub(crate) fn receive(&mut self, socket: &impl AsRawFd) -> usize {
        let Self { headers, slices, sources, controls, buffers, .. } = self;
        let parts = headers.iter_mut().zip(slices).zip(sources).zip(controls).zip(&mut **buffers);
        for ((((header, slice), source), control), buffer) in parts {
            *slice = iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: LONGEST };
            header.msg_hdr.msg_name = ptr::from_mut(source).cast::<c_void>();
            header.msg_hdr.msg_namelen = mem::size_of::<sockaddr_storage>() as u32;
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = ptr::from_mut(control).cast::<c_void>();
            // The type of `msg_controllen` differs between C libraries.
            header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        }
        // SAFETY: each header points to its own fields of `self`, which nothing else uses during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(received).unwrap_or(0);
        self.received
    }

    /// The datagrams of the last `receive`.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.headers.iter().zip(&self.sources).zip(&*self.buffers).take(self.received).filter_map(
            |((header, source), buffer)| {
                let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
                let length = if whole { header.msg_len as usize } else { 0 };
                let arrived = stamp(&header.msg_hdr).unwrap_or_else(kernel_time);
                Some(Datagram { from: address(source)?, arrived, bytes: buffer.get(..length)? })
            },
        )
    }
}

/// The kernel's timestamp, if there is one.
fn stamp(message: &libc::msghdr) -> Option<Duration> {
    // SAFETY: the kernel has filled the control buffer of this message, which `self` still owns, up to the length
    // that it has set; the macros stay within that length. The timestamp may be unaligned.
    let time = unsafe {
        let control = libc::CMSG_FIRSTHDR(message).as_ref()?;
        if (control.cmsg_level, control.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
            return None;
        }
        libc::CMSG_DATA(control).cast::<libc::timespec>().read_unaligned()
    };
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

fn address(storage: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family gives the type, and `sockaddr_storage` is large and aligned enough for all.
            let v4 = unsafe { &*ptr::from_ref(storage).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as for `AF_INET`.
            let v6 = unsafe { &*ptr::from_ref(storage).cast::<sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(ip).to_canonical(), u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// Wakes a thread from `wait`.
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; only this function holds the descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes the thread, or ends its next wait immediately.
    pub(crate) fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes of a live value. The write fails only if the counter is full; it is then already set.
        unsafe { libc::write(self.0.as_raw_fd(), ptr::from_ref(&one).cast::<c_void>(), 8) };
    }

    /// Waits until woken or for `timeout`; `None` waits until woken.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = timeout.map(|t| libc::timespec {
            tv_sec: t.as_secs() as libc::time_t,
            tv_nsec: t.subsec_nanos() as libc::c_long,
        });
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: one owned descriptor; the time outlives the call. A signal ends the wait early, which is harmless.
        if unsafe { libc::ppoll(&mut poll, 1, limit, ptr::null()) } > 0 {
            let mut count = 0u64;
            // SAFETY: eight bytes of a live value; the descriptor does not block.
            unsafe { libc::read(self.0.as_raw_fd(), ptr::from_mut(&mut count).cast::<c_void>(), 8) };
        }
    }
}

/// Raises the priority of the calling thread if permitted (`CAP_SYS_NICE`): its work is short and must not wait for
/// hashing or compression.
pub(crate) fn raise_priority() {
    // SAFETY: no pointers. `who` 0 is the calling thread. If refused, the priority is unchanged.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use twinbox_clock::since_epoch;

    use super::*;

    #[test]
    fn batch_receives_only_waiting_datagrams() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&receiver), 0, "it does not wait");
        for n in 0..=BATCH as u8 {
            sender.send_to(&vec![n; usize::from(n)], receiver.local_addr().unwrap()).unwrap();
        }
        sender.send_to(&[1; LONGEST + 1], receiver.local_addr().unwrap()).unwrap();
        assert_eq!(batch.receive(&receiver), BATCH);
        let from = sender.local_addr().unwrap();
        for (n, datagram) in batch.datagrams().enumerate() {
            assert_eq!((datagram.from, datagram.bytes), (from, vec![n as u8; n].as_slice()));
        }
        assert_eq!(batch.receive(&receiver), 2);
        let lengths: Vec<_> = batch.datagrams().map(|d| d.bytes.len()).collect();
        assert_eq!(lengths, [BATCH, 0], "a datagram that does not fit counts as nothing");
    }

    fn open(address: &str, dscp: u8) -> io::Result<(Socket, SocketAddr)> {
        let socket = Socket::open(address.parse().unwrap(), dscp, None)?;
        let address = socket.socket.local_addr()?;
        Ok((socket, address))
    }

    /// The kernel begins to stamp some time after the first socket of the machine asks for it. Until then a packet has
    /// the time at which it was read.
    #[test]
    fn arrival_time_is_stamped_by_the_kernel() {
        let (receiver, address) = open("127.0.0.1:0", 0).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = Batch::new();
        let limit = since_epoch() + Duration::from_secs(10);
        loop {
            let before = since_epoch();
            sender.send_to(&[1], address).unwrap();
            let after = since_epoch();
            while since_epoch() == after {}
            assert_eq!(batch.receive(&receiver), 1);
            let arrived = batch.datagrams().next().unwrap().arrived;
            if (before..=after).contains(&arrived) {
                break;
            }
            assert!(since_epoch() < limit, "{before:?} {arrived:?} {after:?}");
        }
    }

    #[test]
    fn sockets_do_not_block() {
        let (socket, _) = open("127.0.0.1:0", 46).unwrap();
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFL) };
        assert_ne!(flags & libc::O_NONBLOCK, 0, "a full send buffer is to lose a packet, not to stop the thread");
    }

    /// Traffic class of a packet in transit from one socket of this module to another.
    fn class_on_the_way(host: &str, level: c_int, ask: c_int, kind: c_int) -> io::Result<u8> {
        let ((receiver, to), (sender, _)) = (open(host, 0)?, open(host, 46)?);
        set_option(&receiver, level, ask, 1)?;
        // A timestamp would come first in the control buffer.
        set_option(&receiver, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0)?;
        sender.send_to(&[1], to)?;
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&receiver), 1);
        // SAFETY: as in `stamp`; the value read is a byte, or the first byte of an integer.
        unsafe {
            let control = libc::CMSG_FIRSTHDR(&batch.headers[0].msg_hdr).as_ref().unwrap();
            assert_eq!((control.cmsg_level, control.cmsg_type), (level, kind));
            Ok(libc::CMSG_DATA(control).read())
        }
    }

    #[test]
    fn packets_carry_the_dscp() {
        let class = class_on_the_way("127.0.0.1:0", libc::IPPROTO_IP, libc::IP_RECVTOS, libc::IP_TOS);
        assert_eq!(class.unwrap(), 46 << 2);
        // The machine may have no IPv6.
        if UdpSocket::bind("[::1]:0").is_ok() {
            let (ask, kind) = (libc::IPV6_RECVTCLASS, libc::IPV6_TCLASS);
            assert_eq!(class_on_the_way("[::1]:0", libc::IPPROTO_IPV6, ask, kind).unwrap(), 46 << 2);
        }
    }

    #[test]
    fn a_wake_before_the_wait_is_not_lost() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.wait(None);
        waker.wait(Some(Duration::from_millis(1)));
    }
}
