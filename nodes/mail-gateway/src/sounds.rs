//! The sound of a mail's files, decoded.

use bytes::Bytes;
use twinbox_audio::{Recording, g726_to_g711, to_g711};
use twinbox_mail::incoming::{Audio, Incoming};
use twinbox_mailstore::Codec;
use twinbox_rtp::{SAMPLES_PER_MS, g711};

/// A sound of a mail, cheap to clone.
#[derive(Clone)]
pub(crate) struct Sound {
    pub(crate) codec: Codec,
    pub(crate) bytes: Bytes,
    /// The files have more sound than was decoded.
    is_cut: bool,
}

impl Sound {
    /// Whether this is the whole sound, and no longer than this many milliseconds.
    pub(crate) fn is_within(&self, max_ms: u64) -> bool {
        !self.is_cut && self.bytes.len() as u64 <= max_ms.saturating_mul(u64::from(SAMPLES_PER_MS))
    }
}

/// The sounds of a mail, one for each message; decoded when asked for.
pub(crate) struct Sounds<'a> {
    /// The files of each message.
    messages: Vec<&'a [Audio]>,
    /// Milliseconds of a sound that are decoded.
    most_ms: u64,
    /// The sound decoded last, with its index. No other is in memory: files of a few hundred kilobytes can last for hours.
    last: Option<(usize, Result<Sound, String>)>,
}

impl<'a> Sounds<'a> {
    /// The sounds of a mail, of each at most `most_ms` milliseconds.
    pub(crate) fn of(mail: &'a Incoming, most_ms: u64) -> Self {
        // A voice message of several parts, such as an introduction and a forwarded message, is one message.
        let together = if mail.is_vpim { mail.audio.len() } else { 1 };
        Self { messages: mail.audio.chunks(together.max(1)).collect(), most_ms, last: None }
    }

    /// Number of messages.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The sound of the message at `index`. `Err`: it cannot be read, for this reason.
    pub(crate) async fn at(&mut self, index: usize) -> Result<Sound, String> {
        let sound = match self.last.take().filter(|(last, _)| *last == index) {
            Some((_, sound)) => sound,
            None => {
                let files = self.messages.get(index).copied().unwrap_or_default();
                let sound = joined(files, self.most_ms).await;
                sound.map(|Recording { codec, bytes, truncated }| Sound {
                    codec,
                    bytes: bytes.into(),
                    is_cut: truncated,
                })
            }
        };
        self.last = Some((index, sound.clone()));
        sound
    }
}

/// The sounds of files one after the other, in the codec of the first, at most `max_ms` milliseconds.
async fn joined(files: &[Audio], max_ms: u64) -> Result<Recording, String> {
    let mut joined: Option<Recording> = None;
    for file in files {
        let Some(whole) = &mut joined else {
            joined = Some(decode(file.clone(), max_ms).await?);
            continue;
        };
        let rest_ms = max_ms.saturating_sub(whole.bytes.len() as u64 / u64::from(SAMPLES_PER_MS));
        if whole.truncated || rest_ms == 0 {
            whole.truncated = true;
            break;
        }
        let sound = decode(file.clone(), rest_ms).await?;
        whole.bytes.extend(g711::transcode(sound.codec, whole.codec, &sound.bytes));
        whole.truncated = sound.truncated;
    }
    joined.ok_or_else(|| "the mail has no sound file".to_owned())
}

/// The sound of an attachment, by its content; only 32KADPCM has no header that tells.
async fn decode(audio: Audio, max_ms: u64) -> Result<Recording, String> {
    let decoded = tokio::task::spawn_blocking(move || {
        if audio.content_type.eq_ignore_ascii_case("audio/32kadpcm") {
            // Two samples a byte, 8 samples a millisecond.
            let most = usize::try_from(max_ms.saturating_mul(4)).unwrap_or(usize::MAX);
            let data = audio.bytes.get(..most.min(audio.bytes.len())).unwrap_or_default();
            let bytes = g726_to_g711(data, Codec::Pcmu);
            return Ok(Recording { codec: Codec::Pcmu, bytes, truncated: data.len() < audio.bytes.len() });
        }
        to_g711(&audio.bytes, max_ms).map_err(|error| error.to_string())
    });
    decoded.await.unwrap_or_else(|_| Err("the node is stopping".to_owned()))
}
