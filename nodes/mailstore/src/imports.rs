//! Import of messages and greetings from another system. Idempotent: the id of a message is derived from its content,
//! and later changes made here are left alone.

use twinbox_ids::{MailboxId, MessageId, Pii, Timestamp};
use twinbox_mailbox::{Codec, Filing, Folder, GreetingKind, Mark, NewMessage, Numbers, schema, set_greeting};

use crate::{Acknowledgement, Audio, MailError, Mailstore, mailboxes::mailbox_in};

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

/// Outcome of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
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
    pub async fn import_message(&self, message: ImportedMessage) -> Result<(MessageId, Outcome), MailError> {
        let id = message.id();
        let ImportedMessage { mailbox, received, caller, caller_name, folder, audio, .. } = message;
        let key = schema::message_key(mailbox, id);
        if self.store().get(&key)?.is_some_and(|record| !record.is_empty()) {
            return Ok((id, Outcome::Known));
        }
        let new = NewMessage { received, caller, caller_name, codec: audio.codec };
        let blob = self.store().blobs().put(audio.bytes).await?;
        let (taken, acknowledgement) = self
            .commit(move |draft| {
                mailbox_in(draft, mailbox)?;
                let counters = schema::counters_key(mailbox);
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
                draft.edit(counters, Numbers::take_both())?;
                Ok(true)
            })
            .await?;
        Ok((id, if taken { Outcome::Taken(acknowledgement) } else { Outcome::Known }))
    }

    /// Imports a greeting, unless the mailbox has one of that kind.
    pub async fn import_greeting(
        &self,
        id: MailboxId,
        kind: GreetingKind,
        audio: Audio,
    ) -> Result<Outcome, MailError> {
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
            None => Outcome::Taken(acknowledgement),
            Some(greeting) if same(greeting.codec, greeting.blob.hash) => Outcome::Known,
            Some(_) => Outcome::Kept,
        })
    }
}
