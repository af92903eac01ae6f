//! Work of the command line on the data of a node that does not run: a backup of it, access to a bucket by the settings of its
//! cluster, and giving it up so that the node fills from another one.

mod backup;
mod fill_source;
mod overwrite;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub use backup::{BucketError, BucketSettings, NoClusterSettings, StoppedBackup, back_up_stopped, open_bucket};
pub use fill_source::{NoFillSource, check_fill_source};
pub use overwrite::overwrite_data;
use twinbox_disk::DiskError;
use twinbox_rebuild::RebuildError;
use twinbox_replication_store::StoreError;

/// Reason for which nothing can be done with the data of a stopped node.
#[derive(Debug, thiserror::Error)]
pub enum StoppedNodeError {
    /// A backup was restored into the data folder only in part.
    #[error(transparent)]
    Unrestored(#[from] twinbox_backup::UnfinishedRestore),
    /// The data folder has no store.
    #[error("there is no store in '{}': the data of a node is in the folder that data_dir of its configuration names", .0.display())]
    NoStore(PathBuf),
    /// The store belongs to another user than that of this process.
    #[error(
        "'{}' belongs to the user with the id {owner}, and this command would leave files there that the node cannot open: give \
         it as that user (sudo -u '#{owner}' twinbox …)",
        .dir.display()
    )]
    OtherUser {
        /// Folder of the store.
        dir: PathBuf,
        /// Id of its owner.
        owner: u32,
    },
    /// Another process has the store open, as a rule its node.
    #[error("'{}' is in use by another process, which may be its node: end that first", .0.display())]
    InUse(PathBuf),
    /// As [`Self::InUse`], where a backup was to be made: a running node makes it itself.
    #[error(
        "'{}' is in use by another process, which may be its node: end that first, or leave --config out, and the running node \
         makes the backup",
        .0.display()
    )]
    BackupInUse(PathBuf),
    /// The data folder cannot be used.
    #[error("the data folder (data_dir) cannot be used")]
    Store(#[source] StoreError),
    /// The store cannot be opened, and not built again.
    #[error("the store in the data folder (data_dir) cannot be used")]
    Rebuild(#[source] RebuildError),
    /// A backup cannot be made.
    #[error(transparent)]
    Backup(#[from] twinbox_backup::BackupError),
}

impl From<StoreError> for StoppedNodeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Disk(DiskError::InUse { dir }) => Self::InUse(dir),
            other => Self::Store(other),
        }
    }
}

impl From<RebuildError> for StoppedNodeError {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Store(StoreError::Disk(DiskError::InUse { dir })) => Self::InUse(dir),
            other => Self::Rebuild(other),
        }
    }
}

/// Refuses the store of another user: an opened store gets new files, which belong to the user of this process.
fn check_owner(dir: &Path) -> Result<(), StoppedNodeError> {
    match fs::metadata(dir).map(|found| found.uid()) {
        Ok(owner) if owner != rustix::process::geteuid().as_raw() => {
            Err(StoppedNodeError::OtherUser { dir: dir.to_owned(), owner })
        }
        // A folder that is missing, or cannot be read, is the concern of those that open the store.
        _ => Ok(()),
    }
}
