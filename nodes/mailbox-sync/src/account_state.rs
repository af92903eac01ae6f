//! State of the synchronisation of an account: a value by epoch in the row of the account.

use twinbox_ids::Timestamp;
use twinbox_mailbox::by_epoch::{self, Author, StaleEpoch};
use twinbox_replication_core::{Edit, Record};

use crate::value::{put_text, take_text};

/// State of the synchronisation of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountState {
    /// UIDVALIDITY of the folder; 0 before the first look and when stored UIDs are not to be trusted: the next look
    /// is a full one.
    pub uid_validity: u32,
    /// UIDs below were looked at.
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
}

impl AccountState {
    /// The edits that write it to the account's record `current`.
    ///
    /// # Errors
    /// The row has a value of a newer epoch.
    pub fn edits(&self, current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        let time = |at: Option<Timestamp>| at.map_or(0, |at| at.0).to_be_bytes();
        let mut bytes = [self.uid_validity, self.uid_next, self.held_back].map(u32::to_be_bytes).concat();
        let long = [self.modseq.to_be_bytes(), time(self.synced_at), time(self.failing_since)];
        bytes.extend_from_slice(&long.concat());
        put_text(&mut bytes, self.error.as_deref().unwrap_or_default());
        Ok(vec![by_epoch::put(current, author, at, &bytes)?])
    }

    /// The edits of the account's record `current` that remove it.
    ///
    /// # Errors
    /// The row has a value of a newer epoch.
    pub fn removal(current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        Ok(vec![by_epoch::put(current, author, at, &[])?])
    }

    /// Reads it from an account's record; the empty state before the first run, and when it cannot be read: the next
    /// look is a full one.
    pub fn read(record: &Record) -> Self {
        Self::stored(record).unwrap_or_default()
    }

    /// The state of an account's record, if it has a readable one.
    pub(crate) fn stored(record: &Record) -> Option<Self> {
        read(by_epoch::newest(record)?.value)
    }
}

fn read(bytes: &[u8]) -> Option<AccountState> {
    let (uid_validity, rest) = take_u32(bytes)?;
    let (uid_next, rest) = take_u32(rest)?;
    let (held_back, rest) = take_u32(rest)?;
    let (modseq, rest) = take_u64(rest)?;
    let (synced_at, rest) = take_u64(rest)?;
    let (failing_since, rest) = take_u64(rest)?;
    let (error, _) = take_text(rest)?;
    let time = |at: u64| (at > 0).then_some(Timestamp(at));
    Some(AccountState {
        uid_validity,
        uid_next,
        modseq,
        synced_at: time(synced_at),
        error: Some(error).filter(|error| !error.is_empty()),
        failing_since: time(failing_since),
        held_back,
    })
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk::<4>().map(|(number, rest)| (u32::from_be_bytes(*number), rest))
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk::<8>().map(|(number, rest)| (u64::from_be_bytes(*number), rest))
}
