//! Audio of a mail attachment as a recording.

use twinbox_rtp::Codec;

use crate::{
    AudioError,
    compressed::{self, Container},
    content::Content,
    wav,
};

/// Sound of a telephone: 8,000 samples of one byte a second, mono.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Law of `bytes`.
    pub codec: Codec,
    /// The sound.
    pub bytes: Vec<u8>,
    /// The file had more sound than the limit allows.
    pub truncated: bool,
}

/// The sound of a WAV, MP3, M4A or AAC file, at most `max_ms` milliseconds of it. The content tells the kind of the
/// file. Telephone audio in a WAV file (G.711, mono, 8,000 Hz) keeps its bytes and its law, other sound becomes µ-law.
///
/// A file that turns out to be damaged ends there, if at least 100 ms came before; `truncated` is false then. Decoding
/// keeps a processor busy: call it on a thread for blocking work.
pub fn to_g711(bytes: &[u8], max_ms: u64) -> Result<Recording, AudioError> {
    match Content::of(bytes) {
        Content::Wav => wav::decode(bytes, max_ms),
        Content::Mp3(stream) => compressed::decode(Container::Mp3, stream, max_ms),
        Content::Aac(stream) => compressed::decode(Container::Aac, stream, max_ms),
        Content::Mp4 => compressed::decode(Container::M4a, bytes, max_ms),
        Content::Unsupported(name) => Err(AudioError::Unsupported(name)),
        Content::Unknown => Err(AudioError::Unknown),
    }
}
