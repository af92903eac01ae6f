//! Resources of a gate: connections and child processes that act only for one duty (rule R6).
//!
//! A check before each write does not stop a write already passed to the kernel or to another process. So the thread
//! that closes gates ends these resources with the lease: it resets a TCP connection and discards its queue (which a
//! mere `shutdown` would still send), disconnects and shuts a datagram socket, and kills a child.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::{
    net::{self, Shutdown, sockopt},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{NotHolder, Permit};

/// Reason for which a gate does not take a resource.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnError {
    /// This node does not hold the duty. The resource has been ended.
    #[error(transparent)]
    NotHolder(#[from] NotHolder),
    /// The descriptor of the connection or child is not available.
    #[error("cannot get the descriptor of a connection or child process of a duty: {0}")]
    Io(#[from] io::Error),
}

/// Resource that acts on its own once started.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The same socket under a descriptor of our own, so that the number cannot be closed and reused.
    Socket(OwnedFd),
    /// A child, by its pidfd: a process id may have been reused.
    Child(OwnedFd),
}

impl Effect {
    pub(crate) fn socket(socket: BorrowedFd<'_>) -> io::Result<Self> {
        socket.try_clone_to_owned().map(Self::Socket)
    }

    pub(crate) fn child(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self::Child(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Ends it; errors mean that it has ended already.
    pub(crate) fn end(&self) {
        match self {
            Self::Socket(socket) => {
                // Closing resets the connection where disconnecting does not.
                let _ = sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
                let _ = net::connect_unspec(socket.as_fd());
                let _ = net::shutdown(socket, Shutdown::Both);
            }
            Self::Child(child) => {
                let _ = pidfd_send_signal(child, Signal::KILL);
            }
        }
    }
}

/// All resources of one gate.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    next: AtomicU64,
    list: Mutex<BTreeMap<u64, Effect>>,
}

impl Effects {
    fn list(&self) -> MutexGuard<'_, BTreeMap<u64, Effect>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, effect: Effect) -> u64 {
        let key = self.next.fetch_add(1, Relaxed);
        self.list().insert(key, effect);
        key
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Ends all of them, once.
    pub(crate) fn end_all(&self) {
        std::mem::take(&mut *self.list()).values().for_each(Effect::end);
    }
}

/// A connection or child owned by a gate; see [`Gate::own_socket`](crate::Gate::own_socket). It counts as in flight:
/// while it exists, the release of the duty is not confirmed.
#[derive(Debug)]
pub struct Owned {
    permit: Permit,
    key: u64,
}

impl Owned {
    pub(crate) fn new(permit: Permit, effect: Effect) -> Self {
        let key = permit.gate().effects().add(effect);
        Self { permit, key }
    }

    /// Whether the next step may still go out.
    pub fn check(&self) -> Result<(), NotHolder> {
        self.permit.check()
    }

    pub(crate) fn end(&self) {
        self.permit.gate().effects().list().remove(&self.key).inspect(Effect::end);
    }
}

impl Drop for Owned {
    /// Ends a child: nothing else would end it with the lease. A connection is closed by its owner, in an orderly way
    /// while the lease runs; after that it is reset, so that what is queued does not leave after the release.
    fn drop(&mut self) {
        let owned = self.permit.gate().effects().list().remove(&self.key);
        match owned {
            Some(child @ Effect::Child(_)) => child.end(),
            Some(socket) if self.permit.check().is_err() => socket.end(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::{TcpListener, UdpSocket},
        os::unix::process::ExitStatusExt,
        process::Command,
        sync::mpsc,
        thread,
        time::Duration,
    };

    use tokio::net::TcpStream;
    use twinbox_clock::BootInstant;
    use twinbox_ids::Epoch;
    use twinbox_roles_core::Duty;

    use super::*;
    use crate::{Gate, GateExpirer};

    const LEASE: Duration = Duration::from_millis(150);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn epoch() -> Epoch {
        Epoch { generation: 0, number: 1, node: "a".parse().expect("a name") }
    }

    /// A gate that is open for a moment, and the thread that closes it.
    fn opened() -> (Gate, GateExpirer, BootInstant) {
        let gate = Gate::new(Duty::Notifier);
        let expirer = GateExpirer::start(vec![gate.clone()]).expect("a thread");
        let until = BootInstant::now() + LEASE;
        gate.open(&epoch(), until);
        expirer.wake();
        (gate, expirer, until)
    }

    fn wait_closed(gate: &Gate) {
        let limit = BootInstant::now() + PATIENCE;
        while gate.holding().borrow().is_some() || !gate.effects().is_empty() {
            assert!(BootInstant::now() < limit, "the gate stayed open");
            thread::yield_now();
        }
    }

    #[test]
    fn data_queued_by_a_blocked_executor_is_discarded_at_lease_expiry() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (gate, _warden, _) = opened();
        let (go_on, blocked) = mpsc::channel::<()>();
        let worker = thread::spawn({
            let gate = gate.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async move {
                    let stream = TcpStream::connect(address).await.expect("connected");
                    let owned = gate.own_socket(&epoch(), &stream).expect("it holds the duty");
                    let mut queued = 0;
                    stream.writable().await.expect("writable");
                    while let Ok(length) = stream.try_write(&[7; 64 << 10]) {
                        queued += length;
                    }
                    // No task of this runtime runs from here on.
                    blocked.recv().expect("a message");
                    assert!(owned.check().is_err());
                    // Bypass tokio's assumption that the queue is still full.
                    let mut stream = stream.into_std().expect("a socket");
                    let late = stream.write(&[7]).expect_err("the connection is reset");
                    assert_ne!(late.kind(), ErrorKind::WouldBlock, "it might still leave");
                    queued
                })
            }
        });
        let (mut far, _) = listener.accept().expect("a connection");
        wait_closed(&gate);
        let mut received = 0;
        let mut buffer = vec![0; 64 << 10];
        let end = loop {
            match far.read(&mut buffer) {
                Ok(0) => break None,
                Ok(length) => received += length,
                Err(error) => break Some(error.kind()),
            }
        };
        assert_eq!(end, Some(ErrorKind::ConnectionReset), "an end in good order would have sent the queue");
        go_on.send(()).expect("it waits");
        let queued = worker.join().expect("it ends well");
        assert!(received < queued, "all {queued} bytes arrived");
    }

    #[test]
    fn datagrams_of_a_thread_that_checks_no_gate_end_with_the_lease() {
        let far = UdpSocket::bind("127.0.0.1:0").expect("a port");
        far.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        let to = far.local_addr().expect("an address");
        let (gate, _warden, until) = opened();
        let near = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let _owned = gate.own_socket(&epoch(), &near).expect("it holds the duty");
        let sender = thread::spawn(move || {
            let limit = BootInstant::now() + PATIENCE;
            while BootInstant::now() < limit {
                if near.send_to(&BootInstant::now().as_nanos().to_be_bytes(), to).is_err() {
                    return true;
                }
                thread::sleep(Duration::from_millis(1));
            }
            false
        });
        let mut stamps = Vec::new();
        let mut buffer = [0; 8];
        while far.recv(&mut buffer).is_ok() {
            stamps.push(u64::from_be_bytes(buffer));
        }
        assert!(sender.join().expect("it ends well"), "it could send for ever");
        let last = stamps.last().copied().expect("some arrived");
        // The thread wakes exactly at the end; a busy machine may delay it.
        assert!(
            last < until.as_nanos() + 200_000_000,
            "sent {} ms after the end",
            (last - until.as_nanos()) / 1_000_000
        );
    }

    #[test]
    fn a_child_is_killed_at_lease_expiry_and_a_later_one_is_refused() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("it starts");
        let (gate, _warden, _) = opened();
        let owned = gate.own_child(&epoch(), &child).expect("it holds the duty");
        let status = child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(9));
        drop(owned);
        let mut late = Command::new("sleep").arg("1000").spawn().expect("it starts");
        let refused = gate.own_child(&epoch(), &late).expect_err("the lease has expired");
        assert!(matches!(refused, OwnError::NotHolder(_)), "{refused}");
        assert_eq!(late.wait().expect("it ends").signal(), Some(9), "it must not act either");
    }

    #[test]
    fn a_child_is_killed_when_its_owner_is_dropped_during_the_lease() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("it starts");
        let gate = Gate::new(Duty::Notifier);
        gate.open(&epoch(), BootInstant::now() + PATIENCE);
        drop(gate.own_child(&epoch(), &child).expect("it holds the duty"));
        let limit = BootInstant::now() + PATIENCE;
        let status = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break status,
                None if BootInstant::now() > limit => {
                    child.kill().expect("killed");
                    panic!("the child outlives its owner");
                }
                None => thread::yield_now(),
            }
        };
        assert_eq!(status.signal(), Some(9));
    }

    #[tokio::test]
    async fn queue_of_a_connection_that_ends_after_the_release_does_not_leave() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (mut far, _) = listener.accept().expect("a connection");
        let gate = Gate::new(Duty::Notifier);
        gate.open(&epoch(), BootInstant::now() + PATIENCE);
        let owned = gate.own_socket(&epoch(), &stream).expect("it holds the duty");
        let mut queued = 0;
        stream.writable().await.expect("writable");
        while let Ok(length) = stream.try_write(&[7; 64 << 10]) {
            queued += length;
        }
        gate.close();
        drop((stream, owned));
        let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
        let end = loop {
            match far.read(&mut buffer) {
                Ok(0) => break None,
                Ok(length) => received += length,
                Err(error) => break Some(error.kind()),
            }
        };
        assert_eq!(end, Some(ErrorKind::ConnectionReset));
        assert!(received < queued, "all {queued} bytes arrived");
    }

    #[tokio::test]
    async fn an_owned_connection_may_end_in_order_while_the_duty_is_released() {
        let far = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let near = UdpSocket::bind("127.0.0.1:0").expect("a port");
        near.connect(far.local_addr().expect("an address")).expect("connected");
        let gate = Gate::new(Duty::Notifier);
        gate.open(&epoch(), BootInstant::now() + PATIENCE);
        let owned = gate.own_socket(&epoch(), &near).expect("it holds the duty");
        // A planned move: nothing new starts, and work in flight ends while the lease runs.
        gate.close();
        assert!(owned.check().is_err());
        assert!(gate.expire(BootInstant::now()).is_some(), "the thread must come back at the end of the lease");
        near.send(b"the last word").expect("not reset before the lease is out");
        let mut idle = std::pin::pin!(gate.idle());
        assert!(futures::poll!(&mut idle).is_pending(), "confirmed with a connection in flight");
        drop(owned);
        idle.await;
    }
}
