//! Places the packets of a stream by RTP timestamp.
//!
//! A missing packet becomes silence. A late packet is placed while its position is still open. A duplicate has no
//! effect. A stream that restarts (another SSRC, a jump of its clock) continues at the end of the last one. Memory is
//! one small buffer, whatever is received; settled audio goes to a sink.

use std::time::Duration;

use crate::{
    Codec, SAMPLE_RATE,
    g711::mean_magnitude,
    packet::{Header, RtpTime, SeqNo, Ssrc},
};

/// Bytes of a chunk for the sink: 250 ms.
pub const CHUNK: usize = 2_000;

/// Reorder window: maximum distance of a packet behind the newest audio, in samples (120 ms).
pub const REORDER: u64 = 960;

/// Mean amplitude below which 10 ms count as silence, about -42 dB of full scale.
pub const SILENCE_BELOW: u16 = 256;

/// Frame of the silence measurement, in samples: 10 ms. Chunk and window are multiples of it.
const MEASURE: usize = 80;

/// Size of the buffer in bytes: a chunk, the reorder window, and the longest packet.
const CAPACITY: usize = 4_608;

/// Time without packets after which the recording grows automatically (for a sender that suppresses silence).
const GROW_AFTER: Duration = Duration::from_secs(1);

/// A timestamp ahead of the elapsed time by more than this is a jump: one second, in samples.
const JUMP: i64 = SAMPLE_RATE as i64;

/// A packet up to this many numbers behind the newest is late; an older one belongs to a restarted stream.
const STRAGGLERS: i16 = -100;

/// A pause before a restarted stream is recorded if longer than this; shorter is jitter. 100 ms, in samples.
const RESTART_GAP: u64 = 800;

/// Settings of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecorderSettings {
    /// Codec of all payloads.
    pub codec: Codec,
    /// Maximum length, in bytes.
    pub limit: u64,
    /// Silence that ends the recording, in samples.
    pub end_silence: Option<u64>,
}

/// Result of a finished recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Total bytes handed to the sink.
    pub length: u64,
    /// Samples of silence at the end.
    pub trailing_silence: u64,
}

/// Reason for the end of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// [`RecorderSettings::end_silence`] has passed.
    Silence,
    /// [`RecorderSettings::limit`] is reached.
    Limit,
}

/// A recording in progress. The caller's clock must be monotonic and always the same.
#[derive(Debug, Clone)]
pub struct Recorder {
    settings: RecorderSettings,
    /// Bytes handed to the sink: a multiple of [`CHUNK`].
    base: u64,
    /// End of the recording so far.
    head: u64,
    /// Audio from `base` to `head`; between calls shorter than a chunk plus the reorder window.
    buffer: Box<[u8]>,
    /// End of the silence measurement, between `base` and `head`.
    measured: u64,
    /// Samples of silence before `measured`.
    quiet: u64,
    /// The newest packet; `None` before the stream starts.
    anchor: Option<Anchor>,
    /// End of the newest packet.
    heard_to: u64,
    /// Arrival time of the newest packet; at first the start of the recording.
    heard_at: Duration,
    paused: bool,
}

/// Ties a stream to the recording: `time` is the sample at `heard_to`.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    ssrc: Ssrc,
    seq: SeqNo,
    time: RtpTime,
}

enum PacketPosition {
    /// New audio.
    Ahead(u64),
    /// Fills a gap, or repeats existing audio.
    Behind(u64),
    /// The position is already settled.
    TooLate,
}

/// Receives settled audio: offset in bytes, and the bytes; in order, without gap or overlap.
pub trait Sink: FnMut(u64, &[u8]) {}
impl<F: FnMut(u64, &[u8])> Sink for F {}

impl Recorder {
    /// Starts a recording. The first packet is the first audio, unless it arrives after more than a second.
    pub fn new(settings: RecorderSettings, now: Duration) -> Self {
        Self {
            settings,
            base: 0,
            head: 0,
            buffer: vec![settings.codec.silence(); CAPACITY].into_boxed_slice(),
            measured: 0,
            quiet: 0,
            anchor: None,
            heard_to: 0,
            heard_at: now,
            paused: false,
        }
    }

    /// The codec of the recording.
    pub fn codec(&self) -> Codec {
        self.settings.codec
    }

    /// Bytes recorded so far, including those not settled yet.
    pub fn length(&self) -> u64 {
        self.head
    }

    /// Audio that the sink has not received yet.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[..self.index(self.head)]
    }

    /// Places a packet; ignores it while paused.
    pub fn push(
        &mut self,
        now: Duration,
        header: &Header,
        payload: &[u8],
        sink: &mut impl Sink,
    ) -> Option<EndReason> {
        if payload.is_empty() || self.paused {
            return None;
        }
        match self.locate(now, header) {
            PacketPosition::Ahead(offset) => {
                self.place(offset, payload, sink);
                let time = header.time.plus(payload.len() as u32);
                self.anchor = Some(Anchor { ssrc: header.ssrc, seq: header.seq, time });
                self.heard_to = offset + payload.len() as u64;
                self.heard_at = now;
            }
            PacketPosition::Behind(offset) => self.place(offset, payload, sink),
            PacketPosition::TooLate => {}
        }
        self.end_reason()
    }

    /// Advances the time: after a second without packets the recording grows by silence.
    pub fn tick(&mut self, now: Duration, sink: &mut impl Sink) -> Option<EndReason> {
        if self.paused {
            return None;
        }
        let overdue = now.saturating_sub(self.heard_at).saturating_sub(GROW_AFTER);
        if !overdue.is_zero() {
            self.advance(self.heard_to.saturating_add(samples(overdue)), sink);
        }
        self.end_reason()
    }

    /// Pauses the recording, for example while the call is on hold.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Resumes the recording: the next packet follows the existing audio; the pause is not recorded.
    pub fn resume(&mut self, now: Duration) {
        if std::mem::take(&mut self.paused) {
            self.anchor = None;
            self.heard_to = self.head;
            self.heard_at = now;
        }
    }

    /// Finishes: the remaining audio goes to the sink.
    pub fn finish(mut self, sink: &mut impl Sink) -> Finished {
        self.measure(self.head);
        self.measure_frame((self.head - self.measured) as usize);
        while self.base < self.head {
            self.emit(CHUNK.min(self.index(self.head)), sink);
        }
        Finished { length: self.head, trailing_silence: self.quiet }
    }

    fn locate(&self, now: Duration, header: &Header) -> PacketPosition {
        let elapsed = samples(now.saturating_sub(self.heard_at));
        let Some(anchor) = self.anchor else { return PacketPosition::Ahead(self.head) };
        let ahead = i64::from(header.time.since(anchor.time));
        let offset = self.heard_to.checked_add_signed(ahead);
        let order = if anchor.ssrc == header.ssrc { header.seq.since(anchor.seq) } else { i16::MIN };
        match order {
            1.. if ahead >= -(REORDER as i64) && ahead <= i64::try_from(elapsed).unwrap_or(i64::MAX) + JUMP => {
                match offset.filter(|&offset| offset >= self.base) {
                    Some(offset) => PacketPosition::Ahead(offset),
                    // Silence has already been settled at its position.
                    None => PacketPosition::Ahead(self.restart(elapsed)),
                }
            }
            STRAGGLERS..=0 => match offset.filter(|&offset| offset >= self.base && ahead < 0) {
                Some(offset) => PacketPosition::Behind(offset),
                None => PacketPosition::TooLate,
            },
            _ => PacketPosition::Ahead(self.restart(elapsed)),
        }
    }

    /// Start of a restarted stream: the end of the last one plus the elapsed time.
    fn restart(&self, elapsed: u64) -> u64 {
        let gap = if elapsed > RESTART_GAP { elapsed } else { 0 };
        (self.heard_to + gap).max(self.base)
    }

    /// Writes audio at an offset that is not settled.
    fn place(&mut self, offset: u64, payload: &[u8], sink: &mut impl Sink) {
        self.advance(offset, sink);
        let mut at = offset.max(self.base);
        let skip = usize::try_from(at - offset).unwrap_or(usize::MAX);
        let room = usize::try_from(self.settings.limit.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut rest = payload.get(skip..).unwrap_or_default();
        rest = &rest[..rest.len().min(room)];
        while !rest.is_empty() {
            let index = self.index(at);
            let (now, later) = rest.split_at(rest.len().min(CAPACITY - index));
            self.buffer[index..index + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            self.head = self.head.max(at);
            self.settle(sink);
            rest = later;
        }
    }

    /// Extends the recording with silence up to an offset, within the limit.
    fn advance(&mut self, to: u64, sink: &mut impl Sink) {
        let to = to.min(self.settings.limit);
        while self.head < to {
            let end = to.min(self.base + CAPACITY as u64);
            let (from, until) = (self.index(self.head), self.index(end));
            self.buffer[from..until].fill(self.settings.codec.silence());
            self.head = end;
            self.settle(sink);
        }
    }

    /// Measures and emits audio that no late packet can change any more.
    fn settle(&mut self, sink: &mut impl Sink) {
        self.measure(self.head.saturating_sub(REORDER));
        while self.index(self.head) >= CHUNK + REORDER as usize {
            self.emit(CHUNK, sink);
            self.measure(self.head.saturating_sub(REORDER));
        }
    }

    fn emit(&mut self, bytes: usize, sink: &mut impl Sink) {
        let filled = self.index(self.head);
        sink(self.base, &self.buffer[..bytes]);
        self.buffer.copy_within(bytes..filled, 0);
        self.base += bytes as u64;
    }

    fn measure(&mut self, up_to: u64) {
        while self.measured + MEASURE as u64 <= up_to {
            self.measure_frame(MEASURE);
        }
    }

    fn measure_frame(&mut self, bytes: usize) {
        let from = self.index(self.measured);
        let frame = &self.buffer[from..from + bytes];
        let quiet = mean_magnitude(self.settings.codec, frame) < SILENCE_BELOW;
        self.quiet = if quiet { self.quiet + bytes as u64 } else { 0 };
        self.measured += bytes as u64;
    }

    fn end_reason(&self) -> Option<EndReason> {
        if self.head >= self.settings.limit {
            Some(EndReason::Limit)
        } else {
            let silence = self.settings.end_silence?;
            (self.quiet >= silence).then_some(EndReason::Silence)
        }
    }

    /// Buffer index of an offset.
    fn index(&self, offset: u64) -> usize {
        (offset - self.base) as usize
    }
}

fn samples(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX) / 1_000 * u64::from(SAMPLE_RATE) / 1_000
}
