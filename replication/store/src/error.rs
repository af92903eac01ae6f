//! What can go wrong with a store.

use std::{ops::Range, path::PathBuf};

use twinbox_disk::{DiskError, TransactError};
use twinbox_ids::{BlobHash, ClusterId, NodeName, RecordingId};

use crate::codec::DecodeError;

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk could not. [`Self::is_full`] and [`Self::is_broken`] tell the cases that callers act on.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The directory belongs to another node.
    #[error("'{}' holds the data of node '{found}', not of '{expected}': give each node a directory of its own", dir.display())]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose data it has.
        found: String,
        /// Who opened it.
        expected: NodeName,
    },
    /// The store belongs to another cluster.
    #[error(
        "this store belongs to cluster {found}, not to {expected}: use a fresh directory to join another cluster"
    )]
    OtherCluster {
        /// Whose data it has.
        found: ClusterId,
        /// Which one was to be set.
        expected: ClusterId,
    },
    /// What lies on disk, or came from a peer, is not in a form that this version knows.
    #[error("{what} cannot be read: {source}")]
    Format {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// No such blob here.
    #[error("blob {0} is not here")]
    NoBlob(BlobHash),
    /// The content of a blob does not have its hash.
    #[error("blob {0} is damaged: its content has another hash; it is to be fetched from a peer again")]
    Corrupt(BlobHash),
    /// Bytes that were to be a blob have another hash or length.
    #[error("what was to be blob {expected} has the hash {found}")]
    WrongBlob {
        /// What it was to be.
        expected: BlobHash,
        /// What it is.
        found: BlobHash,
    },
    /// A range that does not lie within a blob, or of which a recording has not every byte.
    #[error("bytes {}..{} are not all here", range.start, range.end)]
    NotThere {
        /// The range.
        range: Range<u64>,
    },
    /// No such recording in progress here.
    #[error("take {take} of recording {id} is not in progress here")]
    NoRecording {
        /// The recording.
        id: RecordingId,
        /// Its take.
        take: u32,
    },
    /// The recording was begun before.
    #[error("take {take} of recording {id} was begun before")]
    BegunBefore {
        /// The recording.
        id: RecordingId,
        /// Its take.
        take: u32,
    },
    /// The disk does not keep up with what is recorded; the chunk was not taken.
    #[error("{waiting} bytes of recordings wait for the disk: no more are taken until it keeps up")]
    Overloaded {
        /// What waits, in bytes.
        waiting: u64,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// True when there is too little space: what was acknowledged stays, the rest is refused (rule A4).
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Disk(DiskError::StoreFull { .. }))
    }

    /// True when a write or sync failed, and this process must write no more (rule A4).
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Disk(DiskError::Broken { .. }))
    }
}

/// Why a commit did not happen. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError<E> {
    /// The writer itself said no.
    #[error(transparent)]
    Refused(E),
    /// The store could not.
    #[error(transparent)]
    Store(StoreError),
}

impl<E> From<TransactError<CommitError<E>>> for CommitError<E> {
    fn from(error: TransactError<CommitError<E>>) -> Self {
        match error {
            TransactError::Refused(error) => error,
            TransactError::Disk(error) => Self::Store(error.into()),
        }
    }
}

impl From<TransactError<StoreError>> for StoreError {
    fn from(error: TransactError<StoreError>) -> Self {
        match error {
            TransactError::Refused(error) => error,
            TransactError::Disk(error) => error.into(),
        }
    }
}
