//! Errors of backups, with the remedy.

use std::{
    io,
    path::{Path, PathBuf},
};

use twinbox_ids::ClusterId;
use twinbox_mailstore::MailError;
use twinbox_replication_store::{CommitError, StoreError};

use crate::place::{S3Failure, S3FailureKind};

/// A backup was not made, not read or not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file or folder cannot be used.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Reason of the failure.
        source: io::Error,
    },
    /// The folder of backups is no path from the root on.
    #[error("'{}' is not an absolute path: give the folder from the root on, such as /srv/twinbox-backup", .0.display())]
    Relative(PathBuf),
    /// The folder of backups is inside the data folder of the node.
    #[error(
        "{} is inside {}, the data folder of this node (node.data_dir), and would be lost with it: give a folder outside of it, \
         such as /srv/twinbox-backup, on another disk or machine", dir.display(), data_dir.display()
    )]
    InDataFolder {
        /// The folder of backups.
        dir: PathBuf,
        /// The data folder.
        data_dir: PathBuf,
    },
    /// There is no folder of backups at that path.
    #[error("there are no backups in {}: give the folder that 'twinbox backup create' wrote to", .0.display())]
    NoFolder(PathBuf),
    /// Another process writes to the folder, or removes from it.
    #[error("another command works in {}: wait for its end", .0.display())]
    Busy(PathBuf),
    /// As [`Self::Busy`], in a bucket.
    #[error(
        "another command works in {}: wait for its end; after one that was killed, half an hour", .0.display()
    )]
    BusyBucket(PathBuf),
    /// The lock in a bucket was not renewed in time.
    #[error(
        "{} did not answer for a quarter of an hour, in which another command may have removed what this one needs: run \
         it again", .0.display()
    )]
    LockLost(PathBuf),
    /// Audio or records of the backup are not there any more.
    #[error("{} was removed while the backup was made: run it again", .0.display())]
    Vanished(PathBuf),
    /// A backup began later than now, by the clock of this machine.
    #[error(
        "nothing is pruned: the backup {} began more than a day after the present time of this machine, so the newest backups \
         are not known; correct the clock if it is behind, else remove the backup, and prune again", .0.display()
    )]
    FromFuture(PathBuf),
    /// The data disk of the node has too little free space for a backup on it.
    #[error(
        "{} is on the data disk of the node, which has {free} bytes free; a backup there needs {needed}, so that the node can \
         go on taking messages (node.reserve_mb): give a folder on another disk or machine, or free space", dir.display()
    )]
    NoRoom {
        /// The folder of backups.
        dir: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes that must be free before the next write.
        needed: u64,
    },
    /// A file is larger than any that this program writes.
    #[error("{} has more than {most} bytes: it is not of a backup", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Limit in bytes.
        most: u64,
    },
    /// A request to an S3-compatible store failed.
    #[error(transparent)]
    S3(Box<S3Failure>),
    /// No client for an S3-compatible store can be made.
    #[error("the S3-compatible store cannot be used: {0}")]
    S3Setup(String),
    /// The destination names no bucket.
    #[error("'{0}' is no destination: write s3://BUCKET/PREFIX")]
    S3Destination(String),
    /// Nothing tells where and how buckets are reached.
    #[error(
        "s3:// needs the settings backup.s3, with 'twinbox setting set' or in the node's file (docs/backup.md)"
    )]
    NoS3Settings,
    /// There is no complete backup of that name.
    #[error("there is no complete backup {name} in {}: 'twinbox backup list DIR' shows those there are", dir.display())]
    NoBackup {
        /// The folder of backups.
        dir: PathBuf,
        /// The name, or the words for the newest one.
        name: String,
    },
    /// Written by a release with another format.
    #[error("{} has format {found}, this release reads format {known}: use the release that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The format that this release reads.
        known: u32,
    },
    /// A file of a backup does not have the content that was written.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The damage.
        detail: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The mail store failed.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The store belongs to no cluster yet.
    #[error("the store of this node belongs to no cluster yet: start the node once")]
    NoCluster,
    /// Changes that were made during the backup are not in the log any more.
    #[error("the log of changes was cut during the backup: run it again")]
    LogCut,
    /// The work was ended before its time.
    #[error("the work was stopped before its end")]
    Stopped,
    /// A backup is restored into the cluster that it is of.
    #[error(
        "the backup is of this very cluster ({0}): a full restore makes a new cluster, so run 'twinbox cluster init' in \
         an empty folder first; for single mailboxes give --mailbox NUMBER"
    )]
    SameCluster(ClusterId),
    /// The node that restores may lack data that other nodes have.
    #[error(
        "this node does not have all data of its cluster: restore on the first node of the new cluster, before the others \
         start"
    )]
    NotFirst,
    /// The store that is to take the backup is in use already.
    #[error(
        "the store in {} holds {users} users and {messages} messages: restore into an empty cluster made by 'twinbox \
         cluster init', or a single mailbox with --mailbox NUMBER", dir.display()
    )]
    NotEmpty {
        /// The store.
        dir: PathBuf,
        /// Number of rows of mailboxes.
        users: u64,
        /// Number of rows of messages.
        messages: u64,
    },
    /// The store holds a part of another backup.
    #[error(
        "the restore of backup {unfinished} into this data folder did not end: run it again with --backup {unfinished}, or \
         begin with an empty data folder"
    )]
    OtherUnfinished {
        /// Name of the other backup.
        unfinished: String,
    },
    /// The number has no mailbox in the backup.
    #[error("backup {backup} has no mailbox {number}")]
    NoMailboxInBackup {
        /// Name of the backup.
        backup: String,
        /// The number.
        number: String,
    },
    /// The number has no mailbox in the cluster.
    #[error(
        "there is no mailbox {0} in the cluster: add the user first ('twinbox user add'), or name another with --to"
    )]
    NoMailbox(String),
    /// The number belongs to another mailbox than at the time of the backup.
    #[error(
        "mailbox {0} is not the one in the backup: the user was removed and added again; to restore into it all the same, \
         repeat with --to {0}"
    )]
    OtherMailbox(String),
}

impl BackupError {
    /// A failure of a file operation.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    /// A file that is too large for its kind.
    pub(crate) fn too_large(path: &Path, most: u64) -> Self {
        Self::TooLarge { path: path.to_owned(), most }
    }

    /// A file that is to be there.
    pub(crate) fn absent(path: &Path) -> Self {
        Self::io("read", path)(rustix::io::Errno::NOENT.into())
    }

    /// True if a file does not exist.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::S3(failure) => failure.kind == S3FailureKind::Absent,
            _ => false,
        }
    }

    /// True if another command works in the destination that does not go together with this one.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::BusyBucket(_))
    }

    /// True if the destination as a whole cannot be used now: this says nothing of the file.
    pub(crate) fn is_of_destination(&self) -> bool {
        match self {
            Self::S3(_) => !self.is_absent(),
            Self::S3Setup(_) | Self::Stopped => true,
            _ => false,
        }
    }

    /// A damaged file.
    pub(crate) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), detail: detail.into() }
    }
}

impl From<CommitError<StoreError>> for BackupError {
    fn from(error: CommitError<StoreError>) -> Self {
        match error {
            CommitError::Refused(error) | CommitError::Store(error) => Self::Store(error),
        }
    }
}
