//! Errors of a store.

use std::{ops::Range, path::PathBuf};

use twinbox_disk::{DiskError, TransactError};
use twinbox_ids::{BlobHash, ClusterId, NodeName, RecordingId};

use crate::codec::DecodeError;

/// An operation of the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk failed. [`Self::is_full`] and [`Self::is_broken`] tell the cases that callers act on.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The directory belongs to another node.
    #[error("'{}' holds the data of node '{found}', not of '{expected}': give each node its own directory", dir.display())]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Name of the node whose data the directory holds.
        found: String,
        /// Name of the node that opened it.
        expected: NodeName,
    },
    /// The store belongs to another cluster.
    #[error(
        "this store belongs to cluster {found}, not to {expected}: use a fresh directory to join another cluster"
    )]
    OtherCluster {
        /// The cluster whose data the store holds.
        found: ClusterId,
        /// The cluster that was to be set.
        expected: ClusterId,
    },
    /// Data on disk or from a peer is not in a format that this version knows.
    #[error("{what} cannot be read: {source}")]
    Format {
        /// Kind of the data.
        what: &'static str,
        /// The decoding error.
        source: DecodeError,
    },
    /// The blob is not here.
    #[error("blob {0} is not stored on this node")]
    NoBlob(BlobHash),
    /// The content of a blob does not have its hash.
    #[error("blob {0} is damaged: its content has another hash; it must be fetched from a peer again")]
    Corrupt(BlobHash),
    /// Bytes that were to be a blob have another hash or length.
    #[error("data for blob {expected} has the hash {found}")]
    WrongBlob {
        /// The expected hash.
        expected: BlobHash,
        /// The hash found.
        found: BlobHash,
    },
    /// A range that does not lie within a blob, or of which a recording lacks bytes.
    #[error("bytes {}..{} are not all stored on this node", range.start, range.end)]
    NotThere {
        /// The range.
        range: Range<u64>,
    },
    /// The recording is not in progress here.
    #[error("take {take} of recording {id} is not in progress on this node")]
    NoRecording {
        /// The recording.
        id: RecordingId,
        /// Its take.
        take: u32,
    },
    /// The recording was begun before.
    #[error("take {take} of recording {id} has begun already")]
    BegunBefore {
        /// The recording.
        id: RecordingId,
        /// Its take.
        take: u32,
    },
    /// The disk does not keep up with the recordings; the chunk was refused.
    #[error(
        "{waiting} bytes of recordings wait for the disk: it is too slow, no more are accepted until it catches up"
    )]
    Overloaded {
        /// Bytes waiting for the disk.
        waiting: u64,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// True when there is too little space: acknowledged data stays, further writes are refused (rule A4).
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Disk(DiskError::StoreFull { .. }))
    }

    /// True for an error of opening by which the index is damaged: no later attempt opens it. False for a passing
    /// failure, and for a store that another release wrote.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Disk(error) => error.is_damage(),
            Self::Format { source, .. } => !matches!(source, DecodeError::Version { .. }),
            _ => false,
        }
    }

    /// A key or a value is longer than the store takes; the same write fails every time.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Disk(DiskError::TooLarge { .. }))
    }

    /// True when a write or sync failed, and this process must not write any more (rule A4).
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Disk(DiskError::Broken { .. }))
    }
}

/// A commit failed. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError<E> {
    /// The writer itself refused.
    #[error(transparent)]
    Refused(E),
    /// The store failed.
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
