//! WAV files with telephone audio: mono, 8,000 Hz, as PCM16, µ-law or A-law.

use crate::{Codec, SAMPLE_RATE, g711};

/// Sample format of a WAV file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Linear, 16 bits, little-endian.
    Pcm16,
    /// Companded, one byte per sample.
    G711(Codec),
}

/// The audio of a WAV file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wav {
    /// Format of `data`.
    pub format: Format,
    /// The `data` chunk, unchanged.
    pub data: Vec<u8>,
}

/// Error of a WAV file that Twinbox cannot use. The texts name the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WavError {
    /// No RIFF/WAVE header.
    #[error("not a WAV file (it does not begin with RIFF … WAVE): use a WAV file, mono, 8000 Hz")]
    NotWav,
    /// A chunk's stated length exceeds the file.
    #[error(
        "the WAV file is incomplete: its '{chunk}' chunk should have {stated} bytes, but has {present}; copy it again"
    )]
    Truncated {
        /// The chunk's four letters.
        chunk: String,
        /// Length stated in the chunk's header, in bytes.
        stated: u32,
        /// Bytes left in the file.
        present: usize,
    },
    /// The `fmt ` or the `data` chunk is missing.
    #[error("the WAV file has no '{0}' chunk: convert it again, for example with sox in.wav -r 8000 -c 1 out.wav")]
    Missing(&'static str),
    /// The `fmt ` chunk is inconsistent.
    #[error(
        "the WAV file's 'fmt ' chunk is damaged: convert it again, for example with sox in.wav -r 8000 -c 1 out.wav"
    )]
    BadFormat,
    /// An unsupported codec or sample width.
    #[error(
        "the WAV file has format {tag:#06x} with {bits} bits a sample; Twinbox accepts 16-bit PCM, µ-law and A-law: \
         convert it with sox in.wav -r 8000 -c 1 -b 16 -e signed out.wav"
    )]
    Codec {
        /// `wFormatTag`.
        tag: u16,
        /// Bits per sample.
        bits: u16,
    },
    /// Another sample rate, or more than one channel.
    #[error(
        "the WAV file has {channels} channel(s) at {rate} Hz; Twinbox accepts 1 at 8000: \
         convert it with sox in.wav -r 8000 -c 1 out.wav"
    )]
    Shape {
        /// Number of channels.
        channels: u16,
        /// Samples per second.
        rate: u32,
    },
}

/// Lengths from here on mean "until the end": a program that writes to a pipe does not know the length.
const STREAMED: u32 = 0x7fff_0000;

const PCM: u16 = 1;
const EXTENSIBLE: u16 = 0xfffe;

impl Wav {
    /// Parses a WAV file.
    pub fn read(file: &[u8]) -> Result<Self, WavError> {
        if file.get(..4) != Some(b"RIFF") || file.get(8..12) != Some(b"WAVE") {
            return Err(WavError::NotWav);
        }
        let mut rest = file.get(12..).unwrap_or_default();
        let mut format = None;
        while let Some((head, body)) = rest.split_at_checked(8) {
            let (id, length) = (&head[..4], u32_at(head, 4).unwrap_or(0));
            let streamed = id == b"data" && length >= STREAMED;
            let body = if streamed { Some(body) } else { body.get(..length as usize) };
            let body = body.ok_or_else(|| WavError::Truncated {
                chunk: String::from_utf8_lossy(id).trim_end().to_owned(),
                stated: length,
                present: rest.len() - 8,
            })?;
            match id {
                b"fmt " => format = Some(read_format(body)?),
                b"data" => {
                    let format = format.ok_or(WavError::Missing("fmt"))?;
                    // Half a sample at the end is ignored.
                    let whole = if format == Format::Pcm16 { body.len() & !1 } else { body.len() };
                    return Ok(Self { format, data: body[..whole].to_vec() });
                }
                _ => {}
            }
            // Chunks begin at even offsets; the pad byte after the last one is often left out.
            rest = rest.get(8 + body.len() + body.len() % 2..).unwrap_or_default();
        }
        Err(WavError::Missing(if format.is_some() { "data" } else { "fmt" }))
    }

    /// The audio as linear samples.
    pub fn samples(&self) -> Vec<i16> {
        match self.format {
            Format::Pcm16 => self.data.as_chunks::<2>().0.iter().map(|&b| i16::from_le_bytes(b)).collect(),
            Format::G711(codec) => g711::decode(codec, &self.data),
        }
    }

    /// The audio as G.711 bytes; bit-exact if the file already has that codec.
    pub fn to_g711(&self, codec: Codec) -> Vec<u8> {
        match self.format {
            Format::Pcm16 => g711::encode(codec, &self.samples()),
            Format::G711(from) => g711::transcode(from, codec, &self.data),
        }
    }

    /// The length in milliseconds.
    pub fn length_ms(&self) -> u64 {
        let bytes = self.data.len() as u64;
        let samples = if self.format == Format::Pcm16 { bytes / 2 } else { bytes };
        samples * 1_000 / u64::from(SAMPLE_RATE)
    }
}

/// A WAV file with these G.711 bytes, unchanged.
pub fn write(codec: Codec, data: &[u8]) -> Vec<u8> {
    // Non-PCM formats carry the size of an empty extension and a `fact` chunk with the number of samples.
    let mut fmt = format_chunk(codec.wav_tag(), 1);
    fmt.extend_from_slice(&0u16.to_le_bytes());
    file(&[(b"fmt ", &fmt), (b"fact", &length(data).to_le_bytes()), (b"data", data)])
}

/// A WAV file of linear samples.
pub fn write_pcm16(samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    file(&[(b"fmt ", &format_chunk(PCM, 2)), (b"data", &data)])
}

fn read_format(chunk: &[u8]) -> Result<Format, WavError> {
    let field = |at: usize| chunk.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let (Some(tag), Some(channels), Some(rate), Some(bits)) = (field(0), field(2), u32_at(chunk, 4), field(14))
    else {
        return Err(WavError::BadFormat);
    };
    // WAVE_FORMAT_EXTENSIBLE has the actual tag at the start of its GUID.
    let tag = if tag == EXTENSIBLE { field(24).ok_or(WavError::BadFormat)? } else { tag };
    let format = match (tag, bits) {
        (PCM, 16) => Format::Pcm16,
        (7, 8) => Format::G711(Codec::Pcmu),
        (6, 8) => Format::G711(Codec::Pcma),
        _ => return Err(WavError::Codec { tag, bits }),
    };
    if (channels, rate) != (1, SAMPLE_RATE) {
        return Err(WavError::Shape { channels, rate });
    }
    Ok(format)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
}

fn format_chunk(tag: u16, bytes_per_sample: u16) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(18);
    chunk.extend_from_slice(&tag.to_le_bytes());
    chunk.extend_from_slice(&1u16.to_le_bytes());
    chunk.extend_from_slice(&SAMPLE_RATE.to_le_bytes());
    chunk.extend_from_slice(&(SAMPLE_RATE * u32::from(bytes_per_sample)).to_le_bytes());
    chunk.extend_from_slice(&bytes_per_sample.to_le_bytes());
    chunk.extend_from_slice(&(bytes_per_sample * 8).to_le_bytes());
    chunk
}

fn file(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = Vec::from(*b"WAVE");
    for (id, data) in chunks {
        body.extend_from_slice(*id);
        body.extend_from_slice(&length(data).to_le_bytes());
        body.extend_from_slice(data);
        body.resize(body.len() + data.len() % 2, 0);
    }
    let mut file = Vec::from(*b"RIFF");
    file.extend_from_slice(&length(&body).to_le_bytes());
    file.append(&mut body);
    file
}

/// The length field of a WAV file; telephone audio never exceeds it (six days).
fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}
