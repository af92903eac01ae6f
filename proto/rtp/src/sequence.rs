//! What the sequence numbers of a stream tell: loss, duplicates, order (RFC 3550 appendix A.1).

use crate::packet::{SeqNo, Ssrc};

/// Where a packet stands in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first of a stream, or after a jump or a change of SSRC: nothing relates it to what came before.
    Restart,
    /// Ahead of all before it.
    Ahead,
    /// Behind another, and not seen yet.
    Late,
    /// Seen already, or so old that it is no longer known.
    Duplicate,
}

/// The packets of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SequenceCounters {
    /// Packets received, each once.
    pub received: u64,
    /// Packets missing between the first and the highest number.
    pub lost: u64,
    /// Packets received again.
    pub duplicates: u64,
}

/// Follows the sequence numbers of one source.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    stream: Option<Stream>,
    counters: SequenceCounters,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    ssrc: Ssrc,
    highest: SeqNo,
    /// Bit `i`: the packet `i` before the highest was received.
    seen: u64,
}

/// A gap or a step back that is longer is a new beginning, not loss (RFC 3550 appendix A.1: MAX_DROPOUT).
const JUMP: i16 = 3_000;
const LONG_AGO: i16 = -JUMP;

impl Sequence {
    /// Takes a packet's numbers.
    pub fn push(&mut self, ssrc: Ssrc, seq: SeqNo) -> Order {
        let Some(stream) = self.stream.as_mut().filter(|s| s.ssrc == ssrc) else { return self.restart(ssrc, seq) };
        let ahead = seq.since(stream.highest);
        match ahead {
            1..=JUMP => {
                stream.seen = stream.seen.checked_shl(u32::from(ahead.unsigned_abs())).unwrap_or(0) | 1;
                stream.highest = seq;
                self.counters.received += 1;
                self.counters.lost += u64::from(ahead.unsigned_abs()) - 1;
                Order::Ahead
            }
            -63..=0 if stream.seen & (1 << ahead.unsigned_abs()) == 0 => {
                stream.seen |= 1 << ahead.unsigned_abs();
                self.counters.received += 1;
                // Counted as lost when a later one came, unless it is older than the stream's first.
                self.counters.lost = self.counters.lost.saturating_sub(1);
                Order::Late
            }
            LONG_AGO..=0 => {
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

    fn restart(&mut self, ssrc: Ssrc, seq: SeqNo) -> Order {
        self.stream = Some(Stream { ssrc, highest: seq, seen: 1 });
        self.counters.received += 1;
        Order::Restart
    }
}
