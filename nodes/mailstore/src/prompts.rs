//! Custom prompts of the administrator, the same on every node.

use bytes::Bytes;
use twinbox_ids::BlobHash;
use twinbox_mailbox::{PromptKey, clear_prompt, prompt_audio, schema, set_prompt};
use twinbox_replication_store::{LiveError, LiveReader};

use crate::{Acknowledgement, MailError, Mailstore};

/// A prompt that replaces the set's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomPrompt {
    /// Name of the prompt.
    pub key: PromptKey,
    /// Its WAV file.
    pub wav: BlobHash,
    /// The length of the file, in bytes.
    pub bytes: u64,
}

/// A notice that prompts may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptsChange {
    /// This prompt.
    One(PromptKey),
    /// Any prompt: changes were missed.
    All,
}

/// Reports changes, made here or by a peer, from its creation on.
pub struct PromptsWatch {
    changes: LiveReader,
}

impl Mailstore {
    /// All custom prompts, by language and name.
    pub async fn custom_prompts(&self) -> Result<Vec<CustomPrompt>, MailError> {
        let records = self.store().scan(schema::PROMPT, &[])?;
        let read = |(key, record)| {
            let blob = prompt_audio(&record)?;
            Some(CustomPrompt { key: PromptKey::of(&key)?, wav: blob.hash, bytes: blob.length })
        };
        Ok(records.into_iter().filter_map(read).collect())
    }

    /// The WAV file of a custom prompt, if there is one.
    pub async fn custom_prompt(&self, key: &PromptKey) -> Result<Option<Bytes>, MailError> {
        let record = self.store().get(&key.key())?;
        match record.as_ref().and_then(prompt_audio) {
            Some(blob) => Ok(Some(self.blob(&blob.hash).await?)),
            None => Ok(None),
        }
    }

    /// Replaces a prompt by a WAV file, or (`None`) restores the set's. The caller has checked that the file can be
    /// played.
    pub async fn set_custom_prompt(
        &self,
        key: &PromptKey,
        wav: Option<Bytes>,
    ) -> Result<Acknowledgement, MailError> {
        let edits = match wav {
            Some(wav) => set_prompt(self.store().blobs().put(wav).await?),
            None => clear_prompt(),
        };
        let key = key.key();
        Ok(self.commit(move |draft| Ok(draft.edit(key, edits)?)).await?.1)
    }

    /// Watches for changes of prompts. Begin watching before reading them, so that no change is missed.
    pub fn watch_prompts(&self) -> PromptsWatch {
        PromptsWatch { changes: self.store().live(|change| PromptKey::of(&change.key).is_some()) }
    }
}

impl PromptsWatch {
    /// The next change; `None` when the store is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<PromptsChange> {
        loop {
            match self.changes.recv().await {
                Ok(change) => {
                    if let Some(key) = PromptKey::of(&change.key) {
                        return Some(PromptsChange::One(key));
                    }
                }
                Err(LiveError::Lagged) => return Some(PromptsChange::All),
                Err(LiveError::Closed) => return None,
            }
        }
    }
}
