//! The system calls of the media path: receiving many datagrams at once, and waiting until a moment.
//!
//! All `unsafe` of the crate stands here.

use std::{
    io,
    mem::{self, MaybeUninit},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    time::Duration,
};

use libc::{c_int, c_void, iovec, mmsghdr, sockaddr_in, sockaddr_in6, sockaddr_storage};

/// Datagrams taken in one system call.
pub(crate) const BATCH: usize = 16;

/// Longer datagrams are no telephone audio (180 ms) and are dropped.
pub(crate) const LONGEST: usize = 1_500;

/// Buffers for `recvmmsg`, made once a thread.
pub(crate) struct Batch {
    headers: [mmsghdr; BATCH],
    slices: [iovec; BATCH],
    sources: [sockaddr_storage; BATCH],
    buffers: Box<[[u8; LONGEST]; BATCH]>,
    received: usize,
}

// SAFETY: the pointers in `headers` and `slices` are set anew in every call of `receive` and used only there.
unsafe impl Send for Batch {}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: integers and pointers, for which zero is a value.
        let (headers, slices, sources) = unsafe {
            (
                MaybeUninit::zeroed().assume_init(),
                MaybeUninit::zeroed().assume_init(),
                MaybeUninit::zeroed().assume_init(),
            )
        };
        Self { headers, slices, sources, buffers: Box::new([[0; LONGEST]; BATCH]), received: 0 }
    }

    /// Takes what is there, up to [`BATCH`] datagrams, without waiting. An error counts as no datagram: on a UDP
    /// socket it is the echo of something sent (ICMP), and the next call gives what was received.
    pub(crate) fn receive(&mut self, socket: &impl AsRawFd) -> usize {
        let Self { headers, slices, sources, buffers, .. } = self;
        for (((header, slice), source), buffer) in headers.iter_mut().zip(slices).zip(sources).zip(&mut **buffers) {
            *slice = iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: LONGEST };
            header.msg_hdr.msg_name = ptr::from_mut(source).cast::<c_void>();
            header.msg_hdr.msg_namelen = mem::size_of::<sockaddr_storage>() as u32;
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the headers point, each to its own, into fields of ours that nobody else uses during the call.
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

    /// The datagrams of the last call, with their sources. One that was longer than the buffer comes empty.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.headers.iter().zip(&self.sources).zip(&*self.buffers).take(self.received).filter_map(
            |((header, source), buffer)| {
                let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
                let length = if whole { header.msg_len as usize } else { 0 };
                Some((address(source)?, buffer.get(..length)?))
            },
        )
    }
}

fn address(storage: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is, and `sockaddr_storage` is large and aligned enough for all.
            let v4 = unsafe { &*ptr::from_ref(storage).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*ptr::from_ref(storage).cast::<sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(ip).to_canonical(), u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// Ends a thread's wait from outside.
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is ours alone.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes the thread, or lets its next wait end at once.
    pub(crate) fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes of a live value. The write fails only when the counter is full, and it is then set.
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
        // SAFETY: one descriptor, ours; the time outlives the call. A signal ends the wait early, which does no harm.
        if unsafe { libc::ppoll(&mut poll, 1, limit, ptr::null()) } > 0 {
            let mut count = 0u64;
            // SAFETY: eight bytes of a live value; the descriptor does not block.
            unsafe { libc::read(self.0.as_raw_fd(), ptr::from_mut(&mut count).cast::<c_void>(), 8) };
        }
    }
}

/// Puts the calling thread before others, where the system lets us (`CAP_SYS_NICE`); its work is short and cannot
/// wait for a hash or a compression to have had its turn.
pub(crate) fn hurry() {
    // SAFETY: no pointers. `who` 0 is the calling thread. Refused means as before.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_batch_takes_what_is_there_and_no_more() {
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
        for (n, (source, bytes)) in batch.datagrams().enumerate() {
            assert_eq!((source, bytes), (from, vec![n as u8; n].as_slice()));
        }
        assert_eq!(batch.receive(&receiver), 2);
        let lengths: Vec<_> = batch.datagrams().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [BATCH, 0], "a datagram that does not fit counts as nothing");
    }

    #[test]
    fn a_wake_before_the_wait_is_not_lost() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.wait(None);
        waker.wait(Some(Duration::from_millis(1)));
    }
}
