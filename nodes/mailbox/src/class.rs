//! Classes of service: rules that many mailboxes share. A rule that a class leaves unset comes from the default class;
//! a rule unset there comes from the node's setting or the mailbox's own.

use std::ops::RangeInclusive;

use twinbox_ids::ClassId;
use twinbox_replication_core::{Edit, Key, Record, Tag};

use crate::{
    ViewError,
    nearest::hint,
    schema::{self, class as tag},
    value::{Fields, read_text, read_u64, set_bytes, set_text, set_u64},
};

/// A rule that a class may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Maximum length of a message, in seconds.
    MessageSeconds,
    /// Maximum number of messages in a mailbox.
    Messages,
    /// Maximum audio in a mailbox, in minutes.
    TotalMinutes,
    /// Retention of heard messages, in days.
    RetentionDays,
    /// Retention of new messages, in days.
    NewDays,
    /// Retention of saved messages, in days.
    SavedDays,
    /// Time for which deleted messages can be undeleted, in days.
    DeletedDays,
    /// Days before the deletion of a message by its age at which its owner is warned by mail.
    WarnDays,
    /// Minimum length of a PIN, in digits.
    PinLength,
    /// Wrong PINs before a call ends.
    PinTries,
    /// Whether PINs such as 1234 or 7777 are accepted.
    EasyPins,
    /// Whether callers reach the operator by `0`.
    Operator,
    /// Whether owners sign in by telephone.
    SignIn,
    /// Whether audio may leave the cluster in notifications.
    AudioOut,
}

impl Rule {
    /// All rules, in display order.
    pub const ALL: [Self; 14] = [
        Self::MessageSeconds,
        Self::Messages,
        Self::TotalMinutes,
        Self::RetentionDays,
        Self::NewDays,
        Self::SavedDays,
        Self::DeletedDays,
        Self::WarnDays,
        Self::PinLength,
        Self::PinTries,
        Self::EasyPins,
        Self::Operator,
        Self::SignIn,
        Self::AudioOut,
    ];

    /// Name of the rule on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::MessageSeconds => "message-seconds",
            Self::Messages => "messages",
            Self::TotalMinutes => "total-minutes",
            Self::RetentionDays => "retention-days",
            Self::NewDays => "new-days",
            Self::SavedDays => "saved-days",
            Self::DeletedDays => "deleted-days",
            Self::WarnDays => "warn-days",
            Self::PinLength => "pin-length",
            Self::PinTries => "pin-tries",
            Self::EasyPins => "easy-pins",
            Self::Operator => "operator",
            Self::SignIn => "sign-in",
            Self::AudioOut => "audio-out",
        }
    }

    fn tag(self) -> Tag {
        match self {
            Self::MessageSeconds => tag::MESSAGE_SECONDS,
            Self::Messages => tag::MESSAGES,
            Self::TotalMinutes => tag::TOTAL_MINUTES,
            Self::RetentionDays => tag::RETENTION_DAYS,
            Self::NewDays => tag::NEW_DAYS,
            Self::SavedDays => tag::SAVED_DAYS,
            Self::DeletedDays => tag::DELETED_DAYS,
            Self::WarnDays => tag::WARN_DAYS,
            Self::PinLength => tag::PIN_LENGTH,
            Self::PinTries => tag::PIN_TRIES,
            Self::EasyPins => tag::EASY_PINS,
            Self::Operator => tag::OPERATOR,
            Self::SignIn => tag::SIGN_IN,
            Self::AudioOut => tag::AUDIO_OUT,
        }
    }

    fn is_switch(self) -> bool {
        matches!(self, Self::EasyPins | Self::Operator | Self::SignIn | Self::AudioOut)
    }

    fn range(self) -> RangeInclusive<u64> {
        match self {
            Self::MessageSeconds => 1..=7_200,
            Self::Messages => 1..=1_000_000,
            Self::TotalMinutes => 1..=1_000_000,
            Self::RetentionDays | Self::NewDays | Self::SavedDays | Self::DeletedDays => 1..=36_500,
            Self::WarnDays => 1..=365,
            Self::PinLength => 1..=crate::pin::MAX_LENGTH as u64,
            Self::PinTries => 1..=20,
            Self::EasyPins | Self::Operator | Self::SignIn | Self::AudioOut => 0..=1,
        }
    }

    /// Reads `word=value`; `-` as the value removes the rule from the class.
    pub fn parse(text: &str) -> Result<(Self, Option<u64>), RuleError> {
        let (word, value) = text.split_once('=').ok_or_else(|| RuleError::Shape { text: text.to_owned() })?;
        let rule = Self::ALL.into_iter().find(|rule| rule.word() == word.trim()).ok_or_else(|| {
            let words: Vec<_> = Self::ALL.into_iter().map(Self::word).collect();
            let word = word.trim();
            RuleError::Word { word: word.to_owned(), known: words.join(", ") + &hint(word, &words) }
        })?;
        let value = value.trim();
        let parsed = match value {
            "-" => return Ok((rule, None)),
            "yes" | "on" if rule.is_switch() => Some(1),
            "no" | "off" if rule.is_switch() => Some(0),
            _ if rule.is_switch() => None,
            number => number.parse().ok().filter(|number| rule.range().contains(number)),
        };
        let wrong = || RuleError::Value {
            word: rule.word(),
            value: value.to_owned(),
            expected: if rule.is_switch() {
                "yes, no".to_owned()
            } else {
                format!("a number from {} to {}", rule.range().start(), rule.range().end())
            },
        };
        Ok((rule, Some(parsed.ok_or_else(wrong)?)))
    }

    /// A value as [`Self::parse`] reads it.
    pub fn show(self, value: u64) -> String {
        match value {
            0 if self.is_switch() => "no".to_owned(),
            _ if self.is_switch() => "yes".to_owned(),
            value => value.to_string(),
        }
    }

    /// The edits of a class's record that set the rule, or unset it (`None`).
    pub fn edits(self, value: Option<u64>) -> Vec<Edit> {
        vec![value.map_or_else(|| set_bytes(self.tag(), Vec::new()), |value| set_u64(self.tag(), value))]
    }
}

/// A rule could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No `=` in the text.
    #[error("'{text}' is not a rule: write word=value, such as message-seconds=120")]
    Shape {
        /// The given text.
        text: String,
    },
    /// There is no such rule.
    #[error("rule '{word}' does not exist: use one of {known}")]
    Word {
        /// The given word.
        word: String,
        /// All words.
        known: String,
    },
    /// The value is not valid.
    #[error("'{value}' is not a value of {word}: give {expected}, or - to unset it")]
    Value {
        /// Word of the rule.
        word: &'static str,
        /// The given value.
        value: String,
        /// The expected values.
        expected: String,
    },
}

/// The rules of a class, or of several classes layered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules([Option<u64>; Rule::ALL.len()]);

impl Rules {
    /// The value of a rule, if set.
    pub fn get(&self, rule: Rule) -> Option<u64> {
        Rule::ALL.iter().position(|r| *r == rule).and_then(|at| self.0.get(at).copied().flatten())
    }

    /// The value of a yes-or-no rule; `otherwise` if unset.
    pub fn allows(&self, rule: Rule, otherwise: bool) -> bool {
        self.get(rule).map_or(otherwise, |value| value != 0)
    }

    /// The maximum length of a message in milliseconds, if set.
    pub fn max_message_ms(&self) -> Option<u64> {
        self.get(Rule::MessageSeconds).map(|seconds| seconds.saturating_mul(1_000))
    }

    /// These rules, with the unset ones taken from `below`.
    pub fn over(self, below: Self) -> Self {
        let mut both = self;
        both.0.iter_mut().zip(below.0).for_each(|(mine, other)| *mine = mine.or(other));
        both
    }

    /// All rules that are set.
    pub fn values(&self) -> impl Iterator<Item = (Rule, u64)> {
        Rule::ALL.into_iter().zip(self.0).filter_map(|(rule, value)| Some((rule, value?)))
    }
}

/// A class of service as read from its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Opaque, never changes.
    pub id: ClassId,
    /// Its name.
    pub name: String,
    /// Another class claimed the name earlier, on the other side of a split (rule D6). Set by the reader of the claim.
    pub name_lost: bool,
    /// The rules of the class.
    pub rules: Rules,
}

impl Class {
    /// The default class: of mailboxes without a class, and the fallback of every other class.
    pub const DEFAULT: ClassId = ClassId(0);
    /// Its name.
    pub const DEFAULT_NAME: &'static str = "default";

    /// The unchanged default class.
    pub fn unchanged_default() -> Self {
        Self { id: Self::DEFAULT, name: Self::DEFAULT_NAME.to_owned(), name_lost: false, rules: Rules::default() }
    }

    /// Reads a class; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let what = "a class of service";
        let id = schema::class_of(key).ok_or(ViewError::Key { what })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields { what, record };
        let name = match id {
            Self::DEFAULT => Self::DEFAULT_NAME.to_owned(),
            _ => fields.required(tag::NAME, read_text)?,
        };
        let value = |rule: Rule| fields.bytes(rule.tag()).and_then(read_u64).filter(|n| rule.range().contains(n));
        Ok(Some(Self { id, name, name_lost: false, rules: Rules(Rule::ALL.map(value)) }))
    }

    /// The edits that give a new class its name.
    pub fn named(name: &str) -> Vec<Edit> {
        vec![set_text(tag::NAME, name)]
    }

    /// The edits of a name's record that claim it.
    pub fn claim(id: ClassId) -> Vec<Edit> {
        vec![Edit::Claim(schema::class_name::HOLDER, id.to_bytes().to_vec())]
    }

    /// The edits of a name's record that withdraw the claim.
    pub fn release(id: ClassId) -> Vec<Edit> {
        vec![Edit::Unclaim(schema::class_name::HOLDER, id.to_bytes().to_vec())]
    }

    /// The class that holds the name: the earliest claim.
    pub fn holder(record: &Record) -> Option<ClassId> {
        record.claim(schema::class_name::HOLDER).and_then(ClassId::from_slice)
    }
}

/// A text is not a name of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid name of a class of service: use 1 to 63 of a-z, A-Z, 0-9, '-' and '_'")]
pub struct ClassNameError;

/// The stored form of a class name: lower case, so that case does not matter.
pub fn class_name(text: &str) -> Result<String, ClassNameError> {
    let text = text.trim();
    let fine = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        // A lone '-' stands for no class.
        && text != "-";
    if fine { Ok(text.to_ascii_lowercase()) } else { Err(ClassNameError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_parsed_and_shown_as_text() {
        for (text, expected) in [
            ("message-seconds=120", Some((Rule::MessageSeconds, Some(120)))),
            ("messages=-", Some((Rule::Messages, None))),
            ("operator=no", Some((Rule::Operator, Some(0)))),
            ("sign-in=on", Some((Rule::SignIn, Some(1)))),
            ("operator=2", None),
            ("message-seconds=0", None),
            ("message-seconds=long", None),
            ("colour=red", None),
            ("messages", None),
        ] {
            let parsed = Rule::parse(text);
            assert_eq!(parsed.clone().ok(), expected, "{text}: {parsed:?}");
            if let Ok((rule, Some(value))) = parsed {
                assert_eq!(Rule::parse(&format!("{}={}", rule.word(), rule.show(value))), Ok((rule, Some(value))));
            }
        }
        let error = Rule::parse("colour=red").unwrap_err().to_string();
        assert!(error.contains("colour") && error.contains("message-seconds"), "{error}");
    }

    #[test]
    fn rules_of_a_class_override_those_below() {
        let rules = |said: &[(Rule, u64)]| {
            Rules(Rule::ALL.map(|rule| said.iter().find(|(r, _)| *r == rule).map(|(_, value)| *value)))
        };
        let upper = rules(&[(Rule::Messages, 5), (Rule::Operator, 0)]);
        let lower = rules(&[(Rule::Messages, 9), (Rule::PinLength, 6)]);
        let both = upper.over(lower);
        assert_eq!(
            both.values().collect::<Vec<_>>(),
            [(Rule::Messages, 5), (Rule::PinLength, 6), (Rule::Operator, 0)]
        );
        assert!(!both.allows(Rule::Operator, true) && both.allows(Rule::SignIn, true));
    }

    #[test]
    fn class_names_have_plain_characters_only() {
        assert_eq!(class_name(" Sales_2 "), Ok("sales_2".to_owned()));
        for text in ["", "-", "a b", "ü", "a/b", &"x".repeat(64)] {
            assert_eq!(class_name(text), Err(ClassNameError), "{text}");
        }
    }
}
