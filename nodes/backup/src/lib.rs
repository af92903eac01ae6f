//! Backups of a cluster in a directory or a bucket: made of a running node, verified and pruned without one, restored
//! into an empty cluster as a whole, or into a running one a mailbox at a time.
//!
//! ```text
//! DIR/backups/20261123T101530.123Z-a/rows           records, and the changes made while they were read
//! DIR/backups/20261123T101530.123Z-a/audio.list     hashes and lengths of the audio that they name
//! DIR/backups/20261123T101530.123Z-a/manifest.json  written last
//! DIR/audio/ab/<hash>                               audio, shared by all backups
//! DIR/lock                                          shared by readers and writers, exclusive for prune
//! ```
//!
//! In a bucket, `DIR` is `s3://BUCKET/PREFIX`, and marks below `locks` are in place of the lock.

mod audio;
mod create;
mod error;
mod folder;
mod mailbox;
mod manifest;
mod place;
mod prune;
mod restore;
mod room;
mod rows;
mod rules;
mod verify;

use std::sync::Arc;

pub use create::{Created, create};
pub use error::BackupError;
pub use folder::{Backup, BackupFolder, Entry, EntryState};
pub use mailbox::{MailboxRestore, MailboxRestored, NotRestored, restore_mailbox};
pub use manifest::{AudioSummary, FORMAT, Manifest, MissingAudio, RowsSummary};
pub use place::{S3Failure, S3FailureKind, S3Settings, S3SettingsError, is_s3};
pub use prune::{Pruned, prune};
pub use restore::{RestoreTarget, Restored, UnfinishedRestore, refuse_unfinished, restore};
pub use verify::{Verified, verify};

/// Step of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Another command works in the destination; `done` and `total` are seconds.
    Wait,
    /// Records.
    Rows,
    /// Audio.
    Audio,
    /// The last writes reach the disk.
    Sync,
}

impl Phase {
    /// The word for people and programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wait => "seconds of waiting for another command",
            Self::Rows => "records",
            Self::Audio => "audio",
            Self::Sync => "sync",
        }
    }
}

/// Progress of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Step.
    pub phase: Phase,
    /// Records, pieces of audio or seconds that are done.
    pub done: u64,
    /// Their number; 0 if it is not known.
    pub total: u64,
    /// Bytes written or read in this step.
    pub bytes: u64,
}

/// Called with the progress; it must be short.
pub type Observer = Arc<dyn Fn(Progress) + Send + Sync>;

/// Runs work that waits for files on a thread that may block.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, BackupError> + Send + 'static,
) -> Result<R, BackupError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(BackupError::Stopped))
}
