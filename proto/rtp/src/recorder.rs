//! Puts the packets of a stream in their place by RTP timestamp.
//!
//! What is missing is silence, what comes late falls into its place while that is still open, what comes
//! twice is there once. A stream that begins anew (another SSRC, a jump of its clock) goes on where the last
//! one ended. Memory is one small buffer, whatever is received; settled audio leaves by a sink.

use std::time::Duration;

use crate::{
    Codec, SAMPLE_RATE,
    g711::mean_magnitude,
    packet::{Header, RtpTime, SeqNo, Ssrc},
};

/// Bytes of a chunk as the sink gets it: 250 ms.
pub const CHUNK: usize = 2_000;

/// How far behind the newest audio a packet may come and still be placed: 120 ms.
pub const REORDER: u64 = 960;

/// Mean amplitude below which 10 ms count as silence, about -42 dB of full scale.
pub const SILENCE_BELOW: u16 = 256;

/// The stretch over which silence is measured: 10 ms. Chunk and window are multiples of it.
const MEASURE: usize = 80;

/// Buffer: a chunk, the window, and the longest packet there is.
const CAPACITY: usize = 4_608;

/// When nothing has come for this long, the recording grows by itself (a sender that suppresses silence).
const GROW_AFTER: Duration = Duration::from_secs(1);

/// A timestamp that is further ahead than the time passed, by more than this, is a jump: one second.
const JUMP: i64 = SAMPLE_RATE as i64;

/// A packet up to this many numbers behind the newest is late; one further behind is of a stream begun anew.
const STRAGGLERS: i16 = -100;

/// A pause before a stream that begins anew is kept when it is longer than this: below it is jitter. 100 ms.
const RESTART_GAP: u64 = 800;

/// What to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The codec of all payloads pushed.
    pub codec: Codec,
    /// The longest recording, in bytes.
    pub limit: u64,
    /// Silence that ends the recording, in samples.
    pub end_silence: Option<u64>,
}

/// A recording that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Bytes handed to the sink in all.
    pub length: u64,
    /// Samples of silence at the end.
    pub trailing_silence: u64,
}

/// Why a recording is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// [`Settings::end_silence`] has passed.
    Silence,
    /// [`Settings::limit`] is reached.
    Limit,
}

/// A recording in progress. The caller's clock is any that goes forward, always the same.
#[derive(Debug, Clone)]
pub struct Recorder {
    settings: Settings,
    /// Bytes handed to the sink: a multiple of [`CHUNK`].
    base: u64,
    /// The end of the recording so far.
    head: u64,
    /// The audio from `base` to `head`; less than a chunk and the window, outside of a call to us.
    buffer: Box<[u8]>,
    /// Silence is measured up to here; lies between `base` and `head`.
    measured: u64,
    /// Samples of silence before `measured`.
    quiet: u64,
    /// The newest packet, unless the stream has yet to begin.
    anchor: Option<Anchor>,
    /// Where the newest packet ended.
    heard_to: u64,
    /// When it came; at first, when the recording began.
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

enum Place {
    /// New audio.
    Ahead(u64),
    /// Fills a gap, or repeats what is there.
    Behind(u64),
    /// Its place is settled.
    TooLate,
}

/// Takes settled audio: the offset in bytes, and the bytes; in order, without gap or overlap.
pub trait Sink: FnMut(u64, &[u8]) {}
impl<F: FnMut(u64, &[u8])> Sink for F {}

impl Recorder {
    /// Begins. The first packet will be the first audio, unless it comes only after a second.
    pub fn new(settings: Settings, now: Duration) -> Self {
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

    /// Bytes recorded so far, those included that are not settled yet.
    pub fn length(&self) -> u64 {
        self.head
    }

    /// What the sink has not got yet.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[..self.index(self.head)]
    }

    /// Places a packet. While paused it is ignored.
    pub fn push(&mut self, now: Duration, header: &Header, payload: &[u8], sink: &mut impl Sink) -> Option<Over> {
        if payload.is_empty() || self.paused {
            return None;
        }
        match self.locate(now, header) {
            Place::Ahead(offset) => {
                self.place(offset, payload, sink);
                let time = header.time.plus(payload.len() as u32);
                self.anchor = Some(Anchor { ssrc: header.ssrc, seq: header.seq, time });
                self.heard_to = offset + payload.len() as u64;
                self.heard_at = now;
            }
            Place::Behind(offset) => self.place(offset, payload, sink),
            Place::TooLate => {}
        }
        self.over()
    }

    /// Lets time pass: after a second without packets the recording grows by silence.
    pub fn tick(&mut self, now: Duration, sink: &mut impl Sink) -> Option<Over> {
        if self.paused {
            return None;
        }
        let overdue = now.saturating_sub(self.heard_at).saturating_sub(GROW_AFTER);
        if !overdue.is_zero() {
            self.advance(self.heard_to.saturating_add(samples(overdue)), sink);
        }
        self.over()
    }

    /// Stands still, as while the call is on hold.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Goes on where it was paused: the next packet follows what is there, the time between is not recorded.
    pub fn resume(&mut self, now: Duration) {
        if std::mem::take(&mut self.paused) {
            self.anchor = None;
            self.heard_to = self.head;
            self.heard_at = now;
        }
    }

    /// Ends: the rest goes to the sink.
    pub fn finish(mut self, sink: &mut impl Sink) -> Finished {
        self.measure(self.head);
        self.measure_frame((self.head - self.measured) as usize);
        while self.base < self.head {
            self.emit(CHUNK.min(self.index(self.head)), sink);
        }
        Finished { length: self.head, trailing_silence: self.quiet }
    }

    fn locate(&self, now: Duration, header: &Header) -> Place {
        let elapsed = samples(now.saturating_sub(self.heard_at));
        let Some(anchor) = self.anchor else { return Place::Ahead(self.head) };
        let ahead = i64::from(header.time.since(anchor.time));
        let offset = self.heard_to.checked_add_signed(ahead);
        let order = if anchor.ssrc == header.ssrc { header.seq.since(anchor.seq) } else { i16::MIN };
        match order {
            1.. if ahead >= -(REORDER as i64) && ahead <= i64::try_from(elapsed).unwrap_or(i64::MAX) + JUMP => {
                match offset.filter(|&offset| offset >= self.base) {
                    Some(offset) => Place::Ahead(offset),
                    // Silence has grown over its place.
                    None => Place::Ahead(self.restart(elapsed)),
                }
            }
            STRAGGLERS..=0 => match offset.filter(|&offset| offset >= self.base && ahead < 0) {
                Some(offset) => Place::Behind(offset),
                None => Place::TooLate,
            },
            _ => Place::Ahead(self.restart(elapsed)),
        }
    }

    /// Where a stream goes on that cannot be tied to what came before: after the time that has passed.
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

    /// Grows to an offset by silence, within the limit.
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

    /// Measures and hands out what no late packet can change any more.
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

    fn over(&self) -> Option<Over> {
        if self.head >= self.settings.limit {
            Some(Over::Limit)
        } else {
            let silence = self.settings.end_silence?;
            (self.quiet >= silence).then_some(Over::Silence)
        }
    }

    /// Where an offset stands in the buffer.
    fn index(&self, offset: u64) -> usize {
        (offset - self.base) as usize
    }
}

fn samples(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX) / 1_000 * u64::from(SAMPLE_RATE) / 1_000
}
