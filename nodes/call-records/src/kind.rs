//! Kinds of reports, and the periods of the report of traffic.

use std::{fmt, str::FromStr};

/// Kind of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReportKind {
    /// Calls by hour or day, and node.
    Traffic,
    /// Calls by mailbox.
    Users,
    /// Calls that reached neither a message, nor a mailbox, nor a person; one row each.
    Unanswered,
    /// Calls whose caller failed to sign in; one row each.
    SignIns,
    /// Moves of duties and of calls between nodes.
    FailOvers,
}

impl ReportKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Traffic, Self::Users, Self::Unanswered, Self::SignIns, Self::FailOvers];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Users => "users",
            Self::Unanswered => "unanswered",
            Self::SignIns => "sign-ins",
            Self::FailOvers => "fail-overs",
        }
    }
}

impl fmt::Display for ReportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text names no report or period.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} '{text}': use {words}")]
pub struct UnknownKind {
    kind: &'static str,
    text: String,
    words: &'static str,
}

impl FromStr for ReportKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.word() == text).ok_or_else(|| UnknownKind {
            kind: "report",
            text: text.escape_debug().to_string(),
            words: "traffic, users, unanswered, sign-ins or fail-overs",
        })
    }
}

/// Period of a row of the report of traffic, in the report's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Period {
    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

impl FromStr for Period {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        [Self::Hour, Self::Day].into_iter().find(|period| period.word() == text).ok_or_else(|| UnknownKind {
            kind: "period",
            text: text.escape_debug().to_string(),
            words: "hour or day",
        })
    }
}
