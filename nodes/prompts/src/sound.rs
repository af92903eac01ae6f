//! A prompt in both laws, and the parsing of its file.

use std::path::Path;

use bytes::Bytes;
use twinbox_rtp::{Codec, g711, wav::Wav};

use crate::PromptError;

/// A prompt in both laws of G.711.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sound {
    ulaw: Bytes,
    alaw: Bytes,
}

/// Format of a prompt file, given by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A WAV file; its header gives the details.
    Wav,
    /// Raw linear samples, 16 bits, little-endian.
    Linear,
    /// Raw G.711.
    G711(Codec),
}

impl Sound {
    pub(crate) fn from_samples(samples: &[i16]) -> Self {
        let encode = |codec| g711::encode(codec, samples).into();
        Self { ulaw: encode(Codec::Pcmu), alaw: encode(Codec::Pcma) }
    }

    pub(crate) fn get(&self, codec: Codec) -> Bytes {
        match codec {
            Codec::Pcmu => self.ulaw.clone(),
            Codec::Pcma => self.alaw.clone(),
        }
    }
}

/// Parses a prompt; `path` is used in the error.
pub(crate) fn read(format: Format, file: &[u8], path: &Path) -> Result<Sound, PromptError> {
    let sound = match format {
        Format::Wav => {
            let wav = Wav::read(file).map_err(|source| PromptError::Wav { path: path.to_owned(), source })?;
            Sound { ulaw: wav.to_g711(Codec::Pcmu).into(), alaw: wav.to_g711(Codec::Pcma).into() }
        }
        Format::Linear => {
            let (samples, rest) = file.as_chunks::<2>();
            if !rest.is_empty() {
                let problem = "it ends in the middle of a sample, so it is not 16-bit linear sound: copy it again, or \
                               convert it with sox in.wav -r 8000 -c 1 -b 16 -e signed -t raw out.sln";
                return Err(PromptError::Sound { path: path.to_owned(), problem });
            }
            let samples: Vec<i16> = samples.iter().map(|&bytes| i16::from_le_bytes(bytes)).collect();
            Sound::from_samples(&samples)
        }
        Format::G711(codec) => {
            let to = |law| g711::transcode(codec, law, file).into();
            Sound { ulaw: to(Codec::Pcmu), alaw: to(Codec::Pcma) }
        }
    };
    if sound.ulaw.is_empty() {
        let problem = "it holds no sound: copy it again, or remove it, then the embedded one is played";
        return Err(PromptError::Sound { path: path.to_owned(), problem });
    }
    Ok(sound)
}
