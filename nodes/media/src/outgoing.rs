//! The sent stream: its sequence numbers and timestamps, and the data for its sender reports.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_rtp::{
    FRAME, SAMPLE_RATE,
    packet::{Header, RtpTime, SeqNo, Ssrc},
    rtcp::{Ntp, SenderInfo},
};

pub(crate) struct Outgoing {
    pub(crate) ssrc: Ssrc,
    /// Sequence number of the first packet.
    pub(crate) first: SeqNo,
    seq: SeqNo,
    /// Timestamp of the next sample, due at `at`.
    time: RtpTime,
    pub(crate) at: BootInstant,
    /// The previous frame was sent directly before the next one is due.
    pub(crate) in_spurt: bool,
    /// At least one packet has been sent.
    pub(crate) begun: bool,
    /// Packets sent.
    pub(crate) sent: u64,
}

impl Outgoing {
    pub(crate) fn new(now: BootInstant) -> Self {
        let first = SeqNo(rand::random());
        Self {
            ssrc: Ssrc(rand::random()),
            first,
            seq: first,
            time: RtpTime(rand::random()),
            at: now,
            in_spurt: false,
            begun: false,
            sent: 0,
        }
    }

    /// Header of the frame due at `now`; its timestamp follows the elapsed time.
    pub(crate) fn header(&mut self, now: BootInstant, payload_type: u8) -> Header {
        if !self.in_spurt {
            self.time = self.time_at(now);
            self.at = now;
        }
        let header =
            Header { marker: !self.in_spurt, payload_type, seq: self.seq, time: self.time, ssrc: self.ssrc };
        self.seq = self.seq.plus(1);
        self.time = self.time.plus(FRAME as u32);
        self.at = self.at + Duration::from_millis(20);
        self.in_spurt = true;
        self.begun = true;
        header
    }

    /// Timestamp of the sample due at `now`.
    fn time_at(&self, now: BootInstant) -> RtpTime {
        let samples = |time: Duration| (time.as_micros() as u64 * u64::from(SAMPLE_RATE) / 1_000_000) as u32;
        // Timestamps wrap: the part beyond 32 bits is dropped. Within a spurt `at` is in the future.
        self.time.plus(samples(now.since(self.at)).wrapping_sub(samples(self.at.since(now))))
    }

    /// Content of a sender report at `now`, which is `since_epoch` on the wall clock.
    pub(crate) fn info(&self, now: BootInstant, since_epoch: Duration) -> SenderInfo {
        SenderInfo {
            ntp: Ntp::from_unix(since_epoch),
            time: self.time_at(now),
            // Both counters are modulo 2^32.
            packets: self.sent as u32,
            octets: self.sent.wrapping_mul(FRAME as u64) as u32,
        }
    }
}
