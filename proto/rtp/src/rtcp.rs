//! RTCP (RFC 3550 section 6): sender and receiver reports, SDES with a CNAME, BYE, in compound packets.
//!
//! [`Compound::parse`] parses received packets, [`Report::write`] writes reports. Neither allocates.

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

/// Length of a report block in bytes; then that of the sender information.
const BLOCK: usize = 24;
const SENDER: usize = 20;

/// NTP time: seconds since 1900 and their fraction, 32 bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ntp(pub u64);

/// Seconds from the NTP epoch to the Unix epoch.
const UNIX_EPOCH: u64 = 2_208_988_800;

impl Ntp {
    /// Converts a time since the Unix epoch. Seconds wrap in 2036, by the NTP format.
    pub fn from_unix(since: Duration) -> Self {
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        Self((since.as_secs().wrapping_add(UNIX_EPOCH) << 32) | fraction)
    }

    /// The middle 32 bits, the format of times in reports.
    pub fn middle(self) -> ShortNtp {
        ShortNtp((self.0 >> 16) as u32)
    }
}

/// A time or a duration in units of 1/65,536 s; times wrap after 18 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShortNtp(pub u32);

impl ShortNtp {
    /// Converts a duration, 18 hours at most.
    pub fn from_duration(time: Duration) -> Self {
        Self(u32::try_from((time.as_nanos() << 16) / 1_000_000_000).unwrap_or(u32::MAX))
    }

    fn duration(units: u32) -> Duration {
        Duration::from_nanos((u64::from(units) * 1_000_000_000) >> 16)
    }
}

/// A sender's report about its own stream (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// Time of the report.
    pub ntp: Ntp,
    /// The same time as RTP timestamp of the stream.
    pub time: RtpTime,
    /// RTP packets sent, modulo 2^32.
    pub packets: u32,
    /// Payload bytes sent, modulo 2^32.
    pub octets: u32,
}

/// A receiver's report about a stream (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block {
    /// SSRC of the stream.
    pub ssrc: u32,
    /// Share of lost packets among those expected since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Total packets lost, -8,388,608 to 8,388,607; negative if more arrived, with duplicates, than were expected.
    pub lost: i32,
    /// Highest sequence number received, with the number of its wraps in the upper 16 bits.
    pub highest: u32,
    /// Interarrival jitter, in timestamp units.
    pub jitter: u32,
    /// Middle bits of the NTP time of the stream's last sender report; 0 if there was none.
    pub last_report: ShortNtp,
    /// Time from the arrival of that report to this block.
    pub since_last_report: ShortNtp,
}

/// Maximum round-trip time: a larger value means that a clock was set, or a forged report.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(10);

impl Block {
    /// Jitter as a duration.
    pub fn jitter_time(&self) -> Duration {
        reception::units_to_duration(self.jitter)
    }

    /// Round-trip time, from a block about a sent stream that arrived at `arrived` (RFC 3550 section 6.4.1). `None` if
    /// the receiver has received no report, or the numbers are inconsistent.
    pub fn round_trip(&self, arrived: Ntp) -> Option<Duration> {
        let Self { last_report, since_last_report, .. } = self;
        let units = arrived.middle().0.wrapping_sub(last_report.0).wrapping_sub(since_last_report.0);
        let round_trip = ShortNtp::duration(units);
        (last_report.0 != 0 && round_trip <= LONGEST_ROUND_TRIP).then_some(round_trip)
    }
}

/// A participant's name for the duration of its session (RFC 7022 section 4.2): 96 random bits in 16 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cname([u8; Self::LENGTH]);

impl Cname {
    /// Length of a name in bytes.
    pub const LENGTH: usize = 16;

    /// The name made from these random bytes; six bits of each are used.
    pub fn from_random(random: [u8; Self::LENGTH]) -> Self {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        Self(random.map(|byte| ALPHABET[usize::from(byte & 0x3f)]))
    }
}

/// Time until the next report (RFC 3550 section 6.3.1), for `random` uniformly distributed over 0 to 1.
///
/// In a session of two participants the RTCP share of G.711's bandwidth would allow more than a report per second, so
/// the minimum applies: 5 s, half of it before the first report, multiplied by 0.5 to 1.5, and divided by e - 3/2. The
/// result is 2.1 to 6.2 s, and 1.0 to 3.1 s before the first report.
pub fn interval(first: bool, random: f64) -> Duration {
    const MINIMUM_S: f64 = 5.0;
    const COMPENSATION: f64 = std::f64::consts::E - 1.5;
    let minimum = if first { MINIMUM_S / 2.0 } else { MINIMUM_S };
    Duration::from_secs_f64(minimum * (0.5 + random.clamp(0.0, 1.0)) / COMPENSATION)
}

/// Whether the packet type is RTCP, on a port shared with RTP (RFC 5761 section 4).
pub fn is_rtcp(datagram: &[u8]) -> bool {
    matches!(datagram, [first, 192..=223, ..] if first >> 6 == 2)
}

fn word(ssrc: Ssrc) -> [u8; 4] {
    ssrc.0.to_be_bytes()
}
