//! Inputs of a conversation.

use serde::{Deserialize, Serialize};
use twinbox_ids::{BlobHash, MailboxId, MessageId, Pii, Timestamp};

/// Parameters of a new conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// Purpose of the call.
    pub entry: Entry,
    /// The caller, as far as the trunk is trusted.
    pub caller: Caller,
    /// The settings in force for this call.
    pub settings: ConversationSettings,
    /// Current time.
    pub now: Timestamp,
}

/// Purpose of the call (design section 5: redirected, direct to a pilot, direct to a mailbox).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Entry {
    /// Leave a message in this mailbox.
    Leave {
        /// Mailbox of the message.
        mailbox: MailboxView,
        /// The greeting that fits the reason of the redirection.
        greeting: GreetingKind,
    },
    /// Sign in to the mailbox of the calling number (pilot `*97`); `None`: no mailbox is known, ask for its number.
    SignIn {
        /// The mailbox of the calling number, if it has one.
        mailbox: Option<MailboxView>,
    },
    /// Sign in, asking for the mailbox number first (pilot `*98`).
    AskMailbox,
    /// The mailbox does not exist: apologize and end.
    Apology,
}

/// The caller.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Caller {
    /// The number, if sent by a trusted trunk.
    pub number: Option<Pii<String>>,
    /// The display name.
    pub name: Option<Pii<String>>,
}

/// A greeting that a mailbox may have recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GreetingKind {
    /// Played unless another greeting fits better.
    Standard,
    /// Played when the called party was busy.
    Busy,
    /// Replaces the other greetings while enabled.
    Temporary,
    /// The owner's spoken name.
    Name,
}

/// Mailbox data needed by a conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MailboxView {
    /// Opaque ID.
    pub id: MailboxId,
    /// The number that callers dial, digits only.
    pub number: String,
    /// IANA name of the owner's time zone, such as `Europe/Berlin`.
    pub timezone: String,
    /// Recorded greetings by kind, as blobs; a missing greeting is composed from prompts.
    pub greetings: Vec<(GreetingKind, BlobHash)>,
    /// The mailbox accepts no more messages.
    pub full: bool,
    /// The owner is disabled and takes no messages: callers hear that the person is unavailable.
    #[serde(default)]
    pub unavailable: bool,
    /// Operator number, reached by key `0`, if any.
    pub operator: Option<String>,
    /// Values of the class of service that override the [`ConversationSettings`].
    pub limits: Limits,
}

/// Values of a mailbox's class of service that override the [`ConversationSettings`] of the same names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Maximum message length, in milliseconds.
    pub max_message_ms: Option<u64>,
    /// Number of wrong PINs after which the call ends.
    pub pin_tries: Option<u8>,
    /// Minimum length of a new PIN.
    pub min_pin_length: Option<u8>,
}

/// Message data needed by the menus.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageView {
    /// Opaque ID.
    pub id: MessageId,
    /// Its audio.
    pub audio: BlobHash,
    /// Time of reception.
    pub received: Timestamp,
    /// Number of the caller that left the message.
    pub caller: Option<Pii<String>>,
    /// Length in milliseconds.
    pub length_ms: u64,
    /// The end of the message was lost (rule C2).
    pub partial: bool,
}

/// Settings of a conversation. All times in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConversationSettings {
    /// Name of the key map: `asterisk` or `unity`.
    pub key_map: String,
    /// Maximum message length.
    pub max_message_ms: u64,
    /// Minimum message length: shorter recordings are discarded.
    pub min_message_ms: u64,
    /// Silence that ends a recording.
    pub end_silence_ms: u64,
    /// Timeout for the next digit.
    pub digit_timeout_ms: u64,
    /// Number of wrong PINs after which the call ends.
    pub pin_tries: u8,
    /// Minimum length of a new PIN.
    pub min_pin_length: u8,
}

/// An input event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Input {
    /// A key: `0`-`9`, `*`, `#`, `A`-`D`.
    Digit(char),
    /// All prompts of the last `Play` have been played.
    PlayFinished,
    /// The audio of the last `Play` is not available now: nothing was played.
    AudioMissing,
    /// The timer of the last `SetTimer` expired.
    TimerFired,
    /// The recorder stopped, automatically or by command.
    RecordingEnded {
        /// Reason.
        end: RecordingEnd,
        /// Recorded time without the silence at the end, in milliseconds.
        length_ms: u64,
    },
    /// The answer to the last `Ask`.
    Answer(Answer),
    /// The last `Transfer` failed.
    TransferFailed,
    /// The caller hung up.
    HungUp,
}

/// Reason why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordingEnd {
    /// Stopped by `StopRecording`.
    Stopped,
    /// Silence of the caller.
    Silence,
    /// The maximum length was reached.
    Limit,
    /// No space to store more audio, or the store does not answer.
    Failed,
}

/// An answer to a [`crate::Question`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// The requested mailbox, if it exists.
    Mailbox(Option<MailboxView>),
    /// The PIN is right.
    PinOk {
        /// First sign-in: the owner must choose a new PIN.
        must_change: bool,
    },
    /// The PIN is wrong.
    PinWrong,
    /// Too many wrong PINs recently: the PIN was not checked.
    PinBackOff {
        /// Back-off time, in seconds.
        seconds: u64,
    },
    /// The messages of a mailbox: new messages, then heard and saved ones.
    Messages {
        /// New messages, oldest first.
        new: Vec<MessageView>,
        /// Heard or saved messages, oldest first.
        old: Vec<MessageView>,
    },
    /// The change is stored durably.
    Done,
    /// The new PIN is too easy (rule S1), too short or too long.
    PinRefused,
    /// The request failed (no space, store not available).
    Failed,
}
