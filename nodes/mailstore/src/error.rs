//! What can go wrong, with the remedy.

use twinbox_ids::{MailboxId, MessageId};
use twinbox_mailbox::{
    InvalidNumber, ViewError,
    pin::{HashError, PinRefused},
};
use twinbox_replication_store::{CommitError, StoreError};

/// Why something could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The store does not work, or has no room.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not what it should be.
    #[error(transparent)]
    View(#[from] ViewError),
    /// There is no such mailbox (any more).
    #[error("there is no mailbox {0}: `twinbox user list` shows those there are")]
    NoMailbox(MailboxId),
    /// There is no such message in the mailbox.
    #[error("there is no message {0} in this mailbox: `twinbox message list` shows those there are")]
    NoMessage(MessageId),
    /// It has no audio (any more).
    #[error("message {0} has no audio: it was deleted for good, or is not here yet")]
    NoAudio(MessageId),
    /// There is no class of that name.
    #[error("there is no class of service '{name}': `twinbox cos list` shows those there are")]
    NoClass {
        /// As given.
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
    /// What is here is not all there is (rule D13).
    #[error("this node still takes over the others' records: ask another node, or wait until it is in-service")]
    LacksRecords,
    /// The work was given up because the process ends.
    #[error("the process is ending; what was durable stays, the rest was not done")]
    Ending,
}

impl MailError {
    /// There is no room to store more; what was acknowledged stays.
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

/// Why a mailbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The number is no number.
    #[error("'{number}': {reason}")]
    Number {
        /// As given.
        number: String,
        /// Why.
        reason: InvalidNumber,
    },
    /// Another mailbox has it.
    #[error("the number {number} is taken: choose another, or remove that user first")]
    Taken {
        /// The digits.
        number: String,
    },
    /// The first PIN is refused.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Anything else.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// Why a PIN was not set.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It is too easy, too short or too long (rule S1).
    #[error(transparent)]
    Refused(#[from] PinRefused),
    /// Hashing it failed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Anything else.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// Why a recording is not a message.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no room left; what is stored of it stays where it is and is filed when there is room.
    #[error("there is no room to store the message: free space, or move the data directory to a larger disk")]
    Full,
    /// It is shorter than the setting asks for, and has been thrown away.
    #[error("{length_ms} ms is shorter than min_message_ms = {min_ms}: nothing is kept")]
    TooShort {
        /// How long it is.
        length_ms: u64,
        /// The setting.
        min_ms: u64,
    },
    /// The store took too little of it to keep, and that has been thrown away.
    #[error("the disk did not take the message, or not in time: see to its space and speed")]
    Lost,
    /// The caller discarded it, or it has been filed already.
    #[error("this recording is over: it was filed or discarded before")]
    Over,
    /// Anything else.
    #[error(transparent)]
    Mail(MailError),
}

impl From<MailError> for FileError {
    fn from(error: MailError) -> Self {
        if error.is_full() { Self::Full } else { Self::Mail(error) }
    }
}
