//! G.711: conversion between bytes and linear samples, by tables computed at compile time.
//!
//! Linear samples are 16 bits wide, as in a WAV file; µ-law's 14 and A-law's 13 bits are the upper bits.

use crate::Codec;

/// A table from byte to byte.
pub type ByteTable = [u8; 256];

const ULAW: [i16; 256] = decode_table(Codec::Pcmu);
const ALAW: [i16; 256] = decode_table(Codec::Pcma);
static DECODE: [[i16; 256]; 2] = [ULAW, ALAW];
static MAGNITUDE: [[u16; 256]; 2] = [magnitudes(&ULAW), magnitudes(&ALAW)];
static TO_ALAW: ByteTable = transcode_table(&ULAW, Codec::Pcma);
static TO_ULAW: ByteTable = transcode_table(&ALAW, Codec::Pcmu);

/// The linear value of one byte.
pub fn decode_sample(codec: Codec, byte: u8) -> i16 {
    DECODE[index(codec)][usize::from(byte)]
}

/// The byte nearest to a linear value.
pub const fn encode_sample(codec: Codec, sample: i16) -> u8 {
    match codec {
        Codec::Pcmu => encode_ulaw(sample),
        Codec::Pcma => encode_alaw(sample),
    }
}

/// Decodes G.711 bytes to linear samples.
pub fn decode(codec: Codec, data: &[u8]) -> Vec<i16> {
    data.iter().map(|&b| decode_sample(codec, b)).collect()
}

/// Encodes linear samples as G.711 bytes.
pub fn encode(codec: Codec, samples: &[i16]) -> Vec<u8> {
    samples.iter().map(|&s| encode_sample(codec, s)).collect()
}

/// The table from one law to the other, or `None` if the laws are equal.
pub fn transcoder(from: Codec, to: Codec) -> Option<&'static ByteTable> {
    match (from, to) {
        (Codec::Pcmu, Codec::Pcma) => Some(&TO_ALAW),
        (Codec::Pcma, Codec::Pcmu) => Some(&TO_ULAW),
        _ => None,
    }
}

/// G.711 bytes in another law; a copy if the laws are equal.
pub fn transcode(from: Codec, to: Codec, data: &[u8]) -> Vec<u8> {
    match transcoder(from, to) {
        Some(table) => data.iter().map(|&b| table[usize::from(b)]).collect(),
        None => data.to_vec(),
    }
}

/// Mean absolute amplitude, 0 to 32,767: the measure for silence. Zero for no data.
pub fn mean_magnitude(codec: Codec, data: &[u8]) -> u16 {
    let table = &MAGNITUDE[index(codec)];
    let sum: u64 = data.iter().map(|&b| u64::from(table[usize::from(b)])).sum();
    // A mean of u16 values is a u16.
    (sum / data.len().max(1) as u64) as u16
}

const fn index(codec: Codec) -> usize {
    match codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 1,
    }
}

/// Bias that makes the segments double (ITU-T G.711, table 2).
const ULAW_BIAS: i32 = 0x84;
const ULAW_CLIP: i32 = 32_635;

const fn decode_ulaw(byte: u8) -> i16 {
    let bits = !byte;
    let mantissa = (bits & 0x0f) as i32;
    let segment = (bits >> 4) & 0x07;
    let magnitude = (((mantissa << 3) + ULAW_BIAS) << segment) - ULAW_BIAS;
    (if bits & 0x80 != 0 { -magnitude } else { magnitude }) as i16
}

const fn encode_ulaw(sample: i16) -> u8 {
    let negative = sample < 0;
    let mut magnitude = if negative { -(sample as i32) } else { sample as i32 };
    if magnitude > ULAW_CLIP {
        magnitude = ULAW_CLIP;
    }
    magnitude += ULAW_BIAS;
    // The highest set bit is 7 to 14, so the segment is 0 to 7.
    let segment = 24 - (magnitude as u32).leading_zeros();
    let mantissa = (magnitude >> (segment + 3)) & 0x0f;
    let sign = if negative { 0x80 } else { 0 };
    !(sign | ((segment as u8) << 4) | mantissa as u8)
}

const fn decode_alaw(byte: u8) -> i16 {
    let bits = byte ^ 0x55;
    let mantissa = (bits & 0x0f) as i32;
    let segment = (bits >> 4) & 0x07;
    let magnitude = match segment {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 0x108) << (segment - 1),
    };
    (if bits & 0x80 != 0 { magnitude } else { -magnitude }) as i16
}

const fn encode_alaw(sample: i16) -> u8 {
    let negative = sample < 0;
    // Ones' complement, by the standard: -1 falls into the same interval as 0.
    let magnitude = if negative { !(sample as i32) } else { sample as i32 };
    let (segment, mantissa) = if magnitude < 256 {
        (0, magnitude >> 4)
    } else {
        // The highest set bit is 8 to 14, so the segment is 1 to 7.
        let segment = 24 - (magnitude as u32).leading_zeros();
        (segment, (magnitude >> (segment + 3)) & 0x0f)
    };
    let sign = if negative { 0 } else { 0x80 };
    (sign | ((segment as u8) << 4) | mantissa as u8) ^ 0x55
}

const fn decode_table(codec: Codec) -> [i16; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = match codec {
            Codec::Pcmu => decode_ulaw(i as u8),
            Codec::Pcma => decode_alaw(i as u8),
        };
        i += 1;
    }
    table
}

const fn magnitudes(decoded: &[i16; 256]) -> [u16; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = decoded[i].unsigned_abs();
        i += 1;
    }
    table
}

const fn transcode_table(decoded: &[i16; 256], to: Codec) -> ByteTable {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = encode_sample(to, decoded[i]);
        i += 1;
    }
    table
}
