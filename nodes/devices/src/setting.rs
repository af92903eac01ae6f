//! Settings of devices as words of a command line.

use std::fmt;

use twinbox_mailbox::nearest;

use crate::KindName;

/// A setting of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setting {
    /// Name in lists.
    Name,
    /// Mail address.
    Address,
    /// Telephone number for SMS.
    Number,
    /// URL of the webhook.
    Url,
    /// Key of the webhook's signatures.
    Secret,
    /// Notifications have a link to the recording.
    Link,
    /// Validity of the links.
    LinkHours,
    /// The recording is attached to the mail.
    Audio,
    /// Notifications are sent.
    Enabled,
    /// Language of the texts.
    Language,
    /// Times at which notifications are sent.
    When,
    /// Urgent messages only.
    UrgentOnly,
    /// Patterns of callers.
    From,
    /// Minimum length of a message.
    MinSeconds,
    /// Delay of the first notification.
    Delay,
    /// Repeats until the message was heard.
    Repeat,
    /// The device that follows when this one fails.
    Fallback,
    /// Maximum number of notifications in an hour.
    PerHour,
    /// The message is deleted once the mail is delivered.
    DeleteAfter,
}

impl Setting {
    /// All settings, in display order.
    pub const ALL: [Self; 19] = [
        Self::Name,
        Self::Address,
        Self::Number,
        Self::Url,
        Self::Secret,
        Self::Link,
        Self::LinkHours,
        Self::Audio,
        Self::Enabled,
        Self::Language,
        Self::When,
        Self::UrgentOnly,
        Self::From,
        Self::MinSeconds,
        Self::Delay,
        Self::Repeat,
        Self::Fallback,
        Self::PerHour,
        Self::DeleteAfter,
    ];

    /// Name of the setting on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Address => "address",
            Self::Number => "number",
            Self::Url => "url",
            Self::Secret => "secret",
            Self::Link => "link",
            Self::LinkHours => "link-hours",
            Self::Audio => "audio",
            Self::Enabled => "enabled",
            Self::Language => "language",
            Self::When => "when",
            Self::UrgentOnly => "urgent-only",
            Self::From => "from",
            Self::MinSeconds => "min-seconds",
            Self::Delay => "delay",
            Self::Repeat => "repeat",
            Self::Fallback => "fallback",
            Self::PerHour => "per-hour",
            Self::DeleteAfter => "delete-after",
        }
    }

    /// Whether devices of that kind have the setting.
    pub fn fits(self, kind: KindName) -> bool {
        match self {
            Self::Address => matches!(kind, KindName::Mail | KindName::Pager | KindName::SmsMail),
            Self::Number => kind == KindName::SmsHttp,
            Self::Url | Self::Secret | Self::Link | Self::LinkHours => kind == KindName::Webhook,
            Self::Audio | Self::DeleteAfter => kind == KindName::Mail,
            Self::Language => kind.form().is_some(),
            _ => true,
        }
    }

    /// The setting of a word, for a kind of device.
    pub(crate) fn find(word: &str, kind: KindName) -> Result<Self, SettingError> {
        let words: Vec<_> = Self::ALL.into_iter().filter(|s| s.fits(kind)).map(Self::word).collect();
        match Self::ALL.into_iter().find(|setting| setting.word() == word) {
            Some(setting) if setting.fits(kind) => Ok(setting),
            Some(setting) => {
                Err(SettingError::Kind { word: setting.word(), kind: kind.word(), known: words.join(", ") })
            }
            None => Err(SettingError::Word {
                word: word.to_owned(),
                known: words.join(", "),
                hint: Hint::of(word, &words),
            }),
        }
    }

    /// Description of the valid values.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Name => "1 to 63 of a-z, A-Z, 0-9, '-' and '_'",
            Self::Address => "a mail address, such as anna@example.com",
            Self::Number => "a telephone number of 3 to 20 digits, possibly after +",
            Self::Url => {
                "a URL of at most 2000 characters, https://HOST/PATH or http://HOST/PATH, without a password"
            }
            Self::Secret => "16 to 256 visible ASCII characters",
            Self::Link | Self::Audio | Self::UrgentOnly | Self::DeleteAfter | Self::Enabled => {
                "yes or no, or - for the default"
            }
            Self::LinkHours => "1 to 720 hours, or - for 24",
            Self::Language => "a language, such as de or en, or - for that of the mailbox",
            Self::When => "times, such as mon-fri 08:00-18:00, sat 09:00-12:00, or - for always",
            Self::From => "up to 50 patterns of callers, such as 2*,0151*, or - for all callers",
            Self::MinSeconds => "0 to 7200 seconds, or - for 0",
            Self::Delay => "0 to 604800 seconds, or - for 0",
            Self::Repeat => {
                "seconds x number, such as 900x3 (60 to 86400 seconds, 1 to 100 times), or - for no repeats"
            }
            Self::Fallback => "the name of another device of this mailbox, or - for none",
            Self::PerHour => "0 to 3600 notifications in an hour, or - for no limit",
        }
    }
}

/// `; did you mean 'word'?`, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint(Option<String>);

impl Hint {
    /// The hint to the candidate that is nearest to `word`.
    pub(crate) fn of(word: &str, candidates: &[&str]) -> Self {
        Self(nearest(word, candidates).map(str::to_owned))
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |near| write!(f, "; did you mean '{near}'?"))
    }
}

/// A setting could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No `=` in the text.
    #[error("'{text}' is not a setting: write word=value, such as delay=60")]
    Shape {
        /// The given text.
        text: String,
    },
    /// There is no such setting.
    #[error("setting '{word}' does not exist: use one of {known}{hint}")]
    Word {
        /// The given word.
        word: String,
        /// All words for this kind of device.
        known: String,
        /// The nearest of them.
        hint: Hint,
    },
    /// Devices of this kind do not have the setting.
    #[error("a device of kind {kind} has no setting '{word}': use one of {known}")]
    Kind {
        /// The given word.
        word: &'static str,
        /// Kind of the device.
        kind: &'static str,
        /// All words for this kind of device.
        known: String,
    },
    /// The value is not valid.
    #[error("'{value}' is not a value of {word}: give {expected}")]
    Value {
        /// Word of the setting.
        word: &'static str,
        /// The given value; hidden if it is secret.
        value: String,
        /// The expected values, and the reason if there is more to say.
        expected: String,
    },
    /// The mailbox has no device of that name.
    #[error("'{value}' is not a value of {word}: the mailbox has no such device; its devices are: {known}{hint}", word = Setting::Fallback.word())]
    Device {
        /// The given name.
        value: String,
        /// Names of the devices of the mailbox.
        known: String,
        /// The nearest of them.
        hint: Hint,
    },
}
