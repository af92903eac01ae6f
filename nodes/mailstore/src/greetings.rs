//! Greetings that owners recorded.

use bytes::Bytes;
use twinbox_ids::MailboxId;
use twinbox_mailbox::{Codec, GreetingKind, clear_greeting, set_greeting};

use crate::{Acknowledgement, MailError, Mailstore};

/// Audio as it is stored and sent: raw G.711, 8000 bytes per second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audio {
    /// Codec of the audio.
    pub codec: Codec,
    /// The samples, one byte each.
    pub bytes: Bytes,
}

impl Audio {
    /// Its length in milliseconds.
    pub fn length_ms(&self) -> u64 {
        self.bytes.len() as u64 / u64::from(twinbox_rtp::SAMPLES_PER_MS)
    }
}

impl Mailstore {
    /// A mailbox's greeting of that kind, if one was recorded.
    pub async fn greeting(&self, id: MailboxId, kind: GreetingKind) -> Result<Option<Audio>, MailError> {
        let mailbox = self.get(id).await?.ok_or(MailError::NoMailbox(id))?;
        match mailbox.greeting(kind) {
            Some(greeting) => {
                Ok(Some(Audio { codec: greeting.codec, bytes: self.blob(&greeting.blob.hash).await? }))
            }
            None => Ok(None),
        }
    }

    /// Sets a greeting, or removes it (`None`: the spoken prompts are used again).
    pub async fn set_greeting(
        &self,
        id: MailboxId,
        kind: GreetingKind,
        audio: Option<Audio>,
    ) -> Result<Acknowledgement, MailError> {
        let edits = match audio {
            Some(audio) => set_greeting(kind, audio.codec, self.store().blobs().put(audio.bytes).await?),
            None => clear_greeting(kind),
        };
        self.edit_mailbox(id, edits).await
    }
}
