//! Report data of a received stream: loss (RFC 3550 appendix A.3) and jitter (appendix A.8); and evaluation of a peer's
//! reports about a sent stream.

use std::time::Duration;

use super::{Block, Ntp, ShortNtp};
use crate::{
    SAMPLE_RATE,
    packet::{RtpTime, SeqNo, Ssrc},
    sequence::Extent,
};

/// Interarrival jitter (RFC 3550 section 6.4.1, with the integer arithmetic of appendix A.8).
#[derive(Debug, Clone, Copy, Default)]
pub struct Jitter {
    /// Arrival minus timestamp of the previous packet, in timestamp units, modulo 2^32.
    transit: Option<u32>,
    /// Sixteen times the jitter.
    scaled: u32,
}

impl Jitter {
    /// A larger change of the transit is a jump of a timestamp or a clock: 10 s.
    const JUMP: u32 = 10 * SAMPLE_RATE;

    /// Takes a packet that arrived at `arrived`, on a clock with any start.
    pub fn packet(&mut self, arrived: Duration, time: RtpTime) {
        let arrived = (arrived.as_micros() * u128::from(SAMPLE_RATE) / 1_000_000) as u32;
        let transit = arrived.wrapping_sub(time.0);
        let Some(before) = self.transit.replace(transit) else { return };
        let difference = transit.wrapping_sub(before).cast_signed().unsigned_abs();
        if difference <= Self::JUMP {
            self.scaled = (self.scaled + difference).saturating_sub((self.scaled + 8) >> 4);
        }
    }

    /// Jitter in timestamp units.
    pub fn units(&self) -> u32 {
        self.scaled >> 4
    }

    /// Jitter as a duration.
    pub fn duration(&self) -> Duration {
        units_to_duration(self.units())
    }
}

pub(crate) fn units_to_duration(units: u32) -> Duration {
    Duration::from_micros(u64::from(units) * 1_000_000 / u64::from(SAMPLE_RATE))
}

/// Packet counts of one interval between reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interval {
    /// Packets expected by the sequence numbers.
    pub expected: u32,
    /// Expected packets that did not arrive.
    pub lost: u32,
}

/// State of a received stream, for outgoing reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reception {
    ssrc: Option<Ssrc>,
    jitter: Jitter,
    /// Extent of the stream at the last report.
    reported: Option<Extent>,
    /// The stream's last sender report, and its arrival time.
    sender_report: Option<(ShortNtp, Duration)>,
}

impl Reception {
    /// Takes an audio packet that is not a duplicate; `arrived` is the time since the Unix epoch.
    pub fn packet(&mut self, arrived: Duration, ssrc: Ssrc, time: RtpTime) {
        if self.ssrc != Some(ssrc) {
            *self = Self { ssrc: Some(ssrc), ..Self::default() };
        }
        self.jitter.packet(arrived, time);
    }

    /// Takes the stream's sender report; ignores those of other streams.
    pub fn sender_report(&mut self, arrived: Duration, from: Ssrc, ntp: Ntp) {
        if self.ssrc == Some(from) {
            self.sender_report = Some((ntp.middle(), arrived));
        }
    }

    /// SSRC of the received stream.
    pub fn ssrc(&self) -> Option<Ssrc> {
        self.ssrc
    }

    /// Current jitter.
    pub fn jitter(&self) -> Duration {
        self.jitter.duration()
    }

    /// The block for a report at `now`, with the interval since the last one; `None` if no packet arrived since.
    pub fn report(&mut self, now: Duration, extent: Option<Extent>) -> Option<(Block, Interval)> {
        let extent = extent.filter(|extent| Some(extent.ssrc) == self.ssrc)?;
        let before = self.reported.filter(|before| extent.continues(before));
        let (expected, received) = before.map_or((0, 0), |before| (before.expected(), before.received));
        let expected = extent.expected().wrapping_sub(expected);
        let received = extent.received.wrapping_sub(received);
        if received == 0 {
            return None;
        }
        self.reported = Some(extent);
        let lost = expected.saturating_sub(received);
        let (last_report, since_last_report) = match self.sender_report {
            Some((ntp, arrived)) => (ntp, ShortNtp::from_duration(now.saturating_sub(arrived))),
            None => Default::default(),
        };
        let block = Block {
            ssrc: extent.ssrc.0,
            fraction_lost: (u64::from(lost) * 256).checked_div(u64::from(expected)).unwrap_or(0).min(255) as u8,
            lost: extent.expected().wrapping_sub(extent.received).cast_signed(),
            highest: extent.highest,
            jitter: self.jitter.units(),
            last_report,
            since_last_report,
        };
        Some((block, Interval { expected, lost }))
    }
}

/// State of a sent stream, by the peer's reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transmission {
    /// Number of packets from the first to the highest received by the peer, and the total number of lost packets.
    reported: Option<(u32, i32)>,
}

impl Transmission {
    /// Takes a block about a sent stream, which started with `first` and has `sent` packets so far. `None` if the
    /// highest number goes back, or exceeds the sent packets: the block is then forged, or about an earlier stream.
    pub fn report(&mut self, block: &Block, first: SeqNo, sent: u64) -> Option<Interval> {
        let reached = block.highest.wrapping_sub(u32::from(first.0)).wrapping_add(1);
        let (before, lost_before) = self.reported.unwrap_or_default();
        let expected = reached.checked_sub(before).filter(|_| u64::from(reached) <= sent)?;
        self.reported = Some((reached, block.lost));
        let lost = u32::try_from(block.lost.saturating_sub(lost_before)).unwrap_or(0).min(expected);
        Some(Interval { expected, lost })
    }
}
