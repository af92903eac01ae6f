//! The destination of backups: a directory of this machine, or a bucket of an S3-compatible store. Files have the same
//! names and contents in both.

mod bucket;
mod client;
mod directory;
mod failure;
mod marks;
mod settings;
mod transfer;

use std::{fmt::Debug, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::BackupError;

pub(crate) use bucket::Bucket;
pub(crate) use directory::{Directory, UNFINISHED, make_folder, sync_folder, write};
pub use failure::{S3Failure, S3FailureKind};
pub use settings::{S3Settings, S3SettingsError};

/// Begin of the name of a destination in a bucket.
const SCHEME: &str = "s3://";

/// True for the name of a destination in a bucket: `s3://BUCKET/PREFIX`.
pub fn is_s3(destination: &str) -> bool {
    destination.starts_with(SCHEME)
}

/// A destination, shared by those who use it.
pub(crate) type SharedPlace = Arc<dyn BackupPlace>;

/// Purpose for which a command uses a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Beside others that read or add. Readers who may not write there take no lock.
    Read,
    /// Beside others that read or add; the lock is required: without it, prune would remove what is added.
    Add,
    /// With no other beside: what no backup names may be removed.
    Prune,
}

/// Takes the path of a file, relative to the listed folder, and its length.
pub(crate) type Visitor<'a> = dyn FnMut(&str, u64) -> Result<(), BackupError> + 'a;

/// Files by path, with `/` between the parts: `backups/NAME/rows`. All methods block.
pub(crate) trait BackupPlace: Debug + Send + Sync {
    /// The destination as administrators write it; with a path, that of the file.
    fn locate(&self, path: &str) -> PathBuf;

    /// Fails if no backup was ever made here.
    fn check_used(&self) -> Result<(), BackupError>;

    /// Makes the destination ready for a backup.
    fn prepare(&self) -> Result<(), BackupError>;

    /// Begins a folder; false if it exists.
    fn begin(&self, path: &str) -> Result<bool, BackupError>;

    /// Content of a file of at most this many bytes; `None` if it does not exist.
    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, BackupError>;

    /// Opens a file to be read from its begin to its end.
    fn open(&self, path: &str) -> Result<Box<dyn OldFile>, BackupError>;

    /// Stores a file as a whole: it is there when this returns, and never in part.
    fn put(&self, path: &str, bytes: Bytes) -> Result<(), BackupError>;

    /// Begins a file that is written piece by piece.
    fn create(&self, path: &str) -> Result<Box<dyn NewFile>, BackupError>;

    /// Names of the folders in a folder, in their order.
    fn folders(&self, path: &str) -> Result<Vec<String>, BackupError>;

    /// Visits the files in the folders of a folder, which may be removed meanwhile.
    fn visit(&self, path: &str, visitor: &mut Visitor<'_>) -> Result<(), BackupError>;

    /// Removes files.
    fn remove(&self, paths: &[String]) -> Result<(), BackupError>;

    /// Removes a folder with all files in it.
    fn remove_folder(&self, path: &str) -> Result<(), BackupError>;

    /// Makes the names in a folder durable.
    fn sync(&self, path: &str) -> Result<(), BackupError>;

    /// Keeps others from uses that do not go together with this one, until the lock is dropped.
    fn lock(&self, purpose: Use) -> Result<Box<dyn Lock>, BackupError>;

    /// True if operations may wait for a network.
    fn is_remote(&self) -> bool;
}

/// A file that is being written. Dropped before its end, it does not exist, or only in a folder without a manifest.
pub(crate) trait NewFile: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError>;

    /// Ends the file; its content is durable.
    fn finish(self: Box<Self>) -> Result<(), BackupError>;
}

/// A file that is being read.
pub(crate) trait OldFile: Send {
    /// Reads on; returns fewer bytes than fit only at the end of the file.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, BackupError>;
}

/// A use of a destination.
pub(crate) trait Lock: Send {
    /// Fails if others may already take this use for one that has ended.
    fn check(&self) -> Result<(), BackupError>;

    /// Ends the use, and waits until others see it.
    fn release(self: Box<Self>);
}
