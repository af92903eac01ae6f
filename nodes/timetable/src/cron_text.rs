//! Cron expressions in a named time zone, right on the days when the clock changes.
//!
//! A job at one time of day runs once a day: in the first pass of an hour that comes twice, and at the first moment
//! after an hour that is left out. Other jobs run at each moment whose wall clock time fits.

use std::fmt;

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{civil::date, tz::TimeZone};
use twinbox_ids::Timestamp;

/// Maximum length of an expression, in bytes.
const LONGEST: usize = 128;
/// Maximum length of an input that an error text repeats, in characters.
const LONGEST_SHOWN: usize = 64;
/// Names of expressions.
const NAMES: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// One field of an expression: its name, its valid values, and an example.
struct FieldRule {
    name: &'static str,
    expected: &'static str,
    example: &'static str,
    words: &'static [&'static str],
}

const FIELDS: [FieldRule; 5] = [
    FieldRule { name: "minute", expected: "0 to 59", example: "*/15", words: &[] },
    FieldRule { name: "hour", expected: "0 to 23", example: "8-18", words: &[] },
    FieldRule {
        name: "day of the month",
        expected: "1 to 31, L for the last day, or 15W for the weekday nearest to the 15th",
        example: "1",
        words: &["L", "W", "LW"],
    },
    FieldRule { name: "month", expected: "1 to 12 or JAN to DEC", example: "JAN,JUL", words: &MONTHS },
    FieldRule {
        name: "weekday",
        expected: "0 to 7 (0 and 7 are Sunday) or SUN to SAT, FRI#2 for the second Friday, FRI#L for the last",
        example: "MON-FRI",
        words: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"],
    },
];

/// A text is not a cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// It has not five fields and is no name of an expression.
    #[error(
        "'{0}' is not a cron expression: write five fields, minute, hour, day of the month, month and weekday, \
         such as '30 2 * * *' for every night at 2:30, or one of {names}",
        names = NAMES.join(", ")
    )]
    Shape(String),
    /// A field is not valid.
    #[error(
        "'{value}' is not a value of the field '{field}' in cron expression '{text}': give {expected}, '*', a \
         range, a step or a list, such as {example}"
    )]
    Field {
        /// Name of the field.
        field: &'static str,
        /// The given value.
        value: String,
        /// The whole expression.
        text: String,
        /// Valid values.
        expected: &'static str,
        /// A valid value.
        example: &'static str,
    },
    /// No day fits it.
    #[error("cron expression '{0}' never comes due, because no month has that day: change the day or the month")]
    Never(String),
}

/// A name is not that of a time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("time zone '{0}' does not exist: give an IANA name such as Europe/Berlin or UTC")]
pub struct ZoneError(String);

/// A valid cron expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronText {
    text: String,
    cron: Box<Cron>,
}

/// A time zone with an IANA name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl CronText {
    /// Reads an expression: five fields, or a name such as `@daily`.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        if text.len() > LONGEST {
            return Err(CronError::Shape(shown(text)));
        }
        let fields: Vec<_> = text.split_whitespace().map(str::to_ascii_uppercase).collect();
        let text = match fields.as_slice() {
            [name] => name.to_ascii_lowercase(),
            fields => fields.join(" "),
        };
        if !NAMES.contains(&text.as_str()) {
            if fields.len() != FIELDS.len() {
                return Err(CronError::Shape(shown(&text)));
            }
            for (index, (rule, field)) in FIELDS.iter().zip(&fields).enumerate() {
                if !is_field(index, rule, field) {
                    return Err(CronError::Field {
                        field: rule.name,
                        value: shown(field),
                        text: shown(&text),
                        expected: rule.expected,
                        example: rule.example,
                    });
                }
            }
        }
        let cron = parser().parse(&text).map_err(|_| CronError::Shape(shown(&text)))?;
        // The days of months repeat: an expression without a due time from here on has none at all.
        match cron.find_next_occurrence(&date(2024, 1, 1).at(0, 0, 0, 0), true) {
            Ok(_) => Ok(Self { text, cron: Box::new(cron) }),
            Err(_) => Err(CronError::Never(text)),
        }
    }

    /// The expression, its words in upper case.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first due time later than `after`; `None` if there is none in the range of the calendar.
    pub fn next_after(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let after = jiff::Timestamp::from_millisecond(i64::try_from(after.0).ok()?).ok()?;
        let next = self.cron.find_next_occurrence(&after.to_zoned(zone.zone.clone()), false).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok().map(Timestamp)
    }
}

impl fmt::Display for CronText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Zone {
    /// Reads the name of a zone.
    pub fn parse(name: &str) -> Result<Self, ZoneError> {
        let zone = TimeZone::get(name).map_err(|_| ZoneError(shown(name)))?;
        let name = zone.iana_name().unwrap_or(name).to_owned();
        Ok(Self { name, zone })
    }

    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), zone: TimeZone::UTC }
    }

    /// The IANA name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The zone itself.
    pub const fn time_zone(&self) -> &TimeZone {
        &self.zone
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build()
}

/// Whether a field is valid, in upper case: croner names no field in its errors, takes names of weekdays in every
/// field, and takes lists with empty parts.
fn is_field(index: usize, rule: &FieldRule, field: &str) -> bool {
    let is_word = |word: &str| {
        let base = word.strip_suffix('L').filter(|base| WEEKDAYS.contains(base)).unwrap_or(word);
        word.is_empty() || rule.words.contains(&base)
    };
    let mut words = field.split(|c: char| !c.is_alphabetic());
    let parts = field.strip_prefix('+').unwrap_or(field);
    if !words.all(is_word) || parts.split(',').any(str::is_empty) {
        return false;
    }
    let mut fields = ["*"; FIELDS.len()];
    if let Some(place) = fields.get_mut(index) {
        *place = field;
    }
    parser().parse(&fields.join(" ")).is_ok()
}

/// Input as it stands in an error text.
fn shown(text: &str) -> String {
    text.chars().take(LONGEST_SHOWN).collect::<String>().escape_debug().to_string()
}
