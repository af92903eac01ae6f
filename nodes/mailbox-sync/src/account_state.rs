//! State of the synchronisation of an account: a value by epoch in the row of the account.

use twinbox_ids::Timestamp;
use twinbox_mailbox::by_epoch::{self, Author, StaleEpoch};
use twinbox_replication_core::{Edit, Record};

use crate::{
    AccountPlace, RemoteFlags, UidChanges,
    value::{put_text, take_text, take_u32, take_u64},
};

const KEPT: u8 = 0;
const OWN_FIELD: u8 = 1;
const LOST: u8 = 2;

/// The names that a server leaves to appended mails. A later value is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamesKept {
    /// The Message-ID, as far as seen.
    #[default]
    MessageId,
    /// The server rewrites Message-IDs, and keeps the header field of our own.
    OwnField,
    /// Neither name: a mail is recognised by its UID, and by the Message-ID that the server gave it. A mail that is not
    /// found is never appended a second time.
    Nothing,
}

/// Progress of a look that reads the whole folder in parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Number of the reading, which the rows of its mails name.
    pub number: u32,
    /// UIDVALIDITY of the folder.
    pub uid_validity: u32,
    /// UIDs below this one were read; 0: no reading is under way.
    pub next: u32,
}

/// State of the synchronisation of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountState {
    /// UIDVALIDITY of the folder; 0 before the first look and when stored UIDs are not to be trusted: the next look
    /// is a full one.
    pub uid_validity: u32,
    /// UIDs below this one were examined.
    pub uid_next: u32,
    /// HIGHESTMODSEQ of the folder (RFC 7162); 0 for none.
    pub modseq: u64,
    /// End of the latest run that ended with success and changed something, its own positions included.
    pub synced_at: Option<Timestamp>,
    /// Error of the latest run; `None` if it ended with success.
    pub error: Option<String>,
    /// Time since which each run failed.
    pub failing_since: Option<Timestamp>,
    /// Number of deletions that are held back.
    pub held_back: u32,
    /// Number of messages whose next step the server refused; each is repeated after a growing pause.
    pub refused: u32,
    /// Flags that the server did not keep at the last attempt.
    pub unkept: RemoteFlags,
    /// The names that the server leaves to mails.
    pub names: NamesKept,
    /// Progress of the first look, if it reads the folder in parts.
    pub scan: Scan,
    /// Changes of the folder's UIDs from look to look.
    pub uid_changes: UidChanges,
}

impl AccountState {
    /// The edits that write it to the account's record `current`, as seen in this place.
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
        let time = |at: Option<Timestamp>| at.map_or(0, |at| at.0).to_be_bytes();
        let mut bytes = [self.uid_validity, self.uid_next, self.held_back].map(u32::to_be_bytes).concat();
        let long = [self.modseq.to_be_bytes(), time(self.synced_at), time(self.failing_since)];
        bytes.extend_from_slice(&long.concat());
        put_text(&mut bytes, self.error.as_deref().unwrap_or_default());
        let names = match self.names {
            NamesKept::MessageId => KEPT,
            NamesKept::OwnField => OWN_FIELD,
            NamesKept::Nothing => LOST,
        };
        bytes.extend_from_slice(&[self.unkept.byte(), names]);
        let Scan { number, uid_validity, next } = self.scan;
        bytes.extend_from_slice(&[self.refused, number, uid_validity, next].map(u32::to_be_bytes).concat());
        bytes.extend_from_slice(&place.0);
        // After the place: an earlier release reads only up to there.
        let UidChanges { count, latest } = self.uid_changes;
        bytes.extend_from_slice(&[count, latest].map(u32::to_be_bytes).concat());
        Ok(vec![by_epoch::put(current, author, at, &bytes)?])
    }

    /// The edits of the account's record `current` that remove it.
    ///
    /// # Errors
    /// The row has a value of a newer epoch.
    pub fn removal(current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        Ok(vec![by_epoch::put(current, author, at, &[])?])
    }

    /// Reads it from an account's record; the empty state before the first run, when it cannot be read, and when it
    /// was seen in another place: the next look is a full one.
    pub fn read(record: &Record, place: AccountPlace) -> Self {
        let stored = by_epoch::newest(record).and_then(|newest| read(newest.value));
        stored.filter(|(_, rest)| place.holds(rest)).map(|(state, _)| state).unwrap_or_default()
    }

    /// Reads it from an account's record, whatever the place: for lists.
    pub fn read_anywhere(record: &Record) -> Self {
        Self::stored(record).unwrap_or_default()
    }

    /// The state of an account's record, if it has a readable one.
    pub(crate) fn stored(record: &Record) -> Option<Self> {
        read(by_epoch::newest(record)?.value).map(|(state, _)| state)
    }
}

/// The state, and the bytes after it; one of a release before this one ends with the error.
fn read(bytes: &[u8]) -> Option<(AccountState, &[u8])> {
    let (uid_validity, rest) = take_u32(bytes)?;
    let (uid_next, rest) = take_u32(rest)?;
    let (held_back, rest) = take_u32(rest)?;
    let (modseq, rest) = take_u64(rest)?;
    let (synced_at, rest) = take_u64(rest)?;
    let (failing_since, rest) = take_u64(rest)?;
    let (error, rest) = take_text(rest)?;
    let (unkept, names, rest) = match rest {
        [] => (0, KEPT, rest),
        [unkept, names, rest @ ..] => (*unkept, *names, rest),
        _ => return None,
    };
    let ((refused, scan), rest) = if rest.is_empty() { Default::default() } else { take_progress(rest)? };
    // After the place, which has 16 bytes.
    let uid_changes = rest.get(16..).and_then(take_changes).unwrap_or_default();
    let time = |at: u64| (at > 0).then_some(Timestamp(at));
    let state = AccountState {
        uid_validity,
        uid_next,
        modseq,
        synced_at: time(synced_at),
        error: Some(error).filter(|error| !error.is_empty()),
        failing_since: time(failing_since),
        held_back,
        refused,
        unkept: RemoteFlags::from_byte(unkept),
        names: match names {
            KEPT => NamesKept::MessageId,
            OWN_FIELD => NamesKept::OwnField,
            _ => NamesKept::Nothing,
        },
        scan,
        uid_changes,
    };
    Some((state, rest))
}

/// Changes of UIDs; a state of a release before this one has none.
fn take_changes(bytes: &[u8]) -> Option<UidChanges> {
    let (count, rest) = take_u32(bytes)?;
    let (latest, _) = take_u32(rest)?;
    Some(UidChanges { count, latest })
}

/// Number of refused steps and progress of a reading in parts, and the bytes after them.
fn take_progress(bytes: &[u8]) -> Option<((u32, Scan), &[u8])> {
    let (refused, rest) = take_u32(bytes)?;
    let (number, rest) = take_u32(rest)?;
    let (uid_validity, rest) = take_u32(rest)?;
    let (next, rest) = take_u32(rest)?;
    Some(((refused, Scan { number, uid_validity, next }), rest))
}
