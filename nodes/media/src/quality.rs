//! Call quality from RTCP, for `/metrics`.

use std::time::Duration;

use twinbox_rtp::rtcp::Interval;

use crate::Lateness;

/// Totals of all reports, sent and received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quality {
    /// Compound packets sent.
    pub reports_sent: u64,
    /// Compound packets accepted.
    pub reports_received: u64,
    /// Datagrams on RTCP ports that are not compound packets, or not from the session's peer.
    pub reports_refused: u64,
    /// Received streams, as measured here.
    pub inbound: StreamQuality,
    /// Sent streams, as reported by peers.
    pub outbound: StreamQuality,
    /// Time from sending a report to receiving the answer, without the peer's processing time.
    pub round_trip: Lateness,
}

/// Streams of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamQuality {
    /// Packets expected by the sequence numbers.
    pub expected: u64,
    /// Expected packets that did not arrive.
    pub lost: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1), one value per report.
    pub jitter: Lateness,
}

impl StreamQuality {
    pub(crate) fn add(&mut self, interval: Interval, jitter: Duration) {
        self.expected += u64::from(interval.expected);
        self.lost += u64::from(interval.lost);
        self.jitter.add(jitter);
    }

    fn merge(&mut self, other: &Self) {
        self.expected += other.expected;
        self.lost += other.lost;
        self.jitter.merge(&other.jitter);
    }
}

impl Quality {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.reports_sent += other.reports_sent;
        self.reports_received += other.reports_received;
        self.reports_refused += other.reports_refused;
        self.inbound.merge(&other.inbound);
        self.outbound.merge(&other.outbound);
        self.round_trip.merge(&other.round_trip);
    }
}
