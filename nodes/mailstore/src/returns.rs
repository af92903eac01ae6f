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
use twinbox_replication_store::{Draft, StoreError};

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
        let audio = self.spoken(&outgoing, &number, reason).await?;
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

    /// The reason, and the message unless its audio is lost.
    async fn spoken(&self, outgoing: &Outgoing, number: &str, reason: &str) -> Result<Vec<u8>, MailError> {
        let codec: Codec = outgoing.codec;
        let mut audio = self.prompts.say(undelivered(number, reason_of(reason)), codec);
        audio.resize(audio.len() + PAUSE, codec.silence());
        match self.mailstore.blob(&outgoing.audio.hash).await {
            Ok(message) => audio.extend_from_slice(&message),
            Err(MailError::Store(error @ (StoreError::NoBlob(_) | StoreError::Corrupt(_)))) => {
                tracing::warn!(message = %outgoing.id, %error, "message comes back without its audio");
            }
            Err(error) => return Err(error),
        }
        Ok(audio)
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

/// The reason as it is spoken, from the first status code (RFC 3463) in the text, else from the reply code.
fn reason_of(text: &str) -> Undelivered {
    let words = || text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|word| word.trim_matches('.'));
    let number = |digits: &str| (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let status = words().find_map(|word| {
        let mut parts = word.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let is_status = matches!(class, "4" | "5") && number(subject) && number(detail) && parts.next().is_none();
        is_status.then_some((subject, detail))
    });
    match status {
        Some(("1", _) | ("2", "1")) => Undelivered::UnknownNumber,
        Some(("2", "2")) => Undelivered::MailboxFull,
        Some(("4", _)) => Undelivered::Unreachable,
        Some(_) => Undelivered::Refused,
        None if words().any(|word| matches!(word, "550" | "551" | "553")) => Undelivered::UnknownNumber,
        None if words().any(|word| matches!(word, "452" | "552")) => Undelivered::MailboxFull,
        None if words().any(|word| matches!(word, "554" | "555" | "556")) => Undelivered::Refused,
        // No server answered.
        None if text.starts_with("expired") => Undelivered::Unreachable,
        None => Undelivered::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoken_reason_follows_from_the_status_or_the_reply() {
        use Undelivered::*;
        for (text, expected) in [
            ("mail.example refused the recipient: 550 5.1.1 mailbox unknown; check the address", UnknownNumber),
            ("5.1.1 smtp; 550 no such user", UnknownNumber),
            ("a.example refused the recipient: 550 no such user", UnknownNumber),
            ("expired after 90 attempts; the last: a deferred the recipient: 452 4.2.2 mailbox full", MailboxFull),
            ("a.example refused the message: 552 over quota", MailboxFull),
            ("5.4.1 (host 192.0.2.7[192.0.2.7] said nothing)", Unreachable),
            ("expired after 90 attempts; the last: connection to 192.0.2.7:25 refused", Unreachable),
            ("a.example refused the message: 554 5.6.1 no sound", Refused),
            ("the location was removed", Refused),
        ] {
            assert_eq!(reason_of(text), expected, "{text}");
        }
    }
}
