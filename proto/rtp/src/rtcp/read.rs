//! Parsing compound packets.

use super::{BLOCK, BYE, Block, Ntp, RECEIVER_REPORT, SENDER, SENDER_REPORT, SenderInfo, ShortNtp};
use crate::packet::{RtpTime, Ssrc};

/// Error: the datagram is not a compound RTCP packet (checks of RFC 3550 appendix A.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtcpError {
    /// A version other than 2.
    #[error("the packet's version is not 2")]
    Version,
    /// The first packet is not a report.
    #[error("the first packet is not a report")]
    First,
    /// The packet lengths do not add up to the datagram, or the parts do not fill a packet.
    #[error("a length exceeds the datagram")]
    Length,
}

/// A validated compound packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compound<'a>(&'a [u8]);

/// A packet of a compound packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// A sender report, or a receiver report when there is no sender information.
    Report {
        /// Reporting source.
        from: Ssrc,
        /// Sender information about its own stream.
        sender: Option<SenderInfo>,
        /// Report blocks about received streams.
        blocks: Blocks<'a>,
    },
    /// Leaving sources, 31 at most; contains the first.
    Bye(Option<Ssrc>),
    /// Another type, such as SDES.
    Other(u8),
}

/// The blocks of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks<'a>(&'a [u8]);

/// The common header, its body without padding, and the rest of the datagram.
struct Cut<'a> {
    count: usize,
    kind: u8,
    body: &'a [u8],
    rest: &'a [u8],
}

fn cut(data: &[u8]) -> Result<Cut<'_>, RtcpError> {
    let (&[first, kind, high, low], rest) = data.split_first_chunk::<4>().ok_or(RtcpError::Length)?;
    if first >> 6 != 2 {
        return Err(RtcpError::Version);
    }
    let words = usize::from(u16::from_be_bytes([high, low]));
    let (body, rest) = rest.split_at_checked(words * 4).ok_or(RtcpError::Length)?;
    let padded = first & 0x20 != 0;
    let padding = if padded { body.last().copied().map_or(0, usize::from) } else { 0 };
    // Padding counts itself, ends the last packet, and is a multiple of 4 bytes.
    if padded && (padding == 0 || padding % 4 != 0 || !rest.is_empty()) {
        return Err(RtcpError::Length);
    }
    let body = body.len().checked_sub(padding).and_then(|length| body.get(..length)).ok_or(RtcpError::Length)?;
    Ok(Cut { count: usize::from(first & 0x1f), kind, body, rest })
}

fn part<'a>(cut: &Cut<'a>) -> Result<Part<'a>, RtcpError> {
    Ok(match cut.kind {
        SENDER_REPORT | RECEIVER_REPORT => {
            let (from, mut rest) = cut.body.split_first_chunk::<4>().ok_or(RtcpError::Length)?;
            let mut sender = None;
            if cut.kind == SENDER_REPORT {
                let (info, after) = rest.split_first_chunk::<SENDER>().ok_or(RtcpError::Length)?;
                sender = Some(sender_info(info));
                rest = after;
            }
            // Profile-specific extensions may follow the blocks.
            let blocks = rest.get(..cut.count * BLOCK).ok_or(RtcpError::Length)?;
            Part::Report { from: Ssrc(u32::from_be_bytes(*from)), sender, blocks: Blocks(blocks) }
        }
        BYE => {
            let sources = cut.body.get(..cut.count * 4).ok_or(RtcpError::Length)?;
            Part::Bye(sources.first_chunk::<4>().map(|ssrc| Ssrc(u32::from_be_bytes(*ssrc))))
        }
        other => Part::Other(other),
    })
}

impl<'a> Compound<'a> {
    /// Validates a datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, RtcpError> {
        let first = cut(datagram)?;
        if !matches!(first.kind, SENDER_REPORT | RECEIVER_REPORT) {
            return Err(RtcpError::First);
        }
        part(&first)?;
        let mut rest = first.rest;
        while !rest.is_empty() {
            let next = cut(rest)?;
            part(&next)?;
            rest = next.rest;
        }
        Ok(Self(datagram))
    }

    /// The packets, in order.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            // `parse` has validated all packets.
            let next = cut(rest).ok()?;
            rest = next.rest;
            part(&next).ok()
        })
    }
}

impl Blocks<'_> {
    /// The blocks, in order.
    pub fn iter(&self) -> impl Iterator<Item = Block> + '_ {
        self.0.as_chunks::<BLOCK>().0.iter().map(block)
    }
}

fn long(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |word| u32::from_be_bytes(*word))
}

fn sender_info(bytes: &[u8; SENDER]) -> SenderInfo {
    SenderInfo {
        ntp: Ntp(u64::from(long(bytes, 0)) << 32 | u64::from(long(bytes, 4))),
        time: RtpTime(long(bytes, 8)),
        packets: long(bytes, 12),
        octets: long(bytes, 16),
    }
}

fn block(bytes: &[u8; BLOCK]) -> Block {
    Block {
        ssrc: long(bytes, 0),
        fraction_lost: bytes[4],
        // Signed 24-bit number.
        lost: (long(bytes, 4) << 8).cast_signed() >> 8,
        highest: long(bytes, 8),
        jitter: long(bytes, 12),
        last_report: ShortNtp(long(bytes, 16)),
        since_last_report: ShortNtp(long(bytes, 20)),
    }
}
