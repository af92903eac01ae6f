//! Opaque identifiers. Each is its own type, so that a message is never mistaken for a mailbox.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid {what}: {expected}")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
    expected: &'static str,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// A new identifier from the system's random source.
            pub fn random() -> Self {
                Self(rand::random())
            }

            /// The 16 bytes, most significant first: sorts like the number, for use in keys.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The inverse of [`Self::to_bytes`]; `None` unless there are exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(|b| Self(u128::from_be_bytes(b)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                (text.len() == 32)
                    .then(|| u128::from_str_radix(text, 16).ok())
                    .flatten()
                    .map(Self)
                    .ok_or_else(|| ParseIdError {
                        what: $what,
                        text: text.to_owned(),
                        expected: "32 hexadecimal digits",
                    })
            }
        }
    };
}

random_id!(
    /// One incarnation of a store: random, new at every start of a process (rule D1).
    Origin, "origin"
);
random_id!(
    /// One incarnation of a node's process, as the role manager and SIP Contacts name it.
    Incarnation, "incarnation"
);
random_id!(
    /// A cluster, made once by `cluster init`.
    ClusterId, "cluster id"
);
random_id!(
    /// A mailbox; its number is a claim that may change, the id never changes (rule D6).
    MailboxId, "mailbox id"
);
random_id!(
    /// A class of service; its name is a claim like a mailbox's number.
    ClassId, "class id"
);
random_id!(
    /// A message. A message recorded from a call has the 128 bits of its [`RecordingId`], so that two nodes
    /// which file the same recording file the same message (rule C2): its id sorts by time. The id of a message that may
    /// come twice is a hash of what it comes from, and does not: mail in, one sent or returned within the system, an import.
    MessageId, "message id"
);
random_id!(
    /// A recording, named by the node that began it (rule C1) by time: see [`RecordingId::at`].
    RecordingId, "recording id"
);
random_id!(
    /// A call within Twinbox. Never the SIP Call-ID, which the remote side chooses.
    CallId, "call id"
);
random_id!(
    /// A notification device of a user.
    DeviceId, "device id"
);
random_id!(
    /// Another voicemail system, to which messages are sent.
    LocationId, "location id"
);
random_id!(
    /// A job of the timetable.
    JobId, "job id"
);
random_id!(
    /// A directory from which users come.
    DirectoryId, "directory id"
);
random_id!(
    /// A mail server with which mailboxes are synchronised.
    MailServerId, "mail server id"
);
random_id!(
    /// One effect on the outside world; includes its cause (rule E1).
    EffectId, "effect id"
);

/// An identifier that sorts by time, in the layout of a UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds
/// since 1970, and 74 random bits around version and variant.
fn time_ordered(made: Timestamp) -> u128 {
    const MILLISECONDS: u64 = (1 << 48) - 1;
    const RANDOM: u128 = (0xfff << 64) | ((1 << 62) - 1);
    const VERSION_AND_VARIANT: u128 = (7 << 76) | (0b10 << 62);
    (u128::from(made.0 & MILLISECONDS) << 80) | VERSION_AND_VARIANT | (rand::random::<u128>() & RANDOM)
}

impl RecordingId {
    /// The identifier of a recording that begins now: it sorts behind those of earlier milliseconds. Nothing may depend on
    /// that order, since the clocks of two nodes differ.
    pub fn at(began: Timestamp) -> Self {
        Self(time_ordered(began))
    }

    /// The time of its begin, by the clock of its node.
    pub fn began(self) -> Timestamp {
        Timestamp((self.0 >> 80) as u64)
    }
}

impl MessageId {
    /// The identifier of a message that is made now and is no recording of a call; otherwise like [`RecordingId::at`].
    pub fn at(made: Timestamp) -> Self {
        Self(time_ordered(made))
    }
}

impl From<RecordingId> for MessageId {
    fn from(id: RecordingId) -> Self {
        Self(id.0)
    }
}

/// The BLAKE3 hash that names a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobHash(pub [u8; 32]);

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobHash({self})")
    }
}

impl FromStr for BlobHash {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = || ParseIdError { what: "blob hash", text: text.to_owned(), expected: "64 hexadecimal digits" };
        if text.len() != 64 || !text.is_ascii() {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

/// The name of a node or witness: 1 to 63 of `a-z`, `0-9` and `-`, not beginning or ending with `-`
/// (a DNS label, RFC 1123 section 2.1). Clones share one text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let ok = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        ok.then(|| Self(text.into())).ok_or_else(|| ParseIdError {
            what: "node name",
            text: text.to_owned(),
            expected: "1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'",
        })
    }
}

impl TryFrom<String> for NodeName {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_print_and_parse_back() {
        let id = MessageId::random();
        assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
        assert_eq!(MessageId::from_slice(&id.to_bytes()), Some(id));
        let hash = BlobHash([0xa5; 32]);
        assert_eq!(hash.to_string().parse::<BlobHash>(), Ok(hash));
    }

    #[test]
    fn identifiers_of_recordings_and_messages_sort_by_their_milliseconds() {
        let now = 1_795_000_000_000;
        let ids: Vec<RecordingId> =
            [0, 1, now - 1, now, now + 1, (1 << 48) - 1].map(|ms| RecordingId::at(Timestamp(ms))).into();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted_by(|a, b| a < b) && ids.iter().map(|id| id.to_bytes()).is_sorted(), "{texts:?}");
        let message = MessageId::at(Timestamp(now));
        assert!(MessageId::from(ids[2]) < message && message < MessageId::from(ids[4]));
        // A clock that is wrong beyond all measure changes the order, and nothing else.
        assert_eq!(RecordingId::at(Timestamp(u64::MAX)).0 >> 80, (1 << 48) - 1);
    }

    #[test]
    fn identifier_that_sorts_by_time_is_a_uuid_of_version_7_with_74_random_bits() {
        let (mut ever, mut always) = (0, u128::MAX);
        for _ in 0..200 {
            let id = RecordingId::at(Timestamp(0x0102_0304_0506)).0;
            assert_eq!((id >> 80, (id >> 76) & 0xf, (id >> 62) & 0b11), (0x0102_0304_0506, 7, 0b10), "{id:032x}");
            (ever, always) = (ever | id, always & id);
        }
        assert_eq!((ever & !always).count_ones(), 74, "bits that differ: {:032x}", ever & !always);
    }

    #[test]
    fn invalid_identifier_is_refused_with_its_kind() {
        for text in ["", "12", "zz000000000000000000000000000000", "+0000000000000000000000000000000é"] {
            let error = text.parse::<MailboxId>().unwrap_err().to_string();
            assert!(error.contains("mailbox id"), "{error}");
        }
        for text in ["", "-a", "a-", "A", "a.b", "ü", &"x".repeat(64)] {
            assert!(text.parse::<NodeName>().is_err(), "{text:?} was taken");
        }
        assert!("node-1".parse::<NodeName>().is_ok());
    }
}
