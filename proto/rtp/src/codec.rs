//! The two supported codecs: G.711 µ-law and A-law, 8,000 samples of one byte per second.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Samples per second; with G.711 also bytes per second.
pub const SAMPLE_RATE: u32 = 8_000;

/// Samples per millisecond.
pub const SAMPLES_PER_MS: u32 = SAMPLE_RATE / 1_000;

/// Bytes of a 20 ms packet, the packet time that every telephone supports.
pub const FRAME: usize = 160;

/// A G.711 companding law: of a call's audio, of a recording and of a sound file alike. A payload type that was
/// negotiated is beside it, in the session description. Its serialized form has the variant's name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Codec {
    /// µ-law: North America, Japan.
    Pcmu,
    /// A-law: the rest of the world.
    Pcma,
}

/// Error: the name is not a supported codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a supported codec: use PCMU or PCMA")]
pub struct UnknownCodec(String);

impl Codec {
    /// All codecs, in the order of offers.
    pub const ALL: [Self; 2] = [Self::Pcmu, Self::Pcma];

    /// The static RTP payload type (RFC 3551 section 6).
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
        }
    }

    /// The codec of a static payload type.
    pub const fn from_payload_type(payload_type: u8) -> Option<Self> {
        match payload_type {
            0 => Some(Self::Pcmu),
            8 => Some(Self::Pcma),
            _ => None,
        }
    }

    /// The name in SDP's `a=rtpmap`, upper case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }

    /// The codec of a name, case-insensitive: `PCMU`, `ulaw`, `G711U` and similar.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "pcmu" | "ulaw" | "mulaw" | "g711u" => Some(Self::Pcmu),
            "pcma" | "alaw" | "g711a" => Some(Self::Pcma),
            _ => None,
        }
    }

    /// `wFormatTag` in a WAV file's `fmt ` chunk.
    pub const fn wav_tag(self) -> u16 {
        match self {
            Self::Pcmu => 7,
            Self::Pcma => 6,
        }
    }

    /// The byte of silence.
    pub const fn silence(self) -> u8 {
        match self {
            Self::Pcmu => 0xff,
            Self::Pcma => 0xd5,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        Self::from_name(name).ok_or_else(|| UnknownCodec(name.to_owned()))
    }
}
