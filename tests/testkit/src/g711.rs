//! G.711 (ITU-T G.711) for comparisons: bytes to linear samples and back.

/// The two laws and their static RTP payload types (RFC 3551, section 6). A type of its own, with its own conversion, so
/// that tests judge `Codec` of `proto/rtp` by something that does not share its mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// PCMU, payload type 0.
    Mu,
    /// PCMA, payload type 8.
    A,
}

impl Law {
    /// The RTP payload type.
    pub fn payload_type(self) -> u8 {
        match self {
            Self::Mu => 0,
            Self::A => 8,
        }
    }

    /// The byte of silence.
    pub fn silence(self) -> u8 {
        match self {
            Self::Mu => 0xff,
            Self::A => 0xd5,
        }
    }

    /// The 16-bit linear sample of a byte.
    pub fn decode(self, byte: u8) -> i16 {
        match self {
            Self::Mu => {
                let b = !byte;
                let magnitude = (((i32::from(b & 0x0f) << 3) + 0x84) << (b >> 4 & 7)) - 0x84;
                if b & 0x80 == 0 { magnitude as i16 } else { -magnitude as i16 }
            }
            Self::A => {
                let b = byte ^ 0x55;
                let (exponent, mantissa) = (b >> 4 & 7, i32::from(b & 0x0f));
                let magnitude = match exponent {
                    0 => (mantissa << 4) + 8,
                    e => ((mantissa << 4) + 0x108) << (e - 1),
                };
                if b & 0x80 == 0 { -magnitude as i16 } else { magnitude as i16 }
            }
        }
    }

    /// The byte of a linear sample that [`Law::decode`] gave; `None` for any other sample, which has therefore been
    /// converted with loss.
    pub fn exactly(self, sample: i16) -> Option<u8> {
        // Of µ-law's two zeros the positive one, which is silence.
        (0..=255).rev().find(|byte| self.decode(*byte) == sample)
    }
}

/// The audio of a WAV file as bytes of `law`: unchanged from a G.711 file, converted back from a linear one if that is
/// exact. The error describes the problem of the file.
pub fn from_wav(wav: &[u8], law: Law) -> Result<Vec<u8>, String> {
    let word = |at: usize| wav.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    if wav.get(..4) != Some(b"RIFF") || wav.get(8..12) != Some(b"WAVE") {
        return Err("no RIFF/WAVE file".to_owned());
    }
    let (mut at, mut format) = (12, None);
    while let (Some(tag), Some(length)) = (wav.get(at..at + 4), word(at + 4)) {
        let data = wav.get(at + 8..(at + 8 + length as usize).min(wav.len())).unwrap_or_default();
        match tag {
            b"fmt " => format = Some(data),
            b"data" => return samples(format.ok_or("data before fmt")?, data, law),
            _ => {}
        }
        at += 8 + length as usize + length as usize % 2;
    }
    Err("no data chunk".to_owned())
}

/// Bytes of `law` as a WAV file of linear samples.
pub fn to_wav(bytes: &[u8], law: Law) -> Vec<u8> {
    let length = bytes.len() as u32 * 2;
    let mut file = Vec::from(*b"RIFF");
    file.extend((36 + length).to_le_bytes());
    // Linear, one channel, 8000 samples and 16,000 bytes per second, 16 bits.
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend([8000_u32, 16_000].map(u32::to_le_bytes).concat());
    file.extend(b"\x02\0\x10\0data");
    file.extend(length.to_le_bytes());
    file.extend(bytes.iter().flat_map(|byte| law.decode(*byte).to_le_bytes()));
    file
}

fn samples(format: &[u8], data: &[u8], law: Law) -> Result<Vec<u8>, String> {
    let half = |at: usize| format.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]])).unwrap_or(0);
    let rate = u32::from(half(4)) | u32::from(half(6)) << 16;
    match (half(0), half(2), rate, half(14)) {
        (6, 1, 8000, 8) if law == Law::A => Ok(data.to_vec()),
        (7, 1, 8000, 8) if law == Law::Mu => Ok(data.to_vec()),
        (1, 1, 8000, 16) => {
            let table: std::collections::HashMap<i16, u8> = (0..=255).map(|b| (law.decode(b), b)).collect();
            let sample = |b: &[u8]| i16::from_le_bytes([b[0], b[1]]);
            let bytes = data.as_chunks::<2>().0.iter().map(|b| table.get(&sample(b)).copied().ok_or(sample(b)));
            bytes.collect::<Result<_, _>>().map_err(|s| format!("sample {s} is none of {law:?}-law"))
        }
        other => Err(format!("(format, channels, rate, bits) = {other:?}, wanted 8000 Hz mono")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corner_values_match_the_standard() {
        assert_eq!([0x00, 0x80, 0xff, 0x7f].map(|b| Law::Mu.decode(b)), [-32124, 32124, 0, 0]);
        assert_eq!([0x2a, 0xaa, 0xd5, 0x55].map(|b| Law::A.decode(b)), [-32256, 32256, 8, -8]);
    }

    #[test]
    fn loud_bytes_survive_a_round_trip() {
        for law in [Law::Mu, Law::A] {
            for byte in (0..=255_u8).filter(|b| *b != 0x7f) {
                assert_eq!(law.exactly(law.decode(byte)), Some(byte), "{law:?} {byte:#x}");
            }
        }
        assert_eq!(Law::Mu.exactly(1), None);
        let loud: Vec<u8> = (0x80..0xf0).collect();
        assert_eq!(from_wav(&to_wav(&loud, Law::Mu), Law::Mu), Ok(loud));
    }
}
