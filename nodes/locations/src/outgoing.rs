//! A message on its way to a location.

use twinbox_ids::{LocationId, MailboxId, MessageId, Pii, Timestamp};
use twinbox_mailbox::{Codec, ViewError};
use twinbox_replication_core::{BlobRef, Edit, Key, Record, Tag, Value};

use crate::schema::{self, outgoing as tag};

/// Kind of the record, for error texts.
const WHAT: &str = "an outgoing message";

/// A message on its way to a location. Its record keeps the audio until the outcome is certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Opaque: the message of its effect's cause.
    pub id: MessageId,
    /// The mailbox of the sender.
    pub sender: MailboxId,
    /// The location.
    pub location: LocationId,
    /// The number of the mailbox there.
    pub number: Pii<String>,
    /// The audio, raw G.711.
    pub audio: BlobRef,
    /// Codec of the audio.
    pub codec: Codec,
    /// The subject; empty for none.
    pub subject: Pii<String>,
    /// Urgent.
    pub urgent: bool,
    /// Private.
    pub private: bool,
    /// Time of its creation.
    pub created: Timestamp,
}

impl Outgoing {
    /// The edits that write its record.
    pub fn edits(&self) -> Vec<Edit> {
        let set = |tag: Tag, bytes: &[u8]| Edit::Set(tag, Value::Bytes(bytes.to_vec()));
        vec![
            set(tag::SENDER, &self.sender.to_bytes()),
            set(tag::LOCATION, &self.location.to_bytes()),
            set(tag::NUMBER, self.number.reveal().as_bytes()),
            Edit::Set(tag::AUDIO, Value::Blob(self.audio)),
            set(tag::CODEC, &[self.codec.payload_type()]),
            set(tag::SUBJECT, self.subject.reveal().as_bytes()),
            set(tag::URGENT, &[u8::from(self.urgent)]),
            set(tag::PRIVATE, &[u8::from(self.private)]),
            set(tag::CREATED, &self.created.0.to_be_bytes()),
        ]
    }

    /// Reads a message; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let id = schema::outgoing_of(key).ok_or(ViewError::Key { what: WHAT })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields(record);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().map(Pii::new);
        let audio = record.register(tag::AUDIO).and_then(|(value, _)| value.blob());
        Ok(Some(Self {
            id,
            sender: fields.read(tag::SENDER, MailboxId::from_slice)?,
            location: fields.read(tag::LOCATION, LocationId::from_slice)?,
            number: fields.read(tag::NUMBER, text)?,
            audio: *audio.ok_or(ViewError::Missing { what: WHAT, tag: tag::AUDIO })?,
            codec: fields.read(tag::CODEC, |bytes| match bytes {
                [byte] => Codec::from_payload_type(*byte),
                _ => None,
            })?,
            subject: fields.read(tag::SUBJECT, text)?,
            urgent: fields.read(tag::URGENT, |bytes| Some(bytes == [1]))?,
            private: fields.read(tag::PRIVATE, |bytes| Some(bytes == [1]))?,
            created: Timestamp(fields.read(tag::CREATED, |b| b.try_into().ok().map(u64::from_be_bytes))?),
        }))
    }
}

/// The fields of one record.
struct Fields<'a>(&'a Record);

impl Fields<'_> {
    fn read<T>(&self, tag: Tag, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, ViewError> {
        let bytes = self.0.bytes(tag).ok_or(ViewError::Missing { what: WHAT, tag })?;
        read(bytes).ok_or(ViewError::Unreadable { what: WHAT, tag })
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{BlobHash, Origin, Stamp};

    use super::*;

    #[test]
    fn message_is_read_back_from_its_record_which_keeps_its_audio() {
        let outgoing = Outgoing {
            id: MessageId(1),
            sender: MailboxId(2),
            location: LocationId(3),
            number: Pii::new("1001".to_owned()),
            audio: BlobRef { hash: BlobHash([7; 32]), length: 8_000, recording: None },
            codec: Codec::Pcma,
            subject: Pii::new(String::new()),
            urgent: true,
            private: false,
            created: Timestamp(5),
        };
        let mut record = Record::new();
        for (n, edit) in (1..).zip(outgoing.edits()) {
            let stamp = Stamp { wall: n, counter: 0, origin: Origin(1) };
            record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
        }
        assert_eq!(record.blobs().copied().collect::<Vec<_>>(), [outgoing.audio]);
        assert_eq!(Outgoing::read(&schema::outgoing_key(outgoing.id), &record), Ok(Some(outgoing)));
        let empty = Outgoing::read(&schema::outgoing_key(MessageId(1)), &Record::new());
        assert!(matches!(empty, Err(ViewError::Missing { .. })));
    }
}
