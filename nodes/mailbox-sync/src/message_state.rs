//! The last state seen of a message, on both sides: a row of the account, as a value by epoch.

use twinbox_ids::Timestamp;
use twinbox_mailbox::by_epoch::{self, Author, StaleEpoch};
use twinbox_replication_core::{Edit, Record};

use crate::{LocalState, RemoteFlags};

const APPENDING: u8 = 1;
const BOUND: u8 = 2;
const GONE: u8 = 3;
const HELD: u8 = 4;

/// Connection of a message to the folder there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// An APPEND began; its outcome is not known.
    Appending {
        /// UIDVALIDITY at that time.
        uid_validity: u32,
        /// UIDNEXT at that time: the message has this UID or a higher one, if the APPEND succeeded.
        from_uid: u32,
    },
    /// The message is in the folder.
    Bound {
        /// UIDVALIDITY of the UID.
        uid_validity: u32,
        /// Its UID.
        uid: u32,
        /// Base of that side: its flags as seen or set last.
        remote: RemoteFlags,
    },
    /// The message left the folder, and is deleted here.
    Gone,
    /// The message is absent, and its deletion is not believed: the folder is empty.
    Held {
        /// Its last UID; 0 if the UID does not count any more.
        uid: u32,
        /// Its flags as seen last.
        remote: RemoteFlags,
    },
}

/// The last state seen of a message, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageState {
    /// Base of this side: state of the message here when both sides agreed last.
    pub local: LocalState,
    /// Its connection to the folder there, with the base of that side.
    pub link: Link,
}

impl MessageState {
    /// The row to note before an APPEND with these flags.
    pub const fn appending(flags: RemoteFlags, uid_validity: u32, from_uid: u32) -> Self {
        Self { local: local(flags), link: Link::Appending { uid_validity, from_uid } }
    }

    /// The row after an APPEND with these flags.
    pub const fn appended(flags: RemoteFlags, uid_validity: u32, uid: u32) -> Self {
        Self { local: local(flags), link: Link::Bound { uid_validity, uid, remote: flags } }
    }

    /// The edits that write it to the message's record `current`.
    ///
    /// # Errors
    /// The row has a value of a newer epoch.
    pub fn edits(&self, current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        let mut bytes = vec![self.local.byte()];
        let (kind, numbers, flags) = match self.link {
            Link::Appending { uid_validity, from_uid } => (APPENDING, [uid_validity, from_uid], 0),
            Link::Bound { uid_validity, uid, remote } => (BOUND, [uid_validity, uid], remote.byte()),
            Link::Gone => (GONE, [0, 0], 0),
            Link::Held { uid, remote } => (HELD, [0, uid], remote.byte()),
        };
        bytes.push(kind);
        bytes.extend(numbers.into_iter().flat_map(u32::to_be_bytes));
        bytes.push(flags);
        Ok(vec![by_epoch::put(current, author, at, &bytes)?])
    }

    /// The edits of the message's record `current` that remove it.
    ///
    /// # Errors
    /// The row has a value of a newer epoch.
    pub fn removal(current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        Ok(vec![by_epoch::put(current, author, at, &[])?])
    }

    /// Reads it from a message's record; `None` if there is none, if it was removed, and if it cannot be read.
    pub fn read(record: &Record) -> Option<Self> {
        read(by_epoch::newest(record)?.value)
    }
}

/// The state here of a message that was appended with these flags.
const fn local(flags: RemoteFlags) -> LocalState {
    LocalState { folder: flags.folder(), deleted: false }
}

fn read(bytes: &[u8]) -> Option<MessageState> {
    let ([local, kind], rest) = bytes.split_first_chunk::<2>()?;
    let (first, rest) = rest.split_first_chunk::<4>()?;
    let (second, rest) = rest.split_first_chunk::<4>()?;
    let (flags, _) = rest.split_first()?;
    let (first, second) = (u32::from_be_bytes(*first), u32::from_be_bytes(*second));
    let remote = RemoteFlags::from_byte(*flags);
    let link = match *kind {
        APPENDING => Link::Appending { uid_validity: first, from_uid: second },
        BOUND => Link::Bound { uid_validity: first, uid: second, remote },
        GONE => Link::Gone,
        HELD => Link::Held { uid: second, remote },
        _ => return None,
    };
    Some(MessageState { local: LocalState::from_byte(*local)?, link })
}
