//! Runs of the synchronisation: a run's work, or what a dry run would do.

use twinbox_ids::{DirectoryId, Timestamp};
use twinbox_replication_core::{Edit, Key, Record};

use super::schema::{self, run as tag};
use crate::{
    ViewError,
    value::{Fields, read_byte, read_text, read_u64, set_byte, set_bytes, set_text, set_u64},
};

/// Counts of a run, in users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunCounts {
    /// New users.
    pub new: u64,
    /// Users of whom a field changed, or who were adopted.
    pub changed: u64,
    /// Users whom the directory disabled.
    pub disabled: u64,
    /// Users whose entries are gone.
    pub gone: u64,
    /// Users whose entries came back or were enabled again.
    pub returned: u64,
    /// Entries that were refused.
    pub refused: u64,
    /// Users without a change.
    pub unchanged: u64,
}

impl RunCounts {
    fn numbers(self) -> [u64; 7] {
        [self.new, self.changed, self.disabled, self.gone, self.returned, self.refused, self.unchanged]
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<8>();
        match *numbers {
            [new, changed, disabled, gone, returned, refused, unchanged, ..] => Some(Self {
                new: u64::from_be_bytes(new),
                changed: u64::from_be_bytes(changed),
                disabled: u64::from_be_bytes(disabled),
                gone: u64::from_be_bytes(gone),
                returned: u64::from_be_bytes(returned),
                refused: u64::from_be_bytes(refused),
                unchanged: u64::from_be_bytes(unchanged),
            }),
            _ => None,
        }
    }
}

/// A run as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    /// The directory.
    pub directory: DirectoryId,
    /// Number of the run: milliseconds since 1970 at its begin.
    pub run: u64,
    /// Time of its begin.
    pub began: Timestamp,
    /// Time of its end; `None` while it runs, or when its node died.
    pub ended: Option<Timestamp>,
    /// Nothing was to be changed.
    pub dry: bool,
    /// The outcome: `done`, `held-back` or `failed: reason`; empty while it runs.
    pub outcome: String,
    /// Counts, of the dry run those that a run would have.
    pub counts: RunCounts,
    /// An administrator accepted its deletions.
    pub accepted: bool,
    /// Digest of its deletions: accepting the run accepts exactly these.
    pub digest: [u8; 32],
}

impl StoredRun {
    /// The edits that write its record, except the acceptance.
    pub fn edits(&self) -> Vec<Edit> {
        let mut edits = vec![
            set_u64(tag::BEGAN, self.began.0),
            set_byte(tag::DRY, u8::from(self.dry)),
            set_text(tag::OUTCOME, &self.outcome),
            set_bytes(tag::COUNTS, self.counts.numbers().map(u64::to_be_bytes).concat()),
            set_bytes(tag::DIGEST, self.digest.to_vec()),
        ];
        edits.extend(self.ended.map(|ended| set_u64(tag::ENDED, ended.0)));
        edits
    }

    /// The edits that accept its deletions.
    pub fn acceptance() -> Vec<Edit> {
        vec![set_byte(tag::ACCEPTED, 1)]
    }

    /// Reads a run; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let what = "a run of a directory's synchronisation";
        let (directory, run) = schema::run_of(key).ok_or(ViewError::Key { what })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields { what, record };
        Ok(Some(Self {
            directory,
            run,
            began: Timestamp(fields.required(tag::BEGAN, read_u64)?),
            ended: fields.optional(tag::ENDED, read_u64)?.map(Timestamp),
            dry: fields.required(tag::DRY, read_byte)? == 1,
            outcome: fields.required(tag::OUTCOME, read_text)?,
            counts: fields.required(tag::COUNTS, RunCounts::read)?,
            accepted: fields.optional(tag::ACCEPTED, read_byte)?.is_some_and(|byte| byte == 1),
            digest: fields.required(tag::DIGEST, |bytes| bytes.try_into().ok())?,
        }))
    }
}
