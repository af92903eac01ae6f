//! RTCP (RFC 3550 section 6): sender and receiver reports, SDES with a CNAME, BYE, in compound packets.
//!
//! [`Compound::parse`] reads what a peer sends, [`Report::write`] writes ours. Nothing is allocated.

mod read;
mod reception;
mod write;

use std::time::Duration;

pub use read::{Blocks, Compound, Part, RtcpError};
pub use reception::{Interval, Jitter, Reception, Transmission};
pub use write::{LONGEST, Report};

use crate::packet::{RtpTime, Ssrc};

/// Packet types (RFC 3550 section 12.1).
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SDES: u8 = 202;
const BYE: u8 = 203;

/// Bytes of a report block, and of the sender information.
const BLOCK: usize = 24;
const SENDER: usize = 20;

/// A moment as NTP counts: seconds since 1900 and their fraction, 32 bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ntp(pub u64);

/// Seconds from NTP's beginning to that of Unix.
const UNIX_EPOCH: u64 = 2_208_988_800;

impl Ntp {
    /// The moment at this distance from the Unix epoch. Seconds wrap in 2036, as those of all do.
    pub fn from_unix(since: Duration) -> Self {
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        Self((since.as_secs().wrapping_add(UNIX_EPOCH) << 32) | fraction)
    }

    /// The middle 32 bits, as reports refer to a moment.
    pub fn middle(self) -> ShortNtp {
        ShortNtp((self.0 >> 16) as u32)
    }
}

/// A moment or a time in units of 1/65,536 s; moments wrap after 18 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShortNtp(pub u32);

impl ShortNtp {
    /// A time, 18 hours at most.
    pub fn from_duration(time: Duration) -> Self {
        Self(u32::try_from((time.as_nanos() << 16) / 1_000_000_000).unwrap_or(u32::MAX))
    }

    fn duration(units: u32) -> Duration {
        Duration::from_nanos((u64::from(units) * 1_000_000_000) >> 16)
    }
}

/// What a sender reports of its own stream (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// When the report was sent.
    pub ntp: Ntp,
    /// The same moment in the timestamps of its stream.
    pub time: RtpTime,
    /// RTP packets sent, modulo 2^32.
    pub packets: u32,
    /// Bytes of payload sent, modulo 2^32.
    pub octets: u32,
}

/// What a receiver reports of a stream (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block {
    /// The stream.
    pub ssrc: u32,
    /// Packets lost of those expected since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost in all, -8,388,608 to 8,388,607; negative when more came, with duplicates, than were expected.
    pub lost: i32,
    /// The highest sequence number received, with the number of its wraps above it.
    pub highest: u32,
    /// Interarrival jitter in timestamp units.
    pub jitter: u32,
    /// The middle of the NTP time of the stream's last sender report; 0 when there was none.
    pub last_report: ShortNtp,
    /// How long before this block that report came.
    pub since_last_report: ShortNtp,
}

/// A round trip of more than this is none: a clock was set, or the report is made up.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(10);

impl Block {
    /// Jitter as a time.
    pub fn jitter_time(&self) -> Duration {
        reception::units_to_duration(self.jitter)
    }

    /// The round-trip time, for a block about a stream of ours that arrived at `arrived` (RFC 3550 section 6.4.1).
    /// `None` when the receiver has seen no report of ours, or the numbers do not fit each other.
    pub fn round_trip(&self, arrived: Ntp) -> Option<Duration> {
        let Self { last_report, since_last_report, .. } = self;
        let units = arrived.middle().0.wrapping_sub(last_report.0).wrapping_sub(since_last_report.0);
        let round_trip = ShortNtp::duration(units);
        (last_report.0 != 0 && round_trip <= LONGEST_ROUND_TRIP).then_some(round_trip)
    }
}

/// A participant's name for as long as its session lasts (RFC 7022 section 4.2): 96 random bits in 16 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cname([u8; Self::LENGTH]);

impl Cname {
    /// Bytes of a name.
    pub const LENGTH: usize = 16;

    /// The name made of these random bytes; six bits of each count.
    pub fn from_random(random: [u8; Self::LENGTH]) -> Self {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        Self(random.map(|byte| ALPHABET[usize::from(byte & 0x3f)]))
    }
}

/// The time until the next report (RFC 3550 section 6.3.1), for `random` evenly spread over 0 to 1.
///
/// In a session of two the share of RTCP in the bandwidth of G.711 would allow more than a report a second, so that the
/// minimum decides: 5 s, half of it before the first report, spread over a half to one and a half of it, and divided by
/// e - 3/2. That is 2.1 to 6.2 s, and 1.0 to 3.1 s before the first.
pub fn interval(first: bool, random: f64) -> Duration {
    const MINIMUM_S: f64 = 5.0;
    const COMPENSATION: f64 = std::f64::consts::E - 1.5;
    let minimum = if first { MINIMUM_S / 2.0 } else { MINIMUM_S };
    Duration::from_secs_f64(minimum * (0.5 + random.clamp(0.0, 1.0)) / COMPENSATION)
}

/// The packet's type says that it is RTCP, where both share a port (RFC 5761 section 4).
pub fn is_rtcp(datagram: &[u8]) -> bool {
    matches!(datagram, [first, 192..=223, ..] if first >> 6 == 2)
}

fn word(ssrc: Ssrc) -> [u8; 4] {
    ssrc.0.to_be_bytes()
}
