//! Writing compound packets.

use super::{BYE, Block, Cname, RECEIVER_REPORT, SDES, SENDER_REPORT, SenderInfo, word};
use crate::packet::Ssrc;

/// The longest packet that [`Report::write`] makes: a sender report with a block, SDES and BYE.
pub const LONGEST: usize = 28 + 24 + 28 + 8;

/// The SDES item CNAME.
const CNAME: u8 = 1;

/// A report of ours: one stream sent, one received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The stream that we send, or would.
    pub from: Ssrc,
    /// Of that stream, if anything was sent in the last two intervals.
    pub sender: Option<SenderInfo>,
    /// Of the stream that we receive, if anything came since the last report.
    pub block: Option<Block>,
    /// Our name.
    pub cname: Cname,
    /// We leave.
    pub bye: bool,
}

/// Bytes put one behind the other.
struct Writer<'a> {
    out: &'a mut [u8; LONGEST],
    length: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        // The buffer has room for the longest packet there is.
        self.out[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// The common header of a packet with so many bytes behind it.
    fn head(&mut self, count: u8, kind: u8, body: usize) {
        let [high, low] = ((body / 4) as u16).to_be_bytes();
        self.put(&[0x80 | count, kind, high, low]);
    }
}

impl Report {
    /// Writes the compound packet; its length.
    pub fn write(&self, out: &mut [u8; LONGEST]) -> usize {
        let mut writer = Writer { out, length: 0 };
        let count = u8::from(self.block.is_some());
        let blocks = usize::from(count) * super::BLOCK;
        match self.sender {
            Some(info) => {
                writer.head(count, SENDER_REPORT, 4 + super::SENDER + blocks);
                writer.put(&word(self.from));
                writer.put(&info.ntp.0.to_be_bytes());
                writer.put(&info.time.0.to_be_bytes());
                writer.put(&info.packets.to_be_bytes());
                writer.put(&info.octets.to_be_bytes());
            }
            None => {
                writer.head(count, RECEIVER_REPORT, 4 + blocks);
                writer.put(&word(self.from));
            }
        }
        if let Some(block) = self.block {
            let lost = block.lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
            writer.put(&block.ssrc.to_be_bytes());
            writer.put(&(u32::from(block.fraction_lost) << 24 | lost).to_be_bytes());
            for word in [block.highest, block.jitter, block.last_report.0, block.since_last_report.0] {
                writer.put(&word.to_be_bytes());
            }
        }
        // One chunk with one item; its list ends with a zero byte and is filled up to a word.
        writer.head(1, SDES, 4 + 2 + Cname::LENGTH + 2);
        writer.put(&word(self.from));
        writer.put(&[CNAME, Cname::LENGTH as u8]);
        writer.put(&self.cname.0);
        writer.put(&[0, 0]);
        if self.bye {
            writer.head(1, BYE, 4);
            writer.put(&word(self.from));
        }
        writer.length
    }
}
