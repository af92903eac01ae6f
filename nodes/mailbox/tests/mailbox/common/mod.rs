//! A node's copy of one record, like the store's but without disk and network.

use twinbox_ids::{BlobHash, MailboxId, MessageId, NodeName, Origin, Pii, Stamp, Timestamp};
use twinbox_mailbox::{Codec, Filing, Message, NewMessage, Numbers, Recording, schema};
use twinbox_replication_core::{BlobRef, Edit, Record};

pub const MAILBOX: MailboxId = MailboxId(1);
pub const MESSAGE: MessageId = MessageId(2);
pub const NUMBERS: Numbers = Numbers { uid: 1, modseq: 1 };

/// One node with one record.
#[derive(Clone)]
pub struct Replica {
    pub record: Record,
    node: NodeName,
    origin: Origin,
    wall: u64,
}

impl Replica {
    pub fn new(name: &str, wall: u64) -> Self {
        let origin = Origin(u128::from(name.bytes().next().unwrap_or_default()));
        Self { record: Record::new(), node: name.parse().expect("a node name"), origin, wall }
    }

    /// Another node with the same state.
    pub fn fork(&self, name: &str, wall: u64) -> Self {
        Self { record: self.record.clone(), ..Self::new(name, wall) }
    }

    pub fn write(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            // As a store does (rule D5): above everything that the record has.
            let above = self.record.latest().map_or(0, |stamp| stamp.wall);
            self.wall = self.wall.max(above) + 1;
            let stamp = Stamp { wall: self.wall, counter: 0, origin: self.origin };
            let delta = edit.delta(&self.record, stamp, &self.node);
            self.record.merge(delta);
        }
    }

    pub fn merged_with(&self, other: &Self) -> Record {
        let mut record = self.record.clone();
        record.merge(other.record.clone());
        record
    }

    pub fn file(&mut self, filing: Filing, blob: BlobRef) {
        let message = NewMessage {
            received: Timestamp(1_700_000_000_000),
            caller: Some(Pii::new("5550100".to_owned())),
            caller_name: None,
            codec: Codec::Pcma,
            urgent: false,
            private: false,
            mail: None,
        };
        let edits = message.edits(&self.record, filing, blob, NUMBERS);
        self.write(edits);
    }
}

/// A blob of that many seconds.
pub fn blob(name: u8, seconds: u64) -> BlobRef {
    BlobRef { hash: BlobHash([name; 32]), length: seconds * 8_000, recording: None }
}

pub fn read(record: &Record, recording: Option<Recording>) -> Message {
    let key = schema::message_key(MAILBOX, MESSAGE);
    Message::read(&key, record, |_| recording).expect("a message")
}
