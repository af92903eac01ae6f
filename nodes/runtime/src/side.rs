//! Separate runtimes for work that must continue when the event loop of the calls is busy or hangs.

use std::{io, sync::Once};

use rustix::{process::setpriority_process, thread::gettid};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::info;

/// Threads of the role manager: while one is in a long step (a handshake, a snapshot), the other serves
/// keep-alives.
const LEASE_THREADS: usize = 2;
/// Niceness of these threads, if the system permits it: when every processor is busy, the kernel gives them about
/// nine times the share of a call thread, and wakes them first. A real-time class would be too strong: a spinning
/// thread would stop the machine.
const LEASE_NICE: i32 = -10;

/// A separate runtime. Its tasks end when it is dropped.
pub struct SideRuntime(Option<Runtime>);

impl SideRuntime {
    /// One thread, for probes, metrics and systemd's watchdog.
    pub fn for_probes() -> io::Result<Self> {
        Self::start(Builder::new_multi_thread().worker_threads(1).thread_name("probes"))
    }

    /// For the role manager: leases, keep-alives, Raft, and connections used only by it. Calls cannot starve these
    /// threads: they do no other work, and have priority if the system permits it.
    pub fn for_leases() -> io::Result<Self> {
        let mut threads = Builder::new_multi_thread();
        Self::start(threads.worker_threads(LEASE_THREADS).thread_name("leases").on_thread_start(raise_priority))
    }

    fn start(builder: &mut Builder) -> io::Result<Self> {
        Ok(Self(Some(builder.enable_all().build()?)))
    }

    /// Handle to spawn tasks on the runtime.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for SideRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Raises the priority of the calling thread and of its later child threads: on Linux niceness is a property of a
/// thread.
fn raise_priority() {
    static REFUSED: Once = Once::new();
    if let Err(error) = setpriority_process(Some(gettid()), LEASE_NICE) {
        REFUSED.call_once(|| {
            info!(
                %error, nice = LEASE_NICE,
                "cannot raise the priority of the lease threads; set LimitNICE in the systemd unit"
            );
        });
    }
}
