//! Attachments: WAV of all kinds, MP3 and M4A by ffmpeg, and bytes that are nothing.

use std::f64::consts::TAU;

use proptest::prelude::*;
use twinbox_audio::{AudioError, Recording, to_g711};
use twinbox_rtp::{Codec, g711, wav};

use crate::common::ffmpeg;

const PCM: u16 = 1;
const IEEE_FLOAT: u16 = 3;
const HOUR_MS: u64 = 3_600_000;

/// A WAV file with this `fmt ` chunk, an unknown chunk of odd length, and data.
fn file(tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
    file.extend(tag.to_le_bytes());
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend([0; 6]);
    file.extend(bits.to_le_bytes());
    file.extend(b"LIST\x03\0\0\0abc\0data");
    file.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    file.extend(data);
    file
}

/// One second of a 440 Hz sine of half the full scale.
fn tone(rate: u32) -> Vec<f64> {
    (0..rate).map(|n| 0.5 * (TAU * 440.0 * f64::from(n) / f64::from(rate)).sin()).collect()
}

fn pcm16(samples: &[f64]) -> Vec<u8> {
    samples.iter().flat_map(|sample| ((sample * 32_768.0) as i16).to_le_bytes()).collect()
}

/// The recording is one second of the tone, give or take 100 ms, with a level within 1 dB.
fn assert_tone(recording: &Recording, what: &str) {
    let samples = g711::decode(recording.codec, &recording.bytes);
    assert!(samples.len().abs_diff(8_000) <= 800, "{what}: {} samples", samples.len());
    let middle = &samples[1_000..7_000];
    let power = middle.iter().map(|&s| (f64::from(s) / 32_768.0).powi(2)).sum::<f64>() / 6_000.0;
    let level = 10.0 * (power / 0.125).log10();
    assert!(level.abs() < 1.0, "{what}: {level} dB");
    let rises = middle.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
    assert!(rises.abs_diff(330) <= 1, "{what}: {rises} periods in 750 ms");
}

#[test]
fn wav_of_every_format_is_accepted() {
    for rate in [8_000, 11_025, 16_000, 44_100, 48_000] {
        let tone = tone(rate);
        let le32 = |sample: &f64| ((sample * 2_147_483_648.0) as i32).to_le_bytes();
        let law = |codec: Codec| -> Vec<u8> {
            tone.iter().map(|s| g711::encode_sample(codec, (s * 32_768.0) as i16)).collect()
        };
        let cases: [(u16, u16, Vec<u8>); 7] = [
            (PCM, 8, tone.iter().map(|s| (s * 128.0 + 128.0) as u8).collect()),
            (PCM, 16, pcm16(&tone)),
            (PCM, 24, tone.iter().flat_map(|s| [le32(s)[1], le32(s)[2], le32(s)[3]]).collect()),
            (PCM, 32, tone.iter().flat_map(le32).collect()),
            (IEEE_FLOAT, 32, tone.iter().flat_map(|s| (*s as f32).to_le_bytes()).collect()),
            (7, 8, law(Codec::Pcmu)),
            (6, 8, law(Codec::Pcma)),
        ];
        for (tag, bits, data) in cases {
            let what = format!("tag {tag}, {bits} bits, {rate} Hz");
            let mono = to_g711(&file(tag, 1, rate, bits, &data), HOUR_MS).expect(&what);
            assert_tone(&mono, &what);
            let width = usize::from(bits / 8);
            let stereo: Vec<u8> = data.chunks(width).flat_map(|sample| [sample, sample].concat()).collect();
            let mixed = to_g711(&file(tag, 2, rate, bits, &stereo), HOUR_MS).expect(&what);
            assert_tone(&mixed, &what);
            assert!(!mono.truncated && !mixed.truncated);
        }
    }
}

#[test]
fn telephone_audio_is_taken_as_it_is() {
    let data: Vec<u8> = (0..=255).cycle().take(16_000).collect();
    for codec in Codec::ALL {
        let file = wav::write(codec, &data);
        let whole = Recording { codec, bytes: data.clone(), truncated: false };
        assert_eq!(to_g711(&file, HOUR_MS), Ok(whole.clone()));
        assert_eq!(to_g711(&file, 2_000), Ok(whole));
        let cut = Recording { codec, bytes: data[..8_000].to_vec(), truncated: true };
        assert_eq!(to_g711(&file, 1_000), Ok(cut));
    }
    let samples: Vec<i16> = (i16::MIN..=i16::MAX).step_by(5).collect();
    let pcm = to_g711(&wav::write_pcm16(&samples), HOUR_MS).unwrap();
    assert_eq!((pcm.codec, pcm.bytes), (Codec::Pcmu, g711::encode(Codec::Pcmu, &samples)));
}

#[test]
fn channels_are_averaged() {
    let opposite: Vec<u8> =
        [1_000_i16, -1_000].into_iter().cycle().take(2_000).flat_map(i16::to_le_bytes).collect();
    let silent = to_g711(&file(PCM, 2, 8_000, 16, &opposite), HOUR_MS).unwrap();
    assert_eq!(silent.bytes, [Codec::Pcmu.silence(); 1_000]);
}

#[test]
fn sound_beyond_the_limit_is_cut() {
    let file = file(PCM, 1, 44_100, 16, &pcm16(&tone(44_100)));
    for (max_ms, length, truncated) in [(0, 0, true), (1, 8, true), (500, 4_000, true), (1_000, 8_000, false)] {
        let recording = to_g711(&file, max_ms).unwrap();
        assert_eq!((recording.bytes.len(), recording.truncated), (length, truncated), "{max_ms} ms");
    }
}

#[test]
fn stated_lengths_are_not_trusted() {
    let mut file = file(PCM, 1, 16_000, 16, &pcm16(&tone(16_000)));
    let at = file.len() - 32_000 - 4;
    for stated in [u32::MAX, 0x7fff_0000, 40_000] {
        file[at..at + 4].copy_from_slice(&stated.to_le_bytes());
        assert_tone(&to_g711(&file, HOUR_MS).unwrap(), "a stated length beyond the end");
    }
    let half = to_g711(&file[..at + 4 + 16_001], HOUR_MS).unwrap();
    assert_eq!(half.bytes.len(), 4_000, "a file that was cut inside of a sample");
}

#[test]
fn samples_that_are_no_numbers_are_silence() {
    let data: Vec<u8> = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .cycle()
        .take(900)
        .flat_map(f32::to_le_bytes)
        .collect();
    for rate in [8_000, 16_000] {
        let silent = to_g711(&file(IEEE_FLOAT, 1, rate, 32, &data), HOUR_MS).unwrap();
        assert!(silent.bytes.iter().all(|&byte| byte == Codec::Pcmu.silence()));
    }
}

#[test]
fn errors_name_what_was_found_and_what_to_send() {
    let m4a = b"\0\0\0\x14ftypM4A \0\0\0\0M4A ".as_slice();
    let headless = file(PCM, 1, 8_000, 16, &[]);
    let cases: [(&[u8], &str); 14] = [
        (b"", "not audio of a known kind: send WAV, MP3 or M4A"),
        (b"Dear all, please find attached", "not audio of a known kind"),
        (b"fLaC\0\0\0\x22", "FLAC is not supported: send WAV, MP3 or M4A"),
        (b"OggS\0\x02", "Ogg (Opus, Vorbis) is not supported"),
        (b"#!AMR\n", "AMR is not supported"),
        (b"RIFF\0\0\0\0WAVE", "the WAV file is damaged (it has no 'fmt' chunk)"),
        (&headless[..40], "the WAV file is damaged (it has no 'data' chunk)"),
        (&file(PCM, 1, 8_000, 16, &[1]), "the WAV file has no sound"),
        (&file(0x11, 1, 8_000, 4, &[0; 9]), "format 0x0011 with 4 bits"),
        (&file(PCM, 0, 8_000, 16, &[0; 9]), "0 channel(s) at 8000 Hz"),
        (&file(PCM, 33, 8_000, 16, &[0; 99]), "33 channel(s)"),
        (&file(PCM, 1, 200_000, 16, &[0; 9]), "at 200000 Hz; accepted are"),
        (b"\xff\xfb\x90\x64 and nothing else", "the MP3 file is damaged"),
        (m4a, "the M4A file cannot be decoded (isomp4: missing moov atom)"),
    ];
    for (bytes, words) in cases {
        let error = to_g711(bytes, HOUR_MS).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(to_g711(b"caff\0\x01", 0), Err(AudioError::Unsupported("CAF")));
}

/// One second of the tone as ffmpeg encodes it.
fn encoded(rate: &str, channels: &str, options: &[&str], extension: &str) -> Option<Vec<u8>> {
    // Without the filter, ffmpeg makes each of two channels 3 dB quieter than the one.
    let filter = if channels == "2" { "pan=stereo|c0=c0|c1=c0" } else { "anull" };
    let after = [&["-af", filter, "-ar", rate][..], options].concat();
    ffmpeg(&pcm16(&tone(48_000)), &["-f", "s16le", "-ar", "48000", "-ac", "1"], &after, extension)
}

#[test]
fn mp3_of_ffmpeg_is_decoded() {
    let cases: [(&str, &str, &[&str]); 6] = [
        ("44100", "1", &["-b:a", "64k"]),
        ("48000", "2", &["-q:a", "2"]),
        ("22050", "1", &["-b:a", "32k"]),
        ("16000", "2", &["-b:a", "48k", "-id3v2_version", "3", "-metadata", "title=Greeting"]),
        ("44100", "2", &["-b:a", "128k", "-write_xing", "0", "-id3v2_version", "0"]),
        ("44100", "1", &["-abr", "1", "-b:a", "56k", "-write_id3v1", "1"]),
    ];
    for (rate, channels, options) in cases {
        let Some(file) = encoded(rate, channels, options, "mp3") else { return };
        let recording = to_g711(&file, HOUR_MS).unwrap();
        assert_tone(&recording, &format!("MP3, {rate} Hz, {channels} channels, {options:?}"));
        let short = to_g711(&file, 300).unwrap();
        assert_eq!((short.bytes.len(), short.truncated), (2_400, true));
    }
}

#[test]
fn aac_of_ffmpeg_is_decoded() {
    let cases: [(&str, &str, &[&str], &str); 5] = [
        ("44100", "1", &["-c:a", "aac"], "m4a"),
        ("48000", "2", &["-c:a", "aac", "-movflags", "+faststart"], "m4a"),
        ("22050", "1", &["-c:a", "aac", "-metadata", "title=Greeting"], "mp4"),
        ("44100", "1", &["-c:a", "aac", "-movflags", "+frag_keyframe+empty_moov"], "mp4"),
        ("32000", "1", &["-c:a", "aac"], "aac"),
    ];
    for (rate, channels, options, extension) in cases {
        let Some(file) = encoded(rate, channels, options, extension) else { return };
        let recording = to_g711(&file, HOUR_MS).unwrap();
        assert_tone(&recording, &format!("AAC, {rate} Hz, {channels} channels, {options:?}, {extension}"));
        let short = to_g711(&file, 300).unwrap();
        assert_eq!((short.bytes.len(), short.truncated), (2_400, true));
    }
}

#[test]
fn other_codecs_in_an_m4a_file_are_refused() {
    let Some(file) = encoded("44100", "1", &["-c:a", "alac"], "m4a") else { return };
    let error = to_g711(&file, HOUR_MS).unwrap_err().to_string();
    assert!(error.contains("the M4A file cannot be decoded"), "{error}");
}

#[test]
fn damaged_file_ends_at_the_damage() {
    for (extension, options) in [("mp3", ["-b:a", "64k"]), ("m4a", ["-movflags", "+faststart"])] {
        let Some(file) = encoded("44100", "1", &options, extension) else { return };
        let cut = to_g711(&file[..file.len() * 6 / 10], HOUR_MS).unwrap();
        assert!((1_600..7_200).contains(&cut.bytes.len()), "{extension}: {} samples", cut.bytes.len());
        let error = to_g711(&file[..file.len() / 100 + 60], HOUR_MS);
        assert!(error.is_err(), "{extension}: {error:?}");
    }
}

/// Bytes that differ from those of a valid file in some places, and may end early.
fn mutated(mut file: Vec<u8>, changes: &[(usize, u8)], end: usize) -> Vec<u8> {
    for (at, with) in changes {
        let at = at % file.len();
        file[at] = *with;
    }
    file.truncate(end);
    file
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((any::<usize>(), any::<u8>()), 0..12)
}

#[test]
fn mutated_files_of_ffmpeg_never_panic() {
    let Some(mp3) = encoded("16000", "1", &["-b:a", "24k"], "mp3") else { return };
    let Some(m4a) = encoded("16000", "1", &["-c:a", "aac", "-movflags", "+faststart"], "m4a") else { return };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
    for file in [mp3, m4a] {
        // Headers are at the start: half of the changes hit them.
        let places = (changes(), changes(), 1..file.len());
        let result = runner.run(&places, |(anywhere, early, end)| {
            let early: Vec<(usize, u8)> = early.into_iter().map(|(at, with)| (at % 1_200, with)).collect();
            let _ = to_g711(&mutated(file.clone(), &[anywhere, early].concat(), end), 2_000);
            Ok(())
        });
        result.unwrap();
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(start in 0usize..6, tail in prop::collection::vec(any::<u8>(), 0..600)) {
        let starts: [&[u8]; 6] =
            [b"", b"RIFF\0\0\0\0WAVEfmt ", b"\xff\xfb\x90\x64", b"\0\0\0\x14ftypM4A ", b"\xff\xf1\x50\x80", b"ID3\x04\0\0"];
        let _ = to_g711(&[starts[start], &tail].concat(), 1_000);
    }

    #[test]
    fn no_mutated_wav_panics(
        changes in changes(),
        end in 0usize..400,
        channels in 1u16..4,
        rate in prop::sample::select(vec![4_000, 8_000, 11_025, 44_100]),
    ) {
        let data: Vec<u8> = (0..=255).collect();
        let file = file(PCM, channels, rate, 16, &data);
        let _ = to_g711(&mutated(file.clone(), &changes, end), 1_000);
        let header: Vec<(usize, u8)> = changes.into_iter().map(|(at, with)| (at % 64, with)).collect();
        let _ = to_g711(&mutated(file, &header, end), 1_000);
    }
}
