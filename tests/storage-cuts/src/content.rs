//! Records and audio of a history: each differs from all others.

use bytes::Bytes;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Key, Table, Tag, Value};

/// Table of the rows that are overwritten, and that of messages.
const ROWS: Table = Table(7);
pub(crate) const MESSAGES: Table = Table(2);

/// The tables of a history.
pub(crate) const TABLES: [Table; 2] = [ROWS, MESSAGES];

/// The field of a row with its version, and of a message with its audio.
pub(crate) const BODY: Tag = 1;
/// The fields of the row that all writes change: the versions of all rows, and their number.
pub(crate) const VERSIONS: Tag = 2;
pub(crate) const COUNT: Tag = 3;

/// Number of the take of each recording.
pub(crate) const TAKE: u32 = 1;

/// A row that a node overwrites; its halves are written together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowId {
    pub(crate) author: usize,
    pub(crate) row: u8,
}

impl RowId {
    pub(crate) const HALVES: [&str; 2] = ["first", "second"];

    pub(crate) fn key(self, half: &str) -> Key {
        Key::new(ROWS, format!("{}-{} {half}", self.author, self.row))
    }

    /// The content of a half: its version, and filling that differs from that of all others.
    pub(crate) fn half(self, half: &str, version: u64) -> Vec<u8> {
        let name = format!("{}-{} {half} {version}", self.author, self.row);
        let mut bytes = version.to_be_bytes().to_vec();
        bytes.extend(filling(&name, (version * 7_919) as usize % 3_000));
        bytes
    }

    /// The version of a row as a member of a set.
    pub(crate) fn member(self, version: u64) -> Vec<u8> {
        format!("{}-{}:{version}", self.author, self.row).into_bytes()
    }

    /// The edits that write a version.
    pub(crate) fn edits(self, version: u64) -> Vec<(Key, Vec<Edit>)> {
        let set = |half| vec![Edit::Set(BODY, Value::Bytes(self.half(half, version)))];
        let mut edits: Vec<_> = Self::HALVES.into_iter().map(|half| (self.key(half), set(half))).collect();
        edits.push((common(), vec![Edit::Add(VERSIONS, self.member(version)), Edit::Count(COUNT, 1)]));
        edits
    }
}

/// The version in the content of a half.
pub(crate) fn version_of(content: &[u8]) -> u64 {
    content.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The row that all writes change.
pub(crate) fn common() -> Key {
    Key::new(ROWS, "common")
}

pub(crate) fn message_key(number: u64) -> Key {
    Key::new(MESSAGES, number.to_be_bytes())
}

/// The recording of a message.
pub(crate) fn recording(number: u64) -> RecordingId {
    RecordingId(number.into())
}

/// The audio of a message.
pub(crate) fn audio(number: u64, length: usize) -> Bytes {
    filling(&format!("message {number}"), length).into()
}

/// Bytes that differ from place to place and from name to name.
fn filling(name: &str, length: usize) -> Vec<u8> {
    let fold = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let start = name.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    let at = |place: u64| (start.wrapping_add(place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8;
    (0..length as u64).map(at).collect()
}
