//! Errors of the mail store, with the remedy.

use twinbox_ids::{MailboxId, MessageId};
use twinbox_mailbox::{
    InvalidNumber, ViewError,
    pin::{HashError, PinRefused},
};
use twinbox_replication_store::{CommitError, StoreError};

/// A read or change failed.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The store failed, or has no room.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record does not fit its table.
    #[error(transparent)]
    View(#[from] ViewError),
    /// There is no such mailbox (any more).
    #[error("there is no mailbox {0}: `twinbox user list` shows those there are")]
    NoMailbox(MailboxId),
    /// There is no such message in the mailbox.
    #[error("there is no message {0} in this mailbox: `twinbox message list` shows those there are")]
    NoMessage(MessageId),
    /// The message has no audio (any more).
    #[error("message {0} has no audio: it was deleted for good, or is not here yet")]
    NoAudio(MessageId),
    /// There is no class of that name.
    #[error("there is no class of service '{name}': `twinbox cos list` shows those there are")]
    NoClass {
        /// The given name.
        name: String,
    },
    /// A setting of a mailbox has no such value.
    #[error("'{value}' is no time zone: use an IANA name such as Europe/Berlin")]
    Timezone {
        /// The value given.
        value: String,
    },
    /// No thread can be started to hash PINs.
    #[error("no thread can be started to hash a PIN ({0}): see to the limits of processes and memory")]
    Thread(std::io::Error),
    /// The records here are not complete (rule D13).
    #[error("this node still takes over the others' records: ask another node, or wait until it is in-service")]
    LacksRecords,
    /// The work was cancelled because the process ends.
    #[error("the process is ending; what was durable stays, the rest was not done")]
    Ending,
}

impl MailError {
    /// Whether there is no room to store more; acknowledged data stays.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }
}

impl From<CommitError<MailError>> for MailError {
    fn from(error: CommitError<MailError>) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error),
            CommitError::Refused(error) => error,
        }
    }
}

/// A mailbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The number is not valid.
    #[error("'{number}': {reason}")]
    Number {
        /// The given number.
        number: String,
        /// The cause.
        reason: InvalidNumber,
    },
    /// Another mailbox has the number.
    #[error("the number {number} is taken: choose another, or remove that user first")]
    Taken {
        /// The digits.
        number: String,
    },
    /// The first PIN is refused.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// A PIN was not set.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It is too easy, too short or too long (rule S1).
    #[error(transparent)]
    Refused(#[from] PinRefused),
    /// Hashing it failed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// A recording did not become a message.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no room left; its stored chunks stay and are filed when there is room.
    #[error("there is no room to store the message: free space, or move the data directory to a larger disk")]
    Full,
    /// It is shorter than the configured minimum, and has been discarded.
    #[error("{length_ms} ms is shorter than min_message_ms = {min_ms}: nothing is kept")]
    TooShort {
        /// Length in milliseconds.
        length_ms: u64,
        /// The configured minimum.
        min_ms: u64,
    },
    /// The store took too little of it to keep, and that part has been discarded.
    #[error("the disk did not take the message, or not in time: see to its space and speed")]
    Lost,
    /// The caller discarded it, or it has been filed already.
    #[error("this recording is over: it was filed or discarded before")]
    Over,
    /// Any other error.
    #[error(transparent)]
    Mail(MailError),
}

impl From<MailError> for FileError {
    fn from(error: MailError) -> Self {
        if error.is_full() { Self::Full } else { Self::Mail(error) }
    }
}
