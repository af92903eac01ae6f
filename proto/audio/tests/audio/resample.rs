//! The converter of sample rates: what it passes, damps and counts.

use std::f64::consts::TAU;

use proptest::prelude::*;
use twinbox_audio::resample::{MAX_RATE, MIN_RATE, Resampler};

/// A sine of amplitude 0.5.
fn tone(rate: u32, hertz: f64, length_ms: u32) -> Vec<f32> {
    let samples = u64::from(rate) * u64::from(length_ms) / 1_000;
    (0..samples).map(|n| (0.5 * (TAU * hertz * n as f64 / f64::from(rate)).sin()) as f32).collect()
}

/// All output for an input that comes in pieces of this length.
fn resampled(rate: u32, input: &[f32], piece: usize) -> Vec<f32> {
    let mut resampler = Resampler::new(rate).unwrap();
    let mut output = Vec::new();
    for piece in input.chunks(piece) {
        resampler.push(piece, &mut output);
    }
    resampler.finish(&mut output);
    output
}

/// Level in dB relative to a sine of amplitude 0.5, without the ends.
fn level(samples: &[f32]) -> f64 {
    let middle = &samples[400..samples.len() - 400];
    let power = middle.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / middle.len() as f64;
    10.0 * (power / 0.125).log10()
}

/// Frequency in Hz of a tone at 8,000 Hz, by its rises through zero.
fn frequency(samples: &[f32]) -> f64 {
    let rises: Vec<f64> = (400..samples.len() - 400)
        .filter(|&n| samples[n - 1] < 0.0 && samples[n] >= 0.0)
        .map(|n| n as f64 - f64::from(samples[n] / (samples[n] - samples[n - 1])))
        .collect();
    (rises.len() - 1) as f64 * 8_000.0 / (rises[rises.len() - 1] - rises[0])
}

#[test]
fn tone_of_speech_keeps_frequency_level_and_length() {
    for rate in [4_000, 8_001, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 191_999] {
        for hertz in [440.0, 1_000.0, 3_300.0] {
            if hertz > 0.41 * f64::from(rate) {
                continue;
            }
            let output = resampled(rate, &tone(rate, hertz, 600), 1_024);
            let (found, level) = (frequency(&output), level(&output));
            assert!((found - hertz).abs() < 0.5, "{hertz} Hz at {rate} became {found} Hz");
            assert!(level.abs() < 1.0, "{hertz} Hz at {rate}: {level} dB");
            assert!(output.len().abs_diff(4_800) <= 1, "{rate}: {} samples", output.len());
        }
    }
}

#[test]
fn output_is_in_step_with_the_input() {
    for rate in [4_000, 11_025, 16_000, 44_100, 48_000] {
        let output = resampled(rate, &tone(rate, 440.0, 600), 1_024);
        let wanted = tone(8_000, 440.0, 600);
        let pairs = output.iter().zip(&wanted).skip(400).take(4_000);
        let most = pairs.map(|(is, wanted)| (is - wanted).abs()).fold(0.0, f32::max);
        assert!(most < 0.003, "{rate}: off by {most}");
    }
}

#[test]
fn tone_beyond_the_telephone_band_is_damped_by_40_db() {
    for (rate, hertz) in
        [(48_000, 4_200.0), (48_000, 6_000.0), (44_100, 4_500.0), (16_000, 7_000.0), (192_000, 20_000.0)]
    {
        let level = level(&resampled(rate, &tone(rate, hertz, 600), 1_024));
        assert!(level < -40.0, "{hertz} Hz at {rate}: {level} dB");
    }
}

#[test]
fn constant_stays_constant() {
    for rate in [4_000, 11_025, 44_100, 47_999] {
        let output = resampled(rate, &vec![0.25; rate as usize / 4], 500);
        assert!(output[100..1_800].iter().all(|sample| (sample - 0.25).abs() < 1e-4), "{rate}");
    }
}

#[test]
fn rates_out_of_range_are_refused() {
    for (rate, accepted) in [(0, false), (3_999, false), (MIN_RATE, true), (MAX_RATE, true), (MAX_RATE + 1, false)]
    {
        assert_eq!(Resampler::new(rate).is_some(), accepted, "{rate}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pieces_make_no_difference(rate in MIN_RATE..60_000, length in 0usize..3_000, piece in 1usize..700) {
        let input: Vec<f32> = (0..length).map(|n| ((n * n) % 97) as f32 / 97.0 - 0.5).collect();
        let whole = resampled(rate, &input, usize::MAX);
        prop_assert_eq!(&resampled(rate, &input, piece), &whole);
        prop_assert_eq!(whole.len(), (length * 8_000).div_ceil(rate as usize));
    }
}
