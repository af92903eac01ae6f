//! The registers: each is one row of the store.

use crate::Key;

/// A value of the store: one key, or keys that make sense only together (rule D4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Register {
    /// Wait for the other node's disk.
    AckTimeout,
    /// Refusal of messages that would have one copy.
    RequireTwo,
    /// Redirecting party that counts.
    Redirect,
    /// Answer to a call for an unknown mailbox.
    UnknownMailbox,
    /// Pilot numbers of both kinds: one number leads to one menu.
    Pilots,
    /// Session intervals: the one that is offered is not below the shortest.
    Session,
    /// Time limit of a call on hold.
    Hold,
    /// Keys of the menus.
    KeyMap,
    /// Time zone of new mailboxes.
    Timezone,
    /// Language of prompts and of new mailboxes.
    Language,
    /// Longest and shortest message: the one is above the other.
    MessageLength,
    /// Silence that ends a recording.
    Silence,
    /// Wait for a digit.
    Digit,
    /// Wrong PINs before a call ends.
    PinTries,
    /// Shortest new PIN.
    PinLength,
    /// Cost of hashing a PIN.
    PinHash,
    /// Messages in a mailbox.
    MaxMessages,
    /// Time for which deleted messages stay.
    DeletedGrace,
    /// Receiver of alarms by HTTP.
    Webhook,
    /// Receivers of alarms by SNMP.
    Trap,
    /// Domain of the mailboxes and sender of mails.
    MailIdentity,
    /// Way of mails out: server, TLS, account.
    MailRoute,
    /// Signatures of mails.
    MailSignature,
    /// Gateway for text messages.
    Sms,
    /// Begin of links to recordings.
    Links,
    /// Time for which call records stay.
    KeepCalls,
    /// Store that takes backups.
    S3,
}

impl Register {
    /// Every register.
    pub const ALL: [Self; 27] = [
        Self::AckTimeout,
        Self::RequireTwo,
        Self::Redirect,
        Self::UnknownMailbox,
        Self::Pilots,
        Self::Session,
        Self::Hold,
        Self::KeyMap,
        Self::Timezone,
        Self::Language,
        Self::MessageLength,
        Self::Silence,
        Self::Digit,
        Self::PinTries,
        Self::PinLength,
        Self::PinHash,
        Self::MaxMessages,
        Self::DeletedGrace,
        Self::Webhook,
        Self::Trap,
        Self::MailIdentity,
        Self::MailRoute,
        Self::MailSignature,
        Self::Sms,
        Self::Links,
        Self::KeepCalls,
        Self::S3,
    ];

    /// Its permanent name, the id of its row.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckTimeout => "ack-timeout",
            Self::RequireTwo => "require-two",
            Self::Redirect => "redirect",
            Self::UnknownMailbox => "unknown-mailbox",
            Self::Pilots => "pilots",
            Self::Session => "session",
            Self::Hold => "hold",
            Self::KeyMap => "key-map",
            Self::Timezone => "timezone",
            Self::Language => "language",
            Self::MessageLength => "message-length",
            Self::Silence => "silence",
            Self::Digit => "digit",
            Self::PinTries => "pin-tries",
            Self::PinLength => "pin-length",
            Self::PinHash => "pin-hash",
            Self::MaxMessages => "max-messages",
            Self::DeletedGrace => "deleted-grace",
            Self::Webhook => "alarm-webhook",
            Self::Trap => "alarm-trap",
            Self::MailIdentity => "mail-identity",
            Self::MailRoute => "mail-route",
            Self::MailSignature => "mail-signature",
            Self::Sms => "sms",
            Self::Links => "links",
            Self::KeepCalls => "keep-calls",
            Self::S3 => "backup-s3",
        }
    }

    /// The register of a row's id.
    pub fn named(id: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|register| register.name().as_bytes() == id)
    }

    /// Its keys.
    pub fn keys(self) -> impl Iterator<Item = Key> {
        Key::ALL.into_iter().filter(move |key| key.register() == self)
    }
}
