//! Texts of notifications: built in for English and German, replaceable by the administrator.
//!
//! A text is bounded in its work and its length. A text that uses an unknown variable, does not end or grows too long is
//! refused when it is loaded, by a trial.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use jiff::{Timestamp, tz::TimeZone};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Template, UndefinedBehavior, syntax::SyntaxConfig};
use twinbox_ids::Pii;

use crate::{Form, MessageText, Notification, change::is_language, notification::VARIABLES, setting::Hint};

/// Steps of work for one text.
const FUEL: u64 = 100_000;
/// Longest text and longest template, in bytes.
const LONGEST: usize = 64 * 1024;
/// Longest short mail or SMS, in characters.
const SHORT: usize = 160;
/// Longest subject, in characters.
const SUBJECT: usize = 200;
/// The language whose texts stand in for missing ones.
const FALLBACK_LANGUAGE: &str = "en";

/// A template of a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum File {
    /// Mail about one message.
    Mail,
    /// Subject of every mail.
    MailSubject,
    /// Short mail.
    Pager,
    /// SMS.
    Sms,
    /// Mail about several messages.
    Digest,
}

impl File {
    /// All templates.
    pub const ALL: [Self; 5] = [Self::Mail, Self::MailSubject, Self::Pager, Self::Sms, Self::Digest];

    /// File name within the folder of the language.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mail => "mail.txt",
            Self::MailSubject => "mail.subject",
            Self::Pager => "pager.txt",
            Self::Sms => "sms.txt",
            Self::Digest => "digest.txt",
        }
    }
}

const BUILT_IN: [(&str, File, &str); 10] = [
    ("en", File::Mail, include_str!("../templates/en/mail.txt")),
    ("en", File::MailSubject, include_str!("../templates/en/mail.subject")),
    ("en", File::Pager, include_str!("../templates/en/pager.txt")),
    ("en", File::Sms, include_str!("../templates/en/sms.txt")),
    ("en", File::Digest, include_str!("../templates/en/digest.txt")),
    ("de", File::Mail, include_str!("../templates/de/mail.txt")),
    ("de", File::MailSubject, include_str!("../templates/de/mail.subject")),
    ("de", File::Pager, include_str!("../templates/de/pager.txt")),
    ("de", File::Sms, include_str!("../templates/de/sms.txt")),
    ("de", File::Digest, include_str!("../templates/de/digest.txt")),
];

/// The text of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Subject in one line; mails only.
    pub subject: Option<Pii<String>>,
    /// The text.
    pub body: Pii<String>,
}

/// A template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is no template of that name.
    #[error("{language}/{file} is not a template: use one of {known}{hint}")]
    File {
        /// Folder of the file.
        language: String,
        /// The given name.
        file: String,
        /// All names.
        known: String,
        /// The nearest of them.
        hint: Hint,
    },
    /// The folder is not a language.
    #[error("'{language}' is not a language: name the folder like de or pt-br")]
    Language {
        /// The given name.
        language: String,
    },
    /// The template is too long.
    #[error("{file} is longer than 65536 bytes: shorten it")]
    TooLong {
        /// Language and file name.
        file: String,
    },
    /// The template uses a variable that does not exist.
    #[error("{file}, line {line}: variable '{variable}' does not exist: use one of {known}{hint}")]
    Variable {
        /// Language and file name.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The unknown name.
        variable: String,
        /// All variables.
        known: String,
        /// The nearest of them.
        hint: Hint,
    },
    /// The template has an error, or does too much.
    #[error("{file}, line {line}: {reason}: correct the template, or remove it to use the built-in one")]
    Failed {
        /// Language and file name.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The reason, without private values.
        reason: String,
    },
}

/// The texts of all languages. Clones share them.
#[derive(Debug, Clone)]
pub struct Templates(Environment<'static>);

impl Templates {
    /// The built-in texts, with those of the administrator in their place: language and file name, such as `de` and
    /// `mail.txt`, to the text. Each replaced text is tried.
    pub fn with_overrides(overrides: &BTreeMap<(String, String), String>) -> Result<Self, TemplateError> {
        let mut templates = Self(environment().map_err(|error| failed("syntax", &error))?);
        for (language, file, source) in BUILT_IN {
            templates.add(&format!("{language}/{}", file.name()), source.to_owned())?;
        }
        for ((language, file), source) in overrides {
            let known = File::ALL.map(File::name);
            if !is_language(language) {
                return Err(TemplateError::Language { language: language.clone() });
            }
            if !known.contains(&file.as_str()) {
                return Err(TemplateError::File {
                    language: language.clone(),
                    file: file.clone(),
                    known: known.join(", "),
                    hint: Hint::of(file, &known),
                });
            }
            let name = format!("{}/{file}", language.to_ascii_lowercase());
            templates.add(&name, source.clone())?;
            templates.try_out(&name)?;
        }
        Ok(templates)
    }

    /// Subject and text for a form of device. The language is that of the device or the mailbox; a text that is missing
    /// there is in English.
    pub fn compose(
        &self,
        form: Form,
        language: &str,
        notification: &Notification,
        zone: &TimeZone,
    ) -> Result<Text, TemplateError> {
        let render = |file| self.render(file, language, notification, zone);
        let several = !notification.earlier.is_empty();
        Ok(match form {
            Form::Mail => Text {
                subject: Some(Pii::new(cut(&one_line(&render(File::MailSubject)?), SUBJECT))),
                body: Pii::new(
                    render(if several { File::Digest } else { File::Mail })?.trim_end().to_owned() + "\n",
                ),
            },
            Form::Pager => Text { subject: None, body: Pii::new(cut(render(File::Pager)?.trim(), SHORT)) },
            Form::Sms => Text { subject: None, body: Pii::new(cut(render(File::Sms)?.trim(), SHORT)) },
        })
    }

    /// The text of one template.
    pub fn render(
        &self,
        file: File,
        language: &str,
        notification: &Notification,
        zone: &TimeZone,
    ) -> Result<String, TemplateError> {
        let language = language.to_ascii_lowercase();
        let primary = language.split('-').next().unwrap_or_default();
        let find = |language: &str| {
            let template = self.0.get_template(&format!("{language}/{}", file.name())).ok()?;
            Some((template, notification.variables(language, zone)))
        };
        let found = find(&language).or_else(|| find(primary)).or_else(|| find(FALLBACK_LANGUAGE));
        let (template, variables) = found.ok_or_else(|| TemplateError::Failed {
            file: file.name().to_owned(),
            line: 1,
            reason: "it does not exist".to_owned(),
        })?;
        run(&template, variables)
    }

    fn add(&mut self, name: &str, source: String) -> Result<(), TemplateError> {
        if source.len() > LONGEST {
            return Err(TemplateError::TooLong { file: name.to_owned() });
        }
        self.0.add_template_owned(name.to_owned(), source).map_err(|error| failed(name, &error))
    }

    /// Looks for unknown variables, then renders one message and several, urgent and not.
    fn try_out(&self, name: &str) -> Result<(), TemplateError> {
        let template = self.0.get_template(name).map_err(|error| failed(name, &error))?;
        let mut unknown: Vec<(usize, String)> = template
            .undeclared_variables(false)
            .into_iter()
            .filter(|variable| !VARIABLES.contains(&variable.as_str()))
            .filter(|variable| !self.0.globals().any(|(global, _)| global == variable.as_str()))
            .map(|variable| (line_of(template.source(), &variable), variable))
            .collect();
        unknown.sort_unstable();
        if let Some((line, variable)) = unknown.into_iter().next() {
            let (known, hint) = (VARIABLES.join(", "), Hint::of(&variable, &VARIABLES));
            return Err(TemplateError::Variable { file: name.to_owned(), line, variable, known, hint });
        }
        let language = name.split('/').next().unwrap_or_default();
        samples()
            .iter()
            .try_for_each(|sample| run(&template, sample.variables(language, &TimeZone::UTC)).map(|_| ()))
    }
}

/// Environment of the templates. Its settings are made before the first template, since they count from then on only.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    Ok(environment)
}

/// Renders a template within its bounds.
fn run(template: &Template<'_, '_>, variables: minijinja::Value) -> Result<String, TemplateError> {
    let mut output = Bounded::default();
    let result = template.render_captured_to(variables, &mut output).map(|_| ());
    let too_long = || TemplateError::Failed {
        file: template.name().to_owned(),
        line: 1,
        reason: "its text is longer than 65536 bytes".to_owned(),
    };
    match result {
        _ if output.full => Err(too_long()),
        Err(error) => Err(failed(template.name(), &error)),
        Ok(()) => Ok(String::from_utf8_lossy(&output.bytes).into_owned()),
    }
}

/// Output that refuses more than [`LONGEST`] bytes.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > LONGEST {
            self.full = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error of the engine. Its detail is shown only where it names a part of the template, never a value.
fn failed(file: &str, error: &Error) -> TemplateError {
    let reason = match error.kind() {
        ErrorKind::OutOfFuel => format!("it does not end within {FUEL} steps"),
        ErrorKind::UndefinedError => "it uses a value that does not exist".to_owned(),
        kind @ (ErrorKind::SyntaxError
        | ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownMethod) => {
            error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"))
        }
        kind => kind.to_string(),
    };
    TemplateError::Failed { file: file.to_owned(), line: error.line().unwrap_or(1), reason }
}

/// The first line that has the word, from 1.
fn line_of(source: &str, word: &str) -> usize {
    let has = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word);
    source.lines().position(has).map_or(1, |at| at + 1)
}

/// Notifications for a trial of a template.
fn samples() -> [Notification; 2] {
    let message = |urgent, known: bool| MessageText {
        caller: known.then(|| Pii::new("5550100".to_owned())),
        caller_name: known.then(|| Pii::new("Anna".to_owned())),
        received: Timestamp::UNIX_EPOCH,
        seconds: 42,
        urgent,
    };
    let notification = |latest, earlier: Vec<MessageText>| Notification {
        number: "100".to_owned(),
        name: Pii::new("Bert".to_owned()),
        new_messages: 1 + earlier.len() as u64,
        latest,
        earlier,
    };
    [
        notification(message(true, true), Vec::new()),
        notification(message(false, false), vec![message(true, true), message(false, false)]),
    ]
}

/// All words in one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most that many characters; a cut text ends with dots.
fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most.saturating_sub(3)).chain("...".chars()).collect(),
        false => text.to_owned(),
    }
}
