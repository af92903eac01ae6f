//! Messages that a user sends: to mailboxes here and at locations, all in one commit.

use twinbox_clock::wall;
use twinbox_ids::{DeviceId, EffectId, LocationId, MailboxId, MessageId, Pii, Timestamp};
use twinbox_locations::{Location, Outgoing, schema as locations_schema};
use twinbox_mailbox::{Folder, MailOrigin, Mailbox, NewMessage, schema};
use twinbox_outbox::{Cause, Channel, Effect, NewEffect, Transition};
use twinbox_replication_core::BlobRef;

use crate::{
    Acknowledgement, Audio, MailError, Mailstore, devices::notify_of, imports::file_in, mailboxes::mailbox_in,
    outbox::write_effect, synced::takes_messages_in,
};

/// Time after which a message that cannot be delivered comes back, in milliseconds.
const LIFE_MS: u64 = 3 * 24 * 3_600 * 1_000;

/// A message to be sent.
#[derive(Debug, Clone)]
pub struct SendOrder {
    /// Id of the order: the same order given again sends nothing twice.
    pub id: u128,
    /// The mailbox of the sender.
    pub sender: MailboxId,
    /// The audio.
    pub audio: Audio,
    /// The subject; empty for none.
    pub subject: Pii<String>,
    /// Urgent.
    pub urgent: bool,
    /// Private.
    pub private: bool,
    /// The recipients.
    pub to: Vec<SendTo>,
}

/// Recipient of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendTo {
    /// A mailbox here.
    Mailbox(MailboxId),
    /// A mailbox at a location.
    Location {
        /// The location.
        location: LocationId,
        /// The number of the mailbox there.
        number: Pii<String>,
    },
}

/// A message that was sent to one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentMessage {
    /// The message in the mailbox of the recipient, or on its way.
    pub id: MessageId,
    /// The effect that sends it to a location.
    pub effect: Option<EffectId>,
}

/// The record of a message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutgoingRecord {
    /// It is not here (yet): replication applies an effect before its message, which waits for its audio.
    Missing,
    /// It was removed.
    Removed,
    /// It is here.
    Here(Box<Outgoing>),
}

impl SendTo {
    /// The id of the message of a sender's order to this recipient.
    fn message(&self, order: u128, sender: MailboxId) -> MessageId {
        let mut hasher = blake3::Hasher::new_derive_key("twinbox 2026 sent message");
        hasher.update(&order.to_be_bytes());
        hasher.update(&sender.to_bytes());
        match self {
            Self::Mailbox(mailbox) => hasher.update(b"m").update(&mailbox.to_bytes()),
            Self::Location { location, number } => {
                hasher.update(b"l").update(&location.to_bytes()).update(number.reveal().as_bytes())
            }
        };
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        MessageId(u128::from_be_bytes(id))
    }
}

impl SendOrder {
    /// The message as a mailbox here gets it.
    fn new_message(&self, sender: &Mailbox, now: Timestamp) -> NewMessage {
        let subject = Some(&self.subject).filter(|subject| !subject.reveal().is_empty());
        NewMessage {
            received: now,
            caller: Some(Pii::new(sender.number.clone())),
            caller_name: Some(sender.name.clone()),
            codec: self.audio.codec,
            urgent: self.urgent,
            private: self.private,
            mail: subject.map(|subject| MailOrigin { subject: subject.clone(), ..MailOrigin::default() }),
        }
    }

    fn outgoing(&self, id: MessageId, location: LocationId, number: Pii<String>, audio: BlobRef) -> Outgoing {
        Outgoing {
            id,
            sender: self.sender,
            location,
            number,
            audio,
            codec: self.audio.codec,
            subject: self.subject.clone(),
            urgent: self.urgent,
            private: self.private,
            created: wall(),
        }
    }
}

impl Mailstore {
    /// Whether the message of that sender's order was sent to a recipient before, whatever became of it since.
    pub fn is_sent(&self, order: u128, sender: MailboxId, to: &SendTo) -> Result<bool, MailError> {
        let id = to.message(order, sender);
        let key = match to {
            SendTo::Mailbox(mailbox) => schema::message_key(*mailbox, id),
            SendTo::Location { .. } => locations_schema::outgoing_key(id),
        };
        Ok(self.store().get(&key)?.is_some_and(|record| !record.is_empty()))
    }

    /// Sends a message to all its recipients, or to none: it is filed in mailboxes here, and is durable with the effects
    /// that send it to locations, when this returns.
    pub async fn send_message(&self, order: SendOrder) -> Result<(Vec<SentMessage>, Acknowledgement), MailError> {
        let blob = self.store().blobs().put(order.audio.bytes.clone()).await?;
        self.commit(move |draft| {
            let sender = mailbox_in(draft, order.sender)?;
            let new = order.new_message(&sender, wall());
            let mut sent = Vec::with_capacity(order.to.len());
            for to in &order.to {
                let id = to.message(order.id, order.sender);
                let effect = match to {
                    SendTo::Mailbox(mailbox) => {
                        let owner = mailbox_in(draft, *mailbox)?;
                        if file_in(draft, *mailbox, id, &new, Folder::New, blob)? {
                            if !takes_messages_in(draft, &owner)? {
                                return Err(MailError::Disabled { number: owner.number });
                            }
                            notify_of(draft, &owner, &schema::message_key(*mailbox, id))?;
                        }
                        None
                    }
                    SendTo::Location { location, number } => {
                        let outgoing = order.outgoing(id, *location, number.clone(), blob);
                        let effect = effect_of(&outgoing);
                        let key = locations_schema::outgoing_key(id);
                        if draft.get(&key)?.is_none_or(|record| record.is_empty()) {
                            draft.edit(key, outgoing.edits())?;
                            write_effect(draft, &effect)?;
                        }
                        Some(effect.id())
                    }
                };
                sent.push(SentMessage { id, effect });
            }
            Ok(sent)
        })
        .await
    }

    /// The location that an effect's message goes to; `None` for other effects, and when it was removed or cannot be read
    /// by this release.
    pub fn location_of(&self, effect: &Effect) -> Result<Option<Location>, MailError> {
        if !effect.is_sent() {
            return Ok(None);
        }
        match self.location(LocationId(effect.new.target.0)) {
            Err(MailError::View(_)) => Ok(None),
            location => location,
        }
    }

    /// A message on its way to a location.
    pub fn outgoing(&self, id: MessageId) -> Result<OutgoingRecord, MailError> {
        let key = locations_schema::outgoing_key(id);
        let Some(record) = self.store().get(&key)?.filter(|record| !record.is_empty()) else {
            return Ok(OutgoingRecord::Missing);
        };
        let outgoing = Outgoing::read(&key, &record)?;
        Ok(outgoing.map_or(OutgoingRecord::Removed, |outgoing| OutgoingRecord::Here(Box::new(outgoing))))
    }
}

/// The effect that sends a message to its location.
fn effect_of(outgoing: &Outgoing) -> NewEffect {
    let Outgoing { id, sender, location, created, .. } = outgoing;
    NewEffect {
        cause: Cause { mailbox: *sender, message: *id, transition: Transition::Sent },
        channel: Channel::Vpim,
        target: DeviceId(location.0),
        repeat: 0,
        retry: 0,
        created: *created,
        not_before: *created,
        expires: Timestamp(created.0.saturating_add(LIFE_MS)),
    }
}
