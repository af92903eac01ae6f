//! Violations, by kind.

use std::fmt;

use twinbox_disk::DiskError;
use twinbox_replication_store::{CommitError, StoreError};

/// The kind of a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// An acknowledged write is lost: a row is older or missing, or something that was deleted is back.
    Lost,
    /// Rows of one commit do not agree: records of a write, the log and the vector, the index of present messages.
    Torn,
    /// Audio that was sealed or filed is missing, or is other audio.
    Audio,
    /// The store refuses its journal as damaged.
    Journal,
    /// The store refuses its index as damaged.
    Index,
    /// The store refuses its runs as damaged.
    Runs,
    /// Anything else: a row with other content, nodes that differ in the end, another error, a panic. No planted mistake is meant to
    /// cause it.
    Unexpected,
}

/// A violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub kind: FindingKind,
    /// Description: the node, the data and the difference.
    pub text: String,
}

impl FindingKind {
    /// A violation of this kind.
    pub(crate) fn finding(self, text: impl Into<String>) -> Finding {
        Finding { kind: self, text: text.into() }
    }
}

impl Finding {
    /// An error that no planted mistake is meant to cause.
    pub(crate) fn unexpected(error: impl ToString) -> Self {
        FindingKind::Unexpected.finding(error.to_string())
    }

    /// The same finding with its place before the text.
    pub(crate) fn with_place(self, place: &str) -> Self {
        Self { text: format!("{place}: {}", self.text), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

impl From<StoreError> for Finding {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Disk(DiskError::Journal { damaged: true, .. }) => FindingKind::Journal,
            // The runs have no error of their own.
            StoreError::Disk(DiskError::Index { damaged: true, detail, .. })
                if detail.starts_with("its runs: ") =>
            {
                FindingKind::Runs
            }
            StoreError::Disk(DiskError::Index { damaged: true, .. }) => FindingKind::Index,
            StoreError::NoBlob(_)
            | StoreError::Corrupt(_)
            | StoreError::WrongBlob { .. }
            | StoreError::NotThere { .. } => FindingKind::Audio,
            _ => FindingKind::Unexpected,
        };
        kind.finding(error.to_string())
    }
}

impl From<DiskError> for Finding {
    fn from(error: DiskError) -> Self {
        StoreError::from(error).into()
    }
}

impl From<CommitError<StoreError>> for Finding {
    fn from(error: CommitError<StoreError>) -> Self {
        match error {
            CommitError::Refused(error) | CommitError::Store(error) => error.into(),
        }
    }
}
