//! The codec with ffmpeg's MIX in place of the Recommendation's, against ffmpeg bit by bit: nothing else differs.

#[path = "../../tests/audio/common/mod.rs"]
mod common;
#[path = "../../tests/audio/signals.rs"]
mod signals;

use super::{State, mix};
use signals::{bytes, samples, signals};

/// Codes of the signal "steps" before its estimate exceeds the 16 bits in which ACCUM (section 4.2.6) adds and drops the
/// carry; ffmpeg adds in 32 bits there.
const STEPS_WITHIN_16_BITS: usize = 202;

/// ffmpeg's MIX. Section 4.2.4 cuts the slow scale factor YL to YL >> 6 before the sum and the product DIF * AL towards
/// zero. ffmpeg adds the product to all bits of YL and cuts the sum downwards: its scale factor may be 1/512 off.
fn ffmpeg_mix(slow_scale: i32, fast_scale: i32, weight: i32) -> i32 {
    (slow_scale + (fast_scale - (slow_scale >> 6)) * weight) >> 6
}

#[test]
fn with_its_mix_codes_and_samples_are_those_of_ffmpeg() {
    for (name, signal) in signals() {
        let raw = ["-f", "s16le", "-ar", "8000", "-ac", "1"];
        let encoding = ["-c:a", "g726le", "-b:a", "32k", "-f", "g726le"];
        let Some(packed) = common::ffmpeg(&bytes(&signal), &raw, &encoding, "g726") else { return };
        let theirs: Vec<u8> = packed.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
        assert_eq!(theirs.len(), signal.len(), "{name}");
        let compared = if name == "steps" { STEPS_WITHIN_16_BITS } else { signal.len() };

        let mut encoder = State::new(ffmpeg_mix);
        let ours: Vec<u8> = signal.iter().map(|sample| encoder.encode(*sample)).collect();
        let differs = ours.iter().zip(&theirs).position(|(our, their)| our != their);
        assert!(differs.is_none_or(|at| at >= compared), "{name}: code {differs:?} differs");

        let read = common::ffmpeg(&packed, &["-f", "g726le"], &["-f", "s16le"], "raw").expect("ffmpeg was there");
        let mut decoder = State::new(ffmpeg_mix);
        let decoded = theirs.iter().map(|code| {
            let estimate = decoder.estimate();
            // Samples beyond 16 bits wrap in ffmpeg, those beyond 17 saturate before.
            (decoder.advance(*code, estimate) << 2).clamp(-0xffff, 0xffff) as i16
        });
        let differs = decoded.zip(samples(&read)).position(|(our, their)| our != their);
        assert!(differs.is_none_or(|at| at >= compared), "{name}: sample {differs:?} differs");
    }
}

#[test]
fn mixes_differ_only_where_both_scale_factors_count() {
    for (slow, fast) in [(34_816, 544), (40_001, 5_120), (300_063, 700)] {
        assert_eq!(mix(slow, fast, 64), fast);
        assert_eq!(ffmpeg_mix(slow, fast, 64), fast);
        assert_eq!(mix(slow, fast, 0), ffmpeg_mix(slow, fast, 0));
    }
    // 544 + 63/64 + 80 + 28/64: together the fractions are more than one.
    assert_eq!((mix(34_879, 700, 33), ffmpeg_mix(34_879, 700, 33)), (624, 625));
    // 4688 - 1931 - 13/64.
    assert_eq!((mix(300_032, 701, 31), ffmpeg_mix(300_032, 701, 31)), (2_757, 2_756));
}
