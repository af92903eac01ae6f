//! WAV files of any rate and number of channels. The reader of `twinbox-rtp` takes telephone audio only, and refuses
//! files that were cut; here the sound that is present counts.

use twinbox_rtp::{Codec, SAMPLE_RATE, g711};

use crate::{
    AudioError,
    sink::{self, Sink},
    upload::Recording,
};

const FOUND: &str = "WAV";

/// Bytes of sound that are converted at a time, roughly.
const PIECE: usize = 16_384;

const PCM: u16 = 1;
const IEEE_FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;

/// Format of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sample {
    /// Unsigned.
    U8,
    /// Signed, little-endian, as the others.
    I16,
    I24,
    I32,
    F32,
    G711(Codec),
}

/// The parts of the `fmt ` chunk that count.
#[derive(Debug, Clone, Copy)]
struct Format {
    sample: Sample,
    channels: usize,
    rate: u32,
}

/// The sound of a WAV file, at most `max_ms` milliseconds.
pub(crate) fn decode(file: &[u8], max_ms: u64) -> Result<Recording, AudioError> {
    let (format, data) = parse(file)?;
    let mut sink = Sink::new(FOUND, format.rate, format.channels, max_ms)?;
    let frame = format.sample.width() * format.channels;
    // The last frame may be cut.
    let data = &data[..data.len() - data.len() % frame];
    if data.is_empty() {
        return Err(AudioError::Empty { found: FOUND });
    }
    if let (Sample::G711(codec), 1, SAMPLE_RATE) = (format.sample, format.channels, format.rate) {
        let kept = data.len().min(sink::limit(max_ms));
        return Ok(Recording { codec, bytes: data[..kept].to_vec(), truncated: kept < data.len() });
    }
    let mut samples = Vec::new();
    for piece in data.chunks((PIECE / frame).max(1) * frame) {
        samples.clear();
        format.sample.read(piece, &mut samples);
        if !sink.push(&samples) {
            break;
        }
    }
    Ok(sink.finish())
}

/// The format and the sound.
fn parse(file: &[u8]) -> Result<(Format, &[u8]), AudioError> {
    let mut rest = file.get(12..).unwrap_or_default();
    let mut format = None;
    while let Some((header, body)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, length @ ..] = *header;
        // A length beyond the end is that of a file that was cut, or of a program that wrote to a pipe.
        let length = (u32::from_le_bytes(length) as usize).min(body.len());
        let chunk = &body[..length];
        match (&[a, b, c, d], format) {
            (b"fmt ", _) => format = Some(read_format(chunk)?),
            (b"data", Some(format)) => return Ok((format, chunk)),
            (b"data", None) => break,
            _ => {}
        }
        // Chunks begin at even offsets.
        rest = body.get(length + length % 2..).unwrap_or_default();
    }
    let missing = if format.is_some() { "data" } else { "fmt" };
    Err(AudioError::Damaged { found: FOUND, reason: format!("it has no '{missing}' chunk") })
}

fn read_format(chunk: &[u8]) -> Result<Format, AudioError> {
    let cut = || AudioError::Damaged { found: FOUND, reason: "its 'fmt ' chunk is too short".to_owned() };
    let field = |at: usize| chunk.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]])).ok_or_else(cut);
    let (tag, channels, bits) = (field(0)?, field(2)?, field(14)?);
    let rate = u32::from(field(4)?) | (u32::from(field(6)?) << 16);
    // The actual tag is at the start of the extension's GUID.
    let tag = if tag == EXTENSIBLE { field(24)? } else { tag };
    let sample = match (tag, bits) {
        (PCM, 8) => Sample::U8,
        (PCM, 16) => Sample::I16,
        (PCM, 24) => Sample::I24,
        (PCM, 32) => Sample::I32,
        (IEEE_FLOAT, 32) => Sample::F32,
        _ => match Codec::ALL.into_iter().find(|codec| (codec.wav_tag(), 8) == (tag, bits)) {
            Some(codec) => Sample::G711(codec),
            None => return Err(AudioError::WavFormat { tag, bits }),
        },
    };
    Ok(Format { sample, channels: usize::from(channels), rate })
}

impl Sample {
    /// Bytes of a sample.
    fn width(self) -> usize {
        match self {
            Self::U8 | Self::G711(_) => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I32 | Self::F32 => 4,
        }
    }

    /// Appends samples, full scale 1.
    fn read(self, bytes: &[u8], samples: &mut Vec<f32>) {
        const FULL_16: f32 = 32_768.0;
        const FULL_32: f32 = 2_147_483_648.0;
        match self {
            Self::U8 => samples.extend(bytes.iter().map(|&b| (f32::from(b) - 128.0) / 128.0)),
            Self::I16 => {
                let read = |b: &[u8; 2]| f32::from(i16::from_le_bytes(*b)) / FULL_16;
                samples.extend(bytes.as_chunks::<2>().0.iter().map(read));
            }
            Self::I24 => {
                let read = |b: &[u8; 3]| i32::from_le_bytes([0, b[0], b[1], b[2]]) as f32 / FULL_32;
                samples.extend(bytes.as_chunks::<3>().0.iter().map(read));
            }
            Self::I32 => {
                let read = |b: &[u8; 4]| i32::from_le_bytes(*b) as f32 / FULL_32;
                samples.extend(bytes.as_chunks::<4>().0.iter().map(read));
            }
            Self::F32 => samples.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::G711(codec) => {
                samples.extend(bytes.iter().map(|&b| f32::from(g711::decode_sample(codec, b)) / FULL_16));
            }
        }
    }
}
