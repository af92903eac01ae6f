//! The end of every decoder: mono sound of any rate becomes µ-law, up to a limit.

use twinbox_rtp::{Codec, SAMPLE_RATE, SAMPLES_PER_MS, g711};

use crate::{
    AudioError,
    resample::{MAX_RATE, MIN_RATE, Resampler},
    upload::Recording,
};

/// Channels of a file at most.
const MAX_CHANNELS: usize = 32;

/// Collects a recording.
pub(crate) struct Sink {
    channels: usize,
    /// `None` at 8,000 Hz: the samples stay as they are.
    resampler: Option<Resampler>,
    limit: usize,
    mono: Vec<f32>,
    resampled: Vec<f32>,
    recording: Recording,
}

impl Sink {
    /// A sink for interleaved samples of a `found` file; keeps `max_ms` milliseconds.
    pub(crate) fn new(found: &'static str, rate: u32, channels: usize, max_ms: u64) -> Result<Self, AudioError> {
        let fits = (MIN_RATE..=MAX_RATE).contains(&rate) && (1..=MAX_CHANNELS).contains(&channels);
        if !fits {
            return Err(AudioError::Shape { found, channels, rate });
        }
        let resampler = if rate == SAMPLE_RATE { None } else { Resampler::new(rate) };
        let recording = Recording { codec: Codec::Pcmu, bytes: Vec::new(), truncated: false };
        Ok(Self { channels, resampler, limit: limit(max_ms), mono: Vec::new(), resampled: Vec::new(), recording })
    }

    /// Takes interleaved samples, full scale 1. Channels are averaged. Returns whether there is room for more.
    pub(crate) fn push(&mut self, interleaved: &[f32]) -> bool {
        let frames = interleaved.chunks_exact(self.channels);
        self.mono.clear();
        self.mono.extend(frames.map(|frame| frame.iter().copied().map(sane).sum::<f32>() / self.channels as f32));
        match &mut self.resampler {
            Some(resampler) => {
                self.resampled.clear();
                resampler.push(&self.mono, &mut self.resampled);
                keep(&mut self.recording, &self.resampled, self.limit);
            }
            None => keep(&mut self.recording, &self.mono, self.limit),
        }
        !self.recording.truncated
    }

    /// Milliseconds of sound so far.
    pub(crate) fn length_ms(&self) -> u64 {
        self.recording.bytes.len() as u64 / u64::from(SAMPLES_PER_MS)
    }

    /// The recording.
    pub(crate) fn finish(mut self) -> Recording {
        if let Some(resampler) = self.resampler {
            self.resampled.clear();
            resampler.finish(&mut self.resampled);
            keep(&mut self.recording, &self.resampled, self.limit);
        }
        self.recording
    }
}

/// G.711 bytes of a length.
pub(crate) fn limit(max_ms: u64) -> usize {
    usize::try_from(max_ms.saturating_mul(u64::from(SAMPLES_PER_MS))).unwrap_or(usize::MAX)
}

fn keep(recording: &mut Recording, samples: &[f32], limit: usize) {
    let room = limit - recording.bytes.len();
    recording.truncated |= samples.len() > room;
    let bytes = samples.iter().take(room).map(|&sample| {
        // The conversion saturates.
        let linear = (sample * 32_768.0).round() as i16;
        g711::encode_sample(recording.codec, linear)
    });
    recording.bytes.extend(bytes);
}

/// Files with floating-point samples can contain infinity and "not a number", which the filter would spread.
fn sane(sample: f32) -> f32 {
    if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 }
}
