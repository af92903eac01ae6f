//! What is told to a conversation.

use serde::{Deserialize, Serialize};
use twinbox_ids::{BlobHash, MailboxId, MessageId, Pii, Timestamp};

/// How a conversation begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// What the caller came for.
    pub entry: Entry,
    /// Who calls, as far as the trunk is believed.
    pub caller: Caller,
    /// The settings in force for this call.
    pub settings: Settings,
    /// Now.
    pub now: Timestamp,
}

/// What the caller came for (design section 5: redirected, direct to a pilot, direct to a mailbox).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Entry {
    /// Leave a message in this mailbox.
    Leave {
        /// Where to.
        mailbox: MailboxView,
        /// The greeting that fits the reason of the redirection.
        greeting: GreetingKind,
    },
    /// Sign in to the mailbox of the calling number (pilot `*97`); `None`: the number is unknown, ask for it.
    SignIn {
        /// The mailbox of the calling number, if it has one.
        mailbox: Option<MailboxView>,
    },
    /// Sign in, asking for the mailbox number first (pilot `*98`).
    AskMailbox,
    /// There is no such mailbox: say so and end.
    Apology,
}

/// Who calls.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Caller {
    /// The number, if one came from a trusted trunk.
    pub number: Option<Pii<String>>,
    /// The display name.
    pub name: Option<Pii<String>>,
}

/// A greeting that a mailbox may have recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GreetingKind {
    /// Played unless another fits better.
    Standard,
    /// Played when the called party was busy.
    Busy,
    /// Replaces the others while it is on.
    Temporary,
    /// The owner's spoken name.
    Name,
}

/// What a conversation knows of a mailbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MailboxView {
    /// Opaque id.
    pub id: MailboxId,
    /// The number that callers dial, digits only.
    pub number: String,
    /// IANA name of the owner's time zone, such as `Europe/Berlin`.
    pub timezone: String,
    /// Recorded greetings by kind, as blobs; what is missing is spoken from prompts.
    pub greetings: Vec<(GreetingKind, BlobHash)>,
    /// No more messages fit.
    pub full: bool,
    /// Where `0` leads, if anywhere.
    pub operator: Option<String>,
    /// What its class of service says in the place of the [`Settings`].
    pub limits: Limits,
}

/// What a mailbox's class of service says in the place of the [`Settings`] of the same names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The longest message, in milliseconds.
    pub max_message_ms: Option<u64>,
    /// Wrong PINs before the call ends.
    pub pin_tries: Option<u8>,
    /// Shortest new PIN.
    pub min_pin_length: Option<u8>,
}

/// A message as the menus speak of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageView {
    /// Opaque id.
    pub id: MessageId,
    /// Its audio.
    pub audio: BlobHash,
    /// When it was left.
    pub received: Timestamp,
    /// Who left it.
    pub caller: Option<Pii<String>>,
    /// Length in milliseconds.
    pub length_ms: u64,
    /// Not heard to the end, only part of it survived (rule C2).
    pub partial: bool,
}

/// Settings of a conversation. All times in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Name of the key map: `asterisk` or `unity`.
    pub key_map: String,
    /// The longest message.
    pub max_message_ms: u64,
    /// Below this nothing is kept.
    pub min_message_ms: u64,
    /// Silence that ends a recording.
    pub end_silence_ms: u64,
    /// How long to wait for a digit.
    pub digit_timeout_ms: u64,
    /// Wrong PINs before the call ends.
    pub pin_tries: u8,
    /// Shortest new PIN.
    pub min_pin_length: u8,
}

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Input {
    /// A key: `0`-`9`, `*`, `#`, `A`-`D`.
    Digit(char),
    /// All prompts of the last `Play` have been played.
    PlayFinished,
    /// Nothing was played: what is stored of the last `Play` cannot be had now.
    AudioMissing,
    /// The timer of the last `SetTimer` is out.
    TimerFired,
    /// The recorder stopped, by itself or as told.
    RecordingEnded {
        /// Why.
        end: RecordingEnd,
        /// Recorded time without the silence that ended it, in milliseconds.
        length_ms: u64,
    },
    /// The answer to the last `Ask`.
    Answer(Answer),
    /// The last `Transfer` did not come about.
    TransferFailed,
    /// The caller is gone.
    HungUp,
}

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordingEnd {
    /// As told by `StopRecording`.
    Stopped,
    /// The caller fell silent.
    Silence,
    /// The longest message was reached.
    Limit,
    /// There is no room to store more, or the store does not answer.
    Failed,
}

/// An answer to a [`crate::Question`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// The mailbox asked for, if there is one.
    Mailbox(Option<MailboxView>),
    /// The PIN is right.
    PinOk {
        /// It is the first sign-in: a new PIN is due.
        must_change: bool,
    },
    /// The PIN is wrong.
    PinWrong,
    /// Too many wrong PINs lately: no check was made.
    PinBackOff {
        /// Come back in this many seconds.
        seconds: u64,
    },
    /// The messages of a mailbox: new, then heard and saved.
    Messages {
        /// Not yet heard, oldest first.
        new: Vec<MessageView>,
        /// Heard or saved, oldest first.
        old: Vec<MessageView>,
    },
    /// Done, durably.
    Done,
    /// The new PIN is too easy (rule S1), too short or too long.
    PinRefused,
    /// It could not be done (no space, store not working).
    Failed,
}
