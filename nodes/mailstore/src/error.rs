//! Errors of the mail store, with the remedy.

use twinbox_ids::{MailboxId, MessageId};
use twinbox_mailbox::{
    InvalidNumber, SyncedField, ViewError,
    by_epoch::StaleEpoch,
    pin::{HashError, PinRefused},
};
use twinbox_pin_hashing::HashingError;
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
    #[error("mailbox {0} does not exist: list the mailboxes with `twinbox user list`")]
    NoMailbox(MailboxId),
    /// There is no such message in the mailbox.
    #[error("message {0} does not exist in this mailbox: list the messages with `twinbox message list`")]
    NoMessage(MessageId),
    /// The message has no audio (any more).
    #[error("message {0} has no audio: the audio was deleted, or has not arrived on this node yet")]
    NoAudio(MessageId),
    /// There is no class of that name.
    #[error("class of service '{name}' does not exist: list the classes with `twinbox cos list`")]
    NoClass {
        /// The given name.
        name: String,
    },
    /// A setting of a mailbox has no such value.
    #[error("'{value}' is not a time zone: use an IANA name such as Europe/Berlin")]
    Timezone {
        /// The value given.
        value: String,
    },
    /// A directory supplies the field.
    #[error(
        "the {field} of mailbox {number} comes from directory '{directory}': change it there, or make the user local \
         with `twinbox directory make-local {number}`"
    )]
    SyncedField {
        /// The field.
        field: SyncedField,
        /// Number of the mailbox.
        number: String,
        /// Name of the directory.
        directory: String,
    },
    /// A directory supplies the user.
    #[error(
        "mailbox {number} comes from directory '{directory}': remove the user there, or make it local first with \
         `twinbox directory make-local {number}`"
    )]
    SyncedUser {
        /// Number of the mailbox.
        number: String,
        /// Name of the directory.
        directory: String,
    },
    /// The user is disabled, and takes no messages.
    #[error(
        "mailbox {number} is disabled and takes no messages: enable the user in its directory, or make it local with \
         `twinbox directory make-local {number}`"
    )]
    Disabled {
        /// Number of the mailbox.
        number: String,
    },
    /// A newer epoch of the directory sync has written.
    #[error(transparent)]
    StaleEpoch(#[from] StaleEpoch),
    /// The duty was lost while its changes were being written.
    #[error("this node does not hold the duty any more: the rest is left to the node that holds it")]
    DutyLost,
    /// No thread can be started to hash PINs.
    #[error("no thread to hash a PIN can be started ({0}): raise the limits of processes and memory")]
    Thread(std::io::Error),
    /// The records here are not complete (rule D13).
    #[error("this node lacks records of other nodes: use another node, or wait until this one is in-service")]
    LacksRecords,
    /// The work was cancelled because the process ends.
    #[error("the process is ending: durable changes stay, the others were not made")]
    Ending,
}

impl MailError {
    /// Whether there is no room to store more; acknowledged data stays.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }

    /// Whether the same operation may succeed later without another order. A record that this release cannot read may
    /// be changed by a node of a later release.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Store(_) | Self::View(_) | Self::Thread(_) => true,
            Self::LacksRecords | Self::DutyLost | Self::Ending => true,
            Self::NoMailbox(_) | Self::NoMessage(_) | Self::NoAudio(_) | Self::NoClass { .. } => false,
            Self::Timezone { .. } | Self::SyncedField { .. } | Self::SyncedUser { .. } => false,
            Self::Disabled { .. } | Self::StaleEpoch(_) => false,
        }
    }
}

impl From<HashingError> for MailError {
    fn from(error: HashingError) -> Self {
        match error {
            HashingError::Thread(error) => Self::Thread(error),
            HashingError::Ending => Self::Ending,
        }
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

/// A mailbox could not be made, or could not get another number.
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
    #[error("the number {number} is in use: choose another, or remove that user first")]
    Taken {
        /// The digits.
        number: String,
    },
    /// Another mailbox has one of the mail addresses.
    #[error("the address {address} belongs to mailbox {number}: choose another, or take it from that user first")]
    AddressTaken {
        /// The address.
        address: String,
        /// Number of that mailbox.
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
    #[error(
        "the message cannot be stored: the disk is full; free space, or move the data directory to a larger disk"
    )]
    Full,
    /// It is shorter than the configured minimum, and has been discarded.
    #[error("the recording of {length_ms} ms is shorter than min_message_ms = {min_ms}: it was discarded")]
    TooShort {
        /// Length in milliseconds.
        length_ms: u64,
        /// The configured minimum.
        min_ms: u64,
    },
    /// The store took too little of it to keep, and that part has been discarded.
    #[error("the disk did not store the message, or not in time: check its space and speed")]
    Lost,
    /// The caller discarded it, or it has been filed already.
    #[error("the recording was already filed or discarded")]
    Closed,
    /// Any other error.
    #[error(transparent)]
    Mail(MailError),
}

impl From<MailError> for FileError {
    fn from(error: MailError) -> Self {
        if error.is_full() { Self::Full } else { Self::Mail(error) }
    }
}
