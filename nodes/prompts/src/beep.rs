//! The record tone, computed: 1,000 Hz for 300 ms, 10 dB below full scale, with soft edges that do not click.

use std::f64::consts::TAU;

use twinbox_rtp::{SAMPLE_RATE, SAMPLES_PER_MS};

const HERTZ: f64 = 1_000.0;
const LENGTH_MS: u32 = 300;
const EDGE_MS: u32 = 10;
const AMPLITUDE: f64 = 10_362.0;

/// The tone as linear samples.
pub(crate) fn samples() -> Vec<i16> {
    let length = LENGTH_MS * SAMPLES_PER_MS;
    let edge = f64::from(EDGE_MS * SAMPLES_PER_MS);
    (0..length)
        .map(|n| {
            let from_edge = f64::from(n.min(length - 1 - n));
            let gain = (from_edge / edge).min(1.0);
            (AMPLITUDE * gain * (TAU * HERTZ * f64::from(n) / f64::from(SAMPLE_RATE)).sin()).round() as i16
        })
        .collect()
}
