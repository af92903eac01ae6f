//! Greetings that an owner recorded.

use serde::{Deserialize, Serialize};
use twinbox_ids::Stamp;
use twinbox_replication_core::{BlobRef, Edit, Record, Tag, Value};
use twinbox_rtp::Codec;

use crate::{
    schema,
    value::{set_blob, set_bytes},
};

/// Kind of a recorded greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GreetingKind {
    /// Played unless another fits better.
    Standard,
    /// Played when the called party was busy.
    Busy,
    /// Replaces the others while it is set.
    Temporary,
    /// The owner's spoken name.
    Name,
}

impl From<twinbox_conversation::GreetingKind> for GreetingKind {
    fn from(kind: twinbox_conversation::GreetingKind) -> Self {
        match kind {
            twinbox_conversation::GreetingKind::Standard => Self::Standard,
            twinbox_conversation::GreetingKind::Busy => Self::Busy,
            twinbox_conversation::GreetingKind::Temporary => Self::Temporary,
            twinbox_conversation::GreetingKind::Name => Self::Name,
        }
    }
}

impl GreetingKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Busy, Self::Temporary, Self::Name];

    fn tag(self, codec: Codec) -> Tag {
        let kind: Tag = match self {
            Self::Standard => 1,
            Self::Busy => 2,
            Self::Temporary => 3,
            Self::Name => 4,
        };
        schema::mailbox::GREETINGS + 16 * kind + Tag::from(codec.payload_type())
    }

    /// The greeting of this kind in a mailbox's record: the codec with the latest write counts.
    pub(crate) fn read(self, record: &Record) -> Option<GreetingRef> {
        let (_, codec, value): (Stamp, Codec, &Value) = Codec::ALL
            .into_iter()
            .filter_map(|codec| record.register(self.tag(codec)).map(|(value, stamp)| (stamp, codec, value)))
            .max_by_key(|(stamp, ..)| *stamp)?;
        match value {
            Value::Blob(blob) => Some(GreetingRef { codec, blob: *blob }),
            Value::Bytes(_) => None,
        }
    }
}

/// A recorded greeting: reference to its audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GreetingRef {
    /// Codec of the audio.
    pub codec: Codec,
    /// Its audio.
    pub blob: BlobRef,
}

/// The edits of a mailbox's record that set a greeting.
pub fn set_greeting(kind: GreetingKind, codec: Codec, blob: BlobRef) -> Vec<Edit> {
    vec![set_blob(kind.tag(codec), blob)]
}

/// The edits of a mailbox's record that remove a greeting.
pub fn clear_greeting(kind: GreetingKind) -> Vec<Edit> {
    Codec::ALL.into_iter().map(|codec| set_bytes(kind.tag(codec), Vec::new())).collect()
}
