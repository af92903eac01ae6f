//! Import of messages and greetings from another system. Idempotent: the id of a message is derived from its content,
//! and later changes made here are left alone.

use twinbox_ids::{MailboxId, MessageId, Pii, Timestamp};
use twinbox_mailbox::{Codec, Filing, Folder, GreetingKind, Mark, NewMessage, Numbers, schema, set_greeting};
use twinbox_replication_core::{BlobRef, Key};
use twinbox_replication_store::Draft;

use crate::{
    Acknowledgement, Audio, MailError, Mailstore, devices::notify_of, mailboxes::mailbox_in, work::run_to_end,
};

/// A message of another system.
#[derive(Debug, Clone)]
pub struct ImportedMessage {
    /// The mailbox that it goes to.
    pub mailbox: MailboxId,
    /// Time of the recording.
    pub received: Timestamp,
    /// Number of the caller.
    pub caller: Option<Pii<String>>,
    /// Display name of the caller.
    pub caller_name: Option<Pii<String>>,
    /// Its folder.
    pub folder: Folder,
    /// Its name in the other system, if that has unique names.
    pub cause: String,
    /// The audio.
    pub audio: Audio,
}

/// A message that came by mail.
#[derive(Debug, Clone)]
pub struct MailedMessage {
    /// The message's id: the same for each delivery of one mail to one mailbox.
    pub id: MessageId,
    /// The mailbox that it goes to.
    pub mailbox: MailboxId,
    /// Its data besides the audio; the codec is that of the audio.
    pub new: NewMessage,
    /// The audio.
    pub audio: Audio,
    /// A program sent the mail without a person. Devices do not notify of it: two mailboxes that notify each other by mail
    /// would never end.
    pub is_automatic: bool,
}

/// Outcome of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It was imported now.
    Taken(Acknowledgement),
    /// It was imported before, or (a message) has been deleted since.
    Known,
    /// A greeting: the mailbox has another one, which stays.
    Kept,
}

impl ImportedMessage {
    /// The message's id: the same whenever and on whichever node the message is imported into the same mailbox. Its
    /// folder is not part of the id, since it may have changed between two imports.
    fn id(&self) -> MessageId {
        let mut hasher = blake3::Hasher::new_derive_key("twinbox 2026 imported message");
        let text = |text: &Option<Pii<String>>| text.as_ref().map_or(String::new(), |text| text.reveal().clone());
        let (caller, name) = (text(&self.caller), text(&self.caller_name));
        let fields: [&[u8]; 7] = [
            &self.mailbox.to_bytes(),
            &self.received.0.to_be_bytes(),
            caller.as_bytes(),
            name.as_bytes(),
            self.cause.as_bytes(),
            &[self.audio.codec.payload_type()],
            &self.audio.bytes,
        ];
        for field in fields {
            hasher.update(&(field.len() as u64).to_be_bytes());
            hasher.update(field);
        }
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        MessageId(u128::from_be_bytes(id))
    }
}

impl Mailstore {
    /// Imports a message; it is durable when this returns. A full mailbox accepts it all the same: the other system had
    /// stored it before.
    pub async fn import_message(&self, message: ImportedMessage) -> Result<(MessageId, ImportOutcome), MailError> {
        let id = message.id();
        let ImportedMessage { mailbox, received, caller, caller_name, folder, audio, .. } = message;
        let new = NewMessage {
            received,
            caller,
            caller_name,
            codec: audio.codec,
            urgent: false,
            private: false,
            mail: None,
        };
        Ok((id, self.take_in(mailbox, id, new, folder, audio, false).await?))
    }

    /// Takes a message that came by mail; durable when this returns. Devices notify of it as of a recorded one,
    /// unless it is automatic. A repeated delivery is known by the message's id, whatever became of the message since.
    pub async fn receive_mail(&self, mail: MailedMessage) -> Result<ImportOutcome, MailError> {
        let MailedMessage { id, mailbox, new, audio, is_automatic } = mail;
        self.take_in(mailbox, id, new, Folder::New, audio, !is_automatic).await
    }

    /// Whether a message that came by mail was taken before, whatever became of it since. Waits as [`Self::receive_mail`].
    pub async fn knows_mail(&self, mailbox: MailboxId, id: MessageId) -> Result<bool, MailError> {
        let _turn = self.inner.imports.turn(id).await;
        self.is_taken(&schema::message_key(mailbox, id)).await
    }

    async fn is_taken(&self, message: &Key) -> Result<bool, MailError> {
        let taken = self.store().get(message)?.is_some_and(|record| !record.is_empty());
        if taken {
            // It may come from a peer, and its sync here may be under way: a commit ends after all earlier ones.
            self.commit_here(|_| Ok(())).await?;
        }
        Ok(taken)
    }

    /// Takes a message unless it is known. A repetition waits for the first, to its acknowledgement: the sender of either
    /// may forget the message after the answer (rule A1). Once begun, it goes to its end without a caller, so that a
    /// repetition never finds half of it.
    async fn take_in(
        &self,
        mailbox: MailboxId,
        id: MessageId,
        new: NewMessage,
        folder: Folder,
        audio: Audio,
        notify: bool,
    ) -> Result<ImportOutcome, MailError> {
        let turn = self.inner.imports.turn(id).await;
        let mailstore = self.clone();
        run_to_end(async move {
            let outcome = mailstore.take_in_turn(mailbox, id, new, folder, audio, notify).await;
            drop(turn);
            outcome
        })
        .await
    }

    async fn take_in_turn(
        &self,
        mailbox: MailboxId,
        id: MessageId,
        new: NewMessage,
        folder: Folder,
        audio: Audio,
        notify: bool,
    ) -> Result<ImportOutcome, MailError> {
        let key = schema::message_key(mailbox, id);
        if self.is_taken(&key).await? {
            return Ok(ImportOutcome::Known);
        }
        let blob = self.store().blobs().put(audio.bytes).await?;
        let (taken, acknowledgement) = self
            .commit(move |draft| {
                let owner = mailbox_in(draft, mailbox)?;
                let filed = file_in(draft, mailbox, id, &new, folder, blob)?;
                if filed && notify {
                    notify_of(draft, &owner, &key)?;
                }
                Ok(filed)
            })
            .await?;
        Ok(if taken { ImportOutcome::Taken(acknowledgement) } else { ImportOutcome::Known })
    }

    /// Imports a greeting, unless the mailbox has one of that kind.
    pub async fn import_greeting(
        &self,
        id: MailboxId,
        kind: GreetingKind,
        audio: Audio,
    ) -> Result<ImportOutcome, MailError> {
        let Audio { codec, bytes } = audio;
        let blob = self.store().blobs().put(bytes).await?;
        let same = |codec_here: Codec, hash| codec_here == codec && hash == blob.hash;
        let (found, acknowledgement) = self
            .commit(move |draft| {
                let mailbox = mailbox_in(draft, id)?;
                let found = mailbox.greeting(kind).cloned();
                if found.is_none() {
                    draft.edit(schema::mailbox_key(id), set_greeting(kind, codec, blob))?;
                }
                Ok(found)
            })
            .await?;
        Ok(match found {
            None => ImportOutcome::Taken(acknowledgement),
            Some(greeting) if same(greeting.codec, greeting.blob.hash) => ImportOutcome::Known,
            Some(_) => ImportOutcome::Kept,
        })
    }
}

/// Files a whole message; false when there is, or was, a message of that id.
pub(crate) fn file_in(
    draft: &mut Draft<'_>,
    mailbox: MailboxId,
    id: MessageId,
    new: &NewMessage,
    folder: Folder,
    blob: BlobRef,
) -> Result<bool, MailError> {
    let (key, counters) = (schema::message_key(mailbox, id), schema::counters_key(mailbox));
    let record = draft.get(&key)?.unwrap_or_default();
    if !record.is_empty() {
        return Ok(false);
    }
    let numbers = Numbers::after(&draft.get(&counters)?.unwrap_or_default());
    draft.edit(key.clone(), new.edits(&record, Filing::Complete, blob, numbers))?;
    let mark = match folder {
        Folder::New => None,
        Folder::Heard => Some(Mark::Heard),
        Folder::Saved => Some(Mark::Saved),
    };
    if let Some(mark) = mark {
        let record = draft.get(&key)?.unwrap_or_default();
        draft.edit(key, mark.edits(&record, numbers))?;
    }
    draft.edit(counters, numbers.take_both())?;
    Ok(true)
}
