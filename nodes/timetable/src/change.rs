//! Changes of a job, and their texts.

use twinbox_mailbox::nearest;

use crate::{CronError, CronText, JobKind, JobPlace, Missed, Zone, ZoneError};

/// Maximum time of a run unless a job says otherwise, in seconds.
pub(crate) const FIRST_LIMIT_S: u64 = 3_600;
/// Maximum value of the limit, in seconds.
const LONGEST_LIMIT_S: u64 = 24 * 3_600;
/// Maximum length of an argument's value, in bytes.
const LONGEST_VALUE: usize = 256;
/// Words of the settings that every job has.
const WORDS: [&str; 7] = ["name", "cron", "zone", "place", "missed", "enabled", "limit"];

/// A change of a job's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobChange {
    /// The name.
    Name(String),
    /// The due times.
    Cron(CronText),
    /// Time zone of the due times.
    Zone(Zone),
    /// Nodes that run it.
    Place(JobPlace),
    /// Rule for missed runs.
    Missed(Missed),
    /// Whether it runs at its due times.
    Enabled(bool),
    /// Maximum time of a run, in seconds.
    Limit(u64),
    /// An argument of its work by word; an empty value removes it.
    Argument(String, String),
}

/// Settings do not make a job. The texts name the input and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// No `=` in the text.
    #[error("'{0}' is not a setting: write word=value, such as zone=Europe/Berlin")]
    Shape(String),
    /// There is no such setting.
    #[error("setting '{word}' does not exist for jobs of kind '{kind}'{near}: use one of {words}")]
    Word {
        /// The given word.
        word: String,
        /// Word of the kind.
        kind: &'static str,
        /// The nearest word, if there is one.
        near: String,
        /// The words that exist.
        words: String,
    },
    /// The value is not valid.
    #[error("'{value}' is not a value of {word}: give {expected}")]
    Value {
        /// Word of the setting.
        word: String,
        /// The given value.
        value: String,
        /// The expected values.
        expected: &'static str,
    },
    /// The due times are not valid.
    #[error(transparent)]
    Cron(#[from] CronError),
    /// The time zone is not valid.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// There is no such kind.
    #[error("kind '{0}' does not exist: use one of {kinds}", kinds = JobKind::ALL.map(JobKind::word).join(", "))]
    Kind(String),
    /// A new job has no due times.
    #[error("the job has no due times: give cron=EXPRESSION, such as cron='30 2 * * *' for every night at 2:30")]
    Missing,
    /// An argument is required.
    #[error("a job of kind '{kind}' needs the argument {word}: give {word}=VALUE")]
    Argument {
        /// Word of the kind.
        kind: &'static str,
        /// Word of the argument.
        word: &'static str,
    },
    /// One of several arguments is required.
    #[error("a job of kind '{kind}' needs one or more of the arguments {all}", all = .words.join(", "))]
    OneOf {
        /// Word of the kind.
        kind: &'static str,
        /// Words of the arguments.
        words: &'static [&'static str],
    },
    /// Two arguments say the same in different ways.
    #[error(
        "a job of kind '{kind}' takes {first}= or {second}=, not both: leave one of them out; an empty value removes it"
    )]
    Both {
        /// Word of the kind.
        kind: &'static str,
        /// Word of one argument.
        first: &'static str,
        /// Word of the other.
        second: &'static str,
    },
}

impl JobChange {
    /// Reads `word=value` for a job of this kind.
    pub fn parse(kind: JobKind, text: &str) -> Result<Self, JobError> {
        let (word, value) = text.split_once('=').ok_or_else(|| JobError::Shape(shown(text)))?;
        let (word, value) = (word.trim(), value.trim());
        match word {
            "name" => name(value).map(Self::Name),
            "cron" => Ok(Self::Cron(CronText::parse(value)?)),
            "zone" => Ok(Self::Zone(Zone::parse(value)?)),
            "place" => {
                let place = JobPlace::ALL.into_iter().find(|place| place.word() == value);
                place.map(Self::Place).ok_or_else(|| wrong(word, value, "publisher or every-node"))
            }
            "missed" => {
                let rule = Missed::ALL.into_iter().find(|rule| rule.word() == value);
                rule.map(Self::Missed).ok_or_else(|| wrong(word, value, "skip or run-once"))
            }
            "enabled" => match value {
                "yes" | "on" => Ok(Self::Enabled(true)),
                "no" | "off" => Ok(Self::Enabled(false)),
                _ => Err(wrong(word, value, "yes or no")),
            },
            "limit" => {
                let seconds = value.parse().ok().filter(|seconds| (1..=LONGEST_LIMIT_S).contains(seconds));
                seconds.map(Self::Limit).ok_or_else(|| wrong(word, value, "1 to 86400 seconds"))
            }
            _ => {
                let expected = name_of_argument(kind, word)?;
                let value = value_of_argument(value).map_err(|()| wrong(word, value, expected))?;
                if !kind.takes(word, &value) {
                    return Err(wrong(word, &value, expected));
                }
                Ok(Self::Argument(word.to_owned(), value))
            }
        }
    }
}

/// Description of the values of an argument, if jobs of this kind have it.
pub(crate) fn name_of_argument(kind: JobKind, word: &str) -> Result<&'static str, JobError> {
    if let Some((_, expected)) = kind.arguments().iter().find(|(known, _)| *known == word) {
        return Ok(*expected);
    }
    let words: Vec<_> = WORDS.into_iter().chain(kind.arguments().iter().map(|(word, _)| *word)).collect();
    let near = nearest(word, &words).map(|near| format!(" (did you mean '{near}'?)"));
    Err(JobError::Word {
        word: shown(word),
        kind: kind.word(),
        near: near.unwrap_or_default(),
        words: words.join(", "),
    })
}

/// The value of an argument: one line of bounded length.
pub(crate) fn value_of_argument(value: &str) -> Result<String, ()> {
    let fine = value.len() <= LONGEST_VALUE && !value.chars().any(char::is_control);
    if fine { Ok(value.to_owned()) } else { Err(()) }
}

pub(crate) fn name(text: &str) -> Result<String, JobError> {
    let text = text.trim();
    let fine = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && text != "-";
    let expected = "1 to 63 of a-z, 0-9, '-' and '_'";
    if fine { Ok(text.to_ascii_lowercase()) } else { Err(wrong("name", text, expected)) }
}

fn wrong(word: &str, value: &str, expected: &'static str) -> JobError {
    JobError::Value { word: word.to_owned(), value: shown(value), expected }
}

/// Input as it stands in an error text.
fn shown(text: &str) -> String {
    text.chars().take(64).collect::<String>().escape_debug().to_string()
}
