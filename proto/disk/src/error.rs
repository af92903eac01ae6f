//! Errors of a disk. Cloneable: one failed sync fails every write of its group.

use std::{io, path::PathBuf};

/// An operation of the disk failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// Another process, or this one, has the directory open.
    #[error("'{}' is in use by another process: stop that process, or use another directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The self-test at opening found that a flush would not reach the disk.
    #[error("a flush in '{}' did not reach fdatasync: {detail}; do not use this build of the program", dir.display())]
    NotSynced {
        /// The directory.
        dir: PathBuf,
        /// The finding of the self-test.
        detail: &'static str,
    },
    /// A write or sync failed before: this process writes nothing any more.
    #[error("the store refuses writes because an earlier one failed ({detail}): check the disk, then restart")]
    Broken {
        /// The first failure.
        detail: String,
    },
    /// Too little free space is left (rule A4).
    #[error("'{}' has {free} bytes free, below the reserve of {needed} bytes: free space or lower the reserve", dir.display())]
    StoreFull {
        /// The directory.
        dir: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes that this kind of write leaves free, plus its own size.
        needed: u64,
    },
    /// A key or value over [`crate::MAX_KEY`] or [`crate::MAX_VALUE`].
    #[error("a {what} of {length} bytes exceeds the limit of {limit}: split it")]
    TooLarge {
        /// `key` or `value`.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// An operation on a file or directory failed.
    #[error("cannot {what} '{}': {detail}", path.display())]
    Io {
        /// The failed operation.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Kind of the failure.
        kind: io::ErrorKind,
        /// Error text of the system.
        detail: String,
    },
    /// A sync failed: the file must not be written again, and the store that it belongs to is broken (rule A4).
    #[error("cannot sync '{}': {detail}", path.display())]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// Error text of the system.
        detail: String,
    },
    /// The journal could not be opened, or not written. The detail names the file, the place in it and the remedy.
    #[error("journal in '{}': {detail}", dir.display())]
    Journal {
        /// The directory of the store.
        dir: PathBuf,
        /// Error text of the journal.
        detail: String,
        /// True when bytes of it are missing or not as they were written.
        damaged: bool,
    },
    /// The index could not be opened, read or written.
    #[error(
        "cannot use the index in '{}': {detail}; check the disk, then restart; if it stays so, move the directory aside \
         and let the member take the store from the others",
        dir.display()
    )]
    Index {
        /// The directory.
        dir: PathBuf,
        /// Error text of the store.
        detail: String,
        /// True when bytes of it are missing or not as they were written.
        damaged: bool,
    },
    /// The transaction panicked; nothing of it was written.
    #[error("a transaction panicked: nothing of it was written")]
    Panicked,
    /// A transaction waited for another one, which would run after it on the same thread.
    #[error("a transaction cannot wait for another one: commit it afterwards")]
    WaitsForItself,
    /// The disk is closed.
    #[error("the store is closed")]
    Closed,
}

impl DiskError {
    /// A [`DiskError::Io`] from an error of the system.
    pub fn io(what: &'static str, path: impl Into<PathBuf>, error: &io::Error) -> Self {
        Self::Io { what, path: path.into(), kind: error.kind(), detail: error.to_string() }
    }

    /// True when the store's bytes are not as they were written, so that no later attempt opens it. False for what may
    /// pass: a device that fails, a full disk, files of another release, another process.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Journal { damaged: true, .. } | Self::Index { damaged: true, .. })
    }

    pub(crate) fn sync(path: impl Into<PathBuf>, error: &io::Error) -> Self {
        Self::Sync { path: path.into(), detail: error.to_string() }
    }
}

/// A transaction failed. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactError<E> {
    /// The transaction itself refused.
    #[error(transparent)]
    Refused(E),
    /// The disk failed.
    #[error(transparent)]
    Disk(DiskError),
}
