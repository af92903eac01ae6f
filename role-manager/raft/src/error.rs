//! Errors of the store and of commands.

use std::path::PathBuf;

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use twinbox_disk::DiskError;
use twinbox_ids::NodeName;

use super::Types;

/// Reason for which Raft does not start on its store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Error of the disk.
    #[error("the role manager's store: {0}")]
    Disk(#[from] DiskError),
    /// The store belongs to another member.
    #[error("'{}' is the role manager's store of '{owner}', not of '{node}': give each member a directory of its own", dir.display())]
    ForeignStore {
        /// The directory.
        dir: PathBuf,
        /// Owner of the store.
        owner: String,
        /// The member that opened it.
        node: NodeName,
    },
    /// The cluster has removed this member.
    #[error("{reason} (its role manager's store is '{}')", dir.display())]
    Removed {
        /// The directory.
        dir: PathBuf,
        /// Reason as text, with the remedy.
        reason: String,
    },
    /// An item in the store cannot be read.
    #[error("'{}' holds a {what} that cannot be read ({detail}): remove the directory, and this member joins again", dir.display())]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// Expected item.
        what: &'static str,
        /// Error in it.
        detail: String,
    },
    /// Error of the Raft library.
    #[error("Raft does not start: {0}")]
    Raft(String),
}

/// Reason for which a command has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead, or has lost its majority.
    #[error("this member does not lead")]
    NotLeader,
    /// The command may or may not be in the log of the next leader.
    #[error("the outcome is unknown")]
    Unknown,
    /// Raft changes its members one change at a time.
    #[error("another membership change is under way")]
    Changing,
    /// The command panicked when applied.
    #[error("nothing changed: the command panicked and was set aside; report the error in the log")]
    SetAside,
    /// Raft's core has ended; reason as text.
    #[error("Raft: {0}")]
    Stopped(String),
}

pub(crate) fn write_error(error: RaftError<Types, ClientWriteError<Types>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ProposeError::NotLeader,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ProposeError::Unknown,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))) => {
            ProposeError::Changing
        }
        other => ProposeError::Stopped(other.to_string()),
    }
}
