//! Runtimes beside the event loop of the calls: for what must go on when that one is busy or hangs.

use std::{io, sync::Once};

use rustix::{process::setpriority_process, thread::gettid};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::info;

/// Threads of the role manager: while one is in a long step (a handshake, a snapshot), the other takes keep-alives.
const LEASE_THREADS: usize = 2;
/// Their niceness, where the system lets us: when every processor is busy, the kernel gives them about nine times the
/// share of a thread of the calls, and wakes them first. A real-time class would do more than is wanted: one that spun would
/// stop the machine.
const LEASE_NICE: i32 = -10;

/// A runtime of its own. What runs on it ends when it is dropped.
pub struct Aside(Option<Runtime>);

impl Aside {
    /// One thread, for probes, metrics and systemd's watchdog.
    pub fn for_probes() -> io::Result<Self> {
        Self::start(Builder::new_multi_thread().worker_threads(1).thread_name("aside"))
    }

    /// For the role manager: leases, keep-alives, Raft, and connections on which only it is called. No load of calls can
    /// starve these threads: they have nothing else to do, and come first where the system permits it.
    pub fn for_leases() -> io::Result<Self> {
        let mut threads = Builder::new_multi_thread();
        Self::start(threads.worker_threads(LEASE_THREADS).thread_name("leases").on_thread_start(come_first))
    }

    fn start(builder: &mut Builder) -> io::Result<Self> {
        Ok(Self(Some(builder.enable_all().build()?)))
    }

    /// The way to run something there.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Raises the priority of the calling thread, and so of those that it starts: on Linux niceness is a thread's own.
fn come_first() {
    static REFUSED: Once = Once::new();
    if let Err(error) = setpriority_process(Some(gettid()), LEASE_NICE) {
        REFUSED.call_once(|| {
            info!(%error, nice = LEASE_NICE, "the threads of leases have no priority over others (systemd: LimitNICE)");
        });
    }
}
