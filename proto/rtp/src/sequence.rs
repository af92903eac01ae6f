//! Evaluation of a stream's sequence numbers: loss, duplicates, order (RFC 3550 appendix A.1).

use crate::packet::{SeqNo, Ssrc};

/// Position of a packet in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// First packet of a stream, also after a jump or a change of SSRC: unrelated to earlier packets.
    Restart,
    /// Ahead of all earlier packets.
    Ahead,
    /// Behind another packet, and not received before.
    Late,
    /// Received before, or too old to tell.
    Duplicate,
}

/// Packet counts of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SequenceCounters {
    /// Packets received, without duplicates.
    pub received: u64,
    /// Packets missing between the first and the highest number.
    pub lost: u64,
    /// Duplicates received.
    pub duplicates: u64,
}

/// Tracks the sequence numbers of one source.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    stream: Option<Stream>,
    counters: SequenceCounters,
}

/// Extent of one stream of a source, for reports (RFC 3550 appendix A.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The stream.
    pub ssrc: Ssrc,
    /// First sequence number.
    pub first: u32,
    /// Highest sequence number received, with the number of wraps in the upper 16 bits.
    pub highest: u32,
    /// Packets received, modulo 2^32; duplicates count, by the RFC.
    pub received: u32,
}

impl Extent {
    /// Packets from the first to the highest, modulo 2^32.
    pub fn expected(&self) -> u32 {
        self.highest.wrapping_sub(self.first).wrapping_add(1)
    }

    /// Whether this is the same stream at a later time.
    pub fn continues(&self, earlier: &Self) -> bool {
        let begins = |extent: &Self| (extent.ssrc, extent.first);
        begins(self) == begins(earlier) && self.highest >= earlier.highest && self.received >= earlier.received
    }
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    ssrc: Ssrc,
    first: SeqNo,
    /// Wraps of the sequence number.
    wraps: u16,
    /// Packets received, duplicates included.
    received: u32,
    highest: SeqNo,
    /// Bit `i`: the packet `i` before the highest was received.
    seen: u64,
    /// Number after that of a packet from long ago: with it the stream begins again.
    begins_again: Option<SeqNo>,
}

/// A longer gap is a restart, not loss (RFC 3550 appendix A.1: MAX_DROPOUT).
const JUMP: i16 = 3_000;
/// A longer step back is a restart, too, if another packet follows it (MAX_MISORDER).
const MISORDERED: i16 = -100;
/// A step back of this length is a restart without a further packet.
const LONG_AGO: i16 = -JUMP;

impl Sequence {
    /// Takes the numbers of a packet; returns its position.
    pub fn push(&mut self, ssrc: Ssrc, seq: SeqNo) -> Order {
        let Some(stream) = self.stream.as_mut().filter(|s| s.ssrc == ssrc) else { return self.restart(ssrc, seq) };
        let ahead = seq.since(stream.highest);
        if (LONG_AGO..=JUMP).contains(&ahead) {
            stream.received = stream.received.wrapping_add(1);
        }
        match ahead {
            1..=JUMP => {
                stream.wraps = stream.wraps.wrapping_add(u16::from(seq.0 < stream.highest.0));
                stream.seen = stream.seen.checked_shl(u32::from(ahead.unsigned_abs())).unwrap_or(0) | 1;
                stream.highest = seq;
                self.counters.received += 1;
                self.counters.lost += u64::from(ahead.unsigned_abs()) - 1;
                Order::Ahead
            }
            -63..=0 if stream.seen & (1 << ahead.unsigned_abs()) == 0 => {
                stream.seen |= 1 << ahead.unsigned_abs();
                self.counters.received += 1;
                // Counted as lost when a later packet arrived, unless older than the stream's first.
                self.counters.lost = self.counters.lost.saturating_sub(1);
                Order::Late
            }
            LONG_AGO..MISORDERED if stream.begins_again == Some(seq) => self.restart(ssrc, seq),
            LONG_AGO..=0 => {
                stream.begins_again = (ahead < MISORDERED).then_some(seq.plus(1));
                self.counters.duplicates += 1;
                Order::Duplicate
            }
            _ => self.restart(ssrc, seq),
        }
    }

    /// Totals over all streams of the source.
    pub fn counters(&self) -> SequenceCounters {
        self.counters
    }

    /// Extent of the current stream; `None` before the first packet.
    pub fn extent(&self) -> Option<Extent> {
        self.stream.map(|stream| Extent {
            ssrc: stream.ssrc,
            first: u32::from(stream.first.0),
            highest: u32::from(stream.wraps) << 16 | u32::from(stream.highest.0),
            received: stream.received,
        })
    }

    fn restart(&mut self, ssrc: Ssrc, seq: SeqNo) -> Order {
        self.stream =
            Some(Stream { ssrc, first: seq, wraps: 0, received: 1, highest: seq, seen: 1, begins_again: None });
        self.counters.received += 1;
        Order::Restart
    }
}
