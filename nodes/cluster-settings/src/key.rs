//! The keys: names as in the file, kinds of their values, defaults.

use twinbox_mailbox::nearest;

use crate::{Kind, Register, ValueError};

/// Shortest grace of deleted messages: audio must outlast what may still name it. Builds for tests accept seconds.
const SHORTEST_GRACE_SECONDS: u64 = if cfg!(debug_assertions) { 1 } else { 86_400 };

/// Time at which a change takes effect, on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Immediately.
    Now,
    /// With the next call; calls in progress keep the old value.
    NextCall,
    /// With the next mailbox that is added, or PIN that is set.
    NextNew,
}

impl Effect {
    /// The time as text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::NextCall => "new calls",
            Self::NextNew => "new mailboxes and PINs",
        }
    }
}

/// There is no such key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no setting '{name}'{near}; 'twinbox setting list' shows all, 'twinbox cluster settings' those of roles"
)]
pub struct UnknownKey {
    name: String,
    near: String,
}

/// A setting that all nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Wait of an acknowledgement for the other node's disk, in milliseconds.
    AckTimeoutMs,
    /// Refuse messages while no other node takes a copy.
    RequireTwo,
    /// Redirecting party whose mailbox gets a call.
    Redirect,
    /// Answer to a call for an unknown mailbox.
    UnknownMailbox,
    /// Numbers that sign in to the caller's mailbox.
    Pilot,
    /// Numbers that ask for a mailbox.
    PilotAsk,
    /// Session interval that is offered, in seconds.
    SessionSeconds,
    /// Shortest session interval that is taken, in seconds.
    MinSessionSeconds,
    /// Time limit of a call on hold, in seconds; 0: none.
    MaxHoldSeconds,
    /// Keys of the menus.
    KeyMap,
    /// Time zone of new mailboxes.
    Timezone,
    /// Language of prompts and of new mailboxes.
    Language,
    /// Longest message, in seconds.
    MaxMessageSeconds,
    /// Shortest message, in milliseconds.
    MinMessageMs,
    /// Silence that ends a recording, in seconds; 0: none does.
    SilenceSeconds,
    /// Wait for a digit, in seconds.
    DigitSeconds,
    /// Wrong PINs before a call ends.
    PinTries,
    /// Shortest new PIN.
    MinPinLength,
    /// Memory of a PIN's hash, in KiB.
    PinHashKib,
    /// Passes of a PIN's hash.
    PinHashPasses,
    /// Messages in a new mailbox before it is full.
    MaxMessages,
    /// Time for which a deleted message can be undeleted, in seconds.
    DeletedGraceSeconds,
    /// Receiver of alarms by HTTP.
    WebhookUrl,
    /// CA certificates that verify it.
    WebhookCaFile,
    /// Receivers of alarms by SNMP.
    TrapReceivers,
    /// User of SNMP v3.
    TrapUser,
    /// Authentication of SNMP v3.
    TrapAuth,
    /// Days for which call records stay.
    KeepDays,
}

impl Key {
    /// Every key, in the order of the file.
    pub const ALL: [Self; 28] = [
        Self::AckTimeoutMs,
        Self::RequireTwo,
        Self::Redirect,
        Self::UnknownMailbox,
        Self::Pilot,
        Self::PilotAsk,
        Self::SessionSeconds,
        Self::MinSessionSeconds,
        Self::MaxHoldSeconds,
        Self::KeyMap,
        Self::Timezone,
        Self::Language,
        Self::MaxMessageSeconds,
        Self::MinMessageMs,
        Self::SilenceSeconds,
        Self::DigitSeconds,
        Self::PinTries,
        Self::MinPinLength,
        Self::PinHashKib,
        Self::PinHashPasses,
        Self::MaxMessages,
        Self::DeletedGraceSeconds,
        Self::WebhookUrl,
        Self::WebhookCaFile,
        Self::TrapReceivers,
        Self::TrapUser,
        Self::TrapAuth,
        Self::KeepDays,
    ];

    /// Its name, as in the file: sections and key, joined by dots.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckTimeoutMs => "cluster.ack_timeout_ms",
            Self::RequireTwo => "cluster.require_two",
            Self::Redirect => "sip.redirect",
            Self::UnknownMailbox => "sip.unknown_mailbox",
            Self::Pilot => "sip.pilot",
            Self::PilotAsk => "sip.pilot_ask",
            Self::SessionSeconds => "sip.session_seconds",
            Self::MinSessionSeconds => "sip.min_session_seconds",
            Self::MaxHoldSeconds => "sip.max_hold_seconds",
            Self::KeyMap => "voicemail.key_map",
            Self::Timezone => "voicemail.timezone",
            Self::Language => "voicemail.language",
            Self::MaxMessageSeconds => "voicemail.max_message_seconds",
            Self::MinMessageMs => "voicemail.min_message_ms",
            Self::SilenceSeconds => "voicemail.silence_seconds",
            Self::DigitSeconds => "voicemail.digit_seconds",
            Self::PinTries => "voicemail.pin_tries",
            Self::MinPinLength => "voicemail.min_pin_length",
            Self::PinHashKib => "voicemail.pin_hash_kib",
            Self::PinHashPasses => "voicemail.pin_hash_passes",
            Self::MaxMessages => "voicemail.max_messages",
            Self::DeletedGraceSeconds => "voicemail.deleted_grace_seconds",
            Self::WebhookUrl => "alarms.webhook.url",
            Self::WebhookCaFile => "alarms.webhook.ca_file",
            Self::TrapReceivers => "alarms.trap.receivers",
            Self::TrapUser => "alarms.trap.user",
            Self::TrapAuth => "alarms.trap.auth",
            Self::KeepDays => "reports.keep_days",
        }
    }

    /// The key of a name.
    pub fn named(name: &str) -> Result<Self, UnknownKey> {
        let found = Self::ALL.into_iter().find(|key| key.name() == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            // A name without its section is the most frequent mistake.
            let tail = Self::ALL.into_iter().map(Self::name).find(|known| known.rsplit('.').next() == Some(name));
            let near = tail.or_else(|| nearest(name, &names));
            let near = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            UnknownKey { name: name.to_owned(), near }
        })
    }

    /// The register that holds its value.
    pub fn register(self) -> Register {
        match self {
            Self::AckTimeoutMs => Register::AckTimeout,
            Self::RequireTwo => Register::RequireTwo,
            Self::Redirect => Register::Redirect,
            Self::UnknownMailbox => Register::UnknownMailbox,
            Self::Pilot | Self::PilotAsk => Register::Pilots,
            Self::SessionSeconds | Self::MinSessionSeconds => Register::Session,
            Self::MaxHoldSeconds => Register::Hold,
            Self::KeyMap => Register::KeyMap,
            Self::Timezone => Register::Timezone,
            Self::Language => Register::Language,
            Self::MaxMessageSeconds | Self::MinMessageMs => Register::MessageLength,
            Self::SilenceSeconds => Register::Silence,
            Self::DigitSeconds => Register::Digit,
            Self::PinTries => Register::PinTries,
            Self::MinPinLength => Register::PinLength,
            Self::PinHashKib | Self::PinHashPasses => Register::PinHash,
            Self::MaxMessages => Register::MaxMessages,
            Self::DeletedGraceSeconds => Register::DeletedGrace,
            Self::WebhookUrl | Self::WebhookCaFile => Register::Webhook,
            Self::TrapReceivers | Self::TrapUser | Self::TrapAuth => Register::Trap,
            Self::KeepDays => Register::KeepCalls,
        }
    }

    /// Kind of its value.
    pub fn kind(self) -> Kind {
        match self {
            Self::AckTimeoutMs => Kind::Number(10..=10_000),
            Self::RequireTwo => Kind::Flag,
            Self::Redirect => Kind::Word(&["first", "last"]),
            Self::UnknownMailbox => Kind::Word(&["404", "apology"]),
            Self::Pilot | Self::PilotAsk => Kind::List("a number, such as \"*97\""),
            Self::SessionSeconds | Self::MinSessionSeconds => Kind::Number(90..=86_400),
            Self::MaxHoldSeconds => Kind::Number(0..=86_400),
            Self::KeyMap => Kind::Word(&["asterisk", "unity"]),
            Self::Timezone => Kind::Zone,
            Self::Language => Kind::Word(&["en"]),
            Self::MaxMessageSeconds => Kind::Number(1..=7_200),
            Self::MinMessageMs => Kind::Number(0..=60_000),
            Self::SilenceSeconds => Kind::Number(0..=600),
            Self::DigitSeconds => Kind::Number(1..=60),
            Self::PinTries => Kind::Number(1..=10),
            Self::MinPinLength => Kind::Number(3..=12),
            Self::PinHashKib => Kind::Number(1_024..=1_048_576),
            Self::PinHashPasses => Kind::Number(1..=20),
            Self::MaxMessages => Kind::Number(1..=100_000),
            Self::DeletedGraceSeconds => Kind::Number(SHORTEST_GRACE_SECONDS..=31_536_000),
            Self::WebhookUrl => Kind::Url,
            Self::WebhookCaFile => Kind::Path,
            Self::TrapReceivers => Kind::List("HOST or HOST:PORT"),
            Self::TrapUser => Kind::Text,
            Self::TrapAuth => Kind::Word(&["sha1", "sha256", "sha512"]),
            Self::KeepDays => Kind::Number(1..=3_650),
        }
    }

    /// Its value without any setting; empty: none. `wan`: the cluster has the timing of that profile.
    pub fn default(self, wan: bool) -> &'static str {
        match self {
            Self::AckTimeoutMs if wan => "1000",
            Self::AckTimeoutMs => "250",
            Self::RequireTwo => "false",
            Self::Redirect => "first",
            Self::UnknownMailbox => "404",
            Self::Pilot => "*97",
            Self::PilotAsk => "*98",
            Self::SessionSeconds => "1800",
            Self::MinSessionSeconds => "90",
            Self::MaxHoldSeconds | Self::MaxMessageSeconds => "300",
            Self::KeyMap => "asterisk",
            Self::Timezone => "UTC",
            Self::Language => "en",
            Self::MinMessageMs => "1000",
            Self::SilenceSeconds => "10",
            Self::DigitSeconds => "5",
            Self::PinTries => "3",
            Self::MinPinLength => "4",
            Self::PinHashKib => "19456",
            Self::PinHashPasses => "2",
            Self::MaxMessages => "200",
            Self::DeletedGraceSeconds => "2592000",
            Self::WebhookUrl | Self::WebhookCaFile | Self::TrapReceivers | Self::TrapUser => "",
            Self::TrapAuth => "sha256",
            Self::KeepDays => "90",
        }
    }

    /// Time at which a change of it takes effect.
    pub fn effect(self) -> Effect {
        match self {
            Self::Redirect
            | Self::UnknownMailbox
            | Self::Pilot
            | Self::PilotAsk
            | Self::KeyMap
            | Self::MaxMessageSeconds
            | Self::SilenceSeconds
            | Self::DigitSeconds
            | Self::PinTries
            | Self::SessionSeconds
            | Self::MinSessionSeconds => Effect::NextCall,
            Self::Timezone
            | Self::Language
            | Self::MinPinLength
            | Self::PinHashKib
            | Self::PinHashPasses
            | Self::MaxMessages => Effect::NextNew,
            Self::AckTimeoutMs
            | Self::RequireTwo
            | Self::MaxHoldSeconds
            | Self::MinMessageMs
            | Self::DeletedGraceSeconds
            | Self::WebhookUrl
            | Self::WebhookCaFile
            | Self::TrapReceivers
            | Self::TrapUser
            | Self::TrapAuth
            | Self::KeepDays => Effect::Now,
        }
    }

    /// The value as it is stored and shown.
    pub fn check(self, text: &str) -> Result<String, ValueError> {
        self.kind().check(text)
    }

    /// A value for people: a URL without its query, which often holds a token.
    pub fn shown(self, value: &str) -> String {
        match (self.kind(), value.split_once('?')) {
            (Kind::Url, Some((before, _))) => format!("{before}?…"),
            _ => value.to_owned(),
        }
    }

    /// Smallest and largest number; of a key that is no number, those of 64 bits.
    pub fn range(self) -> std::ops::RangeInclusive<i64> {
        let as_i64 = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        match self.kind() {
            Kind::Number(range) => as_i64(*range.start())..=as_i64(*range.end()),
            _ => i64::MIN..=i64::MAX,
        }
    }
}
