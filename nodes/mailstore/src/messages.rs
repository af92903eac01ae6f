//! Messages: list, play, mark, export.

use std::time::Duration;

use bytes::Bytes;
use twinbox_ids::{BlobHash, MailboxId, MessageId, RecordingId};
use twinbox_mailbox::{Mark, Message, Numbers, Recording, is_purged, schema};
use twinbox_replication_core::{BlobRef, Key, Record};
use twinbox_replication_store::Draft;

use crate::{Acknowledgement, Audio, MailError, Mailstore, work::blocking};

/// Maximum wait of a caller for audio that is not here yet.
const FETCHED_WITHIN: Duration = Duration::from_secs(5);

impl Mailstore {
    /// The messages of a mailbox, oldest first; deleted ones too, flagged. Messages that cannot be played (content
    /// removed, discarded by the caller, not readable by this release) are skipped.
    pub async fn messages(&self, mailbox: MailboxId) -> Result<Vec<Message>, MailError> {
        let store = self.clone();
        blocking(move || store.messages_now(mailbox)).await?
    }

    pub(crate) fn messages_now(&self, mailbox: MailboxId) -> Result<Vec<Message>, MailError> {
        let mut messages = self.read_messages(mailbox)?;
        messages.retain(|message| message.audio.is_some() && !message.purged);
        messages.sort_by_key(|message| (message.received, message.id));
        Ok(messages)
    }

    /// All messages that this release can read, unordered, including those without audio.
    pub(crate) fn read_messages(&self, mailbox: MailboxId) -> Result<Vec<Message>, MailError> {
        let mut messages = Vec::new();
        self.each_message(mailbox, |message| messages.push(message))?;
        Ok(messages)
    }

    /// Passes every message of a mailbox to `take`, one at a time: a count of a large mailbox needs memory for one.
    pub(crate) fn each_message(&self, mailbox: MailboxId, mut take: impl FnMut(Message)) -> Result<(), MailError> {
        for row in self.store().rows(schema::MESSAGE, &mailbox.to_bytes()) {
            let (key, record) = row?;
            self.readable(mailbox, &key, &record)?.into_iter().for_each(&mut take);
        }
        Ok(())
    }

    /// The messages with these ids, as [`Self::read_messages`] has them.
    pub(crate) fn read_these(&self, mailbox: MailboxId, ids: &[MessageId]) -> Result<Vec<Message>, MailError> {
        let mut messages = Vec::with_capacity(ids.len());
        for key in ids.iter().map(|id| schema::message_key(mailbox, *id)) {
            if let Some(record) = self.store().get(&key)?.filter(|record| !record.is_empty()) {
                messages.extend(self.readable(mailbox, &key, &record)?);
            }
        }
        Ok(messages)
    }

    /// A message; `None` if this release cannot read it.
    fn readable(&self, mailbox: MailboxId, key: &Key, record: &Record) -> Result<Option<Message>, MailError> {
        match self.read_message(key, record) {
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
