//! The physical limit for comparison: a bare loop that receives RTP packets, one socket per call, `epoll` and one
//! `recv` per packet, and copies each into its call's buffer. Nothing else: no clock, no reordering, no digits.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use twinbox_testkit::NetPlace;

use crate::machine;

/// The loop, on the core under test.
pub struct Bare {
    /// Addresses of its sockets.
    pub ports: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    packets: Arc<AtomicU64>,
    tid: u32,
    thread: Option<JoinHandle<()>>,
}

impl Bare {
    /// A loop over this many sockets.
    pub fn start(place: &NetPlace, calls: usize) -> Self {
        let sockets: Vec<UdpSocket> = (0..calls).map(|_| place.udp(0)).collect();
        let ports = sockets.iter().map(|s| s.local_addr().expect("a bound socket has an address")).collect();
        let (stop, packets, tid) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (told, count, mine) = (stop.clone(), packets.clone(), tid.clone());
        let thread = thread::spawn(move || {
            machine::pin(0, machine::UNDER_TEST);
            // SAFETY: gettid takes nothing and touches no memory.
            mine.store(unsafe { libc::gettid() } as u64, Relaxed);
            receive(&sockets, &told, &count);
        });
        twinbox_testkit::wait_until("the bare loop to run", Duration::from_secs(5), || tid.load(Relaxed) != 0);
        Self { ports, stop, packets, tid: tid.load(Relaxed) as u32, thread: Some(thread) }
    }

    /// Packets and processor time so far.
    pub fn so_far(&self) -> (u64, Duration) {
        let stat = format!("/proc/self/task/{}/stat", self.tid);
        (self.packets.load(Relaxed), machine::cpu_time(&stat))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn receive(sockets: &[UdpSocket], stop: &AtomicBool, packets: &AtomicU64) {
    let mut buffers = vec![[0_u8; 2048]; sockets.len()];
    // SAFETY: epoll descriptors and events are plain data; every event names an index that was registered below.
    unsafe {
        let epoll = libc::epoll_create1(0);
        for (n, socket) in sockets.iter().enumerate() {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: n as u64 };
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event);
        }
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
        while !stop.load(Relaxed) {
            let ready = libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, 50);
            for event in &events[..ready.max(0) as usize] {
                let n = event.u64 as usize;
                if sockets[n].recv(&mut buffers[n]).is_ok() {
                    packets.fetch_add(1, Relaxed);
                }
            }
        }
        libc::close(epoll);
    }
}
