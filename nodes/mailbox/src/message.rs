//! A message: its folder and flags, and the filing whose audio counts.

use serde::{Deserialize, Serialize};
use twinbox_ids::{MailboxId, MessageId, Pii, Timestamp};
use twinbox_replication_core::{BlobRef, Edit, Key, Record, Tag};
use twinbox_rtp::Codec;

use crate::{
    Numbers, Recording, RecordingState, ViewError,
    schema::{self, message as tag},
    uids,
    value::{Fields, read_byte, read_text, read_u64, set_blob, set_byte, set_bytes, set_text, set_u64},
};

const NEW: u8 = 0;
const HEARD: u8 = 1;

const LET_GO: u8 = 0;
const SAVED: u8 = 1;
const TAKEN_BACK: u8 = 2;

/// Folder of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Folder {
    /// Not yet heard.
    New,
    /// Heard, not saved.
    Heard,
    /// Saved by its owner.
    Saved,
}

/// A change to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mark {
    /// Mark as not heard.
    New,
    /// Mark as heard; a saved message stays saved.
    Heard,
    /// Save; also undoes a deletion.
    Saved,
    /// Flag as deleted; the content is removed later, when every member has the delete (rule D3).
    Deleted,
    /// Undo the deletion.
    Undeleted,
}

impl From<twinbox_conversation::Mark> for Mark {
    fn from(mark: twinbox_conversation::Mark) -> Self {
        match mark {
            twinbox_conversation::Mark::Heard => Self::Heard,
            twinbox_conversation::Mark::Saved => Self::Saved,
            twinbox_conversation::Mark::Deleted => Self::Deleted,
            twinbox_conversation::Mark::Undeleted => Self::Undeleted,
        }
    }
}

/// The audio of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAudio {
    /// Reference to the audio.
    pub blob: BlobRef,
    /// The recording was interrupted, or a part of it was lost (rule C2).
    pub partial: bool,
}

/// A message as read from its record.
#[derive(Debug, Clone)]
pub struct Message {
    /// Opaque, never changes.
    pub id: MessageId,
    /// The mailbox that it belongs to.
    pub mailbox: MailboxId,
    /// Its folder.
    pub folder: Folder,
    /// Flagged as deleted.
    pub deleted: bool,
    /// Its content may have been removed permanently.
    pub purged: bool,
    /// Time of the recording.
    pub received: Timestamp,
    /// Number of the caller.
    pub caller: Option<Pii<String>>,
    /// Display name of the caller.
    pub caller_name: Option<Pii<String>>,
    /// Codec of the audio.
    pub codec: Codec,
    /// Length in milliseconds.
    pub length_ms: u64,
    /// The available audio; see [`StoredAudio::partial`]. `None`: the record came before any audio.
    pub audio: Option<StoredAudio>,
    /// The IMAP UID; shortly after a split another message may have it, too ([`crate::uids`], rule D10).
    pub uid: Option<u64>,
    /// The IMAP MODSEQ (RFC 7162).
    pub modseq: u64,
    /// Flagged as urgent by its sender.
    pub urgent: bool,
    /// Marked as private by its sender: not to be passed on.
    pub private: bool,
    /// The mail that it came by, if any.
    pub mail: Option<MailOrigin>,
}

/// Data of the mail that a message came by, besides its audio.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailOrigin {
    /// Mail address of the sender.
    pub sender: Pii<String>,
    /// Subject.
    pub subject: Pii<String>,
    /// Text.
    pub text: Pii<String>,
}

/// The message that a recording becomes when it is filed.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Time of the recording.
    pub received: Timestamp,
    /// Number of the caller.
    pub caller: Option<Pii<String>>,
    /// Display name of the caller.
    pub caller_name: Option<Pii<String>>,
    /// Codec of the audio.
    pub codec: Codec,
    /// Flagged as urgent by its sender.
    pub urgent: bool,
    /// Marked as private by its sender: not to be passed on.
    pub private: bool,
    /// The mail that it came by, if any.
    pub mail: Option<MailOrigin>,
}

impl MailOrigin {
    fn read(fields: &Fields<'_>) -> Result<Option<Self>, ViewError> {
        let text = |tag| Ok(Pii::new(fields.optional(tag, read_text)?.unwrap_or_default()));
        Ok(match fields.optional(tag::SENDER, read_text)? {
            None => None,
            Some(sender) => {
                Some(Self { sender: Pii::new(sender), subject: text(tag::SUBJECT)?, text: text(tag::TEXT)? })
            }
        })
    }

    fn edits(&self) -> [Edit; 3] {
        [(tag::SENDER, &self.sender), (tag::SUBJECT, &self.subject), (tag::TEXT, &self.text)]
            .map(|(tag, text)| set_text(tag, text.reveal()))
    }
}

/// The kind of filing, which decides whose audio counts (rules C1, C2): a complete filing beats the others, and of
/// those the longer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filing {
    /// By the node that recorded it, to its end.
    Complete,
    /// By the node that recorded it, in its next incarnation.
    Recovered,
    /// By another node, because the recording node is dead or silent.
    Partial {
        /// Number of the take.
        take: u32,
    },
}

impl NewMessage {
    /// The edits of the message's record that file it. Everything except the audio is the same for every filing node,
    /// so that filings by several nodes merge. A node that has the record leaves existing fields alone.
    ///
    /// Take the numbers' UID only if the message has none ([`has_uid`]).
    pub fn edits(&self, current: &Record, filing: Filing, blob: BlobRef, numbers: Numbers) -> Vec<Edit> {
        let mut edits = Vec::with_capacity(10);
        // Nodes may have removed a purged record: audio that the deletion did not see comes with all that makes it a
        // message.
        if current.register(tag::RECEIVED).is_none() || is_purged(current) {
            edits.push(set_u64(tag::RECEIVED, self.received.0));
            edits.push(set_byte(tag::CODEC, self.codec.payload_type()));
            edits.extend(self.caller.as_ref().map(|caller| set_text(tag::CALLER, caller.reveal())));
            edits.extend(self.caller_name.as_ref().map(|name| set_text(tag::CALLER_NAME, name.reveal())));
            edits.extend(self.urgent.then(|| set_byte(tag::URGENT, 1)));
            edits.extend(self.private.then(|| set_byte(tag::PRIVATE, 1)));
            edits.extend(self.mail.iter().flat_map(MailOrigin::edits));
        }
        if !has_uid(current) {
            edits.push(uids::add(numbers.uid));
        }
        edits.push(set_blob(filing.tag(), blob));
        if let Filing::Partial { take } = filing {
            edits.push(set_u64(tag::PARTIAL_TAKE, u64::from(take)));
        }
        edits.push(set_u64(tag::MODSEQ, numbers.modseq));
        edits
    }
}

impl Filing {
    fn tag(self) -> Tag {
        match self {
            Self::Complete => tag::AUDIO,
            Self::Recovered => tag::RECOVERED_AUDIO,
            Self::Partial { .. } => tag::PARTIAL_AUDIO,
        }
    }

    /// Whether a filing of this kind and length would add audio to the message: a complete filing is final, and a
    /// shorter piece adds nothing.
    pub fn adds_to(self, record: &Record, length: u64) -> bool {
        let fields = Fields { what: WHAT, record };
        match self {
            _ if fields.blob(tag::AUDIO).is_some() => false,
            Self::Complete => true,
            Self::Recovered | Self::Partial { .. } => longest_part(&fields).is_none_or(|part| part.length < length),
        }
    }
}

impl Mark {
    /// The edits of the message's record; none when nothing changes. A deletion names the edits that it saw: those of
    /// the record that it is made from (rule D4).
    pub fn edits(self, current: &Record, numbers: Numbers) -> Vec<Edit> {
        let MessageState { heard, kept, deleted } = MessageState::of(current);
        let mut edits = match self {
            Self::New if !heard && kept != SAVED => vec![],
            Self::New => {
                let mut edits = vec![set_byte(tag::STATE, NEW)];
                if kept == SAVED && !deleted {
                    // A message that was once undeleted stays so, merely no longer saved.
                    let was_deleted = current.tombstone().is_some();
                    edits.push(set_byte(tag::KEPT, if was_deleted { TAKEN_BACK } else { LET_GO }));
                }
                edits
            }
            Self::Heard if heard || kept == SAVED => vec![],
            Self::Heard => vec![set_byte(tag::STATE, HEARD)],
            // Also written when it is saved already: a deletion that does not see this write must not win over it.
            Self::Saved => vec![set_byte(tag::STATE, HEARD), set_byte(tag::KEPT, SAVED)],
            Self::Deleted if deleted => vec![],
            Self::Deleted => vec![Edit::Delete],
            Self::Undeleted if !deleted => vec![],
            Self::Undeleted => vec![set_byte(tag::KEPT, if kept == SAVED { SAVED } else { TAKEN_BACK })],
        };
        if !edits.is_empty() {
            // Before a deletion, so that the deletion sees it.
            edits.insert(0, set_u64(tag::MODSEQ, numbers.modseq));
        }
        edits
    }
}

/// Whether a message's record has its UID already: then filing it again needs none. A purged one has none any more.
pub fn has_uid(record: &Record) -> bool {
    uids::of(record).next().is_some() && !is_purged(record)
}

/// Whether a message's content counts as removed: it cannot be undeleted, and no node writes its record again, except to
/// file audio that the deletion did not see. A purge before the latest mark or filing does not count, since each of these
/// writes `MODSEQ` and a purge does not: the message was kept since, or a change by a node that did not know of the purge
/// came later, and it is purged again.
pub fn is_purged(record: &Record) -> bool {
    let stamp = |tag| record.register(tag).map(|(_, stamp)| stamp);
    byte(&Fields { what: WHAT, record }, tag::PURGED) == 1
        && stamp(tag::PURGED) > stamp(tag::MODSEQ)
        && MessageState::of(record).deleted
}

/// Whether a message came by mail or from a node, and not by an import, which may be repeated at any time.
pub fn came_by_mail(record: &Record) -> bool {
    record.register(tag::SENDER).is_some()
}

/// The edit that notes from which message of a backup a message was restored.
pub fn set_restored_from(id: MessageId) -> Edit {
    set_bytes(tag::RESTORED_FROM, id.to_bytes().to_vec())
}

/// The message of a backup from which a message was restored; `None` for others.
pub fn restored_from(record: &Record) -> Option<MessageId> {
    record.bytes(tag::RESTORED_FROM).and_then(MessageId::from_slice)
}

/// The edits that mark a deleted message's content as removed. A save or audio that they did not see survives them, as
/// it survives the delete, on the nodes that still have the audio.
pub fn purge(current: &Record) -> Vec<Edit> {
    if MessageState::of(current).deleted { vec![set_byte(tag::PURGED, 1), Edit::Delete] } else { vec![] }
}

impl Message {
    /// Reads a message. `recording` looks up the recording of the same id. A partial filing by another node does not
    /// count if the caller then discarded or recorded again the take, unknown to that node (rule C1), unless the
    /// message was kept since. `recording` is called only when the audio is partial.
    pub fn read(
        key: &Key,
        record: &Record,
        recording: impl FnOnce(MessageId) -> Option<Recording>,
    ) -> Result<Self, ViewError> {
        let (mailbox, id) = schema::message_of(key).ok_or(ViewError::Key { what: WHAT })?;
        let fields = Fields { what: WHAT, record };
        let codec = fields.required(tag::CODEC, |bytes| read_byte(bytes).and_then(Codec::from_payload_type))?;
        let MessageState { heard, kept, deleted } = MessageState::of(record);
        let audio = match fields.blob(tag::AUDIO) {
            Some(blob) => Some(StoredAudio { blob: *blob, partial: false }),
            None => {
                let overruled = kept == LET_GO
                    && fields.blob(tag::PARTIAL_AUDIO).is_some()
                    && recording(id).is_some_and(|recording| overrules(&recording, &fields));
                let part = if overruled { fields.blob(tag::RECOVERED_AUDIO) } else { longest_part(&fields) };
                part.map(|blob| StoredAudio { blob: *blob, partial: true })
            }
        };
        Ok(Self {
            id,
            mailbox,
            folder: match (kept, heard) {
                (SAVED, _) => Folder::Saved,
                (_, true) => Folder::Heard,
                _ => Folder::New,
            },
            deleted,
            purged: is_purged(record),
            received: Timestamp(fields.required(tag::RECEIVED, read_u64)?),
            caller: fields.optional(tag::CALLER, read_text)?.map(Pii::new),
            caller_name: fields.optional(tag::CALLER_NAME, read_text)?.map(Pii::new),
            codec,
            length_ms: audio.as_ref().map_or(0, |audio| milliseconds(&audio.blob)),
            audio,
            uid: uids::of(record).max(),
            modseq: fields.optional(tag::MODSEQ, read_u64)?.unwrap_or_default(),
            urgent: byte(&fields, tag::URGENT) != 0,
            private: byte(&fields, tag::PRIVATE) != 0,
            mail: MailOrigin::read(&fields)?,
        })
    }

    /// Its complete audio is lost: in its place the longest part counts that was filed of the same take and that `here` has.
    /// Without one the message stays as it is. `record` is that of the message.
    pub fn offer_part(&mut self, record: &Record, here: impl Fn(&BlobRef) -> bool) {
        let fields = Fields { what: WHAT, record };
        let take = fields.blob(tag::AUDIO).and_then(|blob| blob.recording).map(|(_, take)| u64::from(take));
        let same_take = fields.bytes(tag::PARTIAL_TAKE).and_then(read_u64) == take && take.is_some();
        let parts = PARTS.into_iter().filter(|part| *part != tag::PARTIAL_AUDIO || same_take);
        let parts = parts.filter_map(|part| fields.blob(part)).filter(|blob| here(blob));
        if let Some(part) = parts.max_by_key(|blob| (blob.length, blob.hash)) {
            self.length_ms = milliseconds(part);
            self.audio = Some(StoredAudio { blob: *part, partial: true });
        }
    }

    /// It can be played and counts for the MWI.
    pub fn is_present(&self) -> bool {
        !self.deleted && self.audio.is_some()
    }

    /// Only a part of its audio is available.
    pub fn is_partial(&self) -> bool {
        self.audio.as_ref().is_some_and(|audio| audio.partial)
    }
}

/// Another node's filing of an earlier take, or of a discarded recording, does not count.
fn overrules(recording: &Recording, message: &Fields<'_>) -> bool {
    let take = message.bytes(tag::PARTIAL_TAKE).and_then(read_u64).unwrap_or_default();
    recording.state == RecordingState::Discarded || take < u64::from(recording.take)
}

const WHAT: &str = "a message";

fn byte(fields: &Fields<'_>, tag: Tag) -> u8 {
    fields.bytes(tag).and_then(read_byte).unwrap_or_default()
}

/// State of a message by its registers and its delete.
struct MessageState {
    heard: bool,
    /// `LET_GO`, `SAVED` or `TAKEN_BACK`.
    kept: u8,
    deleted: bool,
}

impl MessageState {
    /// A delete stands unless a writer that did not see it kept the message, or the message has audio that the delete
    /// did not see (rule D4). Such audio is a new message: the audio heard or saved before the delete was another
    /// piece.
    fn of(record: &Record) -> Self {
        let fields = Fields { what: WHAT, record };
        let (heard, kept) = (byte(&fields, tag::STATE) == HEARD, byte(&fields, tag::KEPT));
        let unseen = |tag| record.outlives_delete(tag);
        if record.tombstone().is_none() || (unseen(tag::KEPT) && kept != LET_GO) {
            return Self { heard, kept, deleted: false };
        }
        if has_unseen_audio(&fields) {
            let kept = if unseen(tag::KEPT) { kept } else { LET_GO };
            return Self { heard: heard && unseen(tag::STATE), kept, deleted: false };
        }
        Self { heard, kept, deleted: true }
    }
}

/// The audio that counts came after the delete, or from a node that did not know of it. Another node's partial filing
/// does not count if the delete saw the complete one; nor does the same audio filed again.
fn has_unseen_audio(fields: &Fields<'_>) -> bool {
    let of = |tag: Tag| Some((tag, fields.blob(tag)?));
    let longest = || PARTS.into_iter().filter_map(of).max_by_key(|(_, blob)| (blob.length, blob.hash));
    let Some((tag, counts)) = of(tag::AUDIO).or_else(longest) else { return false };
    let unseen = |tag| fields.record.outlives_delete(tag);
    let seen = |other: &Tag| !unseen(*other) && fields.blob(*other).is_some_and(|blob| blob.hash == counts.hash);
    unseen(tag) && !PARTS.iter().any(seen)
}

/// Registers of incomplete audio.
const PARTS: [Tag; 2] = [tag::PARTIAL_AUDIO, tag::RECOVERED_AUDIO];

fn longest_part<'a>(fields: &Fields<'a>) -> Option<&'a BlobRef> {
    PARTS.into_iter().filter_map(|tag| fields.blob(tag)).max_by_key(|blob| (blob.length, blob.hash))
}

/// G.711 has 8 bytes per millisecond.
fn milliseconds(blob: &BlobRef) -> u64 {
    blob.length / u64::from(twinbox_rtp::SAMPLES_PER_MS)
}
