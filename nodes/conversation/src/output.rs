//! Outputs of a conversation.

use serde::{Deserialize, Serialize};
use twinbox_ids::{BlobHash, MailboxId, MessageId, Pii};

use crate::GreetingKind;

/// An output: one action for the shell. Actions are executed in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Output {
    /// Stop the current play and play these prompts; then `PlayFinished`, unless another `Play` or `StopPlay` comes.
    Play(Vec<Prompt>),
    /// Stop the current play; no `PlayFinished` follows.
    StopPlay,
    /// Start or restart the timer, in milliseconds; there is only one.
    SetTimer(u64),
    /// Cancel the timer.
    CancelTimer,
    /// Start recording: a new take for this purpose.
    Record {
        /// Purpose.
        purpose: Purpose,
        /// Maximum length, in milliseconds.
        max_ms: u64,
        /// Silence that ends the take, in milliseconds.
        end_silence_ms: u64,
    },
    /// Stop recording; `RecordingEnded` follows.
    StopRecording,
    /// Discard the last take.
    DiscardRecording,
    /// Query or change data; one `Answer` follows. At most one question is open.
    Ask(Question),
    /// Connect the caller to this number or URI.
    Transfer(String),
    /// End the call.
    HangUp,
}

/// Purpose of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A message for this mailbox: replicated during the recording.
    Message(MailboxId),
    /// A greeting or name of this mailbox.
    Greeting(MailboxId, GreetingKind),
}

/// One element of a play.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// A prompt file by its Asterisk name, such as `vm-intro` or `digits/7`.
    Named(String),
    /// Recorded audio: a greeting or a message.
    Audio(BlobHash),
    /// The last take of this call.
    LastTake,
    /// The record tone.
    Beep,
    /// Silence in milliseconds.
    Silence(u64),
}

/// A request to the shell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Find the mailbox with this number → `Mailbox`
    FindMailbox(String),
    /// Check the PIN → `PinOk`, `PinWrong`, `PinBackOff`
    CheckPin(MailboxId, Pii<String>),
    /// Set a new PIN → `Done`, `PinRefused`, `Failed`
    SetPin(MailboxId, Pii<String>),
    /// List the messages → `Messages`, `Failed`
    ListMessages(MailboxId),
    /// Change a message → `Done`, `Failed`
    Mark(MailboxId, MessageId, Mark),
    /// File the last take as a message → `Done`, `Failed`. On hang-up this answer releases the `200` to BYE.
    FileMessage(MailboxId),
    /// Store the last take as a greeting → `Done`, `Failed`
    KeepGreeting(MailboxId, GreetingKind),
    /// Remove a recorded greeting; disables a temporary greeting → `Done`, `Failed`
    RemoveGreeting(MailboxId, GreetingKind),
    /// Check the PIN for a number without a mailbox, so that the try is counted → as `CheckPin`
    CheckPinOfNumber(String, Pii<String>),
}

/// A change to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// Heard: no longer new.
    Heard,
    /// Saved: among the old messages.
    Saved,
    /// Deleted: a flag that can be reset.
    Deleted,
    /// Deletion undone.
    Undeleted,
}
