//! RTP of a call: a sender with a 20 ms clock, and a receiver that stores all audio.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::UdpSocket,
    sync::{Notify, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use twinbox_clock::BootInstant;
use twinbox_rtp::{
    Codec, FRAME, SAMPLE_RATE, dtmf, g711,
    packet::{Header, Packet, RtpTime, SeqNo, Ssrc},
    recorder::{Recorder, RecorderSettings},
    sequence::{Order, Sequence},
};

use crate::CallStats;

const FRAME_TIME: Duration = Duration::from_millis(20);

/// Duration of a key press, in samples: 100 ms.
const PRESS: u16 = 800;

/// The peer's RTP parameters, as negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RemoteMedia {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) codec: Codec,
    pub(crate) payload_type: u8,
    pub(crate) dtmf: Option<u8>,
    /// The phone may send.
    pub(crate) send: bool,
}

/// A call's RTP; dropping it ends its tasks.
pub(crate) struct PhoneMedia {
    shared: Arc<Shared>,
    stop: CancellationToken,
    _guard: DropGuard,
}

struct Shared {
    socket: UdpSocket,
    /// Reserved, never read: the test phone sends no RTCP.
    _rtcp: std::net::UdpSocket,
    state: Mutex<State>,
    arrived: Notify,
}

struct State {
    remote: Option<RemoteMedia>,
    send_silence: bool,
    queue: VecDeque<QueuedItem>,
    recorder: Option<Recorder>,
    tape: Vec<u8>,
    sequence: Sequence,
    /// Arrival time and timestamp of the newest packet.
    newest: Option<(BootInstant, RtpTime)>,
    jitter: f64,
    sent: u64,
    send_late: Duration,
}

/// Audio or a key to send, and the channel that reports its end.
struct QueuedItem {
    item: Item,
    done: oneshot::Sender<()>,
}

enum Item {
    Audio(Bytes),
    Key { code: u8, sent: usize, start: RtpTime },
}

impl PhoneMedia {
    /// Opens an RTP socket on a free even port. The RTCP port above is reserved, so that the peer's reports reach no
    /// other socket.
    pub(crate) async fn open(ip: IpAddr, send_silence: bool) -> io::Result<Self> {
        let mut others = Vec::new();
        let (socket, rtcp) = loop {
            let socket = UdpSocket::bind((ip, 0)).await?;
            let port = socket.local_addr()?.port();
            if port % 2 == 0
                && let Ok(rtcp) = std::net::UdpSocket::bind((ip, port + 1))
            {
                break (socket, rtcp);
            }
            // Kept open, so that the next bind returns another port.
            others.push(socket);
        };
        let state = State {
            remote: None,
            send_silence,
            queue: VecDeque::new(),
            recorder: None,
            tape: Vec::new(),
            sequence: Sequence::default(),
            newest: None,
            jitter: 0.0,
            sent: 0,
            send_late: Duration::ZERO,
        };
        let shared = Arc::new(Shared { socket, _rtcp: rtcp, state: Mutex::new(state), arrived: Notify::new() });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(listen(shared.clone())));
        Ok(Self { shared, _guard: stop.clone().drop_guard(), stop })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    /// Sets the peer's parameters; the first call also starts the sender.
    pub(crate) fn set_remote(&self, remote: RemoteMedia) {
        let first = self.shared.lock().remote.replace(remote).is_none();
        if first {
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(speak(self.shared.clone())));
        }
    }

    pub(crate) fn remote(&self) -> Option<RemoteMedia> {
        self.shared.lock().remote
    }

    /// Stops sender and receiver; the received audio remains.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.shared.lock().queue.clear();
        self.shared.arrived.notify_waiters();
    }

    /// Sends raw G.711; true when the last packet was sent.
    pub(crate) async fn say(&self, audio: Bytes) -> bool {
        audio.is_empty() || self.queue(Item::Audio(audio)).await
    }

    /// Presses a key by telephone-events; true when its last packet was sent.
    pub(crate) async fn press(&self, code: u8) -> bool {
        self.queue(Item::Key { code, sent: 0, start: RtpTime(0) }).await
    }

    async fn queue(&self, item: Item) -> bool {
        let (done, sent) = oneshot::channel();
        if self.stop.is_cancelled() {
            return false;
        }
        self.shared.lock().queue.push_back(QueuedItem { item, done });
        tokio::select! {
            sent = sent => sent.is_ok(),
            () = self.stop.cancelled() => false,
        }
    }

    /// Audio received so far.
    pub(crate) fn received(&self) -> Bytes {
        self.shared.lock().received_from(0).into()
    }

    /// Waits until `look` finds something in the audio received from offset `from` on. `None` after `timeout`, or if
    /// the media stopped before.
    pub(crate) async fn wait<R>(
        &self,
        from: usize,
        timeout: Duration,
        mut look: impl FnMut(&[u8], Option<BootInstant>) -> Option<R>,
    ) -> Option<R> {
        let deadline = BootInstant::now() + timeout;
        loop {
            let more = self.shared.arrived.notified();
            let found = {
                let state = self.shared.lock();
                look(&state.received_from(from), state.newest.map(|(at, _)| at))
            };
            if found.is_some() || self.stop.is_cancelled() || BootInstant::now() >= deadline {
                return found;
            }
            // Missing packets count as silence: check again after a frame.
            let again = deadline.min(BootInstant::now() + FRAME_TIME);
            let _ = tokio::time::timeout(again.since(BootInstant::now()), more).await;
        }
    }

    pub(crate) fn stats(&self) -> CallStats {
        let state = self.shared.lock();
        let counters = state.sequence.counters();
        CallStats {
            sent: state.sent,
            received: counters.received,
            lost: counters.lost,
            jitter_ms: state.jitter / f64::from(SAMPLE_RATE) * 1_000.0,
            send_late_ms: state.send_late.as_secs_f64() * 1_000.0,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn received_from(&self, from: usize) -> Vec<u8> {
        let settled = self.tape.get(from..).unwrap_or_default();
        let pending = self.recorder.as_ref().map(Recorder::pending).unwrap_or_default();
        let skip = from.saturating_sub(self.tape.len());
        [settled, pending.get(skip..).unwrap_or_default()].concat()
    }

    /// Takes a datagram.
    fn take(&mut self, now: BootInstant, datagram: &[u8]) {
        let (Some(remote), Ok(packet)) = (self.remote, Packet::parse(datagram)) else { return };
        if packet.header.payload_type != remote.payload_type {
            return;
        }
        let order = self.sequence.push(packet.header.ssrc, packet.header.seq);
        if order == Order::Duplicate {
            return;
        }
        if let (Order::Ahead, Some((at, time))) = (order, self.newest) {
            let passed = now.since(at).as_secs_f64() * f64::from(SAMPLE_RATE);
            let off = passed - f64::from(packet.header.time.since(time));
            self.jitter += (off.abs() - self.jitter) / 16.0;
        }
        if order != Order::Late {
            self.newest = Some((now, packet.header.time));
        }
        let clock = Duration::from_nanos(now.as_nanos());
        let recorder = self.recorder.get_or_insert_with(|| {
            Recorder::new(RecorderSettings { codec: remote.codec, limit: u64::MAX, end_silence: None }, clock)
        });
        let audio = g711::transcode(remote.codec, recorder.codec(), packet.payload);
        let tape = &mut self.tape;
        recorder.push(clock, &packet.header, &audio, &mut |_, bytes: &[u8]| tape.extend_from_slice(bytes));
    }
}

async fn listen(shared: Arc<Shared>) {
    let mut buffer = [0; 2_048];
    loop {
        if let Ok((length, _)) = shared.socket.recv_from(&mut buffer).await {
            shared.lock().take(BootInstant::now(), buffer.get(..length).unwrap_or_default());
            shared.arrived.notify_waiters();
        }
    }
}

/// State of the sent stream.
struct Stream {
    ssrc: Ssrc,
    seq: SeqNo,
    time: RtpTime,
    /// The previous packet was not sent: the next one starts a talk spurt.
    paused: bool,
}

async fn speak(shared: Arc<Shared>) {
    let mut stream = Stream {
        ssrc: Ssrc(rand::random()),
        seq: SeqNo(rand::random()),
        time: RtpTime(rand::random()),
        paused: true,
    };
    let mut clock = tokio::time::interval(FRAME_TIME);
    // Late packets are sent, too: the audio must be complete.
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let start = BootInstant::now();
    let mut due = Duration::ZERO;
    loop {
        clock.tick().await;
        let late = start.elapsed().saturating_sub(due);
        due += FRAME_TIME;
        let packet = {
            let mut state = shared.lock();
            state.send_late = state.send_late.max(late);
            let packet = state.next_packet(&mut stream);
            state.sent += u64::from(packet.is_some());
            packet
        };
        if let Some(Outgoing { bytes, to, done }) = packet {
            // A packet that cannot be sent counts as lost.
            let _ = shared.socket.send_to(&bytes, to).await;
            // Only now: who waits may end the call. The waiting task may have ended.
            if let Some(done) = done {
                let _ = done.send(());
            }
        }
    }
}

/// A packet to be sent.
struct Outgoing {
    bytes: Vec<u8>,
    to: SocketAddr,
    /// Told when the last packet of an item was sent.
    done: Option<oneshot::Sender<()>>,
}

/// The payload of a packet to be sent.
struct Payload {
    payload_type: u8,
    marker: bool,
    time: RtpTime,
    bytes: Vec<u8>,
    done: Option<oneshot::Sender<()>>,
}

impl State {
    /// The packet for this tick of the clock, if any.
    fn next_packet(&mut self, stream: &mut Stream) -> Option<Outgoing> {
        let now = stream.time;
        stream.time = now.plus(FRAME as u32);
        let remote = self.remote.filter(|remote| remote.send).and_then(|remote| Some((remote, remote.address?)));
        let Some((payload, to)) = remote.and_then(|(remote, to)| Some((self.next_payload(&remote, now)?, to)))
        else {
            stream.paused = true;
            return None;
        };
        let Payload { payload_type, marker, time, bytes, done } = payload;
        let paused = std::mem::take(&mut stream.paused);
        let marker = marker || paused;
        let header = Header { marker, payload_type, seq: stream.seq, time, ssrc: stream.ssrc };
        stream.seq = stream.seq.plus(1);
        Some(Outgoing { bytes: [&header.to_bytes()[..], &bytes].concat(), to, done })
    }

    fn next_payload(&mut self, remote: &RemoteMedia, now: RtpTime) -> Option<Payload> {
        let silence = remote.codec.silence();
        let audio =
            |bytes| Payload { payload_type: remote.payload_type, marker: false, time: now, bytes, done: None };
        let Some(queued) = self.queue.front_mut() else {
            return self.send_silence.then(|| audio(vec![silence; FRAME]));
        };
        let (mut payload, finished) = match &mut queued.item {
            Item::Audio(rest) => {
                let mut frame = rest.split_to(rest.len().min(FRAME)).to_vec();
                frame.resize(FRAME, silence);
                (audio(frame), rest.is_empty())
            }
            Item::Key { code, sent, start } => {
                let first = *sent == 0;
                if first {
                    *start = now;
                }
                let mut events = dtmf::press(*code, PRESS).skip(*sent);
                *sent += 1;
                let bytes = events.next()?.to_bytes().to_vec();
                let payload_type = remote.dtmf?;
                (Payload { payload_type, marker: first, time: *start, bytes, done: None }, events.next().is_none())
            }
        };
        if finished {
            payload.done = self.queue.pop_front().map(|queued| queued.done);
        }
        Some(payload)
    }
}
