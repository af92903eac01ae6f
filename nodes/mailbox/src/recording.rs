//! A recording: its data while it is being made, so that another node can file it (rules C1, C2).

use twinbox_ids::{CallId, Incarnation, MailboxId, NodeName, Pii, RecordingId, Timestamp};
use twinbox_replication_core::{Edit, Key, Record};
use twinbox_rtp::Codec;

use crate::{
    NewMessage, ViewError,
    schema::{self, recording as tag},
    value::{Fields, read_byte, read_text, read_u64, set_byte, set_bytes, set_text, set_u64},
};

/// A day: long before, every live node has filed its chunks of a dead node's recordings.
const SETTLED_AFTER_MS: u64 = 86_400_000;

/// Thirty days: no effect of its message lives as long, and no chunk of it comes as late.
const KEPT_FOR_MS: u64 = 30 * 86_400_000;

/// State of a recording, written by the node that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordingState {
    /// It is in progress, or its node died.
    Recording,
    /// It has become a message.
    Filed,
    /// The caller discarded it, or it was too short.
    Discarded,
}

/// A recording as read from its record.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Opaque; the message that it becomes has the same.
    pub id: RecordingId,
    /// The mailbox that it is for.
    pub mailbox: MailboxId,
    /// The node that makes it.
    pub owner: NodeName,
    /// The incarnation of that node.
    pub incarnation: Incarnation,
    /// The call.
    pub call: CallId,
    /// Number of the caller.
    pub caller: Option<Pii<String>>,
    /// Display name of the caller.
    pub caller_name: Option<Pii<String>>,
    /// Codec of the audio.
    pub codec: Codec,
    /// Time of its begin.
    pub began: Timestamp,
    /// Time of the begin of its call, if there is one.
    pub call_began: Option<Timestamp>,
    /// Its state.
    pub state: RecordingState,
    /// The take that counts, from 1.
    pub take: u32,
}

impl Recording {
    /// The edits that write its record when it begins.
    pub fn edits(&self) -> Vec<Edit> {
        let mut edits = vec![
            set_bytes(tag::MAILBOX, self.mailbox.to_bytes().to_vec()),
            set_text(tag::OWNER, self.owner.as_str()),
            set_bytes(tag::INCARNATION, self.incarnation.to_bytes().to_vec()),
            set_bytes(tag::CALL, self.call.to_bytes().to_vec()),
            set_byte(tag::CODEC, self.codec.payload_type()),
            set_u64(tag::BEGAN, self.began.0),
            set_byte(tag::STATE, RecordingState::Recording.number()),
            set_u64(tag::TAKE, u64::from(self.take)),
        ];
        edits.extend(self.call_began.map(|began| set_u64(tag::CALL_BEGAN, began.0)));
        edits.extend(self.caller.as_ref().map(|caller| set_text(tag::CALLER, caller.reveal())));
        edits.extend(self.caller_name.as_ref().map(|name| set_text(tag::CALLER_NAME, name.reveal())));
        edits
    }

    /// Reads a recording.
    pub fn read(key: &Key, record: &Record) -> Result<Self, ViewError> {
        let what = "a recording";
        let id = schema::recording_of(key).ok_or(ViewError::Key { what })?;
        let fields = Fields { what, record };
        Ok(Self {
            id,
            mailbox: fields.required(tag::MAILBOX, MailboxId::from_slice)?,
            owner: fields.required(tag::OWNER, |bytes| read_text(bytes)?.parse().ok())?,
            incarnation: fields.required(tag::INCARNATION, Incarnation::from_slice)?,
            call: fields.required(tag::CALL, CallId::from_slice)?,
            caller: fields.optional(tag::CALLER, read_text)?.map(Pii::new),
            caller_name: fields.optional(tag::CALLER_NAME, read_text)?.map(Pii::new),
            codec: fields.required(tag::CODEC, |bytes| read_byte(bytes).and_then(Codec::from_payload_type))?,
            began: Timestamp(fields.required(tag::BEGAN, read_u64)?),
            call_began: fields.optional(tag::CALL_BEGAN, read_u64)?.map(Timestamp),
            state: fields.required(tag::STATE, |bytes| read_byte(bytes).and_then(RecordingState::from_number))?,
            take: fields.required(tag::TAKE, |bytes| u32::try_from(read_u64(bytes)?).ok())?,
        })
    }

    /// Whether no more chunks of it are expected. Once all chunks here have been filed, those left may then be
    /// discarded; until then they stay, since a peer may have others, and a discard is passed on to peers.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        now.0.saturating_sub(self.began.0) > SETTLED_AFTER_MS
    }

    /// Whether a change of a recording's record withdraws earlier filings: it sets *discarded*, or begins another take.
    pub fn withdraws(delta: &Record) -> bool {
        let discarded = delta.bytes(tag::STATE).and_then(read_byte) == Some(RecordingState::Discarded.number());
        discarded || delta.bytes(tag::TAKE).and_then(read_u64).is_some_and(|take| take > 1)
    }

    /// The message that it becomes, whichever node files it.
    pub fn message(&self) -> NewMessage {
        NewMessage {
            received: self.began,
            caller: self.caller.clone(),
            caller_name: self.caller_name.clone(),
            codec: self.codec,
            urgent: false,
            private: false,
            mail: None,
        }
    }
}

/// The edits of its record when it has become a message.
pub fn filed() -> Vec<Edit> {
    vec![set_byte(tag::STATE, RecordingState::Filed.number())]
}

/// The edits of its record when it is discarded.
pub fn discarded() -> Vec<Edit> {
    vec![set_byte(tag::STATE, RecordingState::Discarded.number())]
}

/// The edits of its record when it is recorded again: `take` counts, earlier takes do not.
pub fn next_take(take: u32) -> Vec<Edit> {
    vec![set_u64(tag::TAKE, u64::from(take))]
}

/// The edits of its record when its message is purged.
pub fn message_purged() -> Vec<Edit> {
    vec![set_byte(tag::PURGED, 1)]
}

/// Whether its message was purged.
pub fn is_message_purged(record: &Record) -> bool {
    record.bytes(tag::PURGED).and_then(read_byte) == Some(1)
}

/// Whether the record of a recording has no use any more: its message was purged, or it never became one, long ago.
pub fn is_outlived(key: &Key, record: &Record, now: Timestamp) -> bool {
    let over = |recording: &Recording| recording.state == RecordingState::Discarded || is_message_purged(record);
    Recording::read(key, record)
        .is_ok_and(|recording| over(&recording) && now.0.saturating_sub(recording.began.0) > KEPT_FOR_MS)
}

/// Whether a recording with this id began so long ago that, without a record here, its record was purged.
pub fn is_of_purged_record(id: RecordingId, now: Timestamp) -> bool {
    now.0.saturating_sub(id.began().0) > KEPT_FOR_MS
}

impl RecordingState {
    fn number(self) -> u8 {
        match self {
            Self::Recording => 0,
            Self::Filed => 1,
            Self::Discarded => 2,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Recording, Self::Filed, Self::Discarded].into_iter().find(|state| state.number() == number)
    }
}
