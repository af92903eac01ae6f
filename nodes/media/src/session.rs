//! A session as its owner holds it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use twinbox_rtp::sequence::SequenceCounters;

use crate::{
    Clip, RecordSpec, Remote, SessionCounters,
    thread::{Command, Order, ThreadHandle},
};

/// One call's media. Commands take effect within a millisecond or so, in their order, and never block. Dropping
/// it closes it.
pub struct Session {
    pub(crate) line: u64,
    pub(crate) port: u16,
    pub(crate) thread: Arc<ThreadHandle>,
    pub(crate) counters: Arc<SharedCounters>,
}

impl Session {
    /// The UDP port to put into our SDP; RTCP has the one above, or this one with [`Remote::rtcp_mux`].
    pub fn local_port(&self) -> u16 {
        self.port
    }

    /// What was negotiated; also for every re-INVITE. What has been received until now is still taken by the
    /// old terms.
    pub fn set_remote(&self, remote: Remote) {
        self.send(Order::SetRemote(remote));
    }

    /// Plays clips one after the other, to the sample, beginning within 5 ms; replaces what plays. Waits while we
    /// may not send or have no address to send to.
    pub fn play(&self, id: u64, clips: Vec<Clip>) {
        self.send(Order::Play(id, clips));
    }

    /// Stops what plays; no event follows.
    pub fn stop_play(&self) {
        self.send(Order::StopPlay);
    }

    /// Begins to record; a recording in progress is stopped first.
    pub fn record(&self, spec: RecordSpec) {
        self.send(Order::Record(spec));
    }

    /// Stops the recording: what has been received until now goes to the sink, then
    /// [`crate::MediaEvent::RecordStopped`] follows. Does nothing when nothing is recorded.
    pub fn stop_record(&self) {
        self.send(Order::StopRecord);
    }

    /// Packets so far, as of the last 20 ms.
    pub fn counters(&self) -> SessionCounters {
        self.counters.read()
    }

    /// Closes the session and frees its ports, as dropping it does. A recording in progress is stopped first.
    pub fn close(self) {}

    fn send(&self, order: Order) {
        self.thread.send(Command { line: self.line, order });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.send(Order::Close);
    }
}

/// Counters that the media thread writes and anyone reads.
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
