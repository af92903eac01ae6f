//! Messages that come back to their senders: the reason spoken, then the message. Each comes back once, whatever its
//! effect went through: its id derives from the message that was sent.

use std::sync::Arc;

use twinbox_clock::wall;
use twinbox_conversation::phrases::{Undelivered, undelivered};
use twinbox_ids::{MailboxId, MessageId, Pii};
use twinbox_locations::Outgoing;
use twinbox_mailbox::{Codec, Folder, MailOrigin, NewMessage, schema};
use twinbox_outbox::Effect;
use twinbox_prompts::Prompts;
use twinbox_replication_core::BlobRef;
use twinbox_replication_store::Draft;

use crate::{MailError, Mailstore, OutgoingRecord, devices::notify_of, imports::file_in, mailboxes::mailbox_in};

/// Silence between the spoken reason and the message, in samples: half a second.
const PAUSE: usize = 4_000;

/// A message that comes back to its sender; it is filed with the outcome of its effect.
#[derive(Debug, Clone)]
pub struct ReturnedMessage {
    id: MessageId,
    mailbox: MailboxId,
    new: NewMessage,
    audio: BlobRef,
}

/// Source of messages that come back. Cheap to clone.
#[derive(Clone)]
pub struct Returns {
    mailstore: Mailstore,
    prompts: Arc<Prompts>,
}

impl Returns {
    /// Messages of this store, with the reasons in these prompts.
    pub fn new(mailstore: Mailstore, prompts: Arc<Prompts>) -> Self {
        Self { mailstore, prompts }
    }

    /// The message that comes back because its effect failed for this reason; `None` for other effects, and if the
    /// message is not there.
    pub async fn of(&self, effect: &Effect, reason: &str) -> Result<Option<ReturnedMessage>, MailError> {
        if !effect.is_sent() {
            return Ok(None);
        }
        let outgoing = match self.mailstore.outgoing(effect.new.cause.message)? {
            OutgoingRecord::Here(outgoing) => outgoing,
            OutgoingRecord::Missing | OutgoingRecord::Removed => {
                tracing::warn!(effect = %effect.id, "message does not come back to its sender: it is not there");
                return Ok(None);
            }
        };
        let location = self.mailstore.location(outgoing.location)?;
        let dial_id = location.as_ref().map_or("", |location| location.dial_id.as_str());
        let number = format!("{dial_id}{}", outgoing.number.reveal());
        let audio = self.spoken(&outgoing, &number, reason).await;
        let subject = outgoing.subject.reveal();
        let origin = MailOrigin {
            sender: Pii::default(),
            subject: Pii::new(format!("Undelivered: {subject}").trim_end_matches([':', ' ']).to_owned()),
            text: Pii::new(reason.to_owned()),
        };
        let new = NewMessage {
            received: wall(),
            caller: Some(Pii::new(number)),
            caller_name: location.map(|location| Pii::new(location.name)),
            codec: outgoing.codec,
            urgent: outgoing.urgent,
            private: outgoing.private,
            mail: Some(origin),
        };
        let audio = self.mailstore.store().blobs().put(audio.into()).await?;
        Ok(Some(ReturnedMessage { id: returned_id(outgoing.id), mailbox: outgoing.sender, new, audio }))
    }

    /// The reason, and the message unless its audio is lost or cannot be read.
    async fn spoken(&self, outgoing: &Outgoing, number: &str, reason: &str) -> Vec<u8> {
        let codec: Codec = outgoing.codec;
        let mut audio = self.prompts.say(undelivered(number, Undelivered::of_report(reason)), codec);
        audio.resize(audio.len() + PAUSE, codec.silence());
        let found = self.mailstore.blob(&outgoing.audio.hash).await;
        let found = if found.is_err() { self.mailstore.mended_blob(&outgoing.audio).await } else { found };
        match found {
            Ok(message) => audio.extend_from_slice(&message),
            // It is given up in any case: a disk that cannot read the audio must not keep it for ever.
            Err(error) => tracing::warn!(message = %outgoing.id, %error, "message comes back without its audio"),
        }
        audio
    }
}

impl ReturnedMessage {
    /// Files it in the mailbox of its sender, unless it is there already or the mailbox was removed.
    pub(crate) fn file(&self, draft: &mut Draft<'_>) -> Result<(), MailError> {
        let owner = match mailbox_in(draft, self.mailbox) {
            Ok(owner) => owner,
            Err(MailError::NoMailbox(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if file_in(draft, self.mailbox, self.id, &self.new, Folder::New, self.audio)? {
            notify_of(draft, &owner, &schema::message_key(self.mailbox, self.id))?;
        }
        Ok(())
    }
}

fn returned_id(outgoing: MessageId) -> MessageId {
    let mut hasher = blake3::Hasher::new_derive_key("twinbox 2026 returned message");
    hasher.update(&outgoing.to_bytes());
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    MessageId(u128::from_be_bytes(id))
}
