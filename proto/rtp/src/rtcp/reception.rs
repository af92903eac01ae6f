//! What is reported of a stream that we receive, loss (RFC 3550 appendix A.3) and jitter (appendix A.8), and what a peer
//! reports of ours.

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
    /// Arrival minus timestamp of the packet before, in timestamp units, modulo 2^32.
    transit: Option<u32>,
    /// Sixteen times the jitter.
    scaled: u32,
}

impl Jitter {
    /// A transit that differs by more is a timestamp or a clock that jumped: 10 s.
    const JUMP: u32 = 10 * SAMPLE_RATE;

    /// Takes a packet that arrived at `arrived` by a clock of any beginning.
    pub fn packet(&mut self, arrived: Duration, time: RtpTime) {
        let arrived = (arrived.as_micros() * u128::from(SAMPLE_RATE) / 1_000_000) as u32;
        let transit = arrived.wrapping_sub(time.0);
        let Some(before) = self.transit.replace(transit) else { return };
        let difference = transit.wrapping_sub(before).cast_signed().unsigned_abs();
        if difference <= Self::JUMP {
            self.scaled = (self.scaled + difference).saturating_sub((self.scaled + 8) >> 4);
        }
    }

    /// In timestamp units.
    pub fn units(&self) -> u32 {
        self.scaled >> 4
    }

    /// As a time.
    pub fn duration(&self) -> Duration {
        units_to_duration(self.units())
    }
}

pub(crate) fn units_to_duration(units: u32) -> Duration {
    Duration::from_micros(u64::from(units) * 1_000_000 / u64::from(SAMPLE_RATE))
}

/// Packets of one interval between reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interval {
    /// Packets that the sequence numbers say were sent.
    pub expected: u32,
    /// Those of them that did not come.
    pub lost: u32,
}

/// A stream that we receive, as our reports tell of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reception {
    ssrc: Option<Ssrc>,
    jitter: Jitter,
    /// The stream as of the last report.
    reported: Option<Extent>,
    /// The stream's last sender report, and when it came.
    sender_report: Option<(ShortNtp, Duration)>,
}

impl Reception {
    /// Takes a packet of audio that is no duplicate; `arrived` is since the Unix epoch.
    pub fn packet(&mut self, arrived: Duration, ssrc: Ssrc, time: RtpTime) {
        if self.ssrc != Some(ssrc) {
            *self = Self { ssrc: Some(ssrc), ..Self::default() };
        }
        self.jitter.packet(arrived, time);
    }

    /// Takes the stream's sender report; those of other streams are left.
    pub fn sender_report(&mut self, arrived: Duration, from: Ssrc, ntp: Ntp) {
        if self.ssrc == Some(from) {
            self.sender_report = Some((ntp.middle(), arrived));
        }
    }

    /// The stream that is received.
    pub fn ssrc(&self) -> Option<Ssrc> {
        self.ssrc
    }

    /// Jitter as it is now.
    pub fn jitter(&self) -> Duration {
        self.jitter.duration()
    }

    /// The block for a report at `now`, with the interval since the last one; `None` when nothing has come since.
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

/// A stream that we send, as the peer's reports tell of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transmission {
    /// The highest number that the peer has received, counted from the first, and the packets lost in all.
    reported: Option<(u32, i32)>,
}

impl Transmission {
    /// Takes a block about our stream, which began with `first` and has `sent` packets by now. `None` when it goes back, or
    /// beyond what was sent: made up, or about a stream before this one.
    pub fn report(&mut self, block: &Block, first: SeqNo, sent: u64) -> Option<Interval> {
        let reached = block.highest.wrapping_sub(u32::from(first.0)).wrapping_add(1);
        let (before, lost_before) = self.reported.unwrap_or_default();
        let expected = reached.checked_sub(before).filter(|_| u64::from(reached) <= sent)?;
        self.reported = Some((reached, block.lost));
        let lost = u32::try_from(block.lost.saturating_sub(lost_before)).unwrap_or(0).min(expected);
        Some(Interval { expected, lost })
    }
}
