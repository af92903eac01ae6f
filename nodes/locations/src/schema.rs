//! The numbers on disk and on the wire. They are permanent: a number never gets a second meaning, and the number of a
//! removed field is not used again. Nodes that do not know a field merge and forward it all the same (rule D7).

use twinbox_ids::{LocationId, MessageId};
use twinbox_replication_core::{Key, Table};

/// Locations. Id: location id (16 bytes).
pub const LOCATION: Table = Table(12);
/// Messages on their way to locations. Id: message id (16 bytes).
pub const OUTGOING: Table = Table(13);

/// Fields of [`LOCATION`].
pub mod location {
    use twinbox_replication_core::Tag;

    /// Register, u64: time of its creation (milliseconds since 1970). A record without it is no location.
    pub const CREATED: Tag = 1;
    /// Register, text: the name in lists.
    pub const NAME: Tag = 2;
    /// Register, text: the digits before the number of a mailbox there.
    pub const DIAL_ID: Tag = 3;
    /// Register, text: the mail domain.
    pub const DOMAIN: Tag = 4;
    /// Register, one byte: 1 VPIM, 2 mails with a WAV file.
    pub const AUDIO: Tag = 5;
    /// Register, one byte, 0 or 1: messages are sent there.
    pub const ENABLED: Tag = 6;
}

/// Fields of [`OUTGOING`].
pub mod outgoing {
    use twinbox_replication_core::Tag;

    /// Register, 16 bytes: the mailbox of the sender.
    pub const SENDER: Tag = 1;
    /// Register, 16 bytes: the location.
    pub const LOCATION: Tag = 2;
    /// Register, text: the number of the mailbox there.
    pub const NUMBER: Tag = 3;
    /// Register, blob: the audio, raw G.711.
    pub const AUDIO: Tag = 4;
    /// Register, one byte: the codec of the audio (its static RTP payload type: 0 PCMU, 8 PCMA).
    pub const CODEC: Tag = 5;
    /// Register, text: the subject; empty for none.
    pub const SUBJECT: Tag = 6;
    /// Register, one byte, 0 or 1: urgent.
    pub const URGENT: Tag = 7;
    /// Register, one byte, 0 or 1: private.
    pub const PRIVATE: Tag = 8;
    /// Register, u64: time of its creation (milliseconds since 1970).
    pub const CREATED: Tag = 9;
}

/// The key of a location.
pub fn location_key(id: LocationId) -> Key {
    Key { table: LOCATION, id: id.to_bytes().to_vec() }
}

/// The location of a location's key; `None` for another key.
pub fn location_of(key: &Key) -> Option<LocationId> {
    (key.table == LOCATION).then(|| LocationId::from_slice(&key.id)).flatten()
}

/// The key of a message on its way.
pub fn outgoing_key(id: MessageId) -> Key {
    Key { table: OUTGOING, id: id.to_bytes().to_vec() }
}

/// The message of an outgoing message's key; `None` for another key.
pub fn outgoing_of(key: &Key) -> Option<MessageId> {
    (key.table == OUTGOING).then(|| MessageId::from_slice(&key.id)).flatten()
}
