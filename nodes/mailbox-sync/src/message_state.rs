//! The last state seen of a message, on both sides: a row of the account, as a value by epoch.

use twinbox_ids::Timestamp;
use twinbox_mailbox::by_epoch::{self, Author, StaleEpoch};
use twinbox_replication_core::{Edit, Record};

use crate::{
    AccountPlace, Extent, LocalState, Refusal, RemoteFlags,
    value::{take_u32, take_u64},
};

const APPENDING: u8 = 1;
const BOUND: u8 = 2;
const GONE: u8 = 3;
const HELD: u8 = 4;

const WHOLE: u8 = 0;
const PART: u8 = 1;

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
    /// The message left the folder, and is deleted here; or, if the base here is not deleted, the server took the mail
    /// and does not show it in the folder.
    Gone,
    /// The message is absent, and its deletion is held back: the folder is empty, or the mail cannot be recognised.
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
    /// Facts of its mail on the server.
    pub mail: MailState,
}

/// Facts of the mail of a message on the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MailState {
    /// The audio of the mail that the link is about.
    pub extent: Extent,
    /// UID of the mail of the part, which is removed once the mail of the whole is there; 0 for none.
    pub part: u32,
    /// [`fingerprint`](crate::fingerprint) of the Message-ID that the server wrote in place of ours; 0 for none.
    pub alias: u64,
    /// Number of the reading of the folder in parts ([`AccountState::scan`](crate::AccountState)) that found it; 0 for
    /// none.
    pub scan: u32,
    /// Its next step was refused.
    pub refusal: Option<Refusal>,
}

impl MessageState {
    /// The row to note before an APPEND with these flags.
    pub const fn appending(flags: RemoteFlags, uid_validity: u32, from_uid: u32, mail: MailState) -> Self {
        Self { local: local(flags), link: Link::Appending { uid_validity, from_uid }, mail }
    }

    /// The row after an APPEND with these flags.
    pub const fn appended(flags: RemoteFlags, uid_validity: u32, uid: u32, mail: MailState) -> Self {
        Self { local: local(flags), link: Link::Bound { uid_validity, uid, remote: flags }, mail }
    }

    /// The edits that write it to the message's record `current`, as seen in this place.
    ///
    /// # Errors
    /// The row has a value of a newer epoch.
    pub fn edits(
        &self,
        current: &Record,
        author: &Author,
        at: Timestamp,
        place: AccountPlace,
    ) -> Result<Vec<Edit>, StaleEpoch> {
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
        self.mail.put(&mut bytes);
        bytes.extend_from_slice(&place.0);
        Ok(vec![by_epoch::put(current, author, at, &bytes)?])
    }

    /// The edits of the message's record `current` that remove it.
    ///
    /// # Errors
    /// The row has a value of a newer epoch.
    pub fn removal(current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        Ok(vec![by_epoch::put(current, author, at, &[])?])
    }

    /// Reads it from a message's record; `None` if there is none, if it was removed, if it cannot be read, and if it
    /// was seen in another place.
    pub fn read(record: &Record, place: AccountPlace) -> Option<Self> {
        let (state, rest) = read(by_epoch::newest(record)?.value)?;
        place.holds(rest).then_some(state)
    }
}

impl MailState {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.push(match self.extent {
            Extent::Whole => WHOLE,
            Extent::Part => PART,
        });
        bytes.extend_from_slice(&self.part.to_be_bytes());
        bytes.extend_from_slice(&self.scan.to_be_bytes());
        bytes.extend_from_slice(&self.alias.to_be_bytes());
        let (times, retry_at) = self.refusal.map_or((0, 0), |refusal| (refusal.times, refusal.retry_at.0));
        bytes.push(times);
        bytes.extend_from_slice(&retry_at.to_be_bytes());
    }

    /// The facts, and the bytes after them; a row of a release before this one has none.
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let Some((extent, rest)) = bytes.split_first() else { return Some((Self::default(), bytes)) };
        let extent = match *extent {
            WHOLE => Extent::Whole,
            PART => Extent::Part,
            _ => return None,
        };
        let (part, rest) = take_u32(rest)?;
        let (scan, rest) = take_u32(rest)?;
        let (alias, rest) = take_u64(rest)?;
        let (times, rest) = rest.split_first()?;
        let (retry_at, rest) = take_u64(rest)?;
        let refusal = (*times > 0).then_some(Refusal { times: *times, retry_at: Timestamp(retry_at) });
        Some((Self { extent, part, alias, scan, refusal }, rest))
    }
}

/// The state here of a message that was appended with these flags.
const fn local(flags: RemoteFlags) -> LocalState {
    LocalState { folder: flags.folder(), deleted: false }
}

/// The state, and the bytes after it.
fn read(bytes: &[u8]) -> Option<(MessageState, &[u8])> {
    let ([local, kind], rest) = bytes.split_first_chunk::<2>()?;
    let (first, rest) = take_u32(rest)?;
    let (second, rest) = take_u32(rest)?;
    let (flags, rest) = rest.split_first()?;
    let remote = RemoteFlags::from_byte(*flags);
    let link = match *kind {
        APPENDING => Link::Appending { uid_validity: first, from_uid: second },
        BOUND => Link::Bound { uid_validity: first, uid: second, remote },
        GONE => Link::Gone,
        HELD => Link::Held { uid: second, remote },
        _ => return None,
    };
    let (mail, rest) = MailState::take(rest)?;
    Some((MessageState { local: LocalState::from_byte(*local)?, link, mail }, rest))
}
