//! A location: its settings, their texts, and its record.

use twinbox_ids::{LocationId, Timestamp};
use twinbox_mail::Address;
use twinbox_mailbox::{ViewError, nearest};
use twinbox_replication_core::{Edit, Key, Record, Tag, Value};

use crate::schema::{self, location as tag};

/// Maximum digits of a dial id.
const LONGEST_DIAL_ID: usize = 16;
/// Words of the settings.
const WORDS: [&str; 5] = ["name", "dial-id", "domain", "audio", "enabled"];
/// Kind of the record, for error texts.
const WHAT: &str = "a location";

/// Form of the messages that a location takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AudioForm {
    /// VPIM version 2 with G.726 at 32 kbit/s.
    Vpim,
    /// Mails with a WAV file in G.711.
    Wav,
}

impl AudioForm {
    /// All forms.
    pub const ALL: [Self; 2] = [Self::Vpim, Self::Wav];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Vpim => "vpim",
            Self::Wav => "wav",
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Vpim => 1,
            Self::Wav => 2,
        }
    }
}

/// Another voicemail system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Opaque, never changes.
    pub id: LocationId,
    /// The name in lists, in lower case.
    pub name: String,
    /// The digits before the number of a mailbox there.
    pub dial_id: String,
    /// The mail domain, in lower case.
    pub domain: String,
    /// Form of the messages that it takes.
    pub audio: AudioForm,
    /// Whether messages are sent there.
    pub enabled: bool,
    /// Time of its creation: of two with one dial id, made on both sides of a split, the earlier has it.
    pub created: Timestamp,
}

/// A change of a location's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocationChange {
    /// The name.
    Name(String),
    /// The dial id.
    DialId(String),
    /// The mail domain.
    Domain(String),
    /// Form of the messages.
    Audio(AudioForm),
    /// Whether messages are sent there.
    Enabled(bool),
}

/// Settings do not make a location. The texts name the input and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// No `=` in the text.
    #[error("'{0}' is not a setting: write word=value, such as dial-id=7")]
    Shape(String),
    /// There is no such setting.
    #[error("setting '{word}' does not exist{near}: use one of {}", WORDS.join(", "))]
    Word {
        /// The given word.
        word: String,
        /// The nearest word, if there is one.
        near: String,
    },
    /// The value is not valid.
    #[error("'{value}' is not a value of {word}: give {expected}")]
    Value {
        /// Word of the setting.
        word: &'static str,
        /// The given value.
        value: String,
        /// The expected values.
        expected: &'static str,
    },
    /// A new location lacks a setting.
    #[error(
        "the location has no {0}: give dial-id=DIGITS and domain=DOMAIN, such as dial-id=7 domain=vm.example.com"
    )]
    Missing(&'static str),
}

impl LocationChange {
    /// Reads `word=value`.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let (word, value) = text.split_once('=').ok_or_else(|| LocationError::Shape(text.to_owned()))?;
        let (word, value) = (word.trim(), value.trim());
        match word {
            "name" => name(value).map(Self::Name),
            "dial-id" => dial_id(value).map(Self::DialId),
            "domain" => domain(value).map(Self::Domain),
            "audio" => {
                AudioForm::ALL.into_iter().find(|form| form.word() == value).map(Self::Audio).ok_or_else(|| {
                    wrong("audio", value, "vpim, or wav for a system that takes mails with a WAV file")
                })
            }
            "enabled" => match value {
                "yes" | "on" => Ok(Self::Enabled(true)),
                "no" | "off" => Ok(Self::Enabled(false)),
                _ => Err(wrong("enabled", value, "yes or no")),
            },
            _ => {
                let near = nearest(word, &WORDS).map(|near| format!(" (did you mean '{near}'?)"));
                Err(LocationError::Word { word: word.to_owned(), near: near.unwrap_or_default() })
            }
        }
    }

    /// The edits of the location's record.
    pub fn edits(&self) -> Vec<Edit> {
        vec![match self {
            Self::Name(name) => set(tag::NAME, name.as_bytes()),
            Self::DialId(digits) => set(tag::DIAL_ID, digits.as_bytes()),
            Self::Domain(domain) => set(tag::DOMAIN, domain.as_bytes()),
            Self::Audio(form) => set(tag::AUDIO, &[form.byte()]),
            Self::Enabled(on) => set(tag::ENABLED, &[u8::from(*on)]),
        }]
    }
}

impl Location {
    /// A new location with these settings.
    pub fn new(
        id: LocationId,
        text: &str,
        changes: &[LocationChange],
        created: Timestamp,
    ) -> Result<Self, LocationError> {
        let mut location = Self {
            id,
            name: name(text)?,
            dial_id: String::new(),
            domain: String::new(),
            audio: AudioForm::Vpim,
            enabled: true,
            created,
        };
        location.change(changes);
        match (location.dial_id.is_empty(), location.domain.is_empty()) {
            (true, _) => Err(LocationError::Missing("dial-id")),
            (_, true) => Err(LocationError::Missing("domain")),
            _ => Ok(location),
        }
    }

    /// Changes settings.
    pub fn change(&mut self, changes: &[LocationChange]) {
        for change in changes {
            match change.clone() {
                LocationChange::Name(name) => self.name = name,
                LocationChange::DialId(digits) => self.dial_id = digits,
                LocationChange::Domain(domain) => self.domain = domain,
                LocationChange::Audio(form) => self.audio = form,
                LocationChange::Enabled(on) => self.enabled = on,
            }
        }
    }

    /// The settings, as [`LocationChange::parse`] reads them.
    pub fn settings(&self) -> [(&'static str, String); 4] {
        [
            ("dial-id", self.dial_id.clone()),
            ("domain", self.domain.clone()),
            ("audio", self.audio.word().to_owned()),
            ("enabled", if self.enabled { "yes" } else { "no" }.to_owned()),
        ]
    }

    /// The edits that write its record.
    pub fn edits(&self) -> Vec<Edit> {
        let settings = [
            LocationChange::Name(self.name.clone()),
            LocationChange::DialId(self.dial_id.clone()),
            LocationChange::Domain(self.domain.clone()),
            LocationChange::Audio(self.audio),
            LocationChange::Enabled(self.enabled),
        ];
        let mut edits = vec![set(tag::CREATED, &self.created.0.to_be_bytes())];
        edits.extend(settings.iter().flat_map(LocationChange::edits));
        edits
    }

    /// The edits of its record that remove it.
    pub fn removal() -> Vec<Edit> {
        vec![Edit::Delete]
    }

    /// Reads a location; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let id = schema::location_of(key).ok_or(ViewError::Key { what: WHAT })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let bytes = |tag| record.bytes(tag).ok_or(ViewError::Missing { what: WHAT, tag });
        let unreadable = |tag| ViewError::Unreadable { what: WHAT, tag };
        let text = |tag| String::from_utf8(bytes(tag)?.to_vec()).map_err(|_| unreadable(tag));
        let created: [u8; 8] = bytes(tag::CREATED)?.try_into().map_err(|_| unreadable(tag::CREATED))?;
        let audio = bytes(tag::AUDIO)?;
        let audio = AudioForm::ALL.into_iter().find(|form| audio == [form.byte()]);
        Ok(Some(Self {
            id,
            name: text(tag::NAME)?,
            dial_id: text(tag::DIAL_ID)?,
            domain: text(tag::DOMAIN)?,
            audio: audio.ok_or(unreadable(tag::AUDIO))?,
            enabled: bytes(tag::ENABLED)? == [1],
            created: Timestamp(u64::from_be_bytes(created)),
        }))
    }
}

fn name(text: &str) -> Result<String, LocationError> {
    let text = text.trim();
    let fine = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && text != "-";
    let expected = "1 to 63 of a-z, 0-9, '-' and '_'";
    if fine { Ok(text.to_ascii_lowercase()) } else { Err(wrong("name", text, expected)) }
}

fn dial_id(text: &str) -> Result<String, LocationError> {
    let fine = (1..=LONGEST_DIAL_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if fine { Ok(text.to_owned()) } else { Err(wrong("dial-id", text, "1 to 16 digits")) }
}

fn domain(text: &str) -> Result<String, LocationError> {
    let address = Address::parse(&format!("1@{text}")).ok();
    // An address in brackets would match the sender of no mail.
    let domain = address.map(|address| address.domain().to_owned()).filter(|domain| !domain.starts_with('['));
    let whole = domain.filter(|domain| *domain == text.to_lowercase());
    whole.ok_or_else(|| wrong("domain", text, "the mail domain of the other system, such as vm.example.com"))
}

fn wrong(word: &'static str, value: &str, expected: &'static str) -> LocationError {
    LocationError::Value { word, value: value.escape_debug().to_string(), expected }
}

fn set(tag: Tag, bytes: &[u8]) -> Edit {
    Edit::Set(tag, Value::Bytes(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{Origin, Stamp};

    use super::*;

    fn parsed(settings: &[&str]) -> Vec<LocationChange> {
        settings.iter().map(|setting| LocationChange::parse(setting).expect(setting)).collect()
    }

    #[test]
    fn location_is_read_back_from_its_record_and_from_its_settings() {
        let changes = parsed(&["dial-id=71", "domain=VM.Example.com", "audio=wav", "enabled=no"]);
        let location = Location::new(LocationId(5), "Berlin", &changes, Timestamp(9)).expect("a location");
        assert_eq!((location.name.as_str(), location.domain.as_str()), ("berlin", "vm.example.com"));
        let mut record = Record::new();
        for (n, edit) in (1..).zip(location.edits()) {
            let stamp = Stamp { wall: n, counter: 0, origin: Origin(1) };
            record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
        }
        let key = schema::location_key(location.id);
        assert_eq!(Location::read(&key, &record), Ok(Some(location.clone())));
        let shown = location.settings().map(|(word, value)| format!("{word}={value}"));
        let changes: Vec<_> = shown.iter().map(|text| LocationChange::parse(text).expect(text)).collect();
        assert_eq!(Location::new(location.id, "berlin", &changes, location.created), Ok(location));
        assert!(matches!(Location::read(&key, &Record::new()), Err(ViewError::Missing { .. })));
    }

    #[test]
    fn wrong_settings_are_refused_with_input_and_remedy() {
        for (text, part) in [
            ("dial-id", "write word=value"),
            ("dial_id=7", "did you mean 'dial-id'"),
            ("dial-id=", "1 to 16 digits"),
            ("dial-id=7a", "'7a'"),
            ("dial-id=12345678901234567", "1 to 16 digits"),
            ("domain=", "vm.example.com"),
            ("domain=a b.example", "'a b.example'"),
            ("domain=x@y.example", "'x@y.example'"),
            ("domain=[192.0.2.1]", "vm.example.com"),
            ("domain=a.example\r\nX: y", "\\r\\n"),
            ("audio=mp3", "vpim, or wav"),
            ("enabled=maybe", "yes or no"),
            ("name=two words", "'two words'"),
        ] {
            let error = LocationChange::parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        for (settings, part) in [(&["domain=a.example"][..], "no dial-id"), (&["dial-id=7"], "no domain")] {
            let error = Location::new(LocationId(1), "x", &parsed(settings), Timestamp(0)).expect_err(part);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
