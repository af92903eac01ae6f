//! WAV files: written here, written by other programs, and invalid ones.

use proptest::prelude::*;
use twinbox_rtp::{
    Codec,
    wav::{self, Format, Wav, WavError},
};

#[test]
fn g711_stays_bit_exact() {
    let data: Vec<u8> = (0..=255).collect();
    for codec in Codec::ALL {
        for length in [0, 1, 255, 256] {
            let read = Wav::read(&wav::write(codec, &data[..length])).unwrap();
            assert_eq!(read, Wav { format: Format::G711(codec), data: data[..length].to_vec() });
            assert_eq!(read.to_g711(codec), &data[..length]);
        }
    }
}

#[test]
fn linear_samples_come_back() {
    let samples = [0, 1, -1, i16::MAX, i16::MIN, 1_000, -1_000];
    let read = Wav::read(&wav::write_pcm16(&samples)).unwrap();
    assert_eq!((read.samples(), read.format), (samples.to_vec(), Format::Pcm16));
    assert_eq!(Wav::read(&wav::write_pcm16(&[7; 8_000])).unwrap().length_ms(), 1_000);
    assert_eq!(Wav::read(&wav::write(Codec::Pcma, &[7; 4_000])).unwrap().length_ms(), 500);
}

/// A WAV file with this `fmt ` chunk and data.
fn file(tag: u16, channels: u16, rate: u32, bits: u16, data_length: u32, data: &[u8]) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
    file.extend(tag.to_le_bytes());
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend([0; 6]);
    file.extend(bits.to_le_bytes());
    // An unused chunk of odd length.
    file.extend(b"LIST\x03\0\0\0abc\0data");
    file.extend(data_length.to_le_bytes());
    file.extend(data);
    file
}

#[test]
fn files_of_other_programs_are_readable() {
    let read = Wav::read(&file(1, 1, 8_000, 16, 5, &[1, 0, 2, 0, 3])).unwrap();
    assert_eq!(read.samples(), [1, 2], "half a sample is none");
    let streamed = Wav::read(&file(7, 1, 8_000, 8, u32::MAX, &[1, 2, 3])).unwrap();
    assert_eq!(streamed.data, [1, 2, 3], "a writer to a pipe does not know the length");
}

#[test]
fn unsupported_files_are_refused_with_a_remedy() {
    let cut = wav::write(Codec::Pcmu, &[1; 100]);
    let cases: [(&[u8], &str); 9] = [
        (b"", "not a WAV file"),
        (b"RIFF", "not a WAV file"),
        (b"ID3\x04 mp3 mp3 mp3 mp3", "not a WAV file"),
        (b"RIFF\0\0\0\0WAVE", "no 'fmt' chunk"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\x01\0", "'fmt ' chunk is damaged"),
        (&cut[..cut.len() - 1], "incomplete: its 'data' chunk should have 100 bytes, but has 99"),
        (&file(1, 2, 8_000, 16, 0, &[]), "has 2 channel(s) at 8000 Hz"),
        (&file(1, 1, 44_100, 16, 0, &[]), "has 1 channel(s) at 44100 Hz"),
        (&file(0x31, 1, 8_000, 0, 0, &[]), "format 0x0031 with 0 bits"),
    ];
    for (bytes, words) in cases {
        let error = Wav::read(bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(Wav::read(&wav::write(Codec::Pcmu, &[])[..40]), Err(WavError::Missing("data")));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..300, at in 0usize..60, with: u8) {
        let _ = Wav::read(&bytes);
        let mut file = wav::write(Codec::Pcma, &bytes);
        if let Some(byte) = file.get_mut(at) {
            *byte = with;
        }
        file.truncate(cut);
        let _ = Wav::read(&file);
    }
}
