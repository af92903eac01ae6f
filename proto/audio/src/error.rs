//! The error of audio that cannot become a recording.

/// Reason why an attachment cannot become a recording. The texts name the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// The content is not of a known kind.
    #[error("the file is not audio of a known kind: send WAV, MP3 or M4A")]
    Unknown,
    /// A known kind, by name, that has no decoder here.
    #[error("{0} is not supported: send WAV, MP3 or M4A")]
    Unsupported(&'static str),
    /// A WAV file with another sample format.
    #[error(
        "the WAV file has format {tag:#06x} with {bits} bits a sample, which is not supported: \
         save it as 16-bit PCM, or send MP3 or M4A"
    )]
    WavFormat {
        /// `wFormatTag`, that of the extension if there is one.
        tag: u16,
        /// Bits per sample.
        bits: u16,
    },
    /// A sample rate or a number of channels out of range.
    #[error(
        "the {found} file has {channels} channel(s) at {rate} Hz; accepted are 1 to 32 channels at 4000 to 192000 Hz: \
         convert it to mono at 8000 Hz"
    )]
    Shape {
        /// Kind of the file.
        found: &'static str,
        /// Number of channels.
        channels: usize,
        /// Samples per second.
        rate: u32,
    },
    /// The file uses a part of its format that the decoder lacks.
    #[error("the {found} file cannot be decoded ({reason}): send WAV, MP3 or M4A with AAC-LC")]
    Feature {
        /// Kind of the file.
        found: &'static str,
        /// The decoder's text.
        reason: String,
    },
    /// The file breaks the rules of its format before 100 ms of sound.
    #[error("the {found} file is damaged ({reason}): export it again as WAV, MP3 or M4A")]
    Damaged {
        /// Kind of the file.
        found: &'static str,
        /// The decoder's text.
        reason: String,
    },
    /// A valid file without sound.
    #[error("the {found} file has no sound: record it again")]
    Empty {
        /// Kind of the file.
        found: &'static str,
    },
}
