//! The numbers on disk and on the wire. They are permanent: a number never gets a second meaning, and the number of a
//! removed field is not used again. New fields get new numbers; nodes that do not know them merge and forward them all
//! the same (rule D7).

use twinbox_ids::{ClassId, MailboxId, MessageId, RecordingId};
use twinbox_replication_core::{Key, Table, Tag};

/// Version of the meanings below. It is raised only when the reading of an *existing* number changes, which no release
/// has done; nodes announce it, and the cluster switches when all can read it.
pub const SCHEMA_VERSION: u16 = 1;

/// Mailboxes. Id: mailbox id (16 bytes).
pub const MAILBOX: Table = Table(1);
/// Messages. Id: mailbox id, message id (16 + 16 bytes), so that a mailbox is a prefix.
pub const MESSAGE: Table = Table(2);
/// Recordings in progress and their outcome. Id: recording id (16 bytes).
pub const RECORDING: Table = Table(3);
/// Claims of numbers (rule D6). Id: the digits.
pub const NUMBER: Table = Table(4);
/// PIN attempts (rule S1). Id: see [`attempts_key`].
pub const PIN_ATTEMPTS: Table = Table(5);
/// Counters of a mailbox, separate from its settings because every message changes them. Id: mailbox id (16 bytes).
pub const COUNTERS: Table = Table(6);
/// Classes of service. Id: class id (16 bytes); all zeros is the default class, which always exists.
pub const CLASS: Table = Table(7);
/// Claims of class names (rule D6). Id: the name.
pub const CLASS_NAME: Table = Table(8);
/// Prompts that replace those of the set. Id: language, `/`, name, such as `en/digits/7`.
pub const PROMPT: Table = Table(9);
// 10: the outbox (`nodes/outbox/src/schema.rs`). 11: notification devices (`nodes/devices/src/schema.rs`).
// 12 and 13: locations and messages to them (`nodes/locations/src/schema.rs`).
/// Claims of users' mail addresses and aliases (rule D6). Id: the address or local part, in lower case.
pub const ADDRESS: Table = Table(15);
// 14: holds of destinations (`nodes/outbox/src/schema.rs`).
// 16 to 18: directories, the users that come from them, runs of their synchronisation
// (`directory/schema.rs`).
// 19 and 20: jobs of the timetable and their runs (`nodes/timetable/src/schema.rs`).
// 21: call records (`nodes/call-records/src/schema.rs`).
// 22 to 24: mail servers, synchronised accounts, messages in them (`nodes/mailbox-sync/src/schema.rs`).
// From 256 on: alarms and events (`nodes/alarms/src/schema.rs`).

/// First of the registers that hold a value by epoch, one per node: this number plus 15 bits of the hash of the node's
/// name. In rows of mailboxes, bindings, directories, and of accounts and messages of mailbox sync. Two nodes whose names have one hash (1 in 32,768) share a
/// register, and their writes are ordered by time alone.
///
/// The register: generation and number of the epoch (u64 each), length of the node's name (one byte, 0 for no epoch),
/// the name, time (u64, milliseconds since 1970), and the value; an empty value is none.
pub const BY_EPOCH: Tag = 0x8000;

/// Fields of [`MAILBOX`].
pub mod mailbox {
    use super::Tag;

    /// Register, u64: time of creation (milliseconds since 1970). A record without it is no mailbox.
    pub const CREATED: Tag = 1;
    /// Register, text: the number that it requested; the claim in `NUMBER` names the holder.
    pub const NUMBER: Tag = 2;
    /// Register, text: the owner's name.
    pub const NAME: Tag = 3;
    /// Register: one byte (1: a new PIN is due), then the PHC string of argon2id with its salt and parameters. One
    /// register, because an administrator's PIN must never be merged with the other node's "no change due".
    pub const PIN: Tag = 4;
    /// Register, u64: the generation of PIN attempts that counts; a new one discards the old attempts (unlocking).
    pub const PIN_GENERATION: Tag = 5;
    /// Register, text: IANA time zone.
    pub const TIMEZONE: Tag = 6;
    /// Register, text: language of prompts, such as `en`.
    pub const LANGUAGE: Tag = 7;
    /// Register, u64: maximum number of messages.
    pub const MAX_MESSAGES: Tag = 8;
    /// Register, u64: maximum length of a message, in milliseconds.
    pub const MAX_MESSAGE_MS: Tag = 9;
    /// Register, text: target of key `0`; empty for none.
    pub const OPERATOR: Tag = 10;
    /// Register, 16 bytes: its class of service; empty for the default one.
    pub const CLASS: Tag = 11;
    /// Register, text or empty for none: address of the user's own mailbox elsewhere, in lower case. The claims in
    /// `ADDRESS` name its holder, and those of the aliases.
    pub const MAIL: Tag = 12;
    /// Register, text or empty for none: aliases in lower case, separated by spaces; each is a local part or an address.
    pub const ALIASES: Tag = 13;
    // 14 is not used: directory and entry of a bound user are a value by epoch (from 0x8000 on,
    // [`BY_EPOCH`]), with all fields that the directory supplies.
    /// Register, one byte: 1 if a local user is disabled, because the directory that had disabled the user was removed.
    /// Of a bound user the directory's word counts, which is in the value by epoch.
    pub const DISABLED: Tag = 15;
    /// Registers, blob or empty bytes for none: the greeting of kind k (1 standard, 2 busy, 3 temporary, 4 name) in
    /// codec c (its static RTP payload type: 0 PCMU, 8 PCMA) has the tag `GREETINGS + 16 k + c`. Of the codecs of one
    /// kind the latest stamp counts: codec and audio are thus one write, and blobs stay visible to the replication.
    pub const GREETINGS: Tag = 0x100;
}

/// Fields of [`MESSAGE`].
pub mod message {
    use super::Tag;

    /// Register, u64: time of the recording (milliseconds since 1970).
    pub const RECEIVED: Tag = 1;
    /// Register, text: the caller's number.
    pub const CALLER: Tag = 2;
    /// Register, text: the caller's display name.
    pub const CALLER_NAME: Tag = 3;
    /// Register, one byte: the codec of all its audio (its static RTP payload type: 0 PCMU, 8 PCMA).
    pub const CODEC: Tag = 4;
    /// Register, one byte: 0 new, 1 heard.
    pub const STATE: Tag = 5;
    /// Register, one byte: 0 released, 1 saved, 2 not saved but undeleted. 1 and 2 survive a delete that did not see
    /// them (rule D4).
    pub const KEPT: Tag = 6;
    /// Register, one byte: 1 once the content may be removed (after a stable delete and the grace period, rule D3).
    pub const PURGED: Tag = 7;
    /// Register, blob: the audio as filed by the node that recorded it to its end.
    pub const AUDIO: Tag = 8;
    /// Register, blob: the audio that another node had when it filed the orphan (rule C2).
    pub const PARTIAL_AUDIO: Tag = 9;
    /// Register, blob: the audio that the recording node found in its next incarnation.
    pub const RECOVERED_AUDIO: Tag = 10;
    /// Register, u64: one more UID as in `UIDS`, of a message that was filed before `UIDS` were; not written any more.
    pub const UID: Tag = 11;
    /// Register, u64: the IMAP MODSEQ (RFC 7162).
    pub const MODSEQ: Tag = 12;
    /// Register, u64: the take of `PARTIAL_AUDIO`. The blob itself does not name it: the node that still records must
    /// not take its own chunks for that blob.
    pub const PARTIAL_TAKE: Tag = 13;
    /// Register, one byte: 1 if its sender flagged it as urgent.
    pub const URGENT: Tag = 14;
    /// Register, text: the subject of the mail that it came by.
    pub const SUBJECT: Tag = 15;
    /// Register, text: the text of the mail that it came by.
    pub const TEXT: Tag = 16;
    /// Register, text: the mail address of its sender.
    pub const SENDER: Tag = 17;
    /// Register, one byte: 1 if its sender marked it as private.
    pub const PRIVATE: Tag = 18;
    /// Register, 16 bytes: the message of a backup from which it was restored into a running cluster.
    pub const RESTORED_FROM: Tag = 19;
    /// Add-wins set of u64: all IMAP UIDs that it was ever given, of which the highest is in force (rule D10). No UID
    /// leaves the set, not even by a deletion.
    pub const UIDS: Tag = 20;
}

/// Fields of [`RECORDING`].
pub mod recording {
    use super::Tag;

    /// Register, 16 bytes: the mailbox that it is for.
    pub const MAILBOX: Tag = 1;
    /// Register, text: the node that records.
    pub const OWNER: Tag = 2;
    /// Register, 16 bytes: the incarnation of that node.
    pub const INCARNATION: Tag = 3;
    /// Register, 16 bytes: the call.
    pub const CALL: Tag = 4;
    /// Register, text: the caller's number.
    pub const CALLER: Tag = 5;
    /// Register, text: the caller's display name.
    pub const CALLER_NAME: Tag = 6;
    /// Register, one byte: the codec (as in `message::CODEC`).
    pub const CODEC: Tag = 7;
    /// Register, u64: time of its begin (milliseconds since 1970).
    pub const BEGAN: Tag = 8;
    /// Register, one byte: 0 recording, 1 filed, 2 discarded. Only the owner writes it.
    pub const STATE: Tag = 9;
    /// Register, u64: the take that counts; a higher one discards the lower ones. Only the owner writes it.
    pub const TAKE: Tag = 10;
    /// Register, u64: time of the begin of its call (milliseconds since 1970), the key of the call's record; absent for a
    /// recording without a call.
    pub const CALL_BEGAN: Tag = 11;
    /// Register, one byte: 1 once its message was purged: chunks of it that come later make no new message.
    pub const PURGED: Tag = 12;
}

/// Fields of [`NUMBER`].
pub mod number {
    use super::Tag;

    /// Claim: mailbox id (16 bytes).
    pub const HOLDER: Tag = 1;
}

/// Fields of [`PIN_ATTEMPTS`].
pub mod attempts {
    use super::Tag;

    /// Counter: checks begun.
    pub const BEGUN: Tag = 1;
    /// Counter: the right ones of these.
    pub const RIGHT: Tag = 2;
    /// Register, u64: start of the last check (milliseconds since 1970).
    pub const LAST: Tag = 3;
}

/// Fields of [`COUNTERS`].
pub mod counters {
    use super::Tag;

    /// Counter: UIDs given before `HIGHEST_UID` was; not written any more. The sum is above all of them.
    pub const UIDS: Tag = 1;
    /// Counter: changes to the mailbox's messages; the sum is the highest MODSEQ.
    pub const MODSEQ: Tag = 2;
    /// Raised counter: the highest UID given (rule D10).
    pub const HIGHEST_UID: Tag = 3;
}

/// Fields of [`CLASS`].
pub mod class {
    use super::Tag;

    /// Register, text: the name that it requested; the claim in `CLASS_NAME` names the holder.
    pub const NAME: Tag = 1;
    /// Register, u64 or empty for unset: maximum length of a message, in seconds.
    pub const MESSAGE_SECONDS: Tag = 2;
    /// The same: maximum number of messages.
    pub const MESSAGES: Tag = 3;
    /// The same: maximum audio, in minutes.
    pub const TOTAL_MINUTES: Tag = 4;
    /// The same: retention of heard messages, in days.
    pub const RETENTION_DAYS: Tag = 5;
    /// The same: minimum length of a PIN, in digits.
    pub const PIN_LENGTH: Tag = 6;
    /// The same: wrong PINs before a call ends.
    pub const PIN_TRIES: Tag = 7;
    /// The same, 0 or 1: PINs such as 1234 are accepted.
    pub const EASY_PINS: Tag = 8;
    /// The same, 0 or 1: callers reach the operator.
    pub const OPERATOR: Tag = 9;
    /// The same, 0 or 1: owners sign in by telephone.
    pub const SIGN_IN: Tag = 10;
    /// The same, 0 or 1: audio may leave the cluster in notifications.
    pub const AUDIO_OUT: Tag = 11;
    /// Register, u64 or empty for unset: retention of new messages, in days.
    pub const NEW_DAYS: Tag = 12;
    /// The same: retention of saved messages, in days.
    pub const SAVED_DAYS: Tag = 13;
    /// The same: time for which deleted messages can be undeleted, in days.
    pub const DELETED_DAYS: Tag = 14;
    /// The same: days before the deletion of a message by its age at which its owner is warned.
    pub const WARN_DAYS: Tag = 15;
}

/// Fields of [`CLASS_NAME`].
pub mod class_name {
    use super::Tag;

    /// Claim: class id (16 bytes).
    pub const HOLDER: Tag = 1;
}

/// Fields of [`ADDRESS`].
pub mod address {
    use super::Tag;

    /// Claim: mailbox id (16 bytes).
    pub const HOLDER: Tag = 1;
}

/// Fields of [`PROMPT`].
pub mod prompt {
    use super::Tag;

    /// Register, blob: the WAV file as given; empty bytes: the prompt of the set is used.
    pub const AUDIO: Tag = 1;
}

/// The key of a class.
pub fn class_key(id: ClassId) -> Key {
    Key { table: CLASS, id: id.to_bytes().to_vec() }
}

/// The key of a class name's claim.
pub fn class_name_key(name: &str) -> Key {
    Key { table: CLASS_NAME, id: name.as_bytes().to_vec() }
}

/// The class of a class's key; `None` for another key.
pub fn class_of(key: &Key) -> Option<ClassId> {
    (key.table == CLASS).then(|| ClassId::from_slice(&key.id)).flatten()
}

/// The key of a mailbox.
pub fn mailbox_key(id: MailboxId) -> Key {
    Key { table: MAILBOX, id: id.to_bytes().to_vec() }
}

/// The key of a mailbox's counters.
pub fn counters_key(id: MailboxId) -> Key {
    Key { table: COUNTERS, id: id.to_bytes().to_vec() }
}

/// The mailbox of the key of counters; `None` for another key.
pub fn counters_of(key: &Key) -> Option<MailboxId> {
    (key.table == COUNTERS).then(|| MailboxId::from_slice(&key.id)).flatten()
}

/// The key of a message.
pub fn message_key(mailbox: MailboxId, message: MessageId) -> Key {
    let mut id = Vec::with_capacity(32);
    id.extend_from_slice(&mailbox.to_bytes());
    id.extend_from_slice(&message.to_bytes());
    Key { table: MESSAGE, id }
}

/// The key of a recording.
pub fn recording_key(id: RecordingId) -> Key {
    Key { table: RECORDING, id: id.to_bytes().to_vec() }
}

/// The key of a number's claim; digits only, see [`crate::Number`].
pub fn number_key(number: &crate::Number) -> Key {
    Key { table: NUMBER, id: number.as_str().as_bytes().to_vec() }
}

/// The key of the claim of a user's address.
pub fn address_key(address: &crate::UserAddress) -> Key {
    Key { table: ADDRESS, id: address.as_str().as_bytes().to_vec() }
}

/// The key of the attempts of one subject (a mailbox, or 16 bytes that identify a source) in one generation and window:
/// kind (1 byte), subject (16), generation (8), window (8).
pub fn attempts_key(subject: crate::pin::Subject, generation: u64, window: u64) -> Key {
    let (kind, bytes) = match subject {
        crate::pin::Subject::Mailbox(id) => (1, id.to_bytes()),
        crate::pin::Subject::Source(hash) => (2, hash),
    };
    let mut id = Vec::with_capacity(33);
    id.push(kind);
    id.extend_from_slice(&bytes);
    id.extend_from_slice(&generation.to_be_bytes());
    id.extend_from_slice(&window.to_be_bytes());
    Key { table: PIN_ATTEMPTS, id }
}

/// Of a key of attempts, whether the subject is a source, and the window; `None` for another key.
pub fn attempts_of(key: &Key) -> Option<(bool, u64)> {
    let (subject, window) = key.id.split_last_chunk::<8>().filter(|_| key.table == PIN_ATTEMPTS)?;
    Some((subject.first() == Some(&2), u64::from_be_bytes(*window)))
}

/// Mailbox and message of a message's key; `None` for another key.
pub fn message_of(key: &Key) -> Option<(MailboxId, MessageId)> {
    if key.table != MESSAGE || key.id.len() != 32 {
        return None;
    }
    let (mailbox, message) = key.id.split_at(16);
    Some((MailboxId::from_slice(mailbox)?, MessageId::from_slice(message)?))
}

/// The mailbox of a mailbox's key; `None` for another key.
pub fn mailbox_of(key: &Key) -> Option<MailboxId> {
    (key.table == MAILBOX).then(|| MailboxId::from_slice(&key.id)).flatten()
}

/// The recording of a recording's key; `None` for another key.
pub fn recording_of(key: &Key) -> Option<RecordingId> {
    (key.table == RECORDING).then(|| RecordingId::from_slice(&key.id)).flatten()
}
