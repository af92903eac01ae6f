//! Values of the texts' variables.

use jiff::{Timestamp, tz::TimeZone};
use minijinja::{Value, context};
use twinbox_ids::Pii;

/// Longest value of a variable, in characters: a caller chooses some of them.
const LONGEST_VALUE: usize = 200;

/// Names of the variables of every text.
pub(crate) const VARIABLES: [&str; 10] = [
    "caller",
    "caller_name",
    "number",
    "name",
    "received",
    "seconds",
    "duration",
    "urgent",
    "new_messages",
    "messages",
];

/// A message as the texts show it.
#[derive(Debug, Clone)]
pub struct MessageText {
    /// Number of the caller.
    pub caller: Option<Pii<String>>,
    /// Display name of the caller.
    pub caller_name: Option<Pii<String>>,
    /// Time of the message.
    pub received: Timestamp,
    /// Length in seconds.
    pub seconds: u64,
    /// Flagged as urgent by the caller.
    pub urgent: bool,
}

/// A notification of one message, or of several that were gathered.
#[derive(Debug, Clone)]
pub struct Notification {
    /// Number of the mailbox.
    pub number: String,
    /// Name of its owner.
    pub name: Pii<String>,
    /// Number of new messages in the mailbox.
    pub new_messages: u64,
    /// The message; of several the latest.
    pub latest: MessageText,
    /// The other messages, oldest first.
    pub earlier: Vec<MessageText>,
}

impl Notification {
    /// The variables, with times in the user's zone and the format of the language.
    pub(crate) fn variables(&self, language: &str, zone: &TimeZone) -> Value {
        let messages = self.earlier.iter().chain([&self.latest]);
        let messages = Value::from_iter(messages.map(|message| message.variables(language, zone)));
        context! {
            number => clean(&self.number),
            name => clean(self.name.reveal()),
            new_messages => self.new_messages,
            messages => messages,
            ..self.latest.variables(language, zone)
        }
    }
}

impl MessageText {
    fn variables(&self, language: &str, zone: &TimeZone) -> Value {
        let private = |text: &Option<Pii<String>>| text.as_ref().map(|t| clean(t.reveal())).unwrap_or_default();
        context! {
            caller => private(&self.caller),
            caller_name => private(&self.caller_name),
            received => self.received.to_zoned(zone.clone()).strftime(time_format(language)).to_string(),
            seconds => self.seconds,
            duration => format!("{}:{:02}", self.seconds / 60, self.seconds % 60),
            urgent => self.urgent,
        }
    }
}

/// Format of times in a language.
fn time_format(language: &str) -> &'static str {
    match language.split('-').next() {
        Some("de") => "%d.%m.%Y, %H:%M Uhr",
        Some("en") => "%-d %B %Y, %H:%M",
        _ => "%Y-%m-%d %H:%M",
    }
}

/// A value without control characters, line separators and marks that turn the direction of text: a caller's display
/// name cannot begin a line or hide a part of the text.
fn clean(value: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_control() => ' ',
        '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            ' '
        }
        c => c,
    };
    let text: String = value.chars().take(LONGEST_VALUE).map(plain).collect();
    text.trim().to_owned()
}
