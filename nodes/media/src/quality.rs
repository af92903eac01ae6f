//! What RTCP tells of the quality of calls, for `/metrics`.

use std::time::Duration;

use twinbox_rtp::rtcp::Interval;

use crate::Lateness;

/// Totals of all reports, sent and received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quality {
    /// Compound packets sent.
    pub reports_sent: u64,
    /// Compound packets taken.
    pub reports_received: u64,
    /// Datagrams on RTCP ports that are no compound packets, or not of the session's peer.
    pub reports_refused: u64,
    /// Streams that we receive, as we measure them.
    pub inbound: StreamQuality,
    /// Streams that we send, as peers report of them.
    pub outbound: StreamQuality,
    /// From sending a report to receiving the answer, without the time that the peer held it.
    pub round_trip: Lateness,
}

/// Streams of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamQuality {
    /// Packets that the sequence numbers say were sent.
    pub expected: u64,
    /// Those of them that did not come.
    pub lost: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1), one value for each report.
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
