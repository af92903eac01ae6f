//! G.711 against values of the standard's tables, and round trips.

use twinbox_rtp::{
    Codec,
    g711::{decode_sample, encode, encode_sample, mean_magnitude, transcode},
};

#[test]
fn decoding_matches_the_standard() {
    // (codec, byte, linear): ITU-T G.711 tables 1 and 2, scaled to 16 bits.
    let points = [
        (Codec::Pcmu, 0xff, 0),
        (Codec::Pcmu, 0x7f, 0),
        (Codec::Pcmu, 0x80, 32_124),
        (Codec::Pcmu, 0x00, -32_124),
        (Codec::Pcmu, 0xfe, 8),
        (Codec::Pcmu, 0xef, 132),
        (Codec::Pcma, 0xd5, 8),
        (Codec::Pcma, 0x55, -8),
        (Codec::Pcma, 0xaa, 32_256),
        (Codec::Pcma, 0x2a, -32_256),
        (Codec::Pcma, 0xd4, 24),
    ];
    for (codec, byte, linear) in points {
        assert_eq!(decode_sample(codec, byte), linear, "{codec} {byte:#04x}");
    }
}

#[test]
fn encoding_is_the_inverse_of_decoding() {
    for codec in Codec::ALL {
        for byte in 0..=255u8 {
            let back = encode_sample(codec, decode_sample(codec, byte));
            // µ-law has two zeroes.
            let same = back == byte || (codec == Codec::Pcmu && byte == 0x7f && back == 0xff);
            assert!(same, "{codec} {byte:#04x} came back as {back:#04x}");
        }
        for sample in i16::MIN..=i16::MAX {
            let error = i32::from(decode_sample(codec, encode_sample(codec, sample))) - i32::from(sample);
            let allowed =
                (i32::from(sample).abs() / 16).max(16) + if i32::from(sample).abs() > 32_000 { 700 } else { 0 };
            assert!(error.abs() <= allowed, "{codec} {sample}: off by {error}");
        }
    }
}

#[test]
fn transcoding_both_ways_changes_a_sample_by_one_step_at_most() {
    let all: Vec<u8> = (0..=255).collect();
    for (from, to) in [(Codec::Pcmu, Codec::Pcma), (Codec::Pcma, Codec::Pcmu)] {
        let there = transcode(from, to, &all);
        for (&a, &b) in all.iter().zip(&there) {
            let (a, b) = (i32::from(decode_sample(from, a)), i32::from(decode_sample(to, b)));
            assert!((a - b).abs() <= (a.abs() / 16).max(16), "{from} {a} became {to} {b}");
        }
        assert_eq!(transcode(from, from, &all), all);
    }
}

#[test]
fn silence_is_quiet_and_speech_is_not() {
    for codec in Codec::ALL {
        assert!(mean_magnitude(codec, &[codec.silence(); 80]) <= 8);
        let tone: Vec<i16> = (0..80).map(|i| if i % 16 < 8 { 3_000 } else { -3_000 }).collect();
        let level = mean_magnitude(codec, &encode(codec, &tone));
        assert!((2_900..3_100).contains(&level), "{codec}: {level}");
        assert_eq!(mean_magnitude(codec, &[]), 0);
    }
}

#[test]
fn codec_names_are_parsed() {
    for codec in Codec::ALL {
        assert_eq!(codec.name().parse(), Ok(codec));
        assert_eq!(Codec::from_payload_type(codec.payload_type()), Some(codec));
    }
    assert_eq!(
        "g729".parse::<Codec>().unwrap_err().to_string(),
        "'g729' is not a supported codec: use PCMU or PCMA"
    );
}
