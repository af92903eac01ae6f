//! RTP packets (RFC 3550 section 5.1) and wrapping arithmetic of their numbers.

/// ID of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ssrc(pub u32);

/// A sequence number; wraps at 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeqNo(pub u16);

impl SeqNo {
    /// The number `n` packets later.
    pub fn plus(self, n: u16) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// Packets from `earlier` to this one by the shorter way; negative if this one is before `earlier`.
    pub fn since(self, earlier: Self) -> i16 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// Whether this number is after the other.
    pub fn is_after(self, other: Self) -> bool {
        self.since(other) > 0
    }
}

/// A timestamp in samples; wraps after six days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RtpTime(pub u32);

impl RtpTime {
    /// The time `samples` later.
    pub fn plus(self, samples: u32) -> Self {
        Self(self.0.wrapping_add(samples))
    }

    /// Samples from `earlier` to this one by the shorter way; negative if this one is before `earlier`.
    pub fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }
}

/// The RTP header fields in use (without CSRCs and extensions).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// First packet of a talk spurt or of an event.
    pub marker: bool,
    /// Payload type, 0 to 127.
    pub payload_type: u8,
    /// Sequence number, incremented per packet.
    pub seq: SeqNo,
    /// Timestamp of the first sample.
    pub time: RtpTime,
    /// The stream.
    pub ssrc: Ssrc,
}

/// A packet; its payload borrows the received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The header.
    pub header: Header,
    /// The payload without padding.
    pub payload: &'a [u8],
}

/// Error: the datagram is not an RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than its header states.
    #[error("the packet is shorter than its header requires")]
    Truncated,
    /// Not version 2.
    #[error("the packet has RTP version {0}, not 2")]
    Version(u8),
    /// Payload types 72 to 76 are RTCP's packet types (RFC 5761 section 4).
    #[error("the packet is RTCP")]
    Rtcp,
    /// The padding is zero or longer than the payload.
    #[error("the packet's padding is longer than the packet")]
    Padding,
}

impl Header {
    /// Length of a written header, in bytes.
    pub const LENGTH: usize = 12;

    /// The encoded header: no CSRC, no extension, no padding.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = 0x80;
        bytes[1] = (u8::from(self.marker) << 7) | (self.payload_type & 0x7f);
        bytes[2..4].copy_from_slice(&self.seq.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.time.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ssrc.0.to_be_bytes());
        bytes
    }
}

impl<'a> Packet<'a> {
    /// Parses a datagram. CSRCs, extension and padding are checked and skipped.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, PacketError> {
        let (fixed, mut rest) = datagram.split_first_chunk::<{ Header::LENGTH }>().ok_or(PacketError::Truncated)?;
        let version = fixed[0] >> 6;
        if version != 2 {
            return Err(PacketError::Version(version));
        }
        if crate::rtcp::is_rtcp(datagram) {
            return Err(PacketError::Rtcp);
        }
        let csrcs = usize::from(fixed[0] & 0x0f) * 4;
        rest = rest.get(csrcs..).ok_or(PacketError::Truncated)?;
        if fixed[0] & 0x10 != 0 {
            let (extension, after) = rest.split_first_chunk::<4>().ok_or(PacketError::Truncated)?;
            let words = usize::from(u16::from_be_bytes([extension[2], extension[3]]));
            rest = after.get(words * 4..).ok_or(PacketError::Truncated)?;
        }
        if fixed[0] & 0x20 != 0 {
            let padding = rest.last().copied().map_or(0, usize::from);
            let length = rest.len().checked_sub(padding).filter(|_| padding > 0).ok_or(PacketError::Padding)?;
            rest = &rest[..length];
        }
        let header = Header {
            marker: fixed[1] & 0x80 != 0,
            payload_type: fixed[1] & 0x7f,
            seq: SeqNo(u16::from_be_bytes([fixed[2], fixed[3]])),
            time: RtpTime(u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]])),
            ssrc: Ssrc(u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]])),
        };
        Ok(Self { header, payload: rest })
    }
}
