//! Handle of a session for its owner.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use twinbox_rtp::sequence::SequenceCounters;

use crate::{
    Clip, RecordSpec, Remote, SessionCounters,
    thread::{Command, Order, ThreadHandle},
};

/// Media of one call. Commands take effect in order, within about a millisecond, and never block. Dropping the
/// session closes it.
pub struct Session {
    pub(crate) id: u64,
    pub(crate) port: u16,
    pub(crate) thread: Arc<ThreadHandle>,
    pub(crate) counters: Arc<SharedCounters>,
}

impl Session {
    /// UDP port for the local SDP; RTCP uses the next port, or this port with [`Remote::rtcp_mux`].
    pub fn local_port(&self) -> u16 {
        self.port
    }

    /// Applies a negotiation result, including that of every re-INVITE. Packets received until now are still handled by
    /// the old terms.
    pub fn set_remote(&self, remote: Remote) {
        self.send(Order::SetRemote(remote));
    }

    /// Plays clips in sequence without gaps, starting within 5 ms; replaces the current play. The play waits while
    /// sending is not allowed or no destination is known.
    pub fn play(&self, id: u64, clips: Vec<Clip>) {
        self.send(Order::Play(id, clips));
    }

    /// Stops the current play; no event follows.
    pub fn stop_play(&self) {
        self.send(Order::StopPlay);
    }

    /// Starts a recording; stops a recording in progress first.
    pub fn record(&self, spec: RecordSpec) {
        self.send(Order::Record(spec));
    }

    /// Stops the recording: audio received until now goes to the sink, then [`crate::MediaEvent::RecordStopped`]
    /// follows. Does nothing without a recording.
    pub fn stop_record(&self) {
        self.send(Order::StopRecord);
    }

    /// Packet counters, at most 20 ms old.
    pub fn counters(&self) -> SessionCounters {
        self.counters.read()
    }

    /// Closes the session and frees its ports, like dropping it. Stops a recording in progress first.
    pub fn close(self) {}

    fn send(&self, order: Order) {
        self.thread.send(Command { session: self.id, order });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.send(Order::Close);
    }
}

/// Counters written by the media thread and read by any thread.
#[derive(Default)]
pub(crate) struct SharedCounters {
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
    duplicates: AtomicU64,
    dropped: AtomicU64,
}

impl SharedCounters {
    pub(crate) fn publish(&self, sequence: SequenceCounters, sent: u64, dropped: u64) {
        self.received.store(sequence.received, Relaxed);
        self.lost.store(sequence.lost, Relaxed);
        self.duplicates.store(sequence.duplicates, Relaxed);
        self.sent.store(sent, Relaxed);
        self.dropped.store(dropped, Relaxed);
    }

    fn read(&self) -> SessionCounters {
        SessionCounters {
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
            lost: self.lost.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
        }
    }
}
