//! One session as its media thread sees it: socket, receiving, sending, recording.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};
use twinbox_clock::BootInstant;
use twinbox_rtp::{
    Codec, FRAME, SAMPLE_RATE,
    dtmf::Detector,
    g711,
    packet::{Header, Packet, PacketError, RtpTime, SeqNo, Ssrc},
    recorder::{Finished, Over, Recorder, Settings},
    sequence::{Order, Sequence},
};

use crate::{
    ChunkSink, Clip, MediaEvent, MediaStats, RecordSpec, Remote, StopCause,
    pace::{Due, Phase, Shift},
    playback::Playback,
    ports::Lease,
    session::SharedCounters,
    socket::{BATCH, Batch, LONGEST},
    source::Source,
};

/// Rounds of [`BATCH`] datagrams that one visit takes: 3,200 packets a second, then the others have their turn.
const ROUNDS: usize = 4;

/// Rounds that are taken before an order is carried out: more than a socket's buffer holds.
const ALL_ROUNDS: usize = 32;

/// While nothing plays, a packet of silence goes out this often, so that NATs and the other side's media timers
/// know that we live.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Digits are kept for a receiver that does not keep up while fewer events than this wait.
const PENDING: usize = 64;

/// Payload type of comfort noise (RFC 3389): a sign of life without audio.
const COMFORT_NOISE: u8 = 13;

/// What a media thread shares among its lines.
pub(crate) struct Tools {
    pub(crate) batch: Batch,
    pub(crate) stats: MediaStats,
    pub(crate) media_timeout: Duration,
}

pub(crate) struct Line {
    // Declared before the lease, so that the socket is closed when the port becomes free.
    socket: UdpSocket,
    _lease: Lease,
    /// The socket is an IPv6 one, which takes IPv4 addresses as mapped ones.
    mapped: bool,
    events: mpsc::Sender<MediaEvent>,
    pending: VecDeque<MediaEvent>,
    counters: Arc<SharedCounters>,
    dropped: u64,
    remote: Option<Remote>,
    source: Source,
    sequence: Sequence,
    detector: Detector,
    due: Due,
    pub(crate) phase: Phase,
    /// Its packets are part of the engine's totals.
    pub(crate) counted: bool,
    /// When something was last received, or receiving began.
    heard: BootInstant,
    timeout_told: bool,
    recording: Option<Recording>,
    playback: Option<Playback>,
    out: Outgoing,
}

struct Recording {
    recorder: Recorder,
    sink: Arc<dyn ChunkSink>,
}

/// The stream that we send.
struct Outgoing {
    ssrc: Ssrc,
    seq: SeqNo,
    /// Timestamp of the next sample, which is due at `at`.
    time: RtpTime,
    at: BootInstant,
    /// The last frame was sent just before the next one is due.
    in_spurt: bool,
    /// Something has been sent at all.
    begun: bool,
    sent: u64,
}

/// The recorder's sink around the caller's.
fn into(sink: &dyn ChunkSink) -> impl FnMut(u64, &[u8]) {
    |offset, bytes| sink.chunk(offset, Bytes::copy_from_slice(bytes))
}

impl Line {
    pub(crate) fn new(
        socket: UdpSocket,
        lease: Lease,
        events: mpsc::Sender<MediaEvent>,
        counters: Arc<SharedCounters>,
        now: BootInstant,
    ) -> Self {
        Self {
            mapped: socket.local_addr().is_ok_and(|a| a.is_ipv6()),
            socket,
            _lease: lease,
            events,
            pending: VecDeque::new(),
            counters,
            dropped: 0,
            remote: None,
            source: Source::new(None, now),
            sequence: Sequence::default(),
            detector: Detector::default(),
            due: Due::default(),
            phase: Phase::new(),
            counted: true,
            heard: now,
            timeout_told: false,
            recording: None,
            playback: None,
            out: Outgoing {
                ssrc: Ssrc(rand::random()),
                seq: SeqNo(rand::random()),
                time: RtpTime(rand::random()),
                at: now,
                in_spurt: false,
                begun: false,
                sent: 0,
            },
        }
    }

    /// The 20 ms visit: takes what has come, and looks after timers. Tells when to come next.
    pub(crate) fn visit(&mut self, now: BootInstant, slots: u8, tools: &mut Tools) -> Shift {
        self.receive(now, ROUNDS, tools);
        if let Some(recording) = &mut self.recording {
            let over = recording.recorder.tick(since_boot(now), &mut into(&*recording.sink));
            self.end_if_over(over, &mut tools.stats);
        }
        self.check_timeout(now, tools);
        if self.playback.is_none()
            && (self.recording.is_some() || self.out.begun)
            && now.since(self.out.at) >= KEEP_ALIVE
        {
            self.send_frame(now, None, &mut tools.stats);
            self.out.in_spurt = false;
        }
        self.flush_events(&mut tools.stats);
        self.publish();
        self.phase.visited(now, slots)
    }

    /// Takes what has come until now: what follows is not to touch it.
    pub(crate) fn catch_up(&mut self, now: BootInstant, tools: &mut Tools) {
        self.receive(now, ALL_ROUNDS, tools);
        self.publish();
    }

    fn receive(&mut self, now: BootInstant, rounds: usize, tools: &mut Tools) {
        for _ in 0..rounds {
            let received = tools.batch.receive(&self.socket);
            for (from, datagram) in tools.batch.datagrams() {
                self.take(now, from, datagram, &mut tools.stats);
            }
            if received < BATCH {
                break;
            }
        }
    }

    pub(crate) fn set_remote(&mut self, now: BootInstant, remote: Remote) {
        let received = self.remote.is_some_and(|r| r.receive);
        self.source = self.source.renegotiated(remote.address, now);
        if remote.receive && !received {
            self.heard = now;
            self.timeout_told = false;
        }
        if let Some(Recording { recorder, .. }) = &mut self.recording {
            if remote.receive {
                recorder.resume(since_boot(now));
            } else {
                recorder.pause();
            }
        }
        self.remote = Some(remote);
    }

    pub(crate) fn play(&mut self, id: u64, clips: Vec<Clip>) {
        self.playback = Some(Playback::new(id, clips));
    }

    pub(crate) fn stop_play(&mut self) {
        self.playback = None;
        self.out.in_spurt = false;
    }

    /// Sends the next frame of what plays, whose moment is `now`. False when nothing plays any more.
    pub(crate) fn play_frame(&mut self, now: BootInstant, stats: &mut MediaStats) -> bool {
        let Some(mut playback) = self.playback.take() else { return false };
        if !self.can_send() {
            // On hold: what plays goes on afterwards.
            self.out.in_spurt = false;
            self.playback = Some(playback);
            return true;
        }
        if self.send_frame(now, Some(&mut playback), stats) {
            self.playback = Some(playback);
            true
        } else {
            self.out.in_spurt = false;
            self.tell(MediaEvent::PlayFinished(playback.id), stats);
            false
        }
    }

    pub(crate) fn record(&mut self, now: BootInstant, spec: RecordSpec, stats: &mut MediaStats) {
        self.stop_record(stats);
        let samples = |d: Duration| (d.as_millis() as u64).saturating_mul(u64::from(SAMPLE_RATE)) / 1_000;
        let settings = Settings {
            codec: self.remote.map_or(Codec::Pcmu, |r| r.codec),
            limit: samples(spec.max),
            end_silence: spec.end_silence.map(samples),
        };
        let mut recorder = Recorder::new(settings, since_boot(now));
        if self.remote.is_none_or(|r| !r.receive) {
            recorder.pause();
        }
        self.recording = Some(Recording { recorder, sink: spec.sink });
    }

    pub(crate) fn stop_record(&mut self, stats: &mut MediaStats) {
        self.end_recording(StopCause::Stopped, stats);
    }

    fn take(&mut self, now: BootInstant, from: SocketAddr, datagram: &[u8], stats: &mut MediaStats) {
        let counter = match self.judge(now, from, datagram, stats) {
            Ok(()) => return,
            Err(Refused::Malformed) => &mut stats.dropped.malformed,
            Err(Refused::Codec) => &mut stats.dropped.codec,
            Err(Refused::Stranger) => &mut stats.dropped.strangers,
            Err(Refused::Held) => &mut stats.dropped.held,
            Err(Refused::Ignored) => return,
        };
        *counter += 1;
        self.dropped += 1;
    }

    fn judge(
        &mut self,
        now: BootInstant,
        from: SocketAddr,
        datagram: &[u8],
        stats: &mut MediaStats,
    ) -> Result<(), Refused> {
        let remote = self.remote.ok_or(Refused::Held)?;
        let packet = match Packet::parse(datagram) {
            Ok(packet) => packet,
            Err(PacketError::Rtcp) => return Err(Refused::Ignored),
            Err(_) => return Err(Refused::Malformed),
        };
        let kind = packet.header.payload_type;
        let (audio, digit) = (kind == remote.payload_type, Some(kind) == remote.dtmf);
        if !audio && !digit && kind != COMFORT_NOISE {
            return Err(Refused::Codec);
        }
        if !self.source.admits(from, now) {
            return Err(Refused::Stranger);
        }
        if !remote.receive {
            return Err(Refused::Held);
        }
        self.heard = now;
        self.timeout_told = false;
        stats.received += 1;
        let order = self.sequence.push(packet.header.ssrc, packet.header.seq);
        self.phase.packet(now, if audio { packet.payload.len() } else { FRAME });
        if order == Order::Duplicate {
            return Ok(());
        }
        if digit {
            if let Some(key) = self.detector.push(&packet.header, packet.payload) {
                self.tell(MediaEvent::Digit(key), stats);
            }
        } else if audio {
            if order == Order::Restart {
                self.due.restart();
            }
            // That another packet overtook it on the way is not our doing.
            if order != Order::Late {
                stats.lateness.add(self.due.late(now, packet.header.time));
            }
            self.record_packet(now, remote.codec, &packet, stats);
        }
        Ok(())
    }

    fn record_packet(&mut self, now: BootInstant, codec: Codec, packet: &Packet<'_>, stats: &mut MediaStats) {
        let Some(Recording { recorder, sink }) = &mut self.recording else { return };
        let mut scratch = [0; LONGEST];
        // A re-INVITE can change the codec in the middle of a recording, which stays what it is.
        let payload = match g711::transcoder(codec, recorder.codec()) {
            None => packet.payload,
            Some(table) => {
                let payload = &mut scratch[..packet.payload.len()];
                payload.iter_mut().zip(packet.payload).for_each(|(to, &from)| *to = table[usize::from(from)]);
                payload
            }
        };
        let over = recorder.push(since_boot(now), &packet.header, payload, &mut into(&**sink));
        self.end_if_over(over, stats);
    }

    fn end_if_over(&mut self, over: Option<Over>, stats: &mut MediaStats) {
        match over {
            None => {}
            Some(Over::Silence) => self.end_recording(StopCause::Silence, stats),
            Some(Over::Limit) => self.end_recording(StopCause::Limit, stats),
        }
    }

    fn end_recording(&mut self, cause: StopCause, stats: &mut MediaStats) {
        let Some(Recording { recorder, sink }) = self.recording.take() else { return };
        let codec = recorder.codec();
        let Finished { length, trailing_silence } = recorder.finish(&mut into(&*sink));
        let trailing_silence_ms = trailing_silence * 1_000 / u64::from(SAMPLE_RATE);
        self.tell(MediaEvent::RecordStopped { cause, length_bytes: length, codec, trailing_silence_ms }, stats);
    }

    fn check_timeout(&mut self, now: BootInstant, tools: &mut Tools) {
        // Whoever listens may send nothing: telephones that suppress silence do. The wait begins when it is their turn.
        if self.playback.is_some() {
            self.heard = now;
        }
        let watched =
            !tools.media_timeout.is_zero() && !self.timeout_told && self.remote.is_some_and(|r| r.receive);
        if watched && now.since(self.heard) >= tools.media_timeout {
            self.timeout_told = true;
            self.tell(MediaEvent::MediaTimeout, &mut tools.stats);
        }
    }

    fn can_send(&self) -> bool {
        self.remote.is_some_and(|r| r.send) && self.source.destination().is_some()
    }

    /// Sends a frame, of what plays or of silence. False when what plays has no more.
    fn send_frame(&mut self, now: BootInstant, playback: Option<&mut Playback>, stats: &mut MediaStats) -> bool {
        let (Some(remote), Some(to)) = (self.remote.filter(|r| r.send), self.source.destination()) else {
            return true;
        };
        let mut frame = [remote.codec.silence(); FRAME];
        if let Some(playback) = playback
            && !playback.fill(remote.codec, &mut frame)
        {
            return false;
        }
        let header = self.out.header(now, remote.payload_type);
        let mut packet = [0; Header::LENGTH + FRAME];
        packet[..Header::LENGTH].copy_from_slice(&header.to_bytes());
        packet[Header::LENGTH..].copy_from_slice(&frame);
        match self.socket.send_to(&packet, self.reachable(to)) {
            Ok(_) => {
                self.out.sent += 1;
                stats.sent += 1;
            }
            Err(_) => stats.send_errors += 1,
        }
        true
    }

    /// An IPv4 address as a socket of ours that takes both wants it.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(v4) if self.mapped => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            other => other,
        }
    }

    /// Tells an event, or keeps it for a receiver that is behind. Only digits are ever dropped: of those a caller can
    /// send any number, and without the end of a recording or of a play its call would wait for ever.
    fn tell(&mut self, event: MediaEvent, stats: &mut MediaStats) {
        if self.pending.is_empty() {
            match self.events.try_send(event) {
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(_)) => {}
            }
        }
        if self.pending.len() < PENDING || !matches!(event, MediaEvent::Digit(_)) {
            self.pending.push_back(event);
        } else {
            stats.dropped.events += 1;
        }
    }

    fn flush_events(&mut self, stats: &mut MediaStats) {
        for _ in 0..self.pending.len() {
            if let Some(event) = self.pending.pop_front() {
                match self.events.try_reserve() {
                    Ok(permit) => permit.send(event),
                    Err(TrySendError::Full(())) => {
                        self.pending.push_front(event);
                        return;
                    }
                    Err(TrySendError::Closed(())) => stats.dropped.events += 1,
                }
            }
        }
    }

    fn publish(&self) {
        self.counters.publish(self.sequence.counters(), self.out.sent, self.dropped);
    }
}

/// Why a datagram is not taken.
enum Refused {
    Malformed,
    Codec,
    Stranger,
    Held,
    /// No packet of ours, and no fault either.
    Ignored,
}

impl Outgoing {
    /// The header of the frame whose moment is `now`; the timestamp follows the time that has passed.
    fn header(&mut self, now: BootInstant, payload_type: u8) -> Header {
        if !self.in_spurt {
            let passed = now.since(self.at).as_micros() as u64 * u64::from(SAMPLE_RATE) / 1_000_000;
            // A timestamp wraps; the part beyond 32 bits goes with it.
            self.time = self.time.plus(passed as u32);
            self.at = now;
        }
        let header =
            Header { marker: !self.in_spurt, payload_type, seq: self.seq, time: self.time, ssrc: self.ssrc };
        self.seq = self.seq.plus(1);
        self.time = self.time.plus(FRAME as u32);
        self.at = self.at + Duration::from_millis(20);
        self.in_spurt = true;
        self.begun = true;
        header
    }
}

/// The recorder's clock.
fn since_boot(now: BootInstant) -> Duration {
    Duration::from_nanos(now.as_nanos())
}
