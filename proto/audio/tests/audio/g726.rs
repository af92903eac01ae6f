//! G.726 against recorded output of other implementations, and against ffmpeg where it is installed.

use proptest::prelude::*;
use twinbox_audio::{g711_to_g726, g726, g726_to_g711};
use twinbox_rtp::{Codec, g711};

use crate::common;
use crate::signals::{bytes, samples, signals};

/// FNV-1a, 64 bits.
fn checksum(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Checksums of the codes of each signal and of the samples of these codes, from libspandsp 2 of Debian 12. In the last
/// two signals, its samples beyond 16 bits wrap; the checksums are those after saturating them.
const RECORDED: [(&str, u64, u64); 8] = [
    ("silence", 0x40fc_a59d_2e3b_82d5, 0xa947_e505_90de_8025),
    ("tone", 0xc2d5_a815_59a9_10c3, 0xcd78_999e_d475_3435),
    ("two tones", 0xa4a2_4cf7_c1da_8e21, 0xf527_b415_61cf_6213),
    ("tone that changes", 0xda22_cbce_2a51_6dfa, 0x6d43_0403_caf1_2b30),
    ("quiet noise", 0x595e_5fd0_d603_4ca6, 0x56d3_af6d_e55d_fa86),
    ("bursts", 0x07bb_7703_2594_5265, 0x98ba_699e_908b_36b3),
    ("loud noise", 0x3716_fae5_edf2_ce91, 0x0a2c_e569_aed7_8515),
    ("steps", 0xf043_ca96_274c_c592, 0x8033_ff3f_872f_8087),
];

#[test]
fn codes_and_samples_are_those_of_the_recommendation() {
    for ((name, signal), recorded) in signals().into_iter().zip(RECORDED) {
        let codes = g726::encode(&signal);
        let found = (name, checksum(codes.iter().copied()), checksum(bytes(&g726::decode(&codes))));
        assert_eq!(found, recorded, "{:#018x} {:#018x}", found.1, found.2);
    }
}

/// Power of the signal over that of the difference, in dB.
fn distance(signal: &[i16], other: &[i16]) -> f64 {
    let power = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = power(&mut signal.iter().zip(other).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    10.0 * (power(&mut signal.iter().map(|v| f64::from(*v))) / difference.max(1.0)).log10()
}

const RAW: [&str; 6] = ["-f", "s16le", "-ar", "8000", "-ac", "1"];

/// ffmpeg's MIX is not that of the Recommendation, so only silence is equal; the tests of the crate itself check the rest
/// bit by bit. Both decoders differ by the codec's own noise or less.
#[test]
fn ffmpeg_understands_and_is_understood() {
    for (name, signal) in signals() {
        // Samples beyond 16 bits wrap in ffmpeg.
        if ["loud noise", "steps"].contains(&name) {
            continue;
        }
        let encoding = ["-c:a", "g726le", "-b:a", "32k", "-f", "g726le"];
        let Some(theirs) = common::ffmpeg(&bytes(&signal), &RAW, &encoding, "g726") else { return };
        let ours = g726::encode(&signal);
        assert_eq!(theirs.len(), ours.len(), "{name}");
        for codes in [&theirs, &ours] {
            let read = common::ffmpeg(codes, &["-f", "g726le"], &["-f", "s16le"], "raw");
            let (read, decoded) = (samples(&read.expect("ffmpeg was there")), g726::decode(codes));
            assert_eq!(read.len(), decoded.len(), "{name}");
            let distance = distance(&decoded, &read);
            assert!(decoded == read || distance > 25.0, "{name}: {distance} dB");
        }
        assert!(name != "silence" || theirs == ours);
    }
}

#[test]
fn the_first_sample_is_in_the_lower_half_of_the_byte() {
    assert_eq!(g726::encode(&[20_000, 0])[0] & 15, 7);
    assert_eq!(g726::encode(&[0, 20_000]), [0x7f]);
    assert_eq!(g726::encode(&[0]), g726::encode(&[0, 0]), "an odd number is completed");
    assert_eq!(g726::encode(&[]), []);
    assert_eq!(g726::decode(&[0x70])[0], g726::decode(&[0x00])[0]);
}

#[test]
fn telephone_audio_survives() {
    let tone: Vec<i16> = (0..8_000).map(|n| (8_000.0 * (f64::from(n) * 0.4).sin()) as i16).collect();
    for codec in Codec::ALL {
        let recording = g711::encode(codec, &tone);
        let body = g711_to_g726(&recording, codec);
        assert_eq!(body.len(), recording.len() / 2);
        let back = g726_to_g711(&body, codec);
        let (before, after) = (g711::decode(codec, &recording), g711::decode(codec, &back));
        let distance = distance(&before[400..], &after[400..]);
        assert!(distance > 25.0, "{codec}: {distance} dB");
    }
}

proptest! {
    #[test]
    fn no_codes_and_no_samples_panic(codes in prop::collection::vec(any::<u8>(), 0..2_000), signal: Vec<i16>) {
        prop_assert_eq!(g726::decode(&codes).len(), 2 * codes.len());
        prop_assert_eq!(g726::encode(&signal).len(), signal.len().div_ceil(2));
    }
}
