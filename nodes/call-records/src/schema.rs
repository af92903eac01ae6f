//! The numbers on disk and on the wire. They are permanent: a number never gets a second meaning, and the number of a
//! removed field is not used again. Nodes that do not know a field merge and forward it all the same (rule D7).

use twinbox_ids::{CallId, Timestamp};
use twinbox_replication_core::{Key, Table};

/// Call records. Id: time at which the call began (milliseconds since 1970, 8 bytes, big endian), call id (16 bytes):
/// a range of times is a range of keys.
pub const CALL_RECORD: Table = Table(21);

/// Fields of [`CALL_RECORD`]. Each register holds parts (see [`part`]): they make sense only together.
pub mod call_record {
    use twinbox_replication_core::Tag;

    /// Register: the call as its own node saw it end; empty after the record was removed.
    pub const ENDED: Tag = 1;
    /// Register: the call as another node, or a later incarnation, found it after its node had died; empty after the
    /// record was removed. [`ENDED`] takes precedence: then the node lived after all.
    pub const DIED: Tag = 2;
}

/// Parts of a register: one byte with the part's number, one byte with its length, then its bytes. Unknown parts are
/// skipped.
pub mod part {
    /// Text: the node that took the call.
    pub const NODE: u8 = 1;
    /// 8 bytes, big endian: time of the end, in milliseconds since 1970.
    pub const ENDED: u8 = 2;
    /// One byte: 1 leave a message, 2 sign in, 3 none.
    pub const PURPOSE: u8 = 3;
    /// 16 bytes: the mailbox; absent if there is none.
    pub const MAILBOX: u8 = 4;
    /// Text: the mailbox's number at that time; absent if there is none.
    pub const NUMBER: u8 = 5;
    /// Text: the caller's number; absent if it is not known.
    pub const CALLER: u8 = 6;
    /// One byte: the outcome, see [`CallOutcome`](crate::CallOutcome).
    pub const OUTCOME: u8 = 7;
    /// 8 bytes, big endian: length of the message, in milliseconds; absent if there is none.
    pub const MESSAGE_MS: u8 = 8;
}

/// The id of a call's record.
pub fn record_id(began: Timestamp, call: CallId) -> Vec<u8> {
    [&began.0.to_be_bytes()[..], &call.to_bytes()].concat()
}

/// The key of a call's record.
pub fn record_key(began: Timestamp, call: CallId) -> Key {
    Key::new(CALL_RECORD, record_id(began, call))
}

/// Begin and call of a record's key; `None` for another key.
pub fn call_of(key: &Key) -> Option<(Timestamp, CallId)> {
    if key.table != CALL_RECORD {
        return None;
    }
    let (began, call) = key.id.split_first_chunk::<8>()?;
    Some((Timestamp(u64::from_be_bytes(*began)), CallId::from_slice(call)?))
}

/// The lowest id of a record of a call that began at this time or later.
pub fn first_id(began: Timestamp) -> Vec<u8> {
    record_id(began, CallId(0))
}

/// The lowest id after that of a record.
pub fn id_after(began: Timestamp, call: CallId) -> Vec<u8> {
    let mut id = record_id(began, call);
    id.push(0);
    id
}
