//! One session as seen by its media thread: socket, receiving, sending, recording.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};
use twinbox_clock::{BootInstant, kernel_time};
use twinbox_rtp::{
    Codec, FRAME, SAMPLE_RATE,
    dtmf::Detector,
    g711,
    packet::{Header, Packet, PacketError},
    recorder::{EndReason, Finished, Recorder, RecorderSettings},
    sequence::{Order, Sequence},
};

use crate::{
    ChunkSink, Clip, MediaEvent, MediaStats, RecordSpec, Remote, StopCause,
    lateness::waited,
    outgoing::Outgoing,
    playback::Playback,
    poll_phase::{PollPhase, Shift},
    ports::{Pair, ReservedPort},
    reports::{Media, Reports},
    session::SharedCounters,
    socket::{BATCH, Batch, Datagram, LONGEST, Socket},
    source::{RtpSource, Terms},
    thread::{FRAME_SLOTS, SLOT, SLOTS},
};

/// Rounds of [`BATCH`] datagrams taken per visit: limits a session to 3,200 packets per second, to serve the others.
const ROUNDS: usize = 4;

/// Rounds of datagrams taken before an order is executed: more than a socket buffer holds.
const ALL_ROUNDS: usize = 32;

/// Interval of silence packets while nothing plays. They keep NAT bindings open and the peer's media timers running.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Maximum number of pending events at which a digit is still queued for a slow receiver.
const PENDING: usize = 64;

/// Payload type of comfort noise (RFC 3389): shows that the peer is alive, carries no audio.
const COMFORT_NOISE: u8 = 13;

/// State that a media thread shares among its lines.
pub(crate) struct ThreadContext {
    pub(crate) batch: Batch,
    pub(crate) stats: MediaStats,
    pub(crate) media_timeout: Duration,
}

pub(crate) struct RtpSession {
    // Both sockets are declared before the reservation, so that they are closed when the ports become free.
    socket: Socket,
    reports: Reports,
    _reserved: ReservedPort,
    events: mpsc::Sender<MediaEvent>,
    pending: VecDeque<MediaEvent>,
    counters: Arc<SharedCounters>,
    dropped: u64,
    remote: Option<Remote>,
    /// Time at which the first remote was set, by the kernel's clock.
    negotiated: Duration,
    source: RtpSource,
    sequence: Sequence,
    detector: Detector,
    phase: PollPhase,
    /// Time for which packets may wait because the visits are that far apart.
    planned_wait: Duration,
    /// The session's packets count towards the engine's totals.
    pub(crate) counted: bool,
    /// Time of the last received packet, or of the start of receiving.
    last_packet: BootInstant,
    timeout_reported: bool,
    recording: Option<Recording>,
    playback: Option<Playback>,
    out: Outgoing,
}

struct Recording {
    recorder: Recorder,
    sink: Arc<dyn ChunkSink>,
}

/// Adapter from the recorder's sink to the caller's.
fn into(sink: &dyn ChunkSink) -> impl FnMut(u64, &[u8]) {
    |offset, bytes| sink.chunk(offset, Bytes::copy_from_slice(bytes))
}

impl RtpSession {
    pub(crate) fn new(
        Pair { rtp, rtcp, reserved }: Pair,
        events: mpsc::Sender<MediaEvent>,
        counters: Arc<SharedCounters>,
        now: BootInstant,
    ) -> Self {
        Self {
            socket: rtp,
            reports: Reports::new(rtcp, now),
            _reserved: reserved,
            events,
            pending: VecDeque::new(),
            counters,
            dropped: 0,
            remote: None,
            negotiated: Duration::ZERO,
            source: RtpSource::new(Terms::new(None, None, false), now),
            sequence: Sequence::default(),
            detector: Detector::default(),
            phase: PollPhase::new(),
            planned_wait: Duration::ZERO,
            counted: true,
            last_packet: now,
            timeout_reported: false,
            recording: None,
            playback: None,
            out: Outgoing::new(now),
        }
    }

    /// Takes received packets and checks timers. Returns the number of slots until the next visit.
    ///
    /// The next visit is 20 ms later, about when the next packet comes. While the session only records, it is a turn of the wheel later:
    /// the recorder places packets by their timestamps, a system call takes four of them, and a key that ends the recording waits for
    /// less than a tenth of a second. A visit that finds many packets is followed by one 20 ms later, since the socket's buffer must not fill.
    pub(crate) fn visit(&mut self, now: BootInstant, context: &mut ThreadContext) -> usize {
        let is_flooded = self.receive(now, ROUNDS, context);
        if let Some(recording) = &mut self.recording {
            let over = recording.recorder.tick(since_boot(now), &mut into(&*recording.sink));
            self.end_if_over(over, &mut context.stats);
        }
        self.check_timeout(now, context);
        self.report(now, context);
        if self.playback.is_none()
            && (self.recording.is_some() || self.out.begun)
            && now.since(self.out.at) >= KEEP_ALIVE
        {
            self.send_frame(now, None, &mut context.stats);
            self.out.in_spurt = false;
        }
        self.flush_events(&mut context.stats);
        self.publish();
        if self.only_records() && !is_flooded {
            self.planned_wait = SLOT * SLOTS as u32;
            // The first visit after the recording begins to look for the time of arrival.
            self.phase = PollPhase::new();
            return SLOTS;
        }
        self.planned_wait = Duration::ZERO;
        match self.phase.visited(now, FRAME_SLOTS as u8) {
            Shift::Stay => FRAME_SLOTS,
            Shift::Later => 1,
            Shift::Earlier => FRAME_SLOTS - 1,
        }
    }

    /// Whether nothing but the recording waits for packets, and the recorder accepts them.
    fn only_records(&self) -> bool {
        self.recording.is_some() && self.playback.is_none() && self.remote.is_some_and(|remote| remote.receive)
    }

    /// Takes the packets received so far, before an order takes effect.
    pub(crate) fn catch_up(&mut self, now: BootInstant, context: &mut ThreadContext) {
        self.receive(now, ALL_ROUNDS, context);
        self.publish();
    }

    /// Takes at most `rounds` times [`BATCH`] datagrams. Returns whether it took [`BATCH`] or more.
    fn receive(&mut self, now: BootInstant, rounds: usize, context: &mut ThreadContext) -> bool {
        // A fast caller's first packets may overtake the order that names the remote side: they wait in the socket's buffer.
        if self.remote.is_none() {
            return false;
        }
        for round in 0..rounds {
            let received = context.batch.receive(&self.socket);
            for datagram in context.batch.datagrams() {
                self.take(now, &datagram, &mut context.stats);
            }
            if received < BATCH {
                return round > 0;
            }
        }
        true
    }

    pub(crate) fn set_remote(&mut self, now: BootInstant, remote: Remote) {
        let received = self.remote.is_some_and(|r| r.receive);
        if self.remote.is_none() {
            self.negotiated = kernel_time();
        }
        let terms = Terms::new(remote.address, remote.signalling, remote.any_host);
        self.source = match self.remote {
            None => RtpSource::new(terms, now),
            Some(_) => self.source.renegotiated(terms, now),
        };
        if remote.receive && !received {
            self.last_packet = now;
            self.timeout_reported = false;
        }
        if let Some(Recording { recorder, .. }) = &mut self.recording {
            if remote.receive {
                recorder.resume(since_boot(now));
            } else {
                recorder.pause();
            }
        }
        self.reports.negotiated(now, &remote);
        self.remote = Some(remote);
    }

    pub(crate) fn play(&mut self, id: u64, clips: Vec<Clip>) {
        self.playback = Some(Playback::new(id, clips));
    }

    pub(crate) fn stop_play(&mut self) {
        self.playback = None;
        self.out.in_spurt = false;
    }

    /// Sends the next frame of the current play, due at `now`. Returns false when nothing plays any more.
    pub(crate) fn play_frame(&mut self, now: BootInstant, stats: &mut MediaStats) -> bool {
        let Some(mut playback) = self.playback.take() else { return false };
        // A caller who speaks and does not listen hears nothing; the play ends in its time all the same.
        let unheard = self.remote.filter(|remote| remote.receive && !remote.send);
        if let Some(remote) = unheard
            && !playback.fill(remote.codec, &mut [remote.codec.silence(); FRAME])
        {
            self.send_event(MediaEvent::PlayFinished(playback.id), stats);
            return false;
        }
        if !self.can_send() {
            // On hold, or without an address: the play continues afterwards.
            self.out.in_spurt = false;
            self.playback = Some(playback);
            return true;
        }
        if self.send_frame(now, Some(&mut playback), stats) {
            self.playback = Some(playback);
            true
        } else {
            self.out.in_spurt = false;
            self.send_event(MediaEvent::PlayFinished(playback.id), stats);
            false
        }
    }

    pub(crate) fn record(&mut self, now: BootInstant, spec: RecordSpec, stats: &mut MediaStats) {
        self.stop_record(stats);
        let samples = |d: Duration| (d.as_millis() as u64).saturating_mul(u64::from(SAMPLE_RATE)) / 1_000;
        let settings = RecorderSettings {
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

    /// Takes the peer's reports, and sends a report when one is due.
    fn report(&mut self, now: BootInstant, context: &mut ThreadContext) {
        let media = Media::of(&self.socket, &self.out, &self.sequence, &self.source);
        if let Some(socket) = self.reports.poll(now) {
            context.batch.receive(socket);
            for datagram in context.batch.datagrams() {
                self.reports.take(&datagram, &media, &mut context.stats.quality);
            }
        }
        self.reports.visit(now, &media, &mut context.stats.quality);
    }

    /// Ends the session: stops its recording and notifies the peer by RTCP.
    pub(crate) fn close(&mut self, now: BootInstant, stats: &mut MediaStats) {
        self.stop_record(stats);
        self.reports.send_bye(
            now,
            &Media::of(&self.socket, &self.out, &self.sequence, &self.source),
            &mut stats.quality,
        );
    }

    fn take(&mut self, now: BootInstant, datagram: &Datagram<'_>, stats: &mut MediaStats) {
        let counter = match self.check_packet(now, datagram, stats) {
            Ok(()) => return,
            Err(Refused::Rtcp) => {
                return self.reports.take(
                    datagram,
                    &Media::of(&self.socket, &self.out, &self.sequence, &self.source),
                    &mut stats.quality,
                );
            }
            Err(Refused::Malformed) => &mut stats.dropped.malformed,
            Err(Refused::Codec) => &mut stats.dropped.codec,
            Err(Refused::Stranger) => &mut stats.dropped.strangers,
            Err(Refused::Held) => &mut stats.dropped.held,
        };
        *counter += 1;
        self.dropped += 1;
    }

    fn check_packet(
        &mut self,
        now: BootInstant,
        datagram: &Datagram<'_>,
        stats: &mut MediaStats,
    ) -> Result<(), Refused> {
        let remote = self.remote.ok_or(Refused::Held)?;
        let packet = match Packet::parse(datagram.bytes) {
            Ok(packet) => packet,
            Err(PacketError::Rtcp) => return Err(Refused::Rtcp),
            Err(_) => return Err(Refused::Malformed),
        };
        let kind = packet.header.payload_type;
        let (codec, digit) = (remote.codec_of(kind), remote.is_dtmf(kind));
        let audio = codec.is_some();
        if !audio && !digit && kind != COMFORT_NOISE {
            return Err(Refused::Codec);
        }
        // Packets that arrive while this side does not receive do not show the source of later audio.
        if !remote.receive {
            return Err(Refused::Held);
        }
        if !self.source.admits(datagram.from, packet.header.ssrc, packet.header.seq, now) {
            return Err(Refused::Stranger);
        }
        self.last_packet = now;
        self.timeout_reported = false;
        stats.received += 1;
        let order = self.sequence.push(packet.header.ssrc, packet.header.seq);
        self.phase.packet(now, if audio { packet.payload.len() } else { FRAME });
        if order == Order::Duplicate {
            return Ok(());
        }
        if digit {
            if let Some(key) = self.detector.push(&packet.header, packet.payload) {
                self.send_event(MediaEvent::Digit(key), stats);
            }
        } else if let Some(codec) = codec {
            self.reports.received(datagram.arrived, &packet.header);
            // Earlier packets have waited for the answer, and not for this thread.
            if datagram.arrived >= self.negotiated {
                stats.lateness.add(waited(datagram.arrived, kernel_time()).saturating_sub(self.planned_wait));
            }
            self.record_packet(now, codec, &packet, stats);
        }
        Ok(())
    }

    fn record_packet(&mut self, now: BootInstant, codec: Codec, packet: &Packet<'_>, stats: &mut MediaStats) {
        let Some(Recording { recorder, sink }) = &mut self.recording else { return };
        let mut scratch = [0; LONGEST];
        // A re-INVITE can change the codec during a recording; the recording keeps its codec.
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

    fn end_if_over(&mut self, over: Option<EndReason>, stats: &mut MediaStats) {
        match over {
            None => {}
            Some(EndReason::Silence) => self.end_recording(StopCause::Silence, stats),
            Some(EndReason::Limit) => self.end_recording(StopCause::Limit, stats),
        }
    }

    fn end_recording(&mut self, cause: StopCause, stats: &mut MediaStats) {
        let Some(Recording { recorder, sink }) = self.recording.take() else { return };
        let codec = recorder.codec();
        let Finished { length, trailing_silence } = recorder.finish(&mut into(&*sink));
        let trailing_silence_ms = trailing_silence * 1_000 / u64::from(SAMPLE_RATE);
        self.send_event(
            MediaEvent::RecordStopped { cause, length_bytes: length, codec, trailing_silence_ms },
            stats,
        );
    }

    fn check_timeout(&mut self, now: BootInstant, context: &mut ThreadContext) {
        // A listening telephone that suppresses silence sends nothing. The timeout starts when the play ends.
        if self.playback.is_some() && self.can_send() {
            self.last_packet = now;
            self.timeout_reported = false;
        }
        let watched =
            !context.media_timeout.is_zero() && !self.timeout_reported && self.remote.is_some_and(|r| r.receive);
        if watched && now.since(self.last_packet) >= context.media_timeout {
            self.timeout_reported = true;
            self.send_event(MediaEvent::MediaTimeout, &mut context.stats);
        }
    }

    fn can_send(&self) -> bool {
        self.remote.is_some_and(|r| r.send) && self.source.destination().is_some()
    }

    /// Sends a frame of the current play, or of silence. Returns false when the play has no more frames.
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
        match self.socket.send_to(&packet, to) {
            Ok(_) => {
                self.out.sent += 1;
                stats.sent += 1;
            }
            Err(_) => stats.send_errors += 1,
        }
        true
    }

    /// Sends an event, or queues it for a slow receiver. Only digits are ever dropped, since a caller can send any
    /// number of them. Without the end of a recording or of a play the call would wait forever.
    fn send_event(&mut self, event: MediaEvent, stats: &mut MediaStats) {
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

/// Reason why a datagram is refused.
enum Refused {
    Malformed,
    Codec,
    Stranger,
    Held,
    /// The datagram is RTCP.
    Rtcp,
}

/// Time of the recorder's clock.
fn since_boot(now: BootInstant) -> Duration {
    Duration::from_nanos(now.as_nanos())
}

#[cfg(test)]
#[path = "../tests/unit/rtp_session.rs"]
mod tests;
