//! The small language that makes a number, a name or an address from attributes.
//!
//! ```text
//! {telephoneNumber:digits:begins(493055):last(4)}|{ipPhone}
//! ```
//!
//! * Alternatives stand between `|`: the first one whose attributes all have a fitting value counts.
//! * `{attribute}` is a value of the attribute. Other characters stand for themselves, `\` before `{`, `}`, `|` or `\`
//!   takes away their meaning.
//! * Operations after `:` change the value, in their order. A value that an operation does not fit is left out:
//!
//! | operation | result | fits |
//! | --- | --- | --- |
//! | `digits` | its digits 0-9 | always |
//! | `lower`, `upper` | in lower, upper case | always |
//! | `strip(TEXT)` | without TEXT at its begin, if it begins so | always |
//! | `begins(TEXT)` | unchanged | if it begins with TEXT |
//! | `before(TEXT)`, `after(TEXT)` | the part before, after the first TEXT | if it contains TEXT |
//! | `first(N)`, `last(N)` | its first, last N characters | if it has this many |
//! | `length(N)`, `length(N-M)` | unchanged | if it has N (to M) characters |
//!
//! TEXT is compared without regard to the case of ASCII letters and cannot contain `)`. An empty result fits nothing.
//! There are no regular expressions: their work could not be bounded, and administrators mistype them.

use std::{
    collections::BTreeSet,
    fmt, mem,
    str::{Chars, FromStr},
};

use twinbox_mailbox::nearest;

/// Maximum length of a template, in bytes.
const LONGEST: usize = 1_024;
/// Maximum number of alternatives.
const MOST_ALTERNATIVES: usize = 16;
/// Maximum number of operations on a value.
const MOST_OPERATIONS: usize = 8;
/// Maximum number of results that are told apart.
const MOST_RESULTS: usize = 8;
/// Words of the operations.
const OPERATIONS: [&str; 10] =
    ["digits", "lower", "upper", "strip", "begins", "before", "after", "first", "last", "length"];

/// A template, as the module describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    alternatives: Vec<Vec<Part>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Value { attribute: String, operations: Vec<Operation> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operation {
    Digits,
    Lower,
    Upper,
    Strip(String),
    Begins(String),
    Before(String),
    After(String),
    First(usize),
    Last(usize),
    Length(usize, usize),
}

/// A text is not a template. The texts name the place and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Longer than 1024 bytes, or with too many parts.
    #[error("it is too long: use at most 1024 bytes, 16 alternatives and 8 operations on a value")]
    Long,
    /// An alternative is empty.
    #[error("an alternative is empty: write something on both sides of '|'")]
    Empty,
    /// `\` at the end.
    #[error("it ends with '\\': write '\\\\' for the character itself")]
    Escape,
    /// `{` or `(` without its end.
    #[error("'{{{0}' has no end: close it with '}}', and an operation's text with ')'")]
    Open(String),
    /// `}` without a begin.
    #[error("a '}}' has no begin: write '\\}}' for the character itself")]
    Close,
    /// Not the name of an attribute.
    #[error("'{0}' is not the name of an attribute: write one such as {{telephoneNumber}}")]
    Attribute(String),
    /// No such operation.
    #[error("operation '{word}' does not exist: use one of {}{hint}", OPERATIONS.join(", "))]
    Operation {
        /// The given word.
        word: String,
        /// The nearest word, if there is one.
        hint: String,
    },
    /// The operation needs something else in its parentheses.
    #[error("'{word}' is not complete: write it as {expected}")]
    Argument {
        /// The given operation.
        word: String,
        /// An example.
        expected: &'static str,
    },
}

impl Template {
    /// The template as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The attributes that it reads, in lower case; may repeat.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.alternatives.iter().flatten().filter_map(|part| match part {
            Part::Value { attribute, .. } => Some(attribute.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The results of the first alternative that has any, sorted: several if an attribute has several fitting values,
    /// at most 8. `values` returns the values of an attribute.
    pub fn results(&self, values: impl Fn(&str) -> Vec<String>) -> Vec<String> {
        let results = |parts: &Vec<Part>| -> BTreeSet<String> {
            let results = results_of(parts, &values).into_iter();
            results.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
        };
        let found = self.alternatives.iter().map(results).find(|results| !results.is_empty());
        found.unwrap_or_default().into_iter().collect()
    }
}

fn results_of(parts: &[Part], values: &impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut results = vec![String::new()];
    for part in parts {
        match part {
            Part::Literal(text) => results.iter_mut().for_each(|result| result.push_str(text)),
            Part::Value { attribute, operations } => {
                let fitting: BTreeSet<String> = values(attribute)
                    .into_iter()
                    .filter_map(|value| operations.iter().try_fold(value, |value, change| change.apply(value)))
                    .filter(|value| !value.is_empty())
                    .collect();
                results = results
                    .iter()
                    .flat_map(|before| fitting.iter().map(move |value| format!("{before}{value}")))
                    .take(MOST_RESULTS)
                    .collect();
            }
        }
    }
    results
}

impl Operation {
    /// The changed value; `None` if it does not fit.
    fn apply(&self, value: String) -> Option<String> {
        match self {
            Self::Digits => Some(value.chars().filter(char::is_ascii_digit).collect()),
            Self::Lower => Some(value.to_lowercase()),
            Self::Upper => Some(value.to_uppercase()),
            Self::Strip(text) => match begin(&value, text) {
                Some(rest) => Some(rest.to_owned()),
                None => Some(value),
            },
            Self::Begins(text) => begin(&value, text).is_some().then_some(value),
            Self::Before(text) => value.get(..find(&value, text)?).map(str::to_owned),
            Self::After(text) => value.get(find(&value, text)? + text.len()..).map(str::to_owned),
            Self::First(count) => {
                let first: String = value.chars().take(*count).collect();
                (first.chars().count() == *count).then_some(first)
            }
            Self::Last(count) => {
                let skip = value.chars().count().checked_sub(*count)?;
                Some(value.chars().skip(skip).collect())
            }
            Self::Length(least, most) => (*least..=*most).contains(&value.chars().count()).then_some(value),
        }
    }

    fn parse(word: &str) -> Result<Self, TemplateError> {
        let (name, argument) = match word.strip_suffix(')').and_then(|word| word.split_once('(')) {
            Some((name, argument)) => (name.trim(), Some(argument)),
            None => (word.trim(), None),
        };
        let wrong = |expected| TemplateError::Argument { word: shown(word), expected };
        let text = |expected| argument.filter(|text| !text.is_empty()).map(str::to_owned).ok_or(wrong(expected));
        let count = |text: &str| text.trim().parse::<usize>().ok().filter(|count| (1..=64).contains(count));
        let number = |expected| argument.and_then(count).ok_or(wrong(expected));
        match (name, argument) {
            ("digits", None) => Ok(Self::Digits),
            ("lower", None) => Ok(Self::Lower),
            ("upper", None) => Ok(Self::Upper),
            ("digits", Some(_)) => Err(wrong("digits")),
            ("lower", Some(_)) => Err(wrong("lower")),
            ("upper", Some(_)) => Err(wrong("upper")),
            ("strip", _) => text("strip(4930)").map(Self::Strip),
            ("begins", _) => text("begins(4930)").map(Self::Begins),
            ("before", _) => text("before(@)").map(Self::Before),
            ("after", _) => text("after(SMTP:)").map(Self::After),
            ("first", _) => number("first(2), with 1 to 64").map(Self::First),
            ("last", _) => number("last(4), with 1 to 64").map(Self::Last),
            ("length", _) => {
                let (least, most) = argument.map_or(("", ""), |text| text.split_once('-').unwrap_or((text, text)));
                let range = count(least).zip(count(most)).filter(|(least, most)| least <= most);
                let (least, most) = range.ok_or(wrong("length(4) or length(3-5), with 1 to 64"))?;
                Ok(Self::Length(least, most))
            }
            _ => {
                let hint = nearest(name, &OPERATIONS).map(|near| format!("; did you mean '{near}'?"));
                Err(TemplateError::Operation { word: shown(name), hint: hint.unwrap_or_default() })
            }
        }
    }
}

/// The rest after `text` at the begin of the value.
fn begin<'a>(value: &'a str, text: &str) -> Option<&'a str> {
    let (head, rest) = value.split_at_checked(text.len())?;
    head.eq_ignore_ascii_case(text).then_some(rest)
}

/// Place of the first `text` in the value, in bytes.
fn find(value: &str, text: &str) -> Option<usize> {
    let begins = |at: &usize| value.get(*at..).is_some_and(|rest| begin(rest, text).is_some());
    value.char_indices().map(|(at, _)| at).find(begins)
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let text = text.trim();
        if text.len() > LONGEST {
            return Err(TemplateError::Long);
        }
        let (mut alternatives, mut parts, mut literal) = (Vec::new(), Vec::new(), String::new());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => literal.push(chars.next().ok_or(TemplateError::Escape)?),
                '|' => alternatives.push(alternative(&mut parts, &mut literal)?),
                '{' => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(mem::take(&mut literal)));
                    }
                    parts.push(value(&mut chars)?);
                }
                '}' => return Err(TemplateError::Close),
                c => literal.push(c),
            }
        }
        alternatives.push(alternative(&mut parts, &mut literal)?);
        if alternatives.len() > MOST_ALTERNATIVES {
            return Err(TemplateError::Long);
        }
        Ok(Self { text: text.to_owned(), alternatives })
    }
}

/// The alternative that ends here.
fn alternative(parts: &mut Vec<Part>, literal: &mut String) -> Result<Vec<Part>, TemplateError> {
    if !literal.is_empty() {
        parts.push(Part::Literal(mem::take(literal)));
    }
    if parts.is_empty() { Err(TemplateError::Empty) } else { Ok(mem::take(parts)) }
}

/// The value after `{`, up to its `}`.
fn value(chars: &mut Chars<'_>) -> Result<Part, TemplateError> {
    let (mut words, mut word, mut argument, mut closed) = (Vec::new(), String::new(), false, false);
    for c in chars.by_ref() {
        match c {
            '}' if !argument => {
                closed = true;
                break;
            }
            ':' if !argument => words.push(mem::take(&mut word)),
            c => {
                argument = (argument || c == '(') && c != ')';
                word.push(c);
            }
        }
    }
    if !closed {
        words.push(word);
        return Err(TemplateError::Open(shown(&words.join(":"))));
    }
    words.push(word);
    let mut words = words.iter();
    let attribute = words.next().map_or("", |name| name.trim());
    let fine = attribute.len() <= 128
        && attribute.starts_with(|c: char| c.is_ascii_alphabetic())
        && attribute.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b';' | b'_' | b'.'));
    if !fine {
        return Err(TemplateError::Attribute(shown(attribute)));
    }
    let operations = words.map(|word| Operation::parse(word)).collect::<Result<Vec<_>, _>>()?;
    if operations.len() > MOST_OPERATIONS {
        return Err(TemplateError::Long);
    }
    Ok(Part::Value { attribute: attribute.to_ascii_lowercase(), operations })
}

/// Input for an error text: escaped, at most 80 characters.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
