//! Messages: list, play, mark, export.

use std::time::Duration;

use bytes::Bytes;
use twinbox_ids::{BlobHash, MailboxId, MessageId, RecordingId};
use twinbox_mailbox::{Mark, Message, Numbers, Recording, is_purged, schema};
use twinbox_replication_core::{BlobRef, Key, Record};
use twinbox_replication_store::{Draft, StoreError};

use crate::{Acknowledgement, Audio, MailError, Mailstore, work::blocking};

/// Maximum wait of a caller for audio that is not here yet.
const FETCHED_WITHIN: Duration = Duration::from_secs(5);

impl Mailstore {
    /// The messages of a mailbox, oldest first; deleted ones too, flagged. Messages that cannot be played (content
    /// removed, discarded by the caller, not readable by this release) are skipped.
    pub async fn messages(&self, mailbox: MailboxId) -> Result<Vec<Message>, MailError> {
        let (store, rows) = (self.clone(), self.store().rows(schema::MESSAGE, &mailbox.to_bytes()));
        let is_listed = |message: &Message| message.audio.is_some() && !message.purged;
        blocking(move || store.oldest_first(mailbox, rows, is_listed)).await?
    }

    /// As [`Self::messages`], without the deleted ones. Their records are not read, however many there are.
    pub async fn present_messages(&self, mailbox: MailboxId) -> Result<Vec<Message>, MailError> {
        let (store, rows) = (self.clone(), self.store().present_rows(&mailbox.to_bytes()));
        blocking(move || store.oldest_first(mailbox, rows, Message::is_present)).await?
    }

    fn oldest_first(
        &self,
        mailbox: MailboxId,
        rows: impl Iterator<Item = Result<(Key, Record), StoreError>>,
        is_listed: impl Fn(&Message) -> bool,
    ) -> Result<Vec<Message>, MailError> {
        let mut messages = Vec::new();
        for row in rows {
            messages.extend(self.readable(mailbox, &row?)?.filter(&is_listed));
        }
        messages.sort_by_key(|message| (message.received, message.id));
        Ok(messages)
    }

    /// The messages with these ids that are not deleted and that this release can read, also those without audio.
    pub(crate) fn read_these(&self, mailbox: MailboxId, ids: &[MessageId]) -> Result<Vec<Message>, MailError> {
        let mut messages = Vec::with_capacity(ids.len());
        for key in ids.iter().map(|id| schema::message_key(mailbox, *id)) {
            if let Some(record) = self.store().get_present(&key)? {
                messages.extend(self.readable(mailbox, &(key, record))?);
            }
        }
        Ok(messages)
    }

    /// A message; `None` if this release cannot read it.
    pub(crate) fn readable(&self, mailbox: MailboxId, row: &(Key, Record)) -> Result<Option<Message>, MailError> {
        match self.read_message(&row.0, &row.1) {
            Ok(message) => Ok(Some(message)),
            Err(MailError::View(error)) => {
                tracing::warn!(%mailbox, %error, "message cannot be read; it is not listed");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// One message; `None` when there is none, as in [`Self::messages`].
    pub async fn message(&self, mailbox: MailboxId, id: MessageId) -> Result<Option<Message>, MailError> {
        let key = schema::message_key(mailbox, id);
        let Some(record) = self.store().get(&key)? else { return Ok(None) };
        Ok(Some(self.read_message(&key, &record)?).filter(|message| message.audio.is_some() && !message.purged))
    }

    /// Marks a message; durable when this returns.
    pub async fn mark(&self, mailbox: MailboxId, id: MessageId, mark: Mark) -> Result<Acknowledgement, MailError> {
        Ok(self.commit(move |draft| mark_in(draft, mailbox, id, mark)).await?.1)
    }

    /// The audio of a message: raw G.711, verified by its hash.
    pub async fn audio(&self, message: &Message) -> Result<Audio, MailError> {
        let audio = message.audio.as_ref().ok_or(MailError::NoAudio(message.id))?;
        Ok(Audio { codec: message.codec, bytes: self.blob(&audio.blob.hash).await? })
    }

    /// A blob by its hash, as messages and greetings name it: raw G.711, verified. A missing blob is
    /// fetched from another node: during the fill of audio (rule D13), and when a change came without its audio.
    pub async fn blob(&self, hash: &BlobHash) -> Result<Bytes, MailError> {
        if !self.store().blobs().has(hash) {
            // After a timeout the read below returns the error.
            let _ = tokio::time::timeout(FETCHED_WITHIN, self.inner.peers.fetch(*hash)).await;
        }
        Ok(self.store().blobs().read(hash).await?)
    }

    /// As [`Self::blob`], for a blob whose content here is damaged: another node's copy replaces it.
    pub async fn mended_blob(&self, blob: &BlobRef) -> Result<Bytes, MailError> {
        // After a timeout the read below returns the error.
        let _ = tokio::time::timeout(FETCHED_WITHIN, self.inner.peers.replace(blob)).await;
        Ok(self.store().blobs().read(&blob.hash).await?)
    }

    /// The audio of a message as a WAV file.
    pub async fn wav(&self, message: &Message) -> Result<Vec<u8>, MailError> {
        let audio = self.audio(message).await?;
        Ok(twinbox_rtp::wav::write(audio.codec, &audio.bytes))
    }

    /// Whether no node that could be asked has the audio of this message: an alarm names it.
    pub fn is_audio_lost(&self, message: &Message) -> bool {
        message.audio.as_ref().is_some_and(|audio| self.inner.peers.is_audio_lost(&audio.blob.hash))
    }

    fn read_message(&self, key: &Key, record: &Record) -> Result<Message, MailError> {
        let mut message = read_with(key, record, |id| self.recording(id))?;
        // A part beside the audio is offered for as long as the whole is lost.
        if self.is_audio_lost(&message) {
            message.offer_part(record, |blob| self.store().blobs().has(&blob.hash));
        }
        Ok(message)
    }

    /// The record of a recording.
    pub(crate) fn recording(&self, id: RecordingId) -> Result<Option<Recording>, MailError> {
        let key = schema::recording_key(id);
        Ok(self.store().get(&key)?.map(|record| Recording::read(&key, &record)).transpose()?)
    }
}

/// Reads a message, with the lookup of its recording.
fn read_with(
    key: &Key,
    record: &Record,
    recording: impl FnOnce(RecordingId) -> Result<Option<Recording>, MailError>,
) -> Result<Message, MailError> {
    let mut failed = None;
    let message = Message::read(key, record, |id| match recording(RecordingId(id.0)) {
        Ok(recording) => recording,
        Err(error) => {
            failed = Some(error);
            None
        }
    })?;
    failed.map_or(Ok(message), Err)
}

/// One message as the committer sees it; `None` when there is none, as in [`Mailstore::messages`].
pub fn message_in(draft: &Draft<'_>, mailbox: MailboxId, id: MessageId) -> Result<Option<Message>, MailError> {
    let key = schema::message_key(mailbox, id);
    let Some(record) = draft.get(&key)? else { return Ok(None) };
    let message = read_with(&key, &record, |id| {
        let key = schema::recording_key(id);
        Ok(draft.get(&key)?.map(|record| Recording::read(&key, &record)).transpose()?)
    })?;
    Ok(Some(message).filter(|message| message.audio.is_some() && !message.purged))
}

/// Marks a message, in the same commit as other changes.
pub fn mark_in(draft: &mut Draft<'_>, mailbox: MailboxId, id: MessageId, mark: Mark) -> Result<(), MailError> {
    let (key, counters) = (schema::message_key(mailbox, id), schema::counters_key(mailbox));
    // Once purged, other nodes may have removed its record: nothing is written to it any more.
    let record = draft.get(&key)?.filter(|record| !is_purged(record)).ok_or(MailError::NoMessage(id))?;
    let edits = mark.edits(&record, Numbers::after(&draft.get(&counters)?.unwrap_or_default()));
    if edits.is_empty() {
        return Ok(());
    }
    draft.edit(key, edits)?;
    Ok(draft.edit(counters, Numbers::take_modseq())?)
}
