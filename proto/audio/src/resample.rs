//! Conversion of any sample rate to 8,000 Hz.
//!
//! Every output sample is a weighted sum of the input around it. The weights are a windowed sinc: a low-pass below 4 kHz,
//! or below half the input rate if that is lower. Its length in time is constant, 48 samples of the lower rate, hence so
//! is its steepness: 3.4 kHz of speech pass, what lies above 4 kHz is damped by 60 dB.

use std::f64::consts::PI;

use twinbox_rtp::SAMPLE_RATE;

/// Lowest accepted input rate in Hz.
pub const MIN_RATE: u32 = 4_000;
/// Highest accepted input rate in Hz.
pub const MAX_RATE: u32 = 192_000;

/// Length of the filter in samples of the lower rate.
const TAPS: u32 = 48;
/// Sets of weights at most, one for each position of an output sample between two input samples. The common rates need
/// up to 320; those of other rates are placed with an error of 1/512 of an input sample.
const MAX_PHASES: u32 = 512;
/// The middle of the filter's slope, as a share of the lower rate: 3,700 Hz of 8,000.
const CUTOFF: f64 = 0.4625;
/// Shape of the Kaiser window: 60 dB of damping.
const BETA: f64 = 5.65;

/// A converter of one mono stream to 8,000 Hz. Its memory is bounded by the largest piece that is pushed.
#[derive(Debug)]
pub struct Resampler {
    rate: u64,
    /// Number of sets of weights.
    phases: u64,
    /// Weights per set.
    taps: usize,
    /// The sets, one after the other.
    weights: Vec<f32>,
    /// Input that is still needed.
    pending: Vec<f32>,
    /// Number of input samples before `pending`, counting the zeros before the first.
    dropped: u64,
    /// Number of the next output sample.
    next: u64,
}

impl Resampler {
    /// A converter from `rate` Hz; `None` if that is not within [`MIN_RATE`] and [`MAX_RATE`].
    pub fn new(rate: u32) -> Option<Self> {
        if !(MIN_RATE..=MAX_RATE).contains(&rate) {
            return None;
        }
        let phases = (SAMPLE_RATE / gcd(rate, SAMPLE_RATE)).min(MAX_PHASES);
        // Even, so that as many taps are before as after the position.
        let half = (TAPS * rate.max(SAMPLE_RATE)).div_ceil(2 * SAMPLE_RATE);
        let cutoff = CUTOFF * f64::from(rate.min(SAMPLE_RATE)) / f64::from(rate);
        let taps = 2 * half as usize;
        let weights = (0..phases).flat_map(|phase| weights(f64::from(phase) / f64::from(phases), half, cutoff));
        Some(Self {
            rate: u64::from(rate),
            phases: u64::from(phases),
            taps,
            weights: weights.collect(),
            // The first output sample is in the middle of the filter.
            pending: vec![0.0; half as usize - 1],
            dropped: 0,
            next: 0,
        })
    }

    /// Takes input and appends the output that it completes.
    pub fn push(&mut self, input: &[f32], output: &mut Vec<f32>) {
        self.pending.extend_from_slice(input);
        let second = u64::from(SAMPLE_RATE);
        loop {
            let position = self.next * self.rate;
            let start = (position / second - self.dropped) as usize;
            let Some(around) = self.pending.get(start..start + self.taps) else {
                let unneeded = start.min(self.pending.len());
                self.pending.drain(..unneeded);
                self.dropped += unneeded as u64;
                return;
            };
            let phase = (position % second * self.phases / second) as usize;
            output.push(dot(around, &self.weights[phase * self.taps..][..self.taps]));
            self.next += 1;
        }
    }

    /// Appends the output of the end, after which the input continues with silence.
    pub fn finish(mut self, output: &mut Vec<f32>) {
        self.push(&vec![0.0; self.taps / 2], output);
    }
}

/// Sum of the products. Eight partial sums do not depend on each other, so the processor adds them in parallel.
fn dot(samples: &[f32], weights: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let ((samples, last_samples), (weights, last_weights)) = (samples.as_chunks::<8>(), weights.as_chunks::<8>());
    for (eight, by) in samples.iter().zip(weights) {
        for ((sum, sample), weight) in sums.iter_mut().zip(eight).zip(by) {
            *sum += sample * weight;
        }
    }
    let last: f32 = last_samples.iter().zip(last_weights).map(|(sample, weight)| sample * weight).sum();
    sums.iter().sum::<f32>() + last
}

/// The weights for an output sample `offset` input samples after tap `half - 1`; their sum is 1.
fn weights(offset: f64, half: u32, cutoff: f64) -> impl Iterator<Item = f32> {
    let half = f64::from(half);
    let raw: Vec<f64> = (0..2 * half as u32)
        .map(|tap| {
            let distance = f64::from(tap) - (half - 1.0) - offset;
            let edge = 1.0 - (distance / half).powi(2);
            sinc(2.0 * cutoff * distance) * bessel(BETA * edge.max(0.0).sqrt())
        })
        .collect();
    let sum: f64 = raw.iter().sum();
    raw.into_iter().map(move |weight| (weight / sum) as f32)
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

/// The modified Bessel function of order 0, whose power series converges fast for arguments below [`BETA`].
fn bessel(x: f64) -> f64 {
    let mut term = 1.0;
    let terms = (1..24).map(|n| {
        term *= (x / 2.0 / f64::from(n)).powi(2);
        term
    });
    1.0 + terms.sum::<f64>()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
