//! The messages of the model: real records with real UIDs, and what mail programs see of them.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{BlobHash, MailboxId, MessageId, NodeName, Origin, Stamp, Timestamp};
use twinbox_mailbox::{Codec, Filing, Mark, NewMessage, Numbers, purge, schema, uids};
use twinbox_replication_core::{BlobRef, Change, CommitPart, Edit, Record};

/// The one mailbox.
pub(super) const MAILBOX: MailboxId = MailboxId(1);

/// The audio of a message. Two messages each have the same, as a mail to two mailboxes.
pub(super) fn audio_of(row: u8) -> u8 {
    row / 2
}

/// The audio that a record names.
pub(super) fn named_audio(message: &Record) -> Option<u8> {
    message.blobs().next().map(|blob| blob.hash.0[0])
}

/// The edits of a message, and those of the counters.
pub(super) type Edits = (Vec<Edit>, Vec<Edit>);

/// A new message.
pub(super) fn file(row: u8, counters: &Record) -> Edits {
    let new = NewMessage {
        received: Timestamp(1),
        caller: None,
        caller_name: None,
        codec: Codec::Pcma,
        urgent: false,
        private: false,
        mail: None,
    };
    let blob = BlobRef { hash: BlobHash([audio_of(row); 32]), length: 1, recording: None };
    let numbers = Numbers::after(counters);
    (new.edits(&Record::new(), Filing::Complete, blob, numbers), numbers.take_both())
}

/// Its owner hears a message.
pub(super) fn hear(message: &Record, counters: &Record) -> Edits {
    (Mark::Heard.edits(message, Numbers::after(counters)), Numbers::take_modseq())
}

/// A message is deleted, and its content is removed.
pub(super) fn delete(message: &Record, counters: &Record, made: (Stamp, &NodeName)) -> Edits {
    let mut edits = Mark::Deleted.edits(message, Numbers::after(counters));
    let mut deleted = message.clone();
    deleted.merge(delta(message, made, edits.clone()));
    edits.extend(purge(&deleted));
    (edits, Numbers::take_modseq())
}

/// The change of a record by these edits, each with a later stamp.
pub(super) fn delta(record: &Record, (stamp, node): (Stamp, &NodeName), edits: Vec<Edit>) -> Record {
    let (mut record, mut all) = (record.clone(), Record::new());
    for (counter, edit) in (0..).zip(edits) {
        let delta = edit.delta(&record, Stamp { counter, ..stamp }, node);
        record.merge(delta.clone());
        all.merge(delta);
    }
    all
}

/// A change of a message as a store reports it; `seq` is 0 for a row that a scan or a comparison brought.
pub(super) fn reported(row: u8, origin: Origin, seq: u64, delta: &Record) -> Change {
    let key = schema::message_key(MAILBOX, id(row));
    Change { origin, seq, key, delta: delta.clone(), part: CommitPart::default() }
}

pub(super) fn id(row: u8) -> MessageId {
    MessageId(u128::from(row))
}

/// The UIDs that mail programs saw on one disk of a member, each with the messages that had it.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown(BTreeMap<u64, BTreeSet<u8>>);

impl Shown {
    /// A mail program sees this message.
    pub(super) fn see(&mut self, row: u8, message: &Record) {
        if let Some(uid) = uids::of(message).max() {
            self.0.entry(uid).or_default().insert(row);
        }
    }

    /// That this message had this UID binds no more.
    pub(super) fn forget(&mut self, row: u8, uid: u64) {
        self.0.entry(uid).or_default().remove(&row);
    }

    /// The other messages that had this UID here.
    pub(super) fn others(&self, uid: u64, row: u8) -> impl Iterator<Item = u8> {
        self.0.get(&uid).into_iter().flatten().copied().filter(move |named| *named != row)
    }
}
