//! Writing compound packets.

use super::{BYE, Block, Cname, RECEIVER_REPORT, SDES, SENDER_REPORT, SenderInfo, word};
use crate::packet::Ssrc;

/// Maximum length of [`Report::write`]: a sender report with a block, SDES and BYE.
pub const LONGEST: usize = 28 + 24 + 28 + 8;

/// SDES item type CNAME.
const CNAME: u8 = 1;

/// An outgoing report: one sent and one received stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// SSRC of the sent stream, also if nothing was sent.
    pub from: Ssrc,
    /// Sender information, if anything was sent in the last two intervals.
    pub sender: Option<SenderInfo>,
    /// Report block of the received stream, if anything arrived since the last report.
    pub block: Option<Block>,
    /// CNAME of this side.
    pub cname: Cname,
    /// Adds a BYE.
    pub bye: bool,
}

/// Appends bytes to a buffer.
struct Writer<'a> {
    out: &'a mut [u8; LONGEST],
    length: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        // The buffer has room for the longest packet.
        self.out[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Writes the common header of a packet with `body` bytes after it.
    fn head(&mut self, count: u8, kind: u8, body: usize) {
        let [high, low] = ((body / 4) as u16).to_be_bytes();
        self.put(&[0x80 | count, kind, high, low]);
    }
}

impl Report {
    /// Writes the compound packet; returns its length.
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
        // One chunk with one item; its list ends with a zero byte and is padded to 4 bytes.
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
