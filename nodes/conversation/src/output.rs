//! What a conversation wants done.

use serde::{Deserialize, Serialize};
use twinbox_ids::{BlobHash, MailboxId, MessageId, Pii};

use crate::GreetingKind;

/// One thing to do, in the order given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Output {
    /// Stop what is playing and play these; then `PlayFinished`, unless interrupted by another `Play` or `StopPlay`.
    Play(Vec<Prompt>),
    /// Stop what is playing; no `PlayFinished` comes for it.
    StopPlay,
    /// Start (or restart) the one timer; it replaces the one before. Milliseconds.
    SetTimer(u64),
    /// Forget the timer.
    CancelTimer,
    /// Begin to record: a new take of this call's recording for that purpose.
    Record {
        /// What for.
        purpose: Purpose,
        /// The longest take, in milliseconds.
        max_ms: u64,
        /// Silence that ends it, in milliseconds.
        end_silence_ms: u64,
    },
    /// Stop recording; `RecordingEnded` follows.
    StopRecording,
    /// Throw the last take away.
    DiscardRecording,
    /// Find something out or change something; one `Answer` follows. At most one question is open.
    Ask(Question),
    /// Connect the caller to this number or URI.
    Transfer(String),
    /// End the call.
    HangUp,
}

/// What a recording is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A message for this mailbox: replicated while it is spoken.
    Message(MailboxId),
    /// A greeting or name of this mailbox.
    Greeting(MailboxId, GreetingKind),
}

/// A piece of sound.
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

/// A question to the shell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Which mailbox has this number? → `Mailbox`
    FindMailbox(String),
    /// Is this the PIN? → `PinOk`, `PinWrong`, `PinBackOff`
    CheckPin(MailboxId, Pii<String>),
    /// Set a new PIN → `Done`, `PinRefused`, `Failed`
    SetPin(MailboxId, Pii<String>),
    /// What messages are there? → `Messages`, `Failed`
    ListMessages(MailboxId),
    /// Change a message → `Done`, `Failed`
    Mark(MailboxId, MessageId, Mark),
    /// File the last take as a message → `Done`, `Failed`. On hang-up this answer releases the `200` to BYE.
    FileMessage(MailboxId),
    /// Keep the last take as a greeting → `Done`, `Failed`
    KeepGreeting(MailboxId, GreetingKind),
    /// Forget a recorded greeting: how a temporary one is switched off → `Done`, `Failed`
    RemoveGreeting(MailboxId, GreetingKind),
}

/// A change to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// Heard: leaves the new ones.
    Heard,
    /// Saved: kept among the old ones.
    Saved,
    /// Deleted: a flag, can be taken back.
    Deleted,
    /// Not deleted after all.
    Undeleted,
}
