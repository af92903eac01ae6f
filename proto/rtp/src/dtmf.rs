//! Digits as RTP telephone-events (RFC 4733): payload, detector, and sequence of a key press.

use crate::{
    FRAME,
    packet::{Header, RtpTime, Ssrc},
};

/// The payload of a telephone-event packet (RFC 4733 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Event code; 0 to 15 are the keys.
    pub code: u8,
    /// The key was released.
    pub end: bool,
    /// Power in -dBm0, 0 to 63.
    pub volume: u8,
    /// Duration of the key press so far, in samples.
    pub duration: u16,
}

const KEYS: &[u8; 16] = b"0123456789*#ABCD";

/// The key of an event code; `None` for other events, such as a flash hook.
pub fn key(code: u8) -> Option<char> {
    KEYS.get(usize::from(code)).copied().map(char::from)
}

/// The event code of a key; case-insensitive.
pub fn code(key: char) -> Option<u8> {
    let key = u8::try_from(key).ok()?.to_ascii_uppercase();
    KEYS.iter().position(|&k| k == key).map(|i| i as u8)
}

impl Event {
    /// Parses a payload; `None` if too short. Of several events (redundancy, RFC 2198) only the first is used.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<4>()?;
        Some(Self {
            code: bytes[0],
            end: bytes[1] & 0x80 != 0,
            volume: bytes[1] & 0x3f,
            duration: u16::from_be_bytes([bytes[2], bytes[3]]),
        })
    }

    /// The encoded payload.
    pub fn to_bytes(self) -> [u8; 4] {
        let [high, low] = self.duration.to_be_bytes();
        [self.code, (u8::from(self.end) << 7) | (self.volume & 0x3f), high, low]
    }
}

/// Payloads of one key press, to be sent 20 ms apart, all with the timestamp of its start: growing durations up to
/// `samples`, then the end three times (RFC 4733 section 2.5.1.4).
pub fn press(code: u8, samples: u16) -> impl Iterator<Item = Event> + Clone {
    let event = move |duration, end| Event { code, end, volume: 10, duration };
    let growing = (1..).map(|n: u16| n.saturating_mul(FRAME as u16)).take_while(move |&d| d < samples);
    growing.map(move |d| event(d, false)).chain([event(samples, true); 3])
}

/// Converts packets to key presses: one per event, even if packets are lost, duplicated or late.
///
/// A key is reported at the first received packet of its event. The timestamp identifies the event.
#[derive(Debug, Clone, Default)]
pub struct Detector {
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    ssrc: Ssrc,
    time: RtpTime,
    event: Event,
}

impl Detector {
    /// Takes a telephone-event packet; returns the key if the packet is the first of its event.
    pub fn push(&mut self, header: &Header, payload: &[u8]) -> Option<char> {
        let event = Event::parse(payload)?;
        let this = Last { ssrc: header.ssrc, time: header.time, event };
        if let Some(last) = &mut self.last
            && last.ssrc == header.ssrc
        {
            let after = header.time.since(last.time);
            if after == 0 {
                last.event.end |= event.end;
                last.event.duration = last.event.duration.max(event.duration);
                return None;
            }
            // A late packet of an earlier event. If it is further behind, the sender's clock was reset.
            if (-STRAGGLER..0).contains(&after) {
                return None;
            }
            if last.goes_on_as(header, event, after) {
                self.last = Some(this);
                return None;
            }
        }
        self.last = Some(this);
        key(event.code)
    }
}

/// Maximum distance of a late packet of an earlier event, in samples: ten seconds.
const STRAGGLER: i32 = 80_000;

impl Last {
    /// Whether a packet with a later timestamp belongs to the same key press.
    fn goes_on_as(&self, header: &Header, event: Event, after: i32) -> bool {
        if self.event.end || header.marker || event.code != self.event.code {
            return false;
        }
        // A press longer than the duration field continues in a new segment (RFC 4733 section 2.5.1.3).
        let segment = after == i32::from(u16::MAX);
        // Some senders use the packet's time as timestamp instead of the start of the press: both grow equally. A new
        // press starts after the end of the last one, and its duration restarts.
        let creeping = after == i32::from(event.duration) - i32::from(self.event.duration);
        segment || creeping
    }
}
