//! Errors of a journal. Each names the file and the remedy.

use std::io;

use crate::format::VERSION;

/// Remedy of everything that this journal cannot mend from its own files.
const REMEDY: &str = "move the folder aside and let the node take the store from its peers";

/// A batch was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The batch does not fit into one segment. Nothing was written.
    #[error("a batch of {length} bytes exceeds the limit of {largest}: split it")]
    TooLarge {
        /// Length of the batch in bytes.
        length: u64,
        /// Maximum length in bytes, [`crate::Writer::largest`].
        largest: u64,
    },
    /// There is no room for a new segment. Nothing was written; a later append may succeed.
    #[error("no room for a new journal segment ({detail}): free space on the disk, or release older segments")]
    Full {
        /// Error text of the system.
        detail: String,
    },
    /// A write or sync failed, now or before: this process appends nothing any more (rule A4). The batch of the append
    /// that failed may be on the disk or not.
    #[error("the journal refuses batches because a write or sync failed ({detail}): check the disk, then restart")]
    Broken {
        /// The first failure.
        detail: String,
    },
}

/// Preparing or removing a segment failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is no room for a new segment. Appends succeed while the present one has room.
    #[error("no room for a new journal segment ({detail}): free space on the disk, or release older segments")]
    Full {
        /// Error text of the system.
        detail: String,
    },
    /// A write or sync failed, now or before: this process writes nothing any more (rule A4).
    #[error(
        "the journal is closed for writing because a write or sync failed ({detail}): check the disk, then restart"
    )]
    Broken {
        /// The first failure.
        detail: String,
    },
    /// A file that is not needed any more could not be removed. The journal goes on.
    #[error(
        "cannot remove the unused journal file '{file}': {detail}; remove the cause, the next start tries again"
    )]
    Remove {
        /// Name of the file.
        file: String,
        /// Error text of the system.
        detail: String,
    },
}

/// Making a segment failed, or the journal is broken: for [`AppendError`] and [`JournalError`].
pub(crate) enum SegmentError {
    Full { detail: String },
    Broken { detail: String },
}

impl From<SegmentError> for AppendError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Full { detail } => Self::Full { detail },
            SegmentError::Broken { detail } => Self::Broken { detail },
        }
    }
}

impl From<SegmentError> for JournalError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Full { detail } => Self::Full { detail },
            SegmentError::Broken { detail } => Self::Broken { detail },
        }
    }
}

/// The journal could not be opened. Nothing was appended to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError<E> {
    /// The length of segments is unusable.
    #[error("journal segments of {segment_bytes} bytes: use two or more whole blocks of {} bytes", crate::BLOCK)]
    Config {
        /// The length that was asked for.
        segment_bytes: u64,
    },
    /// An operation on a file failed.
    #[error("cannot {what} the journal file '{file}': {detail}; check the disk, then restart")]
    Io {
        /// The failed operation.
        what: &'static str,
        /// Name of the file; empty for the folder.
        file: String,
        /// Kind of the failure.
        kind: io::ErrorKind,
        /// Error text of the system.
        detail: String,
    },
    /// Another release wrote the file.
    #[error("the journal file '{file}' has format {version}, not {}: start the release that wrote it", VERSION)]
    Version {
        /// Name of the file.
        file: String,
        /// Its format.
        version: u32,
    },
    /// Bytes of a batch that was made durable are not as they were written.
    #[error("the journal file '{file}' is damaged at byte {offset}: {finding}; check the disk, {}", REMEDY)]
    Damaged {
        /// Name of the file.
        file: String,
        /// Place of the first wrong byte, as nearly as it is known.
        offset: u64,
        /// The finding.
        finding: &'static str,
    },
    /// A segment that is needed is in none of the files.
    #[error("journal segment {segment} is missing: put its file back, or {}", REMEDY)]
    Missing {
        /// Number of the segment.
        segment: u64,
    },
    /// The receiver of the batches refused one.
    #[error("a batch of the journal was refused: {0}")]
    Refused(E),
}

impl<E> OpenError<E> {
    pub(crate) fn io(what: &'static str, file: &str, error: &io::Error) -> Self {
        Self::Io { what, file: file.to_owned(), kind: error.kind(), detail: error.to_string() }
    }

    pub(crate) fn damaged(file: &str, offset: u64, finding: &'static str) -> Self {
        Self::Damaged { file: file.to_owned(), offset, finding }
    }
}
